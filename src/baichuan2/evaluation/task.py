"""Task files: one benchmark each, with its subjects and the recipes by which people score it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Literal

from baichuan2.errors import SettingsError

__all__ = ["ChoiceRecipe", "Subject", "Task", "load_task", "task_names"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A part of a benchmark. `title`: as prompts say it. `groups`: whose averages it counts in."""

    title: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ChoiceRecipe:
    """How a multiple-choice question becomes a prompt, and an answer a score.

    The prompt is `header`, then for each example `item`, `answer` and `gap`, then `item` for the question asked.
    Braces: `{subject}` in the header; `{question}` and `{options}` in an item; `{letter}` and `{text}` in an option;
    `{letter}` in an answer.

    `exactness`: exact: as the source computes it, letter by letter; approximation: `unknown` says what is not
    published. `order`: of the examples: as in their file, or shuffled anew for each item, by the seed.
    `scoring`: letters: the logits of the letters at the prompt's last place, no softmax over the rest; continuation:
    the log-probability of ` A` and so on, whole, over all of the vocabulary; text: the mean loss of the whole text with
    each letter.
    `letters`: bare: the piece `A`; spaced: the piece with a space before it. For `scoring: letters`.
    `max_tokens`: longer prompts lose examples: `drop` says which: the last one first, the longest first, or tokens from
    the left. None: no limit but the model's.
    """

    exactness: Literal["exact", "approximation"]
    source: str
    unknown: str = ""
    shots: int
    order: Literal["file", "shuffled"] = "file"
    header: str
    item: str
    option: str = "{letter}. {text}\n"
    answer: str = "{letter}"
    gap: str = ""
    scoring: Literal["letters", "continuation", "text"] = "letters"
    letters: Literal["bare", "spaced"] = "bare"
    max_tokens: int | None = None
    drop: Literal["last", "longest", "left"] = "last"
    average: Literal["macro", "micro"] = "macro"
    titles: Mapping[str, str] = field(default_factory=dict)
    """Subjects that this recipe calls by other words than the task."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One benchmark. `digest`: SHA-256 of its file, so that a result tells which prompts made it."""

    name: str
    version: int
    title: str
    layout: str
    split: str
    example_split: str
    subjects: Mapping[str, Subject]
    recipes: Mapping[str, ChoiceRecipe]
    digest: str

    def recipe(self, name: str) -> ChoiceRecipe:
        """The recipe called `name`.

        Raises:
            SettingsError: this benchmark has none of that name.
        """
        if name not in self.recipes:
            raise SettingsError(f"{self.name} has no recipe {name!r}: use one of {', '.join(self.recipes)}")
        return self.recipes[name]


def task_names() -> list[str]:
    """All benchmarks, by name."""
    folder = files("baichuan2.evaluation") / "tasks"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


@cache
def load_task(name: str) -> Task:
    """The benchmark called `name`.

    Raises:
        SettingsError: there is none.
    """
    import yaml

    if name not in task_names():
        raise SettingsError(f"unknown suite {name!r}: use one of {', '.join(task_names())}")
    content = (files("baichuan2.evaluation") / "tasks" / f"{name}.yaml").read_bytes()
    values: dict[str, Any] = yaml.safe_load(content)
    subjects = {
        key: Subject(title=row["title"], groups=tuple(row["groups"])) for key, row in values["subjects"].items()
    }
    recipes = {key: ChoiceRecipe(**row) for key, row in values["recipes"].items()}
    return Task(**{**values, "subjects": subjects, "recipes": recipes, "digest": sha256(content).hexdigest()})
