"""What callers hand in becomes messages, or one clear error that names the message and the field."""

from typing import Any

import pytest

from baichuan2.chat.messages import Message, to_messages
from baichuan2.errors import MessageError

USER = {"role": "user", "content": "你好"}


def test_mappings_and_messages_may_be_mixed() -> None:
    system = Message("system", "简短")
    assert to_messages([system, {**USER, "name": "ignored"}]) == [system, Message("user", "你好")]


def test_a_tuple_and_an_empty_content_are_fine() -> None:
    assert to_messages(({"role": "assistant", "content": ""},)) == [Message("assistant", "")]


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "messages must hold at least one message"),
        ("你好", "messages must be a list of messages, got str"),
        (USER, "messages must be a list of messages, got dict"),
        (None, "messages must be a list of messages, got NoneType"),
        ([USER, "你好"], "messages[1]: must be a message with role and content, got str"),
        ([{"content": "a"}], "messages[0]: role is missing"),
        ([USER, {"role": "user"}], "messages[1]: content is missing"),
        ([{"role": "user", "content": None}], "messages[0]: content must be a string, got NoneType"),
        ([{"role": "user", "content": ["a"]}], "messages[0]: content must be a string, got list"),
        ([{"role": "tool", "content": "a"}], "messages[0]: role must be one of system, user, assistant, got 'tool'"),
        (
            [{"role": ["user"], "content": "a"}],
            "messages[0]: role must be one of system, user, assistant, got ['user']",
        ),
        ([{"role": "user", "content": "a\ud800"}], "messages[0]: content holds half a character at index 1"),
        ([USER, {"role": "system", "content": "a"}], "messages[1]: a system message must be the first message"),
    ],
)
def test_wrong_messages_are_named(messages: Any, error: str) -> None:
    with pytest.raises(MessageError) as caught:
        to_messages(messages)
    assert str(caught.value) == error


def test_a_message_checks_itself() -> None:
    with pytest.raises(MessageError, match="role must be one of"):
        Message("bot", "a")  # type: ignore[arg-type]
