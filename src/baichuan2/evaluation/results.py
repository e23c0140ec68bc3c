"""From the records of all items to the result of a suite: averages, their intervals, counts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from baichuan2.evaluation.bleu import bleu_result
from baichuan2.evaluation.published import published_beside
from baichuan2.evaluation.records import ItemRecord
from baichuan2.evaluation.statistics import Interval, mean_interval, wilson

if TYPE_CHECKING:  # results are read, reported and compared without a model, and so without torch
    from baichuan2.evaluation.candidate import Candidate
    from baichuan2.evaluation.plan import SuitePlan

__all__ = ["FORMAT", "Averages", "averages", "make_result", "submission"]

FORMAT = 1
"""Of result.json; grows when a field changes its meaning."""


@dataclass(frozen=True)
class Averages:
    """Shares of right answers. `macro`: the plain mean over subjects; `micro`: over all items."""

    items: int
    macro: float
    micro: float
    macro_interval: Interval
    micro_interval: Interval


def averages(records: Iterable[ItemRecord]) -> Averages | None:
    """The averages of the records whose answers are known; None where there are none."""
    counts: dict[str, list[int]] = {}
    for record in records:
        if record.is_right is not None:
            counts.setdefault(record.subject, []).append(int(record.is_right))
    if not counts:
        return None
    shares = [sum(found) / len(found) for found in counts.values()]
    num_right, total = sum(map(sum, counts.values())), sum(map(len, counts.values()))
    return Averages(
        items=total,
        macro=sum(shares) / len(shares),
        micro=num_right / total,
        macro_interval=mean_interval(shares, [wilson(sum(found), len(found)) for found in counts.values()]),
        micro_interval=wilson(num_right, total),
    )


def make_result(plan: "SuitePlan", candidate: "Candidate", records: Sequence[ItemRecord]) -> dict[str, Any]:
    """The result of a suite, plain values as result.json holds them.

    Shares lie between 0 and 1. `score` is the average that the recipe names; None where no answers are known.
    """
    recipe = plan.recipe
    found = averages(records)
    average = getattr(recipe, "average", "micro")
    result: dict[str, Any] = {
        "format": FORMAT,
        "suite": plan.task.name,
        "title": plan.task.title,
        "kind": plan.kind,
        "is_partial": plan.is_partial,
        "limit": plan.settings.limit,
        "recipe": plan.recipe_name,
        "exactness": recipe.exactness,
        "source": recipe.source,
        "unknown": recipe.unknown,
        "task_version": plan.task.version,
        "task_digest": plan.task.digest,
        "split": plan.split,
        "shots": recipe.shots,
        **{
            name: getattr(recipe, name)
            for name in ("order", "scoring", "letters", "max_tokens")
            if hasattr(recipe, name)
        },
        "changes": dict(plan.changes),
        "chat_format": plan.settings.chat_format,
        "seed": plan.settings.seed,
        "data": dict(plan.data),
        "model": dict(candidate.description),
        "metric": "accuracy",
        "average": average,
        "items": len(records),
        "shortened_prompts": sum(_is_shortened(record, recipe.shots) for record in records),
        **_cut_off_replies(records),
        **_other_rules(records),
        **_averages_fields(found, average),
        "chance": _chance(records, average),
        "groups": _groups(plan, records),
        "subjects": _subjects(records),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if plan.isolation is not None:
        outcomes = Counter(str(record.details.get("outcome")) for record in records)
        result["metric"] = "pass@1"
        result["outcomes"] = dict(outcomes.most_common())
        result["sandbox"] = {"policy": plan.settings.generated_code, "missing": dict(plan.isolation.missing)}
    if plan.kind == "translation":
        result |= bleu_result(records, seed=plan.settings.seed)
    return {**result, "published": published_beside(plan.task, result)}


def submission(records: Iterable[ItemRecord]) -> dict[str, dict[str, str]]:
    """The letters of all items by subject and number, as C-Eval's leaderboard takes them."""
    answers: dict[str, dict[str, str]] = {}
    for record in records:
        answers.setdefault(record.subject, {})[record.number] = record.prediction or ""
    return answers


def _is_shortened(record: ItemRecord, shots: int) -> bool:
    """Whether a limit took examples, the header, or tokens from the left, from the prompt of an item."""
    return record.shots < shots or record.details.get("header") is False or bool(record.details.get("cut"))


def _cut_off_replies(records: Sequence[ItemRecord]) -> dict[str, int]:
    """How many texts were cut off by the limit of new tokens, where texts are written."""
    finished = [record.details["finish"] for record in records if "finish" in record.details]
    return {"cut_off_replies": finished.count("length")} if finished else {}


def _other_rules(records: Sequence[ItemRecord]) -> dict[str, dict[str, float]]:
    """By rules that a recipe applies beside its own, such as another way to find the answer: shares of all items."""
    prefix = "is_right_"
    names = sorted({name for record in records for name in record.details if name.startswith(prefix)})
    shares = {
        name.removeprefix(prefix): sum(record.details.get(name) is True for record in records) / len(records)
        for name in names
    }
    return {"other_rules": shares} if shares else {}


def _averages_fields(found: Averages | None, average: str) -> dict[str, Any]:
    if found is None:
        return dict.fromkeys(("score", "interval", "macro", "macro_interval", "micro", "micro_interval"))
    return {
        "score": found.macro if average == "macro" else found.micro,
        "interval": list(found.macro_interval if average == "macro" else found.micro_interval),
        "macro": found.macro,
        "macro_interval": list(found.macro_interval),
        "micro": found.micro,
        "micro_interval": list(found.micro_interval),
    }


def _chance(records: Sequence[ItemRecord], average: str) -> float | None:
    """What guessing one of the options gives, on average; None where there are no options."""
    by_subject: dict[str, list[float]] = {}
    for record in records:
        if not record.scores or record.is_right is None:
            continue
        by_subject.setdefault(record.subject, []).append(1 / len(record.scores))
    if sum(map(len, by_subject.values())) < len(records) or not by_subject:
        return None
    if average == "macro":
        return sum(sum(found) / len(found) for found in by_subject.values()) / len(by_subject)
    return sum(map(sum, by_subject.values())) / len(records)


def _groups(plan: "SuitePlan", records: Sequence[ItemRecord]) -> dict[str, dict[str, Any]]:
    members: dict[str, set[str]] = {}
    for subject, facts in plan.task.subjects.items():
        for group in facts.groups:
            members.setdefault(group, set()).add(subject)
    found = {
        group: averages(record for record in records if record.subject in subjects)
        for group, subjects in members.items()
    }
    return {
        group: {
            "items": value.items,
            "macro": value.macro,
            "macro_interval": list(value.macro_interval),
            "micro": value.micro,
            "micro_interval": list(value.micro_interval),
        }
        for group, value in found.items()
        if value is not None
    }


def _subjects(records: Sequence[ItemRecord]) -> dict[str, Mapping[str, Any]]:
    by_subject: dict[str, list[ItemRecord]] = {}
    for record in records:
        by_subject.setdefault(record.subject, []).append(record)
    result: dict[str, Mapping[str, Any]] = {}
    for subject, found in by_subject.items():
        value = averages(found)
        result[subject] = {
            "items": len(found),
            "right": None if value is None else sum(record.is_right is True for record in found),
            "accuracy": None if value is None else value.micro,
            "interval": None if value is None else list(value.micro_interval),
        }
    return result
