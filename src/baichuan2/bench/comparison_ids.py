"""Do two programs make the same token ids of the same prompts? Where not, nothing behind it can be the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Hint", "IdsFinding", "compare_ids", "count_finding"]

WINDOW = 6
"""Tokens shown from the first one that differs on."""

Hint = Literal["begin", "space", "other"]
Piece = Callable[[int], bytes]


@dataclass(frozen=True, kw_only=True)
class IdsFinding:
    """Ids of the same prompts by both sides.

    `prompt`: number of the first one whose ids differ, `position` of the first such id, `a_pieces` and `b_pieces`: what
    stands there. `hint`: "begin": all that differs is a token in front; "space": a space in front; else "other". All of
    these are None where no prompt differs. Of a server only numbers of tokens are known, `a_count` and `b_count`.
    """

    num_prompts: int
    num_different: int
    prompt: int | None = None
    position: int | None = None
    a_pieces: tuple[str, ...] = ()
    b_pieces: tuple[str, ...] = ()
    hint: Hint | None = None
    a_count: int | None = None
    b_count: int | None = None


def compare_ids(
    pairs: Sequence[tuple[int, Sequence[int], Sequence[int]]], a_piece: Piece, b_piece: Piece
) -> IdsFinding:
    """What differs between ids: for each prompt its number and the ids of A and B."""
    different = [pair for pair in pairs if list(pair[1]) != list(pair[2])]
    if not different:
        return IdsFinding(num_prompts=len(pairs), num_different=0)
    number, a_ids, b_ids = different[0]
    shorter = min(len(a_ids), len(b_ids))
    position = next((index for index in range(shorter) if a_ids[index] != b_ids[index]), shorter)
    return IdsFinding(
        num_prompts=len(pairs),
        num_different=len(different),
        prompt=number,
        position=position,
        a_pieces=_shown(a_ids[position : position + WINDOW], a_piece),
        b_pieces=_shown(b_ids[position : position + WINDOW], b_piece),
        hint=_hint([(a, b) for _, a, b in different], a_piece, b_piece),
    )


def count_finding(counts: Sequence[tuple[int, int, int | None]]) -> IdsFinding:
    """What differs between numbers of tokens: for each prompt its number, A's count, and B's where it is known."""
    known = [(number, a, b) for number, a, b in counts if b is not None]
    different = [entry for entry in known if entry[1] != entry[2]]
    if not different:
        return IdsFinding(num_prompts=len(known), num_different=0)
    number, a_count, b_count = different[0]
    return IdsFinding(
        num_prompts=len(known),
        num_different=len(different),
        prompt=number,
        hint="begin" if all(abs(a - b) == 1 for _, a, b in different) else "other",
        a_count=a_count,
        b_count=b_count,
    )


def _glued(text: bytes) -> bytes:
    return text.replace(b" ", b"")


def _shown(ids: Sequence[int], piece: Piece) -> tuple[str, ...]:
    return tuple(piece(token_id).decode("utf-8", "replace") for token_id in ids)


def _hint(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], a_piece: Piece, b_piece: Piece) -> Hint:
    def has_begin(longer: Sequence[int], other: Sequence[int]) -> bool:
        return len(longer) == len(other) + 1 and list(longer[1:]) == list(other)

    if all(has_begin(a, b) or has_begin(b, a) for a, b in pairs):
        return "begin"
    texts = [(b"".join(map(a_piece, a)), b"".join(map(b_piece, b))) for a, b in pairs]
    # some tokenizers put one behind each of their special pieces too
    if all(a[:1] != b[:1] and b" " in (a[:1], b[:1]) and _glued(a) == _glued(b) for a, b in texts):
        return "space"
    return "other"
