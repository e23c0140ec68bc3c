"""One evaluation, from settings to results: questions, answers, averages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from baichuan2.errors import SettingsError
from baichuan2.evaluation.choices import Question, answer_choices
from baichuan2.evaluation.data import read_items
from baichuan2.evaluation.records import ItemRecord
from baichuan2.evaluation.task import ChoiceRecipe, Task, load_task
from baichuan2.settings import EvaluationSettings

__all__ = ["evaluate_suite"]

Progress = Callable[[int, int], None]


def evaluate_suite(name: str, settings: EvaluationSettings, loaded: Any, progress: Progress) -> dict[str, Any]:
    """Runs one suite; its result as it is written.

    Raises:
        SettingsError: there is no such suite, or no data was named.
        DataError: a file of the benchmark is missing or malformed.
    """
    task = load_task(name)
    recipe = task.recipe(settings.recipe)
    questions = _questions(task, recipe, settings)
    records: list[ItemRecord] = []
    answers = answer_choices(loaded, recipe, questions, seed=settings.seed, batch_tokens=settings.batch_tokens)
    for record in answers:
        records.append(record)
        progress(len(records), len(questions))
    subjects = {record.subject for record in records}
    accuracies = [_accuracy([record for record in records if record.subject == subject]) for subject in subjects]
    return {
        "suite": name,
        "recipe": settings.recipe,
        "items": len(records),
        "macro": sum(accuracies) / len(accuracies),
        "micro": _accuracy(records),
    }


def _questions(task: Task, recipe: ChoiceRecipe, settings: EvaluationSettings) -> list[Question]:
    if settings.data is None:
        raise SettingsError(f"--data DIR is missing: the folder that holds {task.title}")
    data, split = Path(settings.data), settings.split or task.split
    shots = settings.shots if settings.shots is not None else recipe.shots
    questions = []
    for subject in settings.subject_names or task.subjects:
        title = recipe.titles.get(subject, task.subjects[subject].title)
        examples = read_items(task, data, task.example_split, subject)[:shots]
        for item in read_items(task, data, split, subject)[: settings.limit]:
            questions.append(Question(item, examples, title))
    return questions


def _accuracy(records: list[ItemRecord]) -> float:
    return sum(record.is_right is True for record in records) / len(records)
