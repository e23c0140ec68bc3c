"""What became of one question: a line of the log that every evaluation leaves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["ItemRecord", "Key", "line_of", "record_of"]

Key = tuple[str, str]
"""Subject and number: what tells an item from all others of its split."""


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

    @property
    def key(self) -> Key:
        """What tells this item from all others of its split."""
        return self.subject, self.number


NAMES = tuple(item.name for item in fields(ItemRecord))


def line_of(record: ItemRecord) -> str:
    """The record as one line of JSON, its end included.

    Raises:
        ValueError: a score is no finite number, which JSON cannot hold.
    """
    values = {name: getattr(record, name) for name in NAMES}
    values["details"] = dict(record.details)
    # half characters, which a model's bytes may leave, are written as escapes: UTF-8 has no place for them
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


def record_of(line: str) -> ItemRecord:
    """The record that `line` holds.

    Raises:
        ValueError: it holds none.
    """
    values = json.loads(line)
    if not isinstance(values, dict) or set(values) != set(NAMES):
        raise ValueError("not a record of an item")
    kinds: dict[str, Any] = {
        **dict.fromkeys(("subject", "number", "prompt_sha256"), str),
        **dict.fromkeys(("prompt_tokens", "shots"), int),
        **dict.fromkeys(("answer", "prediction", "output"), str | None),
        "is_right": bool | None,
        "scores": list,
        "details": dict,
    }
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise ValueError(f"{name} is of another kind")
    return ItemRecord(**{**values, "scores": tuple(float(value) for value in values["scores"])})
