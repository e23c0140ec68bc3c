"""Training data, from files to datasets of token ids and the batches made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from baichuan2.chat.template import ChatTokenizer
from baichuan2.finetune.dataset import encode_conversation, read_conversations
from baichuan2.model.loss import IGNORED_LABEL
from baichuan2.model.special_tokens import PAD_TOKEN_ID
from baichuan2.settings import FinetuneSettings

Item = dict[str, Any]
"""One example: `input_ids` and `labels`, lists of ids without padding; `segment_ids` beside them where it is packed."""


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from, and what it is measured on while it does."""

    train: "Dataset[Item]"
    evaluation: "Dataset[Item] | None"


class _Items(Dataset[Item]):
    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item:
        return self._items[index]


def prepare_data(settings: FinetuneSettings, tokenizer: ChatTokenizer, directory: Path) -> TrainingData:
    """The data that `settings` name, as token ids; what is prepared once is kept in `directory`."""
    del directory
    assert settings.data_path is not None
    items = []
    for conversation in read_conversations(settings.data_path):
        example = encode_conversation(
            tokenizer, conversation, model_max_length=settings.model_max_length, protect=settings.protect_roles
        )
        length = sum(example.attention_mask)
        items.append({"input_ids": example.input_ids[:length], "labels": example.labels[:length]})
    return TrainingData(train=_Items(items), evaluation=None)


def collate(items: Sequence[Item], pad_to: int | None = None) -> dict[str, Tensor]:
    """A batch, padded on the right: `input_ids`, `labels`, `attention_mask`, each (B, T) int64.

    T is the longest item, or `pad_to`. The mask holds 0 for padding and segment ids from 1 on elsewhere.
    """
    length = pad_to if pad_to is not None else max(len(item["input_ids"]) for item in items)

    def padded(name: str, filler: int) -> Tensor:
        return torch.tensor([list(item[name]) + [filler] * (length - len(item[name])) for item in items])

    with_mask = [{**item, "segment_ids": item.get("segment_ids", [1] * len(item["input_ids"]))} for item in items]
    items = with_mask
    return {
        "input_ids": padded("input_ids", PAD_TOKEN_ID),
        "labels": padded("labels", IGNORED_LABEL),
        "attention_mask": padded("segment_ids", 0),
    }
