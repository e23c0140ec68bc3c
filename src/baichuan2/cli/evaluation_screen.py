"""An evaluation in the terminal: what is told while it runs, and its tables."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baichuan2.cli.evaluation_text import EvaluationWords
from baichuan2.cli.progress import progress_bar
from baichuan2.cli.screen import notice, printable

if TYPE_CHECKING:
    from baichuan2.evaluation.plan import SuitePlan
    from baichuan2.evaluation.run import Progress

__all__ = ["EvaluationScreen", "print_results", "print_suites"]

WIDTH = 120  # of tables where standard output is no terminal


class EvaluationScreen:
    """Tells on standard error what an evaluation does; `folder` is where the last suite's results go."""

    def __init__(self, words: EvaluationWords, num_processes: int) -> None:
        self._words = words
        self._num_processes = num_processes
        self.folder: Path | None = None

    @contextlib.contextmanager
    def suite(self, plan: "SuitePlan", place: Path, answered: int) -> "Iterator[Progress]":
        """A line for the suite, then its bar; see `evaluation.run.Watch`."""
        self.folder = place
        items = len(plan.questions)
        values = {"title": plan.task.title, "items": items, "answered": answered, "folder": place}
        line = self._words.resumed if answered else self._words.started
        notice(line.format(**values, shots=plan.recipe.shots, recipe=plan.recipe_name))
        if self._num_processes > 1:
            notice(self._words.share.format(processes=self._num_processes))
        with progress_bar(plan.task.name) as show:
            yield show

    def finished_before(self, plan: "SuitePlan", place: Path) -> None:
        """That nothing was left to do."""
        notice(self._words.was_finished.format(title=plan.task.title, folder=place))

    def remark(self, text: str) -> None:
        """A line that people should read."""
        notice(self._words.note.format(text=text))


def print_results(results: Sequence[Mapping[str, Any]], words: EvaluationWords) -> None:
    """Prints what is to be read with the scores, then a table of them on standard output."""
    from rich.text import Text

    for result in results:
        if result["shortened_prompts"]:
            notice(words.shortened.format(title=result["title"], count=result["shortened_prompts"]))
        if result.get("submission"):
            notice(words.submission.format(title=result["title"], path=result["submission"]))
    model = results[0]["model"]
    title = {key: printable(str(model.get(key))) for key in ("dtype", "quantization")}
    console = _console()
    console.print(Text(words.table_title.format(model=printable(str(model["name"])), **title)))
    table = _table([words.suite], (words.items, words.shots, words.score, words.interval, words.macro, words.micro))
    table.add_column(words.chance, justify="right")
    for result in results:
        table.add_row(*_result_row(result, words))
    console.print(table)


def _result_row(result: Mapping[str, Any], words: EvaluationWords) -> list[str]:
    name = printable(str(result["suite"])) + (words.partial if result["is_partial"] else "")
    recipe = "" if result["recipe"] == "official" else f" [{result['recipe']}]"
    interval = result["interval"]
    return [
        name + recipe,
        f"{result['items']:,}",
        str(result["shots"]),
        percent(result["score"]) if result["score"] is not None else words.unknown_score,
        "" if interval is None else f"{percent(interval[0])}-{percent(interval[1])}",
        percent(result["macro"]),
        percent(result["micro"]),
        percent(result["chance"]),
    ]


def percent(value: float | None) -> str:
    """A share in per cent, two places as the published tables have them; nothing for None."""
    return "" if value is None else f"{100 * value:.2f}"


def print_suites(words: EvaluationWords) -> None:
    """Prints what there is to run, from the task files."""
    from rich.text import Text

    from baichuan2.evaluation.task import load_task, task_names

    table = _table([words.suite, "", words.score, words.list_recipes], (words.shots,))
    names = task_names()
    for name in names:
        task = load_task(name)
        recipe = task.recipe("official") if "official" in task.recipes else next(iter(task.recipes.values()))
        exactness = words.list_exact if recipe.exactness == "exact" else words.list_approximation
        others = ", ".join(other for other in task.recipes if other != "official")
        table.add_row(name, printable(task.title), exactness, others, str(recipe.shots))
    console = _console()
    console.print(Text(words.list_title.format(count=len(names))))
    console.print(table)
    console.print(Text(words.list_note))


def _console() -> Any:
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH, highlight=False, emoji=False)


def _table(left: Sequence[str], right: Sequence[str]) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    for title in left:
        table.add_column(title)
    for title in right:
        table.add_column(title, justify="right")
    return table
