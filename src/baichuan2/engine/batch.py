"""Sequences that are computed together: what the scheduler asks of a model, whatever keeps the keys and values.

`engine.paged` does it by steps in C over pages of one pool, `engine.aligned` by a model's own passes over one cache.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

from torch import Tensor

from baichuan2.model.low_rank import NO_ADAPTER

__all__ = ["Batch", "Held", "Pace", "Part"]

LONGEST_STEP = 0.5
"""Seconds that a piece of a prompt may take: so long may a reply wait for its next token, and a request for its end."""


@dataclass(eq=False)
class Held:
    """The keys and values of one sequence; `num_tokens`: how many of its tokens they are of.

    `adapter`: the number of the one that computes them, see `model.low_rank`.
    """

    num_tokens: int
    adapter: int = field(default=NO_ADAPTER, kw_only=True)


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
        """Of all parts of a step together; where each is a pass of its own, of one of them."""

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

    def open(self, token_ids: Sequence[int], adapter: int = NO_ADAPTER) -> Held | None:
        """A sequence that begins with these; it may hold the first of them already, by that adapter, never the last.

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
        """How many tokens of prompts a step computes beside the next tokens of so many replies, or alone."""


class Pace:
    """How many tokens of a prompt are computed in LONGEST_STEP, as seen so far."""

    def __init__(self, least: int, most: int) -> None:
        """`least` and `most` bound the answer: fewer would waste a pass, more are not possible."""
        self._least, self._most = least, most
        self._seconds_of_token: float | None = None

    @property
    def tokens(self) -> int:
        """So many; before anything was seen, few."""
        if self._seconds_of_token is None:
            return min(self._most, 2 * self._least)
        return max(self._least, min(self._most, int(LONGEST_STEP / self._seconds_of_token)))

    @contextmanager
    def watch(self, num_tokens: int) -> Iterator[None]:
        """Times what is done inside: a pass of so many tokens."""
        started = perf_counter()
        yield
        if num_tokens >= self._least:  # of fewer, the most goes for reading weights
            seen = (perf_counter() - started) / num_tokens
            before = self._seconds_of_token
            self._seconds_of_token = seen if before is None else (3 * before + seen) / 4
