"""How replies to a conversation are written down: whole, and chunk by chunk."""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from baichuan2.chat.writer import ReplyPiece, WrittenToken
from baichuan2.server.logprobs import chat_logprobs
from baichuan2.server.work import Work

__all__ = ["ChatReplies", "usage_of"]


class ChatReplies:
    """Writes down the replies to one request; all parts of an answer bear the same id and time."""

    def __init__(
        self,
        num_choices: int,
        piece_bytes: Callable[[int], bytes],
        *,
        model: str,
        fingerprint: str,
        with_logprobs: bool = False,
    ) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self._num_choices = num_choices
        self._piece_bytes = piece_bytes
        self._with_logprobs = with_logprobs
        self._head = {"id": self.id, "created": int(time.time()), "model": model, "system_fingerprint": fingerprint}

    async def whole(self, work: Work) -> dict[str, Any]:
        """The one answer, when all replies are finished."""
        texts = [""] * self._num_choices
        reasons = ["stop"] * self._num_choices
        tokens: list[list[WrittenToken]] = [[] for _ in texts]
        async for pieces in work.pieces():
            for index, piece in pieces:
                texts[index] += piece.text
                reasons[index] = piece.finish_reason or reasons[index]
                tokens[index] += piece.tokens
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": self._logprobs(tokens[index]),
                "finish_reason": reasons[index],
            }
            for index, text in enumerate(texts)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage_of(work)}

    async def chunks(self, work: Work, *, with_usage: bool) -> AsyncIterator[list[dict[str, Any]]]:
        """Role, then text as it comes, then why it ended, reply by reply; at last the usage. As many as are ready."""
        yield [self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._num_choices)]
        async for pieces in work.pieces():
            yield [chunk for index, piece in pieces for chunk in self._chunks_of(index, piece)]
        if with_usage:
            yield [{**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(work)}]

    def _chunks_of(self, index: int, piece: ReplyPiece) -> list[dict[str, Any]]:
        chunks = []
        if piece.text or (piece.tokens and self._with_logprobs):
            chunks.append(self._chunk(index, {"content": piece.text}, self._logprobs(piece.tokens)))
        if piece.finish_reason is not None:
            chunks.append(self._chunk(index, {}, reason=piece.finish_reason))
        return chunks

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, *, reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _logprobs(self, tokens: Sequence[WrittenToken]) -> dict[str, Any] | None:
        return chat_logprobs(tokens, self._piece_bytes) if self._with_logprobs else None


def usage_of(work: Work) -> dict[str, Any]:
    """What a request cost, in tokens."""
    return {
        "prompt_tokens": work.num_prompt_tokens,
        "completion_tokens": work.num_new_tokens,
        "total_tokens": work.num_prompt_tokens + work.num_new_tokens,
        "prompt_tokens_details": {"cached_tokens": work.num_reused_tokens},
    }
