"""The tables of `baichuan2 quantize --report`, and what is said while they are made."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from baichuan2.cli.commands.plan import size_text
from baichuan2.cli.progress import progress_bar
from baichuan2.cli.screen import notice, printable
from baichuan2.cli.text import Words

if TYPE_CHECKING:
    from baichuan2.bench.quality import Quality
    from baichuan2.bench.report import Forecast, Report, Stage
    from baichuan2.bench.report_text import ReportText

WIDTH = 100  # of the tables where standard output is no terminal
WEIGHTS = ("embedding", "attention", "mlp", "norms", "head", "weights", "head_copy")


def announce(words: Words) -> "Callable[[Forecast], None]":
    """What tells time, memory and disk before the work begins."""

    def tell(forecast: "Forecast") -> None:
        notice(
            words.report_start.format(
                seconds=_duration(forecast.seconds),
                memory=size_text(forecast.memory),
                disk=size_text(forecast.disk),
                scratch=forecast.scratch,
            )
        )

    return tell


def stage(words: Words) -> "Stage":
    """What tells each step in a line, with a bar for those that count."""

    @contextlib.contextmanager
    def show(name: str, kind: str) -> Iterator[Callable[[int, int], None]]:
        line = {"copy": words.report_copy, "memory": words.report_memory, "quality": words.report_quality}[kind]
        notice(line.format(name=name))
        if kind != "quality":
            yield lambda *_: None
            return
        with progress_bar(name) as bar:
            yield bar

    return show


def print_report(report: "Report", file: TextIO, words: Words) -> None:
    """Prints the table of memory, then one of quality for each text."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file, width=None if file.isatty() else WIDTH, highlight=False, emoji=False)
    console.print(Text(words.report_title.format(model=printable(report.model))))
    console.print(_memory_table(report, words))
    console.print(Text(words.report_memory_note))
    if report.reference_dtype is None:
        console.print(Text(words.report_no_reference))
        return
    for number, text in enumerate(report.texts):
        title = words.report_quality_title.format(
            text=_text_name(text, words), tokens=text.num_tokens, sequences=len(text.sequences)
        )
        console.print(Text("\n" + title))
        console.print(_quality_table(report, number, words))
    source = words.report_built_in if report.texts[0].kind != "file" else ""
    console.print(Text(words.report_quality_note.format(dtype=report.reference_dtype, source=source).rstrip()))


def _table(report: "Report", first: str) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column(first)
    for row in report.rows:
        table.add_column(Text(printable(row.name)), justify="right")
    return table


def _memory_table(report: "Report", words: Words) -> Any:
    table = _table(report, words.report_part)
    rows = report.rows
    for part in WEIGHTS:
        is_sum = part == "weights"
        label = getattr(words, f"plan_{part}")
        style = "bold" if is_sum else None
        table.add_row(label, *(size_text(getattr(row.parts, part)) for row in rows), style=style, end_section=is_sum)
    table.add_row(words.report_cache.format(context=report.context), *(size_text(row.cache) for row in rows))
    table.add_row(words.report_files, *(size_text(row.file_bytes) for row in rows), end_section=True)
    tokens = rows[0].memory.num_tokens
    measured = (
        (words.report_program, [row.memory.before.resident for row in rows]),
        (words.report_resident, [row.memory.loaded.resident for row in rows]),
        (words.report_mapped, [row.memory.loaded.file_backed for row in rows]),
        (words.report_peak.format(tokens=tokens), [row.memory.generated.peak for row in rows]),
    )
    for label, sizes in measured:
        table.add_row(label, *(words.plan_unknown if size is None else size_text(size) for size in sizes))
    return table


def _quality_table(report: "Report", number: int, words: Words) -> Any:
    table = _table(report, words.report_measure)
    found = [row.qualities[number] for row in report.rows]
    table.add_row(words.report_kl, *(_with_margin(item.kl_mean, item.kl_margin, "{:.5f}") for item in found))
    table.add_row(words.report_kl_median, *(f"{item.kl_median:.5f}" for item in found))
    table.add_row(words.report_kl_99, *(f"{item.kl_percentile_99:.5f}" for item in found))
    agreements = [_with_margin(100 * item.agreement, _percent(item.agreement_margin), "{:.2f}") for item in found]
    table.add_row(words.report_agreement, *agreements)
    accuracies = [_with_margin(100 * item.accuracy, _percent(item.accuracy_margin), "{:.2f}") for item in found]
    table.add_row(words.report_accuracy, *accuracies)
    table.add_row(words.report_perplexity, *(f"{item.perplexity:.5g}" for item in found))
    table.add_row(words.report_factor, *map(_factor, found))
    return table


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _with_margin(value: float, margin: float | None, form: str) -> str:
    text = form.format(value)
    return text if margin is None else f"{text} ±{form.format(margin)}"


def _factor(quality: "Quality") -> str:
    """By which the perplexity differs from that of the reference."""
    if not 0 < quality.reference_perplexity < math.inf or not math.isfinite(quality.perplexity):
        return "-"
    factor = quality.perplexity / quality.reference_perplexity
    margin = None if quality.loss_margin is None else factor * math.expm1(quality.loss_margin)
    return _with_margin(factor, margin, "{:.4f}")


def _text_name(text: "ReportText", words: Words) -> str:
    form = {"replies": words.report_replies, "text": words.report_text, "file": words.report_file}[text.kind]
    return form.format(name=printable(text.name))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
