"""How continuations of texts are written down: whole, and chunk by chunk."""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from baichuan2.chat.writer import ReplyPiece, WrittenToken
from baichuan2.server.chat_replies import usage_of
from baichuan2.server.logprobs import CompletionLogprobs
from baichuan2.server.work import Work

__all__ = ["TextReplies"]


class TextReplies:
    """Writes down the continuations that one request asked for."""

    def __init__(
        self,
        beginnings: Sequence[str],
        piece_bytes: Callable[[int], bytes],
        *,
        model: str,
        fingerprint: str,
        with_logprobs: bool = False,
    ) -> None:
        """`beginnings`: for each continuation the text that stands before it, such as an echoed prompt, or nothing."""
        self.id = f"cmpl-{secrets.token_hex(12)}"
        self._beginnings = beginnings
        self._logprobs = [CompletionLogprobs(piece_bytes) for _ in beginnings] if with_logprobs else None
        self._head = {
            "id": self.id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    async def whole(self, work: Work) -> dict[str, Any]:
        """The one answer, when all continuations are finished."""
        texts = list(self._beginnings)
        reasons = ["stop"] * len(texts)
        tokens: list[list[WrittenToken]] = [[] for _ in texts]
        async for pieces in work.pieces():
            for index, piece in pieces:
                texts[index] += piece.text
                reasons[index] = piece.finish_reason or reasons[index]
                tokens[index] += piece.tokens
        choices = [self._choice(index, text, tokens[index], reasons[index]) for index, text in enumerate(texts)]
        return {**self._head, "choices": choices, "usage": usage_of(work)}

    async def chunks(self, work: Work, *, with_usage: bool) -> AsyncIterator[list[dict[str, Any]]]:
        """Text as it comes; the last piece of each continuation tells why it ended; at last the usage."""
        begun = [
            {**self._head, "choices": [self._choice(index, text, (), None)]}
            for index, text in enumerate(self._beginnings)
            if text
        ]
        if begun:
            yield begun
        async for pieces in work.pieces():
            yield [self._chunk(index, piece) for index, piece in pieces]
        if with_usage:
            yield [{**self._head, "choices": [], "usage": usage_of(work)}]

    def _chunk(self, index: int, piece: ReplyPiece) -> dict[str, Any]:
        return {**self._head, "choices": [self._choice(index, piece.text, piece.tokens, piece.finish_reason)]}

    def _choice(self, index: int, text: str, tokens: Sequence[WrittenToken], reason: str | None) -> dict[str, Any]:
        logprobs = None if self._logprobs is None else self._logprobs[index].of(tokens)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
