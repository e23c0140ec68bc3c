"""`baichuan2 serve`: a server for OpenAI's clients."""

from baichuan2.cli.commands.chat import load_with_notice
from baichuan2.cli.screen import accept_any_text, notice
from baichuan2.cli.text import words_for
from baichuan2.optional import require
from baichuan2.settings import LoadSettings, SamplingSettings, ServeSettings

SETTINGS = (LoadSettings, SamplingSettings, ServeSettings)
EXAMPLES = """\
  baichuan2 serve                                          the demo model on http://127.0.0.1:8000
  baichuan2 serve -m baichuan-inc/Baichuan2-7B-Chat        an official model
  BAICHUAN2_API_KEY=secret baichuan2 serve --host 0.0.0.0  for other machines, with a key"""


def run(load: LoadSettings, sampling: SamplingSettings, settings: ServeSettings) -> int:
    """Loads the model and serves it until a signal comes; the exit code."""
    accept_any_text()
    words = words_for(settings.language)
    for module in ("uvicorn", "fastapi", "prometheus_client"):
        require(module, extra="server")
    from baichuan2.server.run import open_socket, serve

    listener = open_socket(settings)  # before the minutes of loading, so that a port that is taken costs none
    loaded = load_with_notice(load, words)

    def ready(url: str) -> None:
        notice(words.serving.format(url=url, example=example_for(url)))

    return serve(loaded, settings, sampling, listener, ready)


def example_for(url: str) -> str:
    """A command that asks the server something."""
    body = '{"messages": [{"role": "user", "content": "你好"}]}'
    return f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
