"""One message of a conversation, and the check that turns what callers hand in into messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from baichuan2.errors import MessageError
from baichuan2.model.prompt_format import ROLE_TOKEN_IDS

__all__ = ["Message", "Role", "to_messages"]

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """Who said what. A system message may only stand first.

    Raises MessageError for an unknown role or a content that is no text.
    """

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in tuple(ROLE_TOKEN_IDS):  # a tuple, as a role from outside may be unhashable
            raise MessageError(f"role must be one of {', '.join(ROLE_TOKEN_IDS)}, got {self.role!r}")
        if not isinstance(self.content, str):
            raise MessageError(f"content must be a string, got {type(self.content).__name__}")
        try:
            self.content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise MessageError(f"content holds half a character at index {error.start}") from error


def to_messages(messages: Sequence[Message | Mapping[str, str]]) -> list[Message]:
    """The conversation as messages; mappings need the keys `role` and `content`, others are ignored.

    Raises MessageError, naming the message by its index from 0: no messages at all, a missing or wrong field, or a
    system message that is not the first.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise MessageError(f"messages must be a list of messages, got {type(messages).__name__}")
    if not messages:
        raise MessageError("messages must hold at least one message")
    result: list[Message] = []
    for index, message in enumerate(messages):
        try:
            result.append(_to_message(message))
        except MessageError as error:
            raise MessageError(f"messages[{index}]: {error}") from error
        if index > 0 and result[-1].role == "system":
            raise MessageError(f"messages[{index}]: a system message must be the first message")
    return result


def _to_message(message: Message | Mapping[str, str]) -> Message:
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):
        raise MessageError(f"must be a message with role and content, got {type(message).__name__}")
    for name in ("role", "content"):
        if name not in message:
            raise MessageError(f"{name} is missing")
    return Message(role=cast("Role", message["role"]), content=message["content"])
