"""Where the greedy replies of two models to one prompt part, and whether that was a close call."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from baichuan2.bench.comparison_prompts import Prompt
from baichuan2.bench.comparison_verdict import ROUNDING
from baichuan2.bench.sides import Choice

__all__ = ["Parting", "ReplyPair", "is_near_tie", "pair_replies", "parting_of"]

SHOWN = 12
"""Tokens shown behind the first one that differs."""
TIE = 2
"""The difference of two logits may round twice, and more than the mean."""


@dataclass(frozen=True, kw_only=True)
class Parting:
    """The first token in which two replies differ.

    `position`: its place in the reply, from 0. `before`: the text up to it; `a_text` and `b_text`: what each side says
    from there on, its first token and some more. `a_piece`, `b_piece`: these first tokens. `a_probabilities`,
    `b_probabilities`: what each model gives to both of them, A's token first; None where a server does not tell.
    `margin`: by how much A prefers its own to B's, in nats. `is_near_tie`: no more than the rounding of the coarser
    number format explains.
    """

    position: int
    before: str
    a_piece: str
    b_piece: str
    a_text: str
    b_text: str
    a_probabilities: tuple[float, float | None]
    b_probabilities: tuple[float | None, float | None]
    margin: float | None
    is_near_tie: bool


@dataclass(frozen=True, kw_only=True)
class ReplyPair:
    """Both replies to one prompt. `num_tokens`: of A's. `parting`: None where both are the same."""

    prompt: int
    prompt_text: str
    num_tokens: int
    parting: Parting | None


def parting_of(a: Sequence[Choice], b: Sequence[Choice]) -> int | None:
    """The place of the first token in which two replies differ; None where they do not."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (left, right) in pairs if left.token_id != right.token_id), None)


def pair_replies(
    prompt: Prompt,
    replies: tuple[Sequence[Choice], Sequence[Choice]],
    turn: tuple[Tensor, Tensor] | None,
    piece: Callable[[int], bytes],
    *,
    number_format: str,
) -> ReplyPair:
    """Both replies to a prompt; `turn`: the logits (V,) of both models where they part."""
    parting = None
    if turn is not None:
        place = parting_of(*replies)
        assert place is not None
        parting = _part(replies, place, turn, piece, number_format)
    return ReplyPair(prompt=prompt.number, prompt_text=prompt.shown, num_tokens=len(replies[0]), parting=parting)


def _part(
    replies: tuple[Sequence[Choice], Sequence[Choice]],
    place: int,
    turn: tuple[Tensor, Tensor],
    piece: Callable[[int], bytes],
    number_format: str,
) -> Parting:
    def text(tokens: Sequence[Choice]) -> str:
        return b"".join(piece(choice.token_id) for choice in tokens).decode("utf-8", "replace")

    a, b = replies
    chosen = [a[place].token_id, b[place].token_id]
    (a_first, a_second), (b_first, b_second) = (row.log_softmax(-1)[chosen].tolist() for row in turn)
    margin = a_first - a_second
    return Parting(
        position=place,
        before=text(a[:place]),
        a_piece=text(a[place : place + 1]),
        b_piece=text(b[place : place + 1]),
        a_text=text(a[place : place + SHOWN]),
        b_text=text(b[place : place + SHOWN]),
        a_probabilities=(math.exp(a_first), math.exp(a_second)),
        b_probabilities=(math.exp(b_first), math.exp(b_second)),
        margin=margin,
        is_near_tie=is_near_tie(margin, turn[0], number_format),
    )


def is_near_tie(margin: float, logits: Tensor, number_format: str) -> bool:
    """Whether rounding to a number format may decide otherwise between two tokens of a row of `logits` (V,)."""
    spread = (logits - logits.mean()).square().mean().sqrt().item()
    return abs(margin) <= TIE * ROUNDING.get(number_format, 0.0) * spread
