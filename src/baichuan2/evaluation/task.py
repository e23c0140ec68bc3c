"""Task files: one benchmark each, with its subjects and the recipes by which people score it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from baichuan2.errors import SettingsError
from baichuan2.evaluation.choice_recipe import ChoiceRecipe, PromptForm
from baichuan2.evaluation.text_recipe import TextRecipe

__all__ = ["ChoiceRecipe", "PromptForm", "Subject", "Task", "load_task", "task_names"]

RECIPES: dict[str, Any] = {
    "choice": ChoiceRecipe,
    "generate": TextRecipe,
    "translation": TextRecipe,
    "program": TextRecipe,
}
"""By kind of task: the class of its recipes, whose `from_values` makes one of what a task file holds."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A part of a benchmark. `title`: as prompts say it. `groups`: whose averages it counts in."""

    title: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """One benchmark. `digest`: SHA-256 of its file, so that a result tells which prompts made it.

    `kind`: choice, or one of those whose answers are generated. `layout`: how its rows are written; `file`: the name
    of a subject's file in a split. `folders`: what the folder or archive that holds it may be called; `roots`: folders
    inside it in which publishers put the files. `splits`: those that it has; `split`: the one that is scored;
    `example_split`: the one that examples are taken from. `name/subject`: a subject of another benchmark.
    """

    name: str
    version: int
    kind: str = "choice"
    title: str
    layout: str
    file: str = ""
    folders: Sequence[str] = ()
    roots: Sequence[str] = ("",)
    split: str
    splits: Sequence[str] = ()
    example_split: str
    subjects: Mapping[str, Subject]
    recipes: Mapping[str, Any]
    digest: str
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the reader of a kind of task needs."""
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By name of a released model: the `value` that its README gives, in per cent or BLEU, its `shots` and `split`."""

    def recipe(self, name: str) -> Any:
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
    if name not in task_names():
        near = get_close_matches(name.lower(), task_names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SettingsError(f"unknown suite {name!r}: {hint}use one of {', '.join(task_names())}")
    content, values = _read_yaml(f"tasks/{name}.yaml")
    subjects = {
        key: Subject(title=row["title"], groups=tuple(row.get("groups", ()))) for key, row in values["subjects"].items()
    }
    recipe_class = RECIPES[values.get("kind", "choice")]
    recipes = {key: recipe_class.from_values(row) for key, row in values["recipes"].items()}
    _, published = _read_yaml("published.yaml")
    digest = sha256(content).hexdigest()
    made = {"subjects": subjects, "recipes": recipes, "digest": digest, "published": published.get(name, {})}
    return Task(**{**values, **made})


@cache
def _read_yaml(path: str) -> tuple[bytes, dict[str, Any]]:
    """A file of this package: its bytes, and what they hold."""
    import yaml

    content = files("baichuan2.evaluation").joinpath(path).read_bytes()
    # the loader in Python takes ten times as long, and may be the only one
    return content, yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
