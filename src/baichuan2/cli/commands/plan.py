"""`baichuan2 plan`: what fits into this machine, or into a given size, before anything is loaded."""

import sys
from typing import TYPE_CHECKING, Any, TextIO

from baichuan2.cli.screen import accept_any_text, print_json, printable
from baichuan2.cli.text import Words, words_for
from baichuan2.settings import OutputSettings, PlanSettings, TrainingPlanSettings

if TYPE_CHECKING:
    from baichuan2.checkpoints.memory import Place
    from baichuan2.checkpoints.plan import Fit, Plan
    from baichuan2.checkpoints.training_plan import TrainingFit, TrainingPlan

SETTINGS = (PlanSettings, TrainingPlanSettings, OutputSettings)
EXAMPLES = """\
  baichuan2 plan 13B                              this machine, released shape, nothing is downloaded
  baichuan2 plan 7B --gpu 24GB --batch 8          an accelerator that is not in this machine
  baichuan2 plan path/to/model --context 2048     a folder, shorter conversations
  baichuan2 plan 13B --kv-cache int8              keys and values in 8 bits
  baichuan2 plan baichuan-inc/Baichuan2-7B-Chat --memory 16GiB --json
  baichuan2 plan 7B --train all --bf16 --gpu 24GB  training: all weights, LoRA and QLoRA
  baichuan2 plan 13B --train full --batch 16 --bf16 --gradient-checkpointing --zero 3 --devices 8 --gpu 80GB"""
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
TRAINING_PARTS = (
    "weights",
    "adapters",
    "copies",
    "master",
    "optimizer",
    "gradients",
    "activations",
    "loss",
    "communication",
    "runtime",
    "total",
    "host",
)
WIDTH = 100  # of the table where standard output is no terminal


def run(settings: PlanSettings, training: TrainingPlanSettings, output: OutputSettings) -> int:
    """Prints the table for people or, with --json, the numbers in bytes; the exit code."""
    accept_any_text()
    plan: Plan | TrainingPlan
    if training.train == "none":
        from baichuan2.checkpoints.plan import plan_model

        plan = plan_model(settings)
    else:
        from baichuan2.checkpoints.training_plan import plan_training

        plan = plan_training(settings, training)
    if output.json:
        print_json(plan.as_dict())
    else:
        print_plan(plan, sys.stdout, words_for(settings.language))
    return 0


def print_plan(plan: Any, file: TextIO, words: Words | None = None) -> None:
    """Prints a `Plan` or `TrainingPlan` as a table: a column for each estimate, a row for each part, what fits where.

    Those of replies differ by their precision, those of training by their method.
    """
    from rich.console import Console
    from rich.text import Text

    words = words if words is not None else words_for("auto")
    console = Console(file=file, width=None if file.isatty() else WIDTH, highlight=False, emoji=False)
    is_training = hasattr(plan, "setups")
    title = _training_title(plan, words) if is_training else _title(plan, words)
    table = _training_table(plan, words) if is_training else _table(plan, words)
    for item in (Text(title), table, Text(words.train_note if is_training else words.plan_note)):
        console.print(item)


def _title(plan: "Plan", words: Words) -> str:
    first = plan.estimates[0]
    return words.plan_title.format(model=printable(plan.name), context=first.context, batch=first.batch)


def _training_title(plan: "TrainingPlan", words: Words) -> str:
    first = plan.setups[0]
    return words.train_title.format(
        model=printable(plan.name),
        batch=first.batch * first.rows_each,
        context=first.context,
        devices=first.devices,
        zero=first.zero,
        numbers="bfloat16" if first.bf16 else "float32",
    )


def _training_table(plan: "TrainingPlan", words: Words) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column(words.plan_part)
    for item in plan.estimates:
        table.add_column(item.method, justify="right", no_wrap=True)
    for part in TRAINING_PARTS:
        sizes = [getattr(item, part) for item in plan.estimates]
        if not any(sizes):
            continue
        style = "bold" if part == "total" else None
        name = words.plan_runtime if part == "runtime" else getattr(words, f"train_{part}")
        table.add_row(name, *map(size_text, sizes), style=style, end_section=part in ("runtime", "total"))
    for number, place in enumerate(plan.places):
        fits = [row[number] for row in plan.fits]
        table.add_row(_place_text(place, words), *(verdict_text(fit, words) for fit in fits))
        largest = ["-" if fit.largest_batch is None else str(fit.largest_batch) for fit in fits]
        table.add_row(words.train_largest, *largest)
    return table


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


def verdict_text(fit: "Fit | TrainingFit", words: Words) -> str:
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
