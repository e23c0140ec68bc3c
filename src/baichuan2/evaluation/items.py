"""One question of a benchmark, as its file holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Item"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A question and what is right.

    `subject`: the part of the benchmark that it belongs to: a subject, a paper, a pair of languages.
    `number`: what its file calls it, and a submission must; unique within the subject and split.
    `options`: of a multiple-choice question, without their letters. `answer`: the index of the right one; None where
    the file holds no answers. `reference`: the right text where there are no options.
    `details`: other columns that a prompt or a check needs, such as the tests of a program.
    """

    subject: str
    number: str
    question: str
    options: tuple[str, ...] = ()
    answer: int | None = None
    reference: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
