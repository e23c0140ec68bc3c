"""`baichuan2 serve`: a server for OpenAI's clients."""

from typing import NoReturn

from baichuan2.cli.commands.chat import load_with_notice
from baichuan2.cli.screen import accept_any_text, notice
from baichuan2.cli.text import Words, words_for
from baichuan2.optional import require
from baichuan2.settings import LoadSettings, SamplingSettings, ServeSettings

SETTINGS = (LoadSettings, SamplingSettings, ServeSettings)
EXAMPLES = """\
  baichuan2 serve                                          the demo model on http://127.0.0.1:8000
  baichuan2 serve -m baichuan-inc/Baichuan2-7B-Chat        an official model
  baichuan2 serve --adapter law=PATH,poems=PATH            adapters beside one model: clients choose by name
  BAICHUAN2_API_KEY=... baichuan2 serve --host 0.0.0.0     for other machines, with a key
  baichuan2 serve -m FOLDER --engine vllm                  on GPUs, by vLLM"""
BODY = '{"messages": [{"role": "user", "content": "你好"}]}'


def run(load: LoadSettings, sampling: SamplingSettings, settings: ServeSettings) -> int:
    """Loads the model and serves it until a signal comes; the exit code."""
    accept_any_text()
    words = words_for(settings.language)
    if settings.engine == "vllm":
        _become_vllm(load, sampling, settings, words)
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        require(module, extra="server")
    from baichuan2.server.keys import read_keys
    from baichuan2.server.run import Notices, is_open, open_socket, serve

    keys = read_keys(settings)
    header = " -H 'Authorization: Bearer KEY'" if keys else ""

    def tell_listening(url: str) -> None:
        example = f"curl {url}/v1/chat/completions -H 'Content-Type: application/json'{header} -d '{BODY}'"
        notice(words.serving.format(url=url, example=example))

    def tell_stopping(count: int, seconds: float) -> None:
        notice(words.serving_stopping.format(count=count, seconds=seconds))

    with open_socket(settings) as listener:  # before the minutes of loading, so that a port that is taken costs none
        if is_open(settings, keys):
            notice(words.serving_open.format(host=settings.host))
        loaded = load_with_notice(load, words, takes_several=True)
        return serve(loaded, settings, sampling, keys, listener, Notices(tell_listening, tell_stopping))


def _become_vllm(load: LoadSettings, sampling: SamplingSettings, settings: ServeSettings, words: Words) -> NoReturn:
    """Starts vLLM's server in the place of this process."""
    from baichuan2.server.keys import read_keys
    from baichuan2.server.run import is_open
    from baichuan2.server.vllm_engine import check_installed, start_of, start_vllm

    check_installed()
    start = start_of(load, sampling, settings)
    if is_open(settings, read_keys(settings)):
        notice(words.serving_open.format(host=settings.host))
    start_vllm(start)
