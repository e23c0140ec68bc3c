"""What became of one question: a line of the log that every evaluation leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ItemRecord"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRecord:
    """The outcome of one item, with what is needed to check it or to score it anew.

    `is_right`: None where nobody can say: no answer is known, or the score is one of the whole set, as it is for
    translations. `answer`, `prediction`: letters, or texts; None where there is none. `scores`: of each option, as the
    recipe compares them, in its unit. `output`: what the model wrote, for items without options.
    `shots`: examples in the prompt, after those that a limit left out. `prompt_tokens`: its length.
    `prompt_sha256`: of the prompt's UTF-8 text. `details`: what else a kind of task notes, plain JSON values.
    """

    subject: str
    number: str
    is_right: bool | None
    answer: str | None
    prediction: str | None
    prompt_tokens: int
    shots: int
    prompt_sha256: str
    scores: tuple[float, ...] = ()
    output: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
