"""What a suite asks before any model is looked at: its recipe as the settings change it, and all of its questions."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from baichuan2.errors import DataError, SettingsError
from baichuan2.evaluation.choices import Question
from baichuan2.evaluation.data import asked_subjects, known_subjects, read_examples, read_items
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.sandbox.judging import Isolation, find_isolation
from baichuan2.evaluation.task import Task, load_task, task_names
from baichuan2.evaluation.text_prompts import example_chooser
from baichuan2.evaluation.text_recipe import TextRecipe
from baichuan2.settings import EvaluationSettings, flag_name

__all__ = ["SuitePlan", "plan_suite", "plan_suites"]

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class SuitePlan:
    """A suite that is ready to be asked.

    `recipe`: as its name says, with what the settings change in it, which `changes` holds. `questions`: in the order of
    subjects and files. `data`: for each subject a digest of all that its files hold, whatever the limit.
    """

    task: Task
    recipe: Any
    recipe_name: str
    changes: Mapping[str, Any]
    split: str
    questions: Sequence[Question]
    data: Mapping[str, str]
    settings: EvaluationSettings
    num_left_out: int = 0
    """Items that the limit leaves out."""
    isolation: Isolation | None = None
    """What keeps apart the programs that a model writes, for suites that run them."""

    @property
    def kind(self) -> str:
        """What is asked for: a choice, or a text of some kind."""
        return str(getattr(self.task, "kind", "choice"))

    @property
    def is_partial(self) -> bool:
        """Whether it asks less than the benchmark holds."""
        return self.num_left_out > 0 or set(self.data) != set(known_subjects(self.task, self.recipe))

    def identity(self) -> dict[str, Any]:
        """All that decides what is asked and how it is scored, plain values, but for which items are asked."""
        return {
            "suite": self.task.name,
            "task": self.task.digest,
            "recipe": self.recipe_name,
            "split": self.split,
            "shots": self.recipe.shots,
            "changes": dict(self.changes),
            "chat_format": self.settings.chat_format,
            "seed": self.settings.seed,
            "data": dict(self.data),
        }


def plan_suites(settings: EvaluationSettings) -> tuple[list[SuitePlan], list[str]]:
    """The suites that the settings name, and a line for each that is left out: where all are asked for, some may lack.

    Raises:
        SettingsError, DataError: as `plan_suite`, where suites are named, or none of all can be asked.
    """
    if settings.suite_names != (ALL,):
        runs_programs = any(load_task(name).kind == "program" for name in settings.suite_names)
        if settings.generated_code != "refuse" and not runs_programs:
            names = ", ".join(name for name in task_names() if load_task(name).kind == "program")
            raise SettingsError(
                f"--generated-code is for suites that run what a model writes ({names}), got "
                f"{', '.join(settings.suite_names)}: leave it out"
            )
        return [plan_suite(name, settings) for name in settings.suite_names], []
    plans: list[SuitePlan] = []
    left_out: list[str] = []
    for name in task_names():
        if "shipped" in load_task(name).details:  # of the demo model's own facts: no benchmark of anybody's
            continue
        try:
            plans.append(plan_suite(name, settings))
        except (SettingsError, DataError) as error:
            reason = str(error).partition(": looked for")[0]  # a line each; the suite by itself tells where
            left_out.append(f"{name} is left out: {reason}")
    if not plans:
        raise DataError(f"none of all suites can be asked, such as: {left_out[0]}")
    return plans, left_out


def plan_suite(name: str, settings: EvaluationSettings) -> SuitePlan:
    """Everything that the suite called `name` asks.

    Raises:
        SettingsError: no such suite, recipe or subject, or a setting that means nothing for it; or no data was named;
            or it runs what a model writes, which nobody allowed or this machine cannot keep apart.
        DataError: a file of the benchmark is missing or malformed, or holds too few examples.
    """
    task = load_task(name)
    recipe, changes = _settled_recipe(task, settings)
    isolation = find_isolation(settings.generated_code) if task.kind == "program" else None
    folder, split = _data_folder(task, settings), settings.split or task.split
    questions: list[Question] = []
    digests: dict[str, str] = {}
    num_left_out = 0
    for subject in asked_subjects(task, recipe, folder, split, settings.subject_names):
        items = read_items(task, folder, split, subject, recipe)
        examples = read_examples(task, folder, split, subject, recipe) if recipe.shots else []
        title = recipe.titles.get(subject, task.subjects[subject].title)
        digests[subject] = _digest(items, examples)
        choose = _chooser(recipe, examples, may_ask_them=split == task.example_split)
        num_left_out += len(items[settings.limit :]) if settings.limit is not None else 0
        for item in items[: settings.limit]:
            chosen = choose(item)
            if len(chosen) < recipe.shots:
                raise DataError(
                    f"{task.name} {subject}: the prompt needs {recipe.shots} examples, the data hold {len(chosen)}: "
                    f"give --shots {len(chosen)} or fewer"
                )
            questions.append(Question(item, chosen, title))
    return SuitePlan(
        task=task,
        recipe=recipe,
        recipe_name=settings.recipe,
        changes=changes,
        split=split,
        questions=questions,
        data=digests,
        settings=settings,
        num_left_out=num_left_out,
        isolation=isolation,
    )


def _chooser(recipe: Any, examples: Sequence[Item], *, may_ask_them: bool) -> Callable[[Item], Sequence[Item]]:
    """Which examples stand before an item. Asked of the examples' own split, no item may answer itself."""
    if isinstance(recipe, TextRecipe):
        return example_chooser(recipe, examples)

    def first(item: Item) -> Sequence[Item]:
        others = [one for one in examples if one.number != item.number] if may_ask_them else examples
        return others[: recipe.shots]

    return first


def _data_folder(task: Task, settings: EvaluationSettings) -> Path:
    """Where a benchmark's files are looked for: --data, or inside this package for what comes with it."""
    shipped = task.details.get("shipped")
    if shipped is not None:
        return Path(__file__).parents[1] / str(shipped)
    if settings.data is None:
        raise SettingsError(f"--data DIR is missing: the folder that holds {task.title} as it is published")
    folder = Path(settings.data).expanduser()
    if not folder.exists():
        raise SettingsError(f"--data {settings.data}: there is no such folder")
    return folder


def _settled_recipe(task: Task, settings: EvaluationSettings) -> tuple[Any, dict[str, Any]]:
    """The recipe with what the settings change in it, and these changes alone."""
    recipe: Any = task.recipe(settings.recipe)
    known = {item.name for item in fields(recipe)}
    changes: dict[str, Any] = {}
    for name in ("shots", "order", "letters", "max_tokens"):
        value = getattr(settings, name)
        if value is None:
            continue
        is_other = name == "letters" and getattr(recipe, "scoring", None) != "letters"
        if name not in known or is_other:
            why = "compares no letters by themselves" if is_other and name in known else "has no such choice"
            raise SettingsError(f"{flag_name(name)} {value}: {task.name} by the recipe {settings.recipe} {why}")
        if value != getattr(recipe, name):
            changes[name] = value
    return replace(recipe, **changes), changes


def _digest(*parts: Sequence[Item]) -> str:
    digest = sha256()
    for items in parts:
        rows = [{**asdict(item), "details": dict(item.details)} for item in items]
        digest.update(json.dumps(rows, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]
