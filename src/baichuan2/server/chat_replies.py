"""How replies to a conversation are written down: whole, and chunk by chunk."""

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from baichuan2.server.service import Plan
from baichuan2.server.work import Work

__all__ = ["ChatReplies", "usage_of"]


class ChatReplies:
    """Writes down the replies to one request; all parts of an answer bear the same id and time."""

    def __init__(self, plan: Plan, *, model: str, fingerprint: str, with_logprobs: bool) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self._num_choices = plan.num_choices
        self._with_logprobs = with_logprobs
        self._head = {"id": self.id, "created": int(time.time()), "model": model, "system_fingerprint": fingerprint}

    async def whole(self, work: Work) -> dict[str, Any]:
        """The one answer, when all replies are finished."""
        texts = [""] * self._num_choices
        reasons = ["stop"] * self._num_choices
        async for pieces in work.pieces():
            for index, piece in pieces:
                texts[index] += piece.text
                reasons[index] = piece.finish_reason or reasons[index]
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
            for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage_of(work)}

    async def chunks(self, work: Work, *, with_usage: bool) -> AsyncIterator[list[dict[str, Any]]]:
        """Role, then text as it comes, then why it ended, reply by reply; at last the usage. As many as are ready."""
        yield [self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._num_choices)]
        async for pieces in work.pieces():
            ready = []
            for index, piece in pieces:
                if piece.text or piece.tokens:
                    ready.append(self._chunk(index, {"content": piece.text}))
                if piece.finish_reason is not None:
                    ready.append(self._chunk(index, {}, reason=piece.finish_reason))
            yield ready
        if with_usage:
            yield [{**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(work)}]

    def _chunk(self, index: int, delta: dict[str, Any], *, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}


def usage_of(work: Work) -> dict[str, Any]:
    """What a request cost, in tokens; a prompt counts once for each of its replies' beginnings."""
    return {
        "prompt_tokens": work.num_prompt_tokens,
        "completion_tokens": work.num_new_tokens,
        "total_tokens": work.num_prompt_tokens + work.num_new_tokens,
        "prompt_tokens_details": {"cached_tokens": work.num_reused_tokens},
    }
