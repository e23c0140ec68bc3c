"""Messages as clients send them, to turns that the model knows."""

from collections.abc import Sequence
from typing import Any

from baichuan2.chat.messages import Message
from baichuan2.chat.tool_calls import to_turns
from baichuan2.chat.tools import ToolUse
from baichuan2.server.problems import ApiError
from baichuan2.server.protocol import ChatMessage

__all__ = ["turns_of"]


def turns_of(messages: Sequence[ChatMessage], tool_use: ToolUse) -> list[Message]:
    """The conversation, with the functions that may be called told in front.

    System and developer texts at the beginning become one text, as the model knows one; later ones are refused, as it
    knows none there. Raises ApiError and MessageError, which name the message by its index from 0.
    """
    num_leading = 0
    while num_leading < len(messages) and messages[num_leading].role in ("system", "developer"):
        num_leading += 1
    for index in range(num_leading, len(messages)):
        if messages[index].role in ("system", "developer"):
            text = f"messages[{index}]: a {messages[index].role} message must stand before all others"
            raise ApiError(400, text, param=f"messages[{index}].role", code="invalid_value")
    turns = to_turns([_mapping(message, index) for index, message in enumerate(messages)])
    if num_leading > 1:
        turns[:num_leading] = [Message("system", "\n".join(turn.content for turn in turns[:num_leading]))]
    return tool_use.prepare(turns)


def _mapping(message: ChatMessage, index: int) -> dict[str, Any]:
    mapping: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
    mapping["content"] = _text(message, f"messages[{index}].content")
    if message.tool_calls:
        mapping["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    if message.tool_call_id is not None:
        mapping["tool_call_id"] = message.tool_call_id
    return mapping


def _text(message: ChatMessage, place: str) -> str | None:
    """The text of a message; parts of it stand one after the other. ApiError for what is no text."""
    content = message.content
    if content is None:
        if message.tool_calls:
            return None
        raise ApiError(400, f"{place} is missing", param=place, code="invalid_value")
    if isinstance(content, str):
        return content
    for number, part in enumerate(content):
        if part.type != "text":
            text = f"{place}[{number}]: this model reads text only, got a part of type {part.type[:40]!r}"
            raise ApiError(400, text, param=f"{place}[{number}].type", code="unsupported_content")
        if part.text is None:
            text = f"{place}[{number}].text is missing"
            raise ApiError(400, text, param=f"{place}[{number}].text", code="invalid_value")
    return "".join(part.text or "" for part in content)
