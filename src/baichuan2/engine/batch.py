"""Sequences that are computed together: what the scheduler asks of a model, whatever keeps the keys and values.

`engine.paged` does it by steps in C over pages of one pool, `engine.aligned` by a model's own passes over one cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["Batch", "Held", "Part"]


@dataclass(eq=False)
class Held:
    """The keys and values of one sequence; `num_tokens`: how many of its tokens they are of."""

    num_tokens: int


@dataclass(frozen=True)
class Part:
    """The next tokens of a sequence, in a step; logits are wanted of the last `num_wanted` of them."""

    held: Held
    token_ids: Sequence[int]
    num_wanted: int


class Batch(Protocol):
    """A model and the keys and values of many sequences, with room for a fixed number of bytes."""

    @property
    def most_tokens(self) -> int:
        """Of all parts of a step together."""

    @property
    def takes_guesses(self) -> bool:
        """Whether a part of a reply may have several tokens, each of which gets the logits that it gets alone."""

    @property
    def is_one_pass(self) -> bool:
        """Whether all parts are computed in one pass of the model, so that many small ones cost no more than few."""

    @property
    def capacity(self) -> int:
        """Tokens that fit; at least a whole context."""

    @property
    def num_used(self) -> int:
        """Tokens of the open sequences; those kept for later prompts are not counted."""

    def open(self, token_ids: Sequence[int]) -> Held | None:
        """A sequence that begins with these; it may hold the first of them already, never the last.

        None: there is no room now.
        """

    def reserve(self, held: Held, num_new: int) -> bool:
        """Room for so many tokens more, at the cost of what is only kept for later; False: there is none now."""

    def step(self, parts: Sequence[Part]) -> list[Tensor]:
        """Logits (`num_wanted`, V) of each part, whose room is reserved; they hold the tokens then."""

    def crop(self, held: Held, num_tokens: int) -> None:
        """Takes the last tokens back, so that the sequence holds so many."""

    def close(self, held: Held, token_ids: Sequence[int]) -> None:
        """Ends a sequence; what it holds of its `token_ids` may be kept for prompts that begin alike."""

    def tokens_beside(self, num_decoding: int) -> int:
        """How many tokens of prompts a step computes beside the next tokens of so many replies."""
