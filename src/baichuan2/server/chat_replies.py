"""How replies to a conversation are written down: whole, and chunk by chunk."""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from baichuan2.chat.tool_calls import ToolCall
from baichuan2.chat.tools import ToolUse
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
        tool_use: ToolUse,
    ) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self._choices = [_Choice(tool_use) for _ in range(num_choices)]
        self._says_nothing = tool_use.choice == "required"
        self._piece_bytes = piece_bytes
        self._with_logprobs = with_logprobs
        self._head = {"id": self.id, "created": int(time.time()), "model": model, "system_fingerprint": fingerprint}

    async def whole(self, work: Work) -> dict[str, Any]:
        """The one answer, when all replies are finished."""
        texts = [""] * len(self._choices)
        calls: list[list[ToolCall]] = [[] for _ in texts]
        tokens: list[list[WrittenToken]] = [[] for _ in texts]
        async for pieces in work.pieces():
            for index, piece in pieces:
                tokens[index] += piece.tokens
                for part in self._choices[index].read(piece):
                    if isinstance(part, ToolCall):
                        calls[index].append(part)
                    else:
                        texts[index] += part
        choices = []
        for index, choice in enumerate(self._choices):
            message: dict[str, Any] = {"role": "assistant", "content": texts[index], "refusal": None}
            if calls[index] or self._says_nothing:
                message["content"] = texts[index] or None
            if calls[index]:
                message["tool_calls"] = [_written(call) for call in calls[index]]
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": self._logprobs(tokens[index]),
                    "finish_reason": choice.finish_reason,
                }
            )
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage_of(work)}

    async def chunks(self, work: Work, *, with_usage: bool) -> AsyncIterator[list[dict[str, Any]]]:
        """Role, then text as it comes, then why it ended, reply by reply; at last the usage. As many as are ready."""
        yield [self._chunk(index, {"role": "assistant", "content": ""}) for index in range(len(self._choices))]
        async for pieces in work.pieces():
            yield [chunk for index, piece in pieces for chunk in self._chunks_of(index, piece)]
        if with_usage:
            yield [{**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(work)}]

    def _chunks_of(self, index: int, piece: ReplyPiece) -> list[dict[str, Any]]:
        choice = self._choices[index]
        logprobs = self._logprobs(piece.tokens) if piece.tokens else None
        deltas: list[dict[str, Any]] = []
        for part in choice.read(piece):
            if isinstance(part, ToolCall):
                deltas.append({"tool_calls": [{"index": choice.num_calls - 1, **_written(part)}]})
            else:
                deltas.append({"content": part})
        if logprobs is not None and not deltas:
            deltas.append({"content": ""})
        chunks = [self._chunk(index, delta, logprobs if not number else None) for number, delta in enumerate(deltas)]
        if choice.finish_reason is not None:
            chunks.append(self._chunk(index, {}, reason=choice.finish_reason))
        return chunks

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, *, reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _logprobs(self, tokens: Sequence[WrittenToken]) -> dict[str, Any] | None:
        return chat_logprobs(tokens, self._piece_bytes) if self._with_logprobs else None


class _Choice:
    """One reply while it is read: how many calls it made so far, and why it ended."""

    def __init__(self, tool_use: ToolUse) -> None:
        self._reader = tool_use.reader()
        self._is_calls_alone = tool_use.choice == "required"
        self.num_calls = 0
        self.finish_reason: str | None = None

    def read(self, piece: ReplyPiece) -> Iterator[str | ToolCall]:
        """What the piece completes, in order; `num_calls` counts along. Afterwards `finish_reason` holds."""
        parts: list[str | ToolCall] = [piece.text] if piece.text else []
        if self._reader is not None:
            parts = self._reader.push(piece.text)
            if piece.finish_reason is not None:
                parts += self._reader.finish()
            if self._is_calls_alone:  # what looks like text is a call that the bound on tokens cut off
                parts = [part for part in parts if isinstance(part, ToolCall)]
        for part in parts:
            self.num_calls += isinstance(part, ToolCall)
            yield part
        self.finish_reason = piece.finish_reason
        if piece.finish_reason == "stop" and self.num_calls:
            self.finish_reason = "tool_calls"


def usage_of(work: Work) -> dict[str, Any]:
    """What a request cost, in tokens."""
    return {
        "prompt_tokens": work.num_prompt_tokens,
        "completion_tokens": work.num_new_tokens,
        "total_tokens": work.num_prompt_tokens + work.num_new_tokens,
        "prompt_tokens_details": {"cached_tokens": work.num_reused_tokens},
    }


def _written(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
