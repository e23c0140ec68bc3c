"""Rows of all layouts become the same conversations, and what is wrong with one is said by field."""

from typing import Any

import pytest

from baichuan2.errors import DataError
from baichuan2.finetune.dataset import ENDS, LEARNT, SEEN, Conversation, Turn, join_turns
from baichuan2.finetune.layouts import Document, Pair, detect_layout, read_row

ASKED, SAID = Turn("human", "你好"), Turn("gpt", "Hi")
USER, BOT = {"from": "human", "value": "你好"}, {"from": "gpt", "value": "Hi"}
ROLE_USER, ROLE_BOT = {"role": "user", "content": "你好"}, {"role": "assistant", "content": "Hi"}


def read(value: dict[str, Any], layout: Any = None) -> Any:
    return read_row(value, layout or detect_layout(value, "f, line 1"), "f, line 1", "1")


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [USER, BOT]},
        {"conversations": [ROLE_USER, ROLE_BOT]},
        {"conversations": [{"from": "user", "value": "你好"}, {"from": "assistant", "value": "Hi"}]},
        {"messages": [ROLE_USER, ROLE_BOT]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]},
                ROLE_BOT,
            ]
        },
        {"instruction": "你好", "output": "Hi"},
        {"instruction": "你好", "input": "", "output": "Hi", "history": None, "system": ""},
        {"instruction": "", "input": "你好", "output": "Hi"},
    ],
)
def test_layouts_say_the_same(row: dict[str, Any]) -> None:
    assert read(row) == Conversation("1", (ASKED, SAID))


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "system", "value": "S"}, USER, BOT]},
        {"conversations": [USER, BOT], "system": "S"},
        {"messages": [{"role": "system", "content": "S"}, ROLE_USER, ROLE_BOT]},
        {"messages": [{"role": "developer", "content": "S"}, ROLE_USER, ROLE_BOT]},
        {"instruction": "你好", "output": "Hi", "system": "S"},
    ],
)
def test_system_texts_stand_before_the_first_turn(row: dict[str, Any]) -> None:
    conversation = read(row)
    assert conversation == Conversation("1", (ASKED, SAID), system="S")
    ids, marks = join_turns(conversation, [[900, 901], [910], [920, 921]])
    assert ids == [900, 901, 195, 910, 196, 920, 921, 2]
    assert marks == [SEEN, SEEN, SEEN, SEEN, SEEN, LEARNT, LEARNT, ENDS]


def test_alpaca_has_input_and_history() -> None:
    row = {"instruction": "a", "input": "b", "output": "c", "history": [["x", "y"]]}
    turns = (Turn("human", "x"), Turn("gpt", "y"), Turn("human", "a\nb"), Turn("gpt", "c"))
    assert read(row) == Conversation("1", turns)


def test_the_official_layout_takes_all_but_human_for_the_assistant() -> None:
    row = {"id": 7, "conversations": [{"from": "system", "value": "S"}, {"from": "user", "value": "U"}]}
    assert read(row, "conversations") == Conversation("7", (Turn("gpt", "S"), Turn("gpt", "U")))


def test_a_message_of_weight_0_is_read_only() -> None:
    row = {"messages": [ROLE_USER, {**ROLE_BOT, "weight": 0}, ROLE_USER, {**ROLE_BOT, "weight": 1}]}
    _, marks = join_turns(read(row), [[7], [8], [7], [8]])
    assert marks == [ENDS, SEEN, SEEN, SEEN, SEEN, SEEN, SEEN, LEARNT, ENDS]


PAIR = Pair(
    Conversation("1", (Turn("human", "你好", is_learnt=False), Turn("gpt", "good"))),
    Conversation("1", (Turn("human", "你好", is_learnt=False), Turn("gpt", "bad"))),
)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "你好", "chosen": "good", "rejected": "bad"},
        {"prompt": [ROLE_USER], "chosen": "good", "rejected": [{"role": "assistant", "content": "bad"}]},
        {
            "conversations": [USER],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        {"instruction": "你好", "input": "", "chosen": "good", "rejected": "bad"},
        {
            "chosen": [ROLE_USER, {"role": "assistant", "content": "good"}],
            "rejected": [ROLE_USER, {"role": "assistant", "content": "bad"}],
        },
        {
            "prompt": "你好",
            "chosen": [ROLE_USER, {"role": "assistant", "content": "good"}],
            "rejected": [ROLE_USER, {"role": "assistant", "content": "bad"}],
        },
    ],
)
def test_pairs_are_read_from_all_layouts(row: dict[str, Any]) -> None:
    assert read(row) == PAIR


def test_a_pair_keeps_system_and_earlier_turns_unlearnt() -> None:
    prompt = [{"role": "system", "content": "S"}, ROLE_USER, ROLE_BOT, ROLE_USER]
    pair = read({"prompt": prompt, "chosen": "good", "rejected": "bad"})
    assert pair.chosen.system == "S"
    _, marks = join_turns(pair.chosen, [[5], [6], [7], [6], [8]])
    assert marks == [SEEN] * 8 + [LEARNT, ENDS]


def test_documents_are_texts() -> None:
    assert read({"text": " 你好\n"}) == Document(" 你好\n")


@pytest.mark.parametrize(
    ("row", "layout", "error"),
    [
        ("x", "messages", "must be an object, got 'x'"),
        ({"messages": []}, "messages", "messages must be a list of turns that is not empty, got an empty list"),
        ({"messages": [ROLE_USER]}, "messages", "nothing can be learnt: expected a text of the assistant, got none"),
        ({"messages": [{"role": "bot", "content": ""}]}, "messages", "messages[0]: role must be one of user, "),
        ({"messages": [ROLE_USER, {"role": "tool", "content": "4"}]}, "messages", "turns of tools cannot be trained"),
        ({"messages": [ROLE_USER, {"role": "assistant", "tool_calls": [{}]}]}, "messages", "turns of tools cannot"),
        ({"messages": [ROLE_USER, ROLE_BOT], "tools": [{}]}, "messages", "tools cannot be trained on"),
        (
            {"messages": [ROLE_USER, {"role": "assistant"}]},
            "messages",
            "messages[1]: content must be a string, got nothing",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages",
            "messages[0], content[0]: must be a part of type text, got 'image_url'",
        ),
        ({"messages": [ROLE_USER, {**ROLE_BOT, "weight": 2}]}, "messages", "messages[1]: weight must be 0 or 1, got 2"),
        (
            {"messages": [ROLE_USER, {"role": "system", "content": "S"}, ROLE_BOT]},
            "messages",
            "a system turn must be the",
        ),
        ({"conversations": [USER, {"from": "bob", "value": ""}]}, "sharegpt", "--data-format conversations takes all"),
        (
            {"conversations": [USER, {"from": "gpt", "value": 7}]},
            "sharegpt",
            "conversations[1]: value must be a string, got 7",
        ),
        (
            {"conversations": [USER, {"from": "gpt", "value": "\ud800"}]},
            "sharegpt",
            "value holds half a character at index 0",
        ),
        ({"conversations": [{"from": "system", "value": "a"}, USER, BOT], "system": "b"}, "sharegpt", "one place only"),
        ({"instruction": "a"}, "alpaca", "output must be a string, got nothing"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, "alpaca", "history[0]: must be a pair of texts"),
        ({"prompt": "a", "chosen": "b"}, "preference", "rejected must be a text or messages, got nothing"),
        ({"chosen": "b", "rejected": "c"}, "preference", "prompt must end with a turn of the user"),
        (
            {"prompt": [ROLE_USER, ROLE_BOT], "chosen": "b", "rejected": "c"},
            "preference",
            "got a turn of the assistant",
        ),
        (
            {"prompt": "another", "chosen": [ROLE_USER, ROLE_BOT], "rejected": [ROLE_USER, ROLE_BOT]},
            "preference",
            "chosen and rejected must begin with the prompt",
        ),
        ({"text": ""}, "text", "text must not be empty"),
        ({"text": None}, "text", "text must be a string, got nothing"),
    ],
)
def test_malformed_rows_are_named_by_field(row: Any, layout: Any, error: str) -> None:
    with pytest.raises(DataError) as caught:
        read_row(row, layout, "f, line 1", "1")
    assert str(caught.value).startswith("f, line 1")
    assert error in str(caught.value)


def test_an_unknown_layout_says_what_was_seen() -> None:
    with pytest.raises(DataError, match="its fields are question, answer; known are conversations"):
        detect_layout({"question": "a", "answer": "b"}, "f, line 1")
    with pytest.raises(DataError, match="must be an object, got a list"):
        detect_layout([1], "f, line 1")
