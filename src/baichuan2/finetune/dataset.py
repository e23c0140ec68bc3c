"""Conversations to token ids, with the labels of the official fine-tuning script.

What a token teaches is noted as a mark beside its id: nothing, the token itself, or that a turn ends there. Labels are
made from ids and marks, so that what is stored of an example is small.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from baichuan2.chat.template import ChatTokenizer
from baichuan2.errors import DataError
from baichuan2.model.loss import IGNORED_LABEL
from baichuan2.model.special_tokens import ASSISTANT_TOKEN_ID, EOS_TOKEN_ID, PAD_TOKEN_ID, USER_TOKEN_ID

__all__ = [
    "ENDS",
    "LEARNT",
    "SEEN",
    "Conversation",
    "Example",
    "Turn",
    "encode_conversation",
    "join_turns",
    "labels_of",
    "read_conversations",
]

SEEN: Final = 0
"""Mark of a token that the model reads and does not learn."""
LEARNT: Final = 1
"""Mark of a token that the model learns to write."""
ENDS: Final = 2
"""Mark of a place where the model learns to write the end token, whatever stands there."""


@dataclass(frozen=True)
class Turn:
    """One turn of a training conversation."""

    speaker: str
    """The file's `from`: `human` is the user, anything else counts as the assistant (official rule)."""
    text: str
    is_learnt: bool = True
    """Whether the assistant's text, and that its turn ends, is learnt."""


@dataclass(frozen=True)
class Conversation:
    """One item of a training file."""

    id: str
    turns: tuple[Turn, ...]
    system: str | None = None
    """Text before the first turn, which no role token opens and nobody learns."""

    @property
    def texts(self) -> list[str]:
        """The texts that have to be encoded, in the order in which `join_turns` takes their ids."""
        return [*([] if self.system is None else [self.system]), *(turn.text for turn in self.turns)]


@dataclass(frozen=True)
class Example:
    """One padded training example; the three lists have `model_max_length` entries."""

    input_ids: list[int]
    labels: list[int]
    """Not shifted; IGNORED_LABEL where nothing is learnt."""
    attention_mask: list[bool]
    """True where input_ids is not the padding id."""


def join_turns(conversation: Conversation, encoded: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Ids and marks of the whole conversation, whose `texts` are `encoded`; neither cut nor padded.

    Learnt are the assistant's texts, an end token at the place of every user token, and one at the very end. After the
    shift inside the loss this teaches the model to end its turn, although the next input there is the user token. The
    user token behind a system text and behind a turn that is not learnt teaches nothing.
    """
    waiting = iter(encoded)
    ids: list[int] = []
    if conversation.system is not None:
        ids += next(waiting)
    marks = [SEEN] * len(ids)
    is_end_learnt = conversation.system is None and (not conversation.turns or conversation.turns[0].is_learnt)
    for turn, text_ids in zip(conversation.turns, waiting, strict=True):
        if turn.speaker == "human":
            ids += [USER_TOKEN_ID, *text_ids]
            marks += [ENDS if is_end_learnt else SEEN] + [SEEN] * len(text_ids)
        else:
            ids += [ASSISTANT_TOKEN_ID, *text_ids]
            marks += [SEEN] + [LEARNT if turn.is_learnt else SEEN] * len(text_ids)
        is_end_learnt = turn.is_learnt
    return [*ids, EOS_TOKEN_ID], [*marks, ENDS if is_end_learnt else SEEN]


def labels_of(ids: Sequence[int], marks: Sequence[int]) -> list[int]:
    """The label of each token: its id, the end token, or IGNORED_LABEL."""
    return [
        token_id if mark == LEARNT else EOS_TOKEN_ID if mark == ENDS else IGNORED_LABEL
        for token_id, mark in zip(ids, marks, strict=True)
    ]


def encode_conversation(
    tokenizer: ChatTokenizer, conversation: Conversation, *, model_max_length: int, protect: bool = True
) -> Example:
    """The conversation as ids and labels, cut on the right and padded on the right to `model_max_length`.

    The labels are those of `join_turns`. A cut that removes every label gives an example without any; its loss is not
    a number, so leave such examples out.

    `protect=False` lets texts spell control tokens, as the official script does, and gives exactly its result.
    """
    encoded = [
        tokenizer.encode_text(text) if protect else tokenizer.encode(text, add_special_tokens=False)
        for text in conversation.texts
    ]
    ids, marks = join_turns(conversation, encoded)
    input_ids = ids[:model_max_length]
    num_padding = model_max_length - len(input_ids)
    labels = labels_of(input_ids, marks[:model_max_length]) + [IGNORED_LABEL] * num_padding
    input_ids += [PAD_TOKEN_ID] * num_padding
    return Example(input_ids, labels, attention_mask=[token_id != PAD_TOKEN_ID for token_id in input_ids])


def read_conversations(path: str | Path) -> list[Conversation]:
    """The conversations of a JSON file: a list of {"id", "conversations": [{"from", "value"}, ...]}.

    `id` may be missing (the item's number is taken). Raises DataError naming file, item (counted from 0) and field.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: byte {error.start} is wrong") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    if not isinstance(content, list) or not content:
        raise DataError(f"{path} must hold a list of conversations that is not empty")
    return [_read_conversation(item, index, f"{path}, item {index}") for index, item in enumerate(content)]


def _read_conversation(item: Any, index: int, place: str) -> Conversation:
    if not isinstance(item, Mapping):
        raise DataError(f"{place}: must be an object, got {type(item).__name__}")
    turns = item.get("conversations")
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise DataError(f"{place}: conversations must be a list of turns that is not empty")
    return Conversation(
        id=str(item.get("id", index)),
        turns=tuple(_read_turn(turn, f"{place}, conversations[{number}]") for number, turn in enumerate(turns)),
    )


def _read_turn(turn: Any, place: str) -> Turn:
    if not isinstance(turn, Mapping):
        raise DataError(f"{place}: must be an object with from and value, got {type(turn).__name__}")
    for name in ("from", "value"):
        if not isinstance(turn.get(name), str):
            raise DataError(f"{place}: {name} must be a string, got {turn.get(name)!r}")
    try:
        turn["value"].encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: value holds half a character at index {error.start}") from error
    return Turn(speaker=turn["from"], text=turn["value"])
