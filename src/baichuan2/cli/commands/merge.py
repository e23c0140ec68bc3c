"""`baichuan2 merge`: an adapter becomes part of the weights, in a folder of its own."""

from baichuan2.cli.commands.plan import size_text
from baichuan2.cli.progress import progress_bar
from baichuan2.cli.screen import accept_any_text, notice, print_json
from baichuan2.cli.text import words_for
from baichuan2.errors import SettingsError
from baichuan2.settings import MergeSettings, OutputSettings

SETTINGS = (MergeSettings, OutputSettings)
EXAMPLES = """\
  baichuan2 merge path/to/adapter merged                   the model it was trained on, changed by it
  baichuan2 merge path/to/adapter merged --base path/to/model   one trained on a quantised model"""


def run(settings: MergeSettings, output: OutputSettings) -> int:
    """Writes the merged model and tells its size; the exit code."""
    accept_any_text()
    words = words_for(settings.language)
    if not settings.adapter or not settings.target:
        missing = "TARGET" if settings.adapter else "ADAPTER"
        raise SettingsError(f"{missing} is missing: baichuan2 merge ADAPTER TARGET (see baichuan2 merge --help)")
    notice(words.merge_start.format(adapter=settings.adapter, target=settings.target))
    from baichuan2.convert.merge_lora import merge_adapter

    with progress_bar(words.quantize_layers) as show:
        merged = merge_adapter(settings, show)
    if output.json:
        print_json(
            {
                "folder": str(merged.folder),
                "num_bytes": merged.num_bytes,
                "num_changed": merged.num_changed,
                "seconds": merged.seconds,
            }
        )
    else:
        size = size_text(merged.num_bytes)
        notice(
            words.merge_done.format(target=settings.target, size=size, count=merged.num_changed, seconds=merged.seconds)
        )
    return 0
