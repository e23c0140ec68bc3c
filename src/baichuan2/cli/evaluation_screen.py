"""An evaluation in the terminal: what is told while it runs, and its tables."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baichuan2.cli.evaluation_text import EvaluationWords
from baichuan2.cli.progress import progress_bar
from baichuan2.cli.screen import notice, print_json, printable
from baichuan2.evaluation.statistics import scale_of

if TYPE_CHECKING:
    from baichuan2.evaluation.plan import SuitePlan
    from baichuan2.evaluation.run import Progress

__all__ = ["EvaluationScreen", "print_comparison", "print_results", "print_suites"]

WIDTH = 120  # of tables where standard output is no terminal
FLIPS_SHOWN = 5


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

    def revision(self, name: str, number: int, count: int) -> None:
        """Which checkpoint of a training run is next."""
        notice(self._words.revision.format(name=name, number=number, count=count))

    def curves_written(self, folder: Path) -> None:
        """Where the curves of a training run are."""
        notice(self._words.curves.format(folder=folder))

    def remark(self, text: str) -> None:
        """A line that people should read."""
        notice(self._words.note.format(text=text))

    def written(self, page: Path, no_picture: str | None) -> None:
        """Where the report is."""
        notice(self._words.written.format(path=page))
        if no_picture is not None:
            self.remark(no_picture)


def print_results(results: Sequence[Mapping[str, Any]], words: EvaluationWords) -> None:
    """Prints what is to be read with the scores, then a table of them on standard output."""
    from rich.text import Text

    for result in results:
        if result["shortened_prompts"]:
            notice(words.shortened.format(title=result["title"], count=result["shortened_prompts"]))
        if result.get("outcomes", {}).get("unknown"):
            notice(words.not_judged.format(title=result["title"], count=result["outcomes"]["unknown"]))
        if result.get("sandbox", {}).get("missing"):
            layers = ", ".join(result["sandbox"]["missing"])
            notice(words.weaker_sandbox.format(title=result["title"], layers=layers))
        if result.get("submission"):
            notice(words.submission.format(title=result["title"], path=result["submission"]))
    console = _console()
    for title in dict.fromkeys(_model_title(result["model"], words) for result in results):
        console.print(Text(title))
    has_published = any(result["published"] for result in results)
    columns = [words.items, words.shots, words.score, words.interval, words.macro, words.micro, words.chance]
    table = _table([words.suite], [*columns, *([words.published, words.difference] if has_published else [])])
    for result in results:
        row = _result_row(result, words)
        table.add_row(*(row if has_published else row[:-2]), style="dim" if result["is_partial"] else None)
    console.print(table)
    rows = dict.fromkeys(
        found["model"] + ("" if found["is_same_model"] else words.same_shape)
        for result in results
        if (found := result["published"])
    )
    notes = [words.table_note]
    notes += [words.published_note.format(rows=", ".join(rows))] if rows else []
    notes += [words.partial_note] if any(result["is_partial"] for result in results) else []
    console.print(Text(" ".join(notes)))


def print_comparison(comparisons: Sequence[Mapping[str, Any]], words: EvaluationWords) -> None:
    """Prints a table of two models beside each other, then the first items that changed."""
    from rich.text import Text

    console = _console()
    titles = {
        side: _model_title(model, words) + f" ({printable(str(Path(model['folder']).parent))})"
        for side, model in zip(("first", "second"), comparisons[0]["models"], strict=True)
    }
    console.print(Text(words.compare_title.format(**titles)))
    columns = (words.items, "A", "B", "B - A", words.interval, words.compare_flipped, words.compare_p)
    table = _table([words.suite], columns)
    for found in comparisons:
        factor = scale_of(found["metric"])
        low, high = (factor * end for end in found["interval"])
        table.add_row(
            found["suite"],
            f"{found['items']:,}",
            percent(found["first"], factor),
            percent(found["second"], factor),
            f"{factor * found['difference']:+.2f}",
            f"{low:+.2f} .. {high:+.2f}",
            f"{len(found['lost'])} / {len(found['won'])}" if found["metric"] != "bleu" else "",
            f"{found['p_value']:.2g}",
        )
    console.print(table)
    console.print(Text(words.compare_note))
    for found in comparisons:
        if found["reasons"]:
            reasons = "; ".join(found["reasons"])
            notice(words.note.format(text=words.compare_forced.format(reasons=reasons, items=found["items"])))
        for line, flips in ((words.compare_lost, found["lost"]), (words.compare_won, found["won"])):
            if flips:
                console.print(Text("\n" + line.format(suite=found["suite"])))
            for flip in flips[:FLIPS_SHOWN]:
                change = f"{flip['first']} -> {flip['second']}  ({flip['answer']})"
                console.print(Text(printable(f"  {flip['subject']} {flip['number']}: {change}")), soft_wrap=True)
            if len(flips) > FLIPS_SHOWN:
                console.print(Text("  " + words.compare_more.format(count=len(flips) - FLIPS_SHOWN)))


def _model_title(model: Mapping[str, Any], words: EvaluationWords) -> str:
    values = {key: printable(str(model[key])) for key in ("dtype", "quantization")}
    return words.table_title.format(model=printable(str(model["name"])), **values)


def _result_row(result: Mapping[str, Any], words: EvaluationWords) -> list[str]:
    name = printable(str(result["suite"])) + (words.partial if result["is_partial"] else "")
    recipe = "" if result["recipe"] == "official" else f" [{result['recipe']}]"
    interval, published = result["interval"], result["published"]
    scale = scale_of(result["metric"])
    return [
        name + recipe,
        f"{result['items']:,}",
        str(result["shots"]),
        percent(result["score"], scale) if result["score"] is not None else words.unknown_score,
        "" if interval is None else f"{percent(interval[0], scale)} .. {percent(interval[1], scale)}",
        percent(result["macro"], scale),
        percent(result["micro"], scale),
        percent(result["chance"], scale),
        "" if published is None else f"{published['value']:.2f}",
        "" if published is None or published["difference"] is None else f"{published['difference']:+.2f}",
    ]


def percent(value: float | None, scale: float = 100.0) -> str:
    """A share in per cent, two places as the published tables have them; nothing for None."""
    return "" if value is None else f"{scale * value:.2f}"


def print_suites(words: EvaluationWords, *, is_json: bool) -> None:
    """Prints what there is to run, from the task files: a table, or one object for each suite."""
    from rich.text import Text

    from baichuan2.evaluation.task import load_task, task_names

    table = _table([words.suite, "", words.recipe, words.list_recipes], (words.shots,))
    names = task_names()
    for name in names:
        task = load_task(name)
        recipe = task.recipe("official") if "official" in task.recipes else next(iter(task.recipes.values()))
        exactness = words.list_exact if recipe.exactness == "exact" else words.list_approximation
        if is_json:
            print_json(
                {
                    "suite": name,
                    "title": task.title,
                    "exactness": recipe.exactness,
                    "shots": recipe.shots,
                    "split": task.split,
                    "recipes": list(task.recipes),
                    "subjects": list(task.subjects),
                }
            )
            continue
        others = ", ".join(other for other in task.recipes if other != "official")
        table.add_row(name, printable(task.title), exactness, others, str(recipe.shots))
    if is_json:
        return
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
