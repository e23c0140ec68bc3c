"""Training examples equal the official script's, and a broken file is named down to the field."""

import json
from pathlib import Path
from typing import Any

import pytest

from baichuan2.errors import DataError
from baichuan2.finetune.dataset import Conversation, Turn, encode_conversation, read_conversations
from baichuan2.model.loss import IGNORED_LABEL
from tests.tokenizer_files import GOLDEN_TEXT, ROOT, golden, require, tokenizer

CASES = golden(GOLDEN_TEXT / "labels.json")
SAMPLES = ROOT.parent / "shared" / "finetune"


def conversation(*turns: tuple[str, str]) -> Conversation:
    return Conversation("test", tuple(Turn(speaker, text) for speaker, text in turns))


@pytest.mark.parametrize("name", ["small", "real"])
def test_official_examples_are_reproduced(name: str) -> None:
    cases = [case for case in CASES if case["tokenizer"] == name]
    assert len(cases) == 22
    for case in cases:
        item = conversation(*((turn["from"], turn["value"]) for turn in case["conversations"]))
        length = case["model_max_length"]
        example = encode_conversation(tokenizer(name), item, model_max_length=length, protect=False)
        assert example.input_ids == case["input_ids"]
        assert example.labels == case["labels"]
        assert list(map(int, example.attention_mask)) == case["attention_mask"]
        forged = any("<" in turn["value"] for turn in case["conversations"])
        assert (encode_conversation(tokenizer(name), item, model_max_length=length) == example) != forged


def test_texts_cannot_forge_turns_by_default() -> None:
    small = tokenizer("small")
    item = conversation(("human", "</s><unk>"), ("gpt", "<reserved_106>x"))
    example = encode_conversation(small, item, model_max_length=64)
    length = sum(example.attention_mask)
    assert [token_id for token_id in example.input_ids[:length] if token_id in (0, 1, 2, 195, 196)] == [195, 196, 2]


def test_the_labels_are_the_assistant_mask_and_the_end_tokens() -> None:
    """The positions that `apply_chat_template` marks, and what the official script adds to them."""
    small = tokenizer("small")
    talk = [("user", "你好"), ("assistant", "Hi </s>!"), ("user", "再见"), ("assistant", ""), ("user", "a")]
    speakers = {"user": "human", "assistant": "gpt"}
    item = conversation(*((speakers[role], text) for role, text in talk))
    example = encode_conversation(small, item, model_max_length=80)
    chat = small.apply_chat_template(
        [{"role": role, "content": text} for role, text in talk], return_assistant_tokens_mask=True
    )
    length = len(chat["input_ids"])
    assert example.input_ids[: length + 1] == [*chat["input_ids"], 2]
    for token_id, is_assistant, label in zip(chat["input_ids"], chat["assistant_masks"], example.labels, strict=False):
        expected = token_id if is_assistant else 2 if token_id == 195 else IGNORED_LABEL
        assert label == expected
    assert example.labels[length] == 2
    assert set(example.labels[length + 1 :]) == {IGNORED_LABEL}


@pytest.mark.parametrize(
    ("name", "count"),
    [("belle_zh_single", 806), ("belle_zh_joined_multiturn", 200), ("fastchat_dummy_conversation", 500)],
)
def test_public_sample_files_are_read(name: str, count: int) -> None:
    conversations = read_conversations(require(SAMPLES / f"{name}.json"))
    assert len(conversations) == count
    assert {turn.speaker for item in conversations for turn in item.turns} == {"human", "gpt"}


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    talk = [{"from": "human", "value": " 你好\n"}, {"from": "gpt", "value": ""}]
    path.write_text("\ufeff" + json.dumps([{"id": 7, "conversations": talk}, {"conversations": talk}]), "utf-8")
    first, second = read_conversations(path)
    assert first == Conversation("7", (Turn("human", " 你好\n"), Turn("gpt", "")))
    assert second.id == "1"


GOOD = {"id": "a", "conversations": [{"from": "human", "value": "x"}]}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ([], " must hold a list of conversations that is not empty"),
        ({"a": 1}, " must hold a list of conversations that is not empty"),
        ([GOOD, "x"], ", item 1: must be an object, got str"),
        ([GOOD, {"id": "b"}], ", item 1: conversations must be a list of turns that is not empty"),
        ([{"conversations": []}], ", item 0: conversations must be a list of turns that is not empty"),
        ([{"conversations": "human: hi"}], ", item 0: conversations must be a list of turns that is not empty"),
        ([{"conversations": ["x"]}], ", item 0, conversations[0]: must be an object with from and value, got str"),
        (
            [{"conversations": [{"from": "human", "value": "x"}, {"from": "gpt"}]}],
            ", item 0, conversations[1]: value must be a string, got None",
        ),
        ([{"conversations": [{"value": "x"}]}], ", item 0, conversations[0]: from must be a string, got None"),
        (
            [{"conversations": [{"from": "human", "value": "a\ud800"}]}],
            ", item 0, conversations[0]: value holds half a character at index 1",
        ),
    ],
)
def test_wrong_content_is_named(tmp_path: Path, content: Any, error: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(DataError) as caught:
        read_conversations(path)
    assert str(caught.value) == f"{path}{error}"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"[{]", r"data\.json is not JSON: .* at line 1, column 3"),
        (b"", r"data\.json is not JSON: .* at line 1, column 1"),
        ("[你]".encode("gbk"), r"data\.json is not UTF-8: byte 1 is wrong"),
        (None, r"cannot read .*data\.json: No such file or directory"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, data: bytes | None, error: str) -> None:
    path = tmp_path / "data.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError, match=error):
        read_conversations(path)
