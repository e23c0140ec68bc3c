"""How likely tokens were, in the two forms that OpenAI's clients know: of chats, and of completions."""

import codecs
from collections.abc import Callable, Sequence
from typing import Any

from baichuan2.chat.detokenizer import spelled
from baichuan2.chat.writer import WrittenToken

__all__ = ["CompletionLogprobs", "chat_logprobs"]

LEAST = -9999.0  # JSON knows no minus infinity; OpenAI's own word for it
PieceBytes = Callable[[int], bytes]


def chat_logprobs(tokens: Sequence[WrittenToken], piece_bytes: PieceBytes) -> dict[str, Any]:
    """The `logprobs` of a choice of a chat."""
    content = []
    for token in tokens:
        entry = _entry(token.piece_bytes, token.logprob)
        entry["top_logprobs"] = [_entry(piece_bytes(token_id), value) for token_id, value in token.top_logprobs]
        content.append(entry)
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """The `logprobs` of a choice of a completion; it knows how much text came before."""

    def __init__(self, piece_bytes: PieceBytes, offset: int = 0) -> None:
        """`offset`: characters before the first token, such as those of an echoed prompt."""
        self._piece_bytes = piece_bytes
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def of(self, tokens: Sequence[WrittenToken]) -> dict[str, Any]:
        """The part of these next tokens."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.piece_bytes))
        tops = [
            {spelled(self._piece_bytes(token_id)): _finite(value) for token_id, value in token.top_logprobs}
            for token in tokens
        ]
        for top, token in zip(tops, tokens, strict=True):  # the chosen one is always told, as OpenAI does
            top.setdefault(spelled(token.piece_bytes), _finite(token.logprob))
        return {
            "tokens": [spelled(token.piece_bytes) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": tops,
            "text_offset": offsets,
        }


def _entry(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": piece.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(piece)}


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
