"""How questions whose answer is a text become prompts, and replies scores: what the recipes in the task files say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

__all__ = ["TextRecipe"]


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """How one tool asks for a text, where it stops to read, and what it takes for the answer.

    The prompt is `header`, then for each example `example` and `gap`, then `item` for the question asked. In braces
    stand `{question}`, `{reference}`, `{subject}` and the names of an item's `details`.

    `exactness`: exact: as the source computes it; approximation: `unknown` says what is not published, or differs.
    `examples`: first: the first of their split, in its order; nearest: those most like the question, the nearest first.
    `max_new_tokens`: then a reply is cut off. `stop`: strings before which it ends. `settled`: a rule by which the rest
    of a reply no longer matters (`evaluation.answers`), so that it is not computed. `extract`: what is taken for the
    answer; `equal`: when it is the right one; `also`: further rules by whose answers a record says whether these would
    be right.
    `first`: only so many items of each subject are asked; None: all.
    `max_tokens`: longer prompts, room for the reply not counted, lose examples, the last one first or the first; or
    tokens from the left, the task's words included: `drop`. None: no limit but the model's.
    `average`: which one the tool calls the score: macro: the mean over subjects; micro: over all items.
    """

    exactness: Literal["exact", "approximation"]
    source: str
    unknown: str = ""
    shots: int
    header: str = ""
    example: str = ""
    gap: str = ""
    item: str
    examples: Literal["first", "nearest"] = "first"
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    settled: str | None = None
    extract: str
    equal: str = "text"
    also: Mapping[str, str] = field(default_factory=dict)
    first: int | None = None
    max_tokens: int | None = None
    drop: Literal["last", "first", "left"] = "last"
    average: Literal["macro", "micro"] = "macro"
    titles: Mapping[str, str] = field(default_factory=dict)
    """Subjects that this recipe calls by other words than the task."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """The recipe that a task file holds."""
        return cls(**{**values, "stop": tuple(values.get("stop", ()))})
