"""`baichuan2 finetune --preview N`: examples as tokens, coloured by what is learnt, and counts of all data.

Colours are for terminals; elsewhere, and where NO_COLOR is set, marks around the tokens say the same.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from baichuan2.cli.preview_text import PreviewWords, preview_words_for
from baichuan2.cli.progress import progress_bar
from baichuan2.settings import FinetuneSettings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from baichuan2.finetune.data import DataReport
    from baichuan2.finetune.preview import Preview, ShownExample, ShownToken

__all__ = ["data_summary", "preview", "report_lines"]

NUM_CHARACTERS = 160  # of the first example, when a run starts

# two shades each, in turn, so that the borders of tokens show
STYLES = {
    "learnt": ("black on green", "black on bright_green"),
    "seen": ("default", "grey62"),
    "structure": ("cyan", "cyan"),
    "ends": ("black on yellow", "black on yellow"),
}


def preview(settings: FinetuneSettings, output_dir: Path | None, *, seed: int) -> int:
    """Shows the first examples and counts of all; the exit code.

    What is prepared on the way is kept below `output_dir`, where the run finds it; None: nothing is kept.
    """
    from rich.console import Console

    from baichuan2.finetune.preview import make_preview

    words = preview_words_for(settings.language)
    with tempfile.TemporaryDirectory(prefix="baichuan2-preview-") as scratch, progress_bar(words.reading) as show:
        directory = Path(scratch) if output_dir is None else output_dir / "data"
        found = make_preview(settings, directory, seed=seed, watch=show)
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, markup=False, emoji=False)
    print_preview(found, words, console)
    return 0


def print_preview(found: "Preview", words: PreviewWords, console: "Console") -> None:
    """Prints legend, examples and counts."""
    is_coloured = console.is_terminal and console.color_system is not None and not console.no_color
    _print_legend(words, console, is_coloured=is_coloured)
    last_item = -1
    for number, example in enumerate(found.examples, 1):
        if found.is_packed and example.item != last_item:
            console.print(f"\n== {words.packed_row.format(number=example.item + 1)}", style="bold")
        last_item = example.item
        title = words.example.format(
            number=number, origin=_safe(example.origin), tokens=example.num_tokens, learnt=example.num_learnt
        )
        part = {"": "", "chosen": words.chosen, "rejected": words.rejected}[example.part]
        console.print(f"\n-- {title}{part}", style="bold")
        console.print(_coloured(example.tokens) if is_coloured else plain(example.tokens))
        if example.num_cut:
            console.print(words.cut.format(count=example.num_cut), style="red")
    for name, report in ((words.training, found.report), (words.held_out_file, found.evaluation_report)):
        if report is not None:
            console.print(f"\n{name}", style="bold")
            for line in report_lines(report, words):
                console.print(line)


def report_lines(report: "DataReport", words: PreviewWords) -> Iterator[str]:
    """The counts of training data, a line each."""
    is_packed = report.utilization < 1 or report.num_items != report.num_examples - report.num_evaluation
    share = report.num_learnt / max(1, report.num_tokens)
    lines: Sequence[tuple[str, str, bool]] = (
        (words.layouts, ", ".join(report.layouts), True),
        (words.rows, f"{report.num_rows:,}", True),
        (words.bad, f"{report.num_bad:,}", report.num_bad > 0),
        (words.left_out, f"{report.num_unlearnable:,}", report.num_unlearnable > 0),
        (words.equal, f"{report.num_equal:,}", report.num_equal > 0),
        (words.examples, f"{report.num_examples:,}", True),
        (words.held_out, f"{report.num_evaluation:,}", report.num_evaluation > 0),
        (words.tokens, f"{report.num_tokens:,}; {share:.1%}", True),
        (words.longest, f"{report.longest:,}; {report.num_cut:,}", True),
        (words.no_end, f"{report.num_without_end:,}", report.num_without_end > 0),
        (words.packed, f"{report.num_items:,}; {report.utilization:.1%}", is_packed),
    )
    shown = [(name, value) for name, value, is_shown in lines if is_shown]
    width = max(_width(name) for name, _ in shown)
    for name, value in shown:
        yield f"  {name}{' ' * (width - _width(name))}  {value}"


def data_summary(report: "DataReport", first: "ShownExample", words: PreviewWords) -> Iterator[str]:
    """What a run shows of its data when it starts: the counts, and how the first example begins."""
    share = report.num_learnt / max(1, report.num_tokens)
    line = words.summary.format(
        rows=f"{report.num_rows:,}",
        layouts=", ".join(report.layouts),
        examples=f"{report.num_examples - report.num_evaluation:,}",
        tokens=f"{report.num_tokens:,}",
        learnt=f"{share:.1%}",
    )
    if report.num_evaluation:
        line += words.summary_held_out.format(count=f"{report.num_evaluation:,}")
    if report.utilization < 1:
        line += words.summary_packed.format(rows=f"{report.num_items:,}", full=f"{report.utilization:.1%}")
    yield line
    text = plain(first.tokens).replace("\n", "")
    shortened = text if len(text) <= NUM_CHARACTERS else text[:NUM_CHARACTERS] + " ..."
    yield words.first.format(origin=_safe(first.origin)) + shortened


def plain(tokens: "Sequence[ShownToken]") -> str:
    """The tokens with marks in place of colours."""
    parts: list[str] = []
    before = ""
    for token in tokens:
        if before == "learnt" and token.kind != "learnt":
            parts.append("⟧")
        elif before == token.kind and token.kind in ("learnt", "seen"):
            parts.append("│")
        if token.kind == "learnt" and before != "learnt":
            parts.append("⟦")
        parts.append(f"{{{token.text}}}" if token.kind == "ends" else token.text)
        before = token.kind
    return "".join(parts) + ("⟧" if before == "learnt" else "")


def _coloured(tokens: "Sequence[ShownToken]") -> "Text":
    from rich.text import Text

    text = Text()
    for number, token in enumerate(tokens):
        text.append(token.text, style=STYLES[token.kind][number % 2])
    return text


def _print_legend(words: PreviewWords, console: "Console", *, is_coloured: bool) -> None:
    from rich.text import Text

    if not is_coloured:
        console.print(words.legend_plain.format())
        return
    legend = Text(words.legend)
    for kind in STYLES:
        legend.append(f" {getattr(words, kind)} ", style=STYLES[kind][0])
        legend.append("  ")
    console.print(legend)


def _safe(text: str) -> str:
    from baichuan2.finetune.preview import visible

    return visible(text.encode("utf-8", "surrogateescape")).replace("\n", "")


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
