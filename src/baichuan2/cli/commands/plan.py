"""`baichuan2 plan`: what fits into this machine, or into a given size, before anything is loaded."""

import sys
from typing import TYPE_CHECKING, Any, TextIO

from baichuan2.cli.screen import accept_any_text, print_json, printable
from baichuan2.cli.text import Words, words_for
from baichuan2.settings import OutputSettings, PlanSettings

if TYPE_CHECKING:
    from baichuan2.checkpoints.memory import Place
    from baichuan2.checkpoints.plan import Fit, Plan

SETTINGS = (PlanSettings, OutputSettings)
EXAMPLES = """\
  baichuan2 plan 13B                              this machine, released shape, nothing is downloaded
  baichuan2 plan 7B --gpu 24GB --batch 8          an accelerator that is not in this machine
  baichuan2 plan path/to/model --context 2048     a folder, shorter conversations
  baichuan2 plan 13B --kv-cache int8              keys and values in 8 bits
  baichuan2 plan baichuan-inc/Baichuan2-7B-Chat --memory 16GiB --json"""
PARTS = (
    "embedding",
    "attention",
    "mlp",
    "norms",
    "head",
    "weights",
    "head_copy",
    "cache",
    "scratch",
    "runtime",
    "total",
)
SUMS = ("weights", "total")
WIDTH = 100  # of the table where standard output is no terminal


def run(settings: PlanSettings, output: OutputSettings) -> int:
    """Prints the table for people or, with --json, the numbers in bytes; the exit code."""
    accept_any_text()
    from baichuan2.checkpoints.plan import plan_model

    plan = plan_model(settings)
    if output.json:
        print_json(plan.as_dict())
    else:
        print_plan(plan, sys.stdout, words_for(settings.language))
    return 0


def print_plan(plan: Any, file: TextIO, words: Words | None = None) -> None:
    """Prints a `Plan` as a table: a column for each precision, a row for each part, then what fits where."""
    from rich.console import Console
    from rich.text import Text

    words = words if words is not None else words_for("auto")
    console = Console(file=file, width=None if file.isatty() else WIDTH, highlight=False, emoji=False)
    first = plan.estimates[0]
    title = words.plan_title.format(model=printable(plan.name), context=first.context, batch=first.batch)
    for item in (Text(title), _table(plan, words), Text(words.plan_note)):
        console.print(item)


def _table(plan: "Plan", words: Words) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column(words.plan_part)
    for item in plan.estimates:
        mark = "*" if item.precision == plan.stored else ""
        table.add_column(f"{item.precision}{mark}", justify="right", no_wrap=True)
    for part in PARTS:
        sizes = [size_text(getattr(item, part)) for item in plan.estimates]
        style = "bold" if part in SUMS else None
        name = getattr(words, f"plan_{part}")
        if part == "cache" and plan.estimates[0].kv_cache != "same":
            name += f" ({plan.estimates[0].kv_cache})"
        table.add_row(name, *sizes, style=style, end_section=part in SUMS)
    for number, place in enumerate(plan.places):
        fits = [row[number] for row in plan.fits]
        table.add_row(_place_text(place, words), *(verdict_text(fit, words) for fit in fits))
        longest = ["-" if fit.largest_context is None else str(fit.largest_context) for fit in fits]
        table.add_row(words.plan_largest, *longest)
    return table


def verdict_text(fit: "Fit", words: Words) -> str:
    """The word for how an estimate fits."""
    return str(getattr(words, f"plan_{fit.verdict}"))


def size_text(num_bytes: int) -> str:
    """Bytes as people read them, in decimal units: `27.8 GB`, `3.1 MB`, `0.5 MB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9)):
        if num_bytes >= 0.9995 * factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes / 1e6:.1f} MB"


def _place_text(place: "Place", words: Words) -> str:
    if place.total is None:
        return words.plan_place_unknown.format(place=place.name)
    free = place.total if place.free is None else place.free
    return words.plan_place.format(place=place.name, total=size_text(place.total), free=size_text(free))
