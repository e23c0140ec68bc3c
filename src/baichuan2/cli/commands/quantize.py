"""`baichuan2 quantize`: writes a checkpoint in 8 or 4 bits, once, so that loading it needs no work."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from baichuan2.cli.commands.plan import size_text
from baichuan2.cli.progress import progress_bar
from baichuan2.cli.screen import accept_any_text, notice, print_json
from baichuan2.cli.text import Words, words_for
from baichuan2.errors import SettingsError
from baichuan2.settings import OutputSettings, QuantizeSettings

if TYPE_CHECKING:
    from baichuan2.convert.quantize import QuantizedFolder, Step

SETTINGS = (QuantizeSettings, OutputSettings)
EXAMPLES = """\
  baichuan2 quantize demo-chat small                       4 bits, the best that this package knows
  baichuan2 quantize path/to/model smaller --format int8   8 bits, nearly indistinguishable from the original
  baichuan2 quantize path/to/model out --calibration my.txt --head int8
  baichuan2 quantize path/to/model out --format official-4bits   files for programs that read Baichuan2-*-4bits
  baichuan2 quantize demo-chat --report                    what each format saves and costs; nothing is kept"""


def run(settings: QuantizeSettings, output: OutputSettings) -> int:
    """Writes the folder and tells its size, and reports on it if asked; the exit code."""
    accept_any_text()
    words = words_for(settings.language)
    if settings.report and settings.source and not settings.target:
        return _report(settings, output, words)
    if not settings.source or not settings.target:
        missing = "SOURCE" if not settings.source else "TARGET"
        raise SettingsError(f"{missing} is missing: baichuan2 quantize SOURCE TARGET (see baichuan2 quantize --help)")
    if settings.report:  # what is wrong with that is told now, not hours later
        from baichuan2.bench.report import check_report

        check_report(settings)
    notice(words.quantize_start.format(source=settings.source, target=settings.target, format=settings.format))
    from baichuan2.convert.quantize import quantize_checkpoint

    try:
        with _watcher(words) as watch:
            result = quantize_checkpoint(settings, watch)
    except KeyboardInterrupt:
        notice(words.quantize_interrupted.format(target=settings.target))
        raise
    if output.json:
        print_json(_fields(result))
    else:
        notice(
            words.quantize_done.format(
                target=settings.target,
                before=size_text(result.num_source_bytes),
                after=size_text(result.num_bytes),
                bits=result.bits_per_weight,
                seconds=result.seconds,
            )
        )
    return _report(settings, output, words) if settings.report else 0


def _report(settings: QuantizeSettings, output: OutputSettings, words: Words) -> int:
    from baichuan2.bench.report import make_report
    from baichuan2.cli.report import announce, print_report, stage
    from baichuan2.convert.quantize import quantize_checkpoint

    def make_copy(wanted: QuantizeSettings) -> None:
        with _watcher(words) as watch:
            quantize_checkpoint(wanted, watch)

    report = make_report(settings, make_copy, stage=stage(words), announce=announce(words))
    if output.json:
        print_json(report.as_dict())
    else:
        print_report(report, sys.stdout, words)
    return 0


def _fields(result: "QuantizedFolder") -> dict[str, object]:
    return {
        "folder": str(result.folder),
        "source_bytes": result.num_source_bytes,
        "bytes": result.num_bytes,
        "bits_per_weight": result.bits_per_weight,
        "calibration_tokens": result.num_tokens,
        "largest_error": max(result.errors.values()),
        "seconds": result.seconds,
    }


@contextlib.contextmanager
def _watcher(words: Words) -> "Iterator[Callable[[Step], None]]":
    """What shows how far the run is: a bar with the time that is left in a terminal, nothing elsewhere.

    That an earlier run is gone on with is told in either case.
    """
    with progress_bar(words.quantize_layers) as show:

        def watch(step: "Step") -> None:
            show(step.done, step.total)
            _tell_resumed(step, words)

        yield watch


def _tell_resumed(step: "Step", words: Words) -> None:
    if step.resumed and step.done == step.resumed + 1:  # the first layer of this run itself
        notice(words.quantize_resumed.format(count=step.resumed, total=step.total))
