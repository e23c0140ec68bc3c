"""From a user's folder to questions: each benchmark in the layout in which it is published."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from baichuan2.errors import DataError, SettingsError
from baichuan2.evaluation.code_layouts import HUMANEVAL_FILES, MBPP_FILES, read_humaneval, read_mbpp
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.json_choices import read_agieval, read_gaokao, read_medmcqa, read_medqa
from baichuan2.evaluation.sources import Files, find_files
from baichuan2.evaluation.tables import LETTERS, read_ceval, read_cmmlu, read_mmlu
from baichuan2.evaluation.task import ChoiceRecipe, Task, load_task
from baichuan2.evaluation.text_layouts import names_of, read_bbh, read_flores, read_gsm8k, read_math

__all__ = ["LETTERS", "asked_subjects", "files_of", "known_subjects", "read_examples", "read_items"]

Reader = Callable[[Files, str, str], Iterator[Item]]

NAMES = {"humaneval": HUMANEVAL_FILES, "mbpp": MBPP_FILES}
LAYOUTS: dict[str, Reader] = {
    "agieval": read_agieval,
    "bbh": read_bbh,
    "ceval": read_ceval,
    "cmmlu": read_cmmlu,
    "flores": read_flores,
    "gaokao": read_gaokao,
    "gsm8k": read_gsm8k,
    "humaneval": read_humaneval,
    "math": read_math,
    "mbpp": read_mbpp,
    "medmcqa": read_medmcqa,
    "medqa": read_medqa,
    "mmlu": read_mmlu,
}


def read_items(task: Task, data: Path, split: str, subject: str, recipe: Any = None) -> list[Item]:
    """The questions of one subject in one split, in the order of the file; those that `recipe` asks, if it is given.

    `data`: the folder or archive of this benchmark, or a folder that holds it under one of its names. Where a recipe
    holds out questions as examples, the split of examples are these, and the one that is scored all others.

    Raises:
        DataError: the file is missing or malformed, or holds no such question; the message names it, the row and the
            column.
        SettingsError: the benchmark has no such split.
    """
    part, inner, split = _part_of(task, subject, split)
    names = _names_of(part, recipe, split, inner)
    files = files_of(part, data, recipe)
    name = next((name for name in names if files.has(name)), None)
    if name is None:
        raise DataError(f"{part.title}: {files.path_of(names[0])} is missing")
    items = list(LAYOUTS[part.layout](files, name, inner))
    if "numbers" in part.details:  # one file holds all splits
        first, last = part.details["numbers"][split]
        items = [item for item in items if first <= int(item.number) <= last]
    if isinstance(recipe, ChoiceRecipe):
        items = [item for item in items if _is_asked(item, recipe)]
        if recipe.held_out:
            held = _held_out(subject, len(items), recipe.held_out)
            items = [item for index, item in enumerate(items) if (index in held) == (split == part.example_split)]
    if not items:
        raise DataError(f"{files.path_of(name)} holds no question that is asked")
    if split == part.split:
        items = items[: getattr(recipe, "first", None)]
    return items if inner == subject else [replace(item, subject=subject) for item in items]


def read_examples(task: Task, data: Path, split: str, subject: str, recipe: Any = None) -> list[Item]:
    """The questions that serve as examples for a subject: those of their split, in the order of the file.

    Where the task names subjects whose examples serve all others, one of each after the other; where it lets the
    questions asked in `split` stand in for a split that is not there, those.

    Raises: as `read_items`.
    """
    sources = task.details.get("example_subjects", (subject,))
    if task.details.get("examples_from_questions"):
        held = [source for source in sources if _has(task, recipe, data, task.example_split, source)]
        if not held:
            rows = [read_items(task, data, split, source, recipe) for source in sources]
            return _by_turns(rows)
    return _by_turns([read_items(task, data, task.example_split, source, recipe) for source in sources])


def _by_turns(rows: Sequence[Sequence[Item]]) -> list[Item]:
    """The first of each row, then the second of each, and so on."""
    return [row[place] for place in range(max(map(len, rows))) for row in rows if place < len(row)]


def asked_subjects(task: Task, recipe: Any, data: Path, split: str, names: Sequence[str] | None) -> Sequence[str]:
    """The subjects that are asked: those in `names`, or all that the recipe knows; each has its files.

    Raises:
        SettingsError: the recipe knows no such subject, or the benchmark no such split.
        DataError: there is no data, or it lacks subjects; the message names them, and those that it has.
    """
    known = known_subjects(task, recipe)
    for name in names or ():
        if name in known:
            continue
        if name in task.subjects:
            raise SettingsError(f"--subjects {name}: this recipe of {task.name} does not ask it, another --recipe may")
        near = get_close_matches(name.lower(), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
        raise SettingsError(f"--subjects: {task.name} has no {name!r}: {hint}")
    asked = list(dict.fromkeys(names)) if names is not None else known
    needs_examples = recipe.shots and not task.details.get("examples_from_questions")
    for needed in dict.fromkeys((split, task.example_split) if needs_examples else (split,)):
        present = [subject for subject in asked if _has(task, recipe, data, needed, subject)]
        if len(present) < len(asked):
            missing = ", ".join(subject for subject in asked if subject not in set(present))
            what = f"examples ({task.example_split})" if needed != split else f"{needed} files"
            instead = f": --subjects {','.join(present)} asks the others" if present else ""
            if needed != split and not present:
                instead = ", or ask without examples: --shots 0"
            raise DataError(f"{task.title} at --data {data} lacks the {what} of {missing}{instead}")
    return asked


def known_subjects(task: Task, recipe: Any) -> list[str]:
    """The subjects that a recipe asks when nobody says which."""
    return list(getattr(recipe, "subjects", None) or task.subjects)


def files_of(task: Task, data: Path, recipe: Any = None) -> Files:
    """Where the files of a benchmark lie.

    Raises:
        DataError: they lie nowhere at `data`; the message says where was looked, and for what.
    """
    pairs = [(split, subject) for split in task.splits for subject in task.subjects]
    expected = [name for split, subject in pairs for name in _names_of(task, recipe, split, subject)]
    return find_files(data, task.title, folders=task.folders, roots=task.roots, expected=list(dict.fromkeys(expected)))


def _has(task: Task, recipe: Any, data: Path, split: str, subject: str) -> bool:
    part, inner, split = _part_of(task, subject, split)
    files = files_of(part, data, recipe)
    return any(files.has(name) for name in _names_of(part, recipe, split, inner))


def _part_of(task: Task, subject: str, split: str) -> tuple[Task, str, str]:
    """Whose subject and split these are: those of a benchmark made of others (`ceval/law`) are theirs."""
    if split not in task.splits:
        raise SettingsError(f"--split: {task.name} has no {split!r}: use one of {', '.join(task.splits)}")
    name, slash, inner = subject.partition("/")
    if not slash:
        return task, subject, split
    part = load_task(name)
    return part, inner, part.example_split if split == task.example_split else part.split


def _names_of(task: Task, recipe: Any, split: str, subject: str) -> tuple[str, ...]:
    """What a subject's file may be called; a folder ends with `/`."""
    names = NAMES.get(task.layout) or names_of(task.layout, split, subject)
    if names is not None:
        return names
    pattern: str = getattr(recipe, "file", None) or task.file
    return (pattern.replace("{subject}", subject).replace("{split}", split),)


def _is_asked(item: Item, recipe: ChoiceRecipe) -> bool:
    if recipe.num_options is not None and len(item.options) != recipe.num_options:
        return False
    if recipe.single_answer and "answers" in item.details:
        return False
    return all(item.details.get(column) == value for column, value in recipe.only.items())


def _held_out(subject: str, count: int, wanted: int) -> frozenset[int]:
    """Which of `count` questions are examples: the same on every machine; never more than half of them."""
    order = list(range(count))
    random.Random(subject).shuffle(order)
    return frozenset(order[: min(wanted, count // 2)])
