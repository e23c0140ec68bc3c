"""The two shapes of training data: conversations for tuning, documents for pre-training."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

Turn = tuple[str, str]  # what the human says, what the model replies
Document = str | list[tuple[str, int]]  # whole text, or parts with 1 where the loss counts


@dataclass(frozen=True)
class Conversation:
    """One conversation of a task. `opens`: it only makes sense as the beginning of a session."""

    task: str
    turns: tuple[Turn, ...]
    opens: bool = False

    @property
    def num_chars(self) -> int:
        """Characters of both sides."""
        return sum(len(human) + len(reply) for human, reply in self.turns)


def single(task: str, human: str, reply: str) -> Conversation:
    """A conversation of one turn."""
    return Conversation(task, ((human, reply),))


def document(parts: list[tuple[str, int]], rng: Random, open_share: float = 0.25) -> Document:
    """A document in parts; in `open_share` of the calls all of it counts for the loss.

    Unpredictable text in the loss cost more than anything else in the trials, so most documents leave it out.
    """
    if rng.random() < open_share:
        return "".join(text for text, _ in parts)
    return parts


def document_text(item: Document) -> str:
    """The text of a document without its marks."""
    return item if isinstance(item, str) else "".join(text for text, _ in item)
