"""Token ids with a meaning, and the one rule that says which pieces ordinary text must never become.

Used by the tokenizer (the guard of `encode_text`), the prompt builder, fine-tuning and stopping. Standard library only.
"""

import re
from enum import IntEnum
from typing import Final

__all__ = [
    "ASSISTANT_TOKEN_ID",
    "BOS_TOKEN_ID",
    "EOS_TOKEN_ID",
    "PAD_TOKEN_ID",
    "UNKNOWN_TOKEN_ID",
    "USER_TOKEN_ID",
    "PieceKind",
    "is_guarded",
]

UNKNOWN_TOKEN_ID: Final = 0
PAD_TOKEN_ID: Final = 0  # the official files have no padding piece: <unk>, which byte fallback makes unused, pads
BOS_TOKEN_ID: Final = 1
EOS_TOKEN_ID: Final = 2
USER_TOKEN_ID: Final = 195  # <reserved_106> opens a user turn
ASSISTANT_TOKEN_ID: Final = 196  # <reserved_107> opens an assistant turn

_RESERVED_NAME = re.compile(r"<reserved_\d+>|<SEP>|<CLS>")


class PieceKind(IntEnum):
    """What a SentencePiece piece is; the values are those of the file format."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def is_guarded(piece: str, kind: int) -> bool:
    """Whether text must never turn into this piece, even if it spells the piece's name.

    True for control and unknown pieces and for user-defined pieces that only ever carry structure: `<reserved_N>`
    (roles among them), `<SEP>` and `<CLS>`. The other user-defined pieces of the official file (line break, tab, HTML
    tags, full-width digits, punctuation) are plain text that was given a fixed id; text keeps producing those.
    """
    if kind in (PieceKind.CONTROL, PieceKind.UNKNOWN):
        return True
    return kind == PieceKind.USER_DEFINED and _RESERVED_NAME.fullmatch(piece) is not None
