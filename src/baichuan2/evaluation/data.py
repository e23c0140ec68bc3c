"""From a user's folder to questions: each benchmark in the layout in which it is published."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from baichuan2.errors import DataError
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.task import Task

__all__ = ["read_items"]

LETTERS = "ABCDEFGHIJ"


def read_items(task: Task, data: Path, split: str, subject: str) -> list[Item]:
    """The questions of one subject in one split, in the order of the file.

    `data`: the folder of this benchmark, or one that holds it under its name.

    Raises:
        DataError: the file is missing or malformed; the message names it, the row and the column.
    """
    nested = data / task.name
    folder = nested if nested.is_dir() else data
    return list(LAYOUTS[task.layout](folder, split, subject))


def _ceval(folder: Path, split: str, subject: str) -> Iterator[Item]:
    path = folder / split / f"{subject}_{split}.csv"
    for row in _rows(path):
        answer = row.get("answer")
        yield Item(
            subject=subject,
            number=row["id"],
            question=row["question"],
            options=tuple(row[letter] for letter in "ABCD"),
            answer=LETTERS.index(answer) if answer else None,
        )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


LAYOUTS: dict[str, Callable[[Path, str, str], Iterator[Item]]] = {"ceval": _ceval}
