"""Datasets over a store: which of its examples make an item, and the batches of items."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from baichuan2.finetune.store import Store
from baichuan2.model.loss import IGNORED_LABEL
from baichuan2.model.special_tokens import PAD_TOKEN_ID

__all__ = ["Item", "Items", "PackedItems", "PairItems", "SingleItems", "StreamItems", "collate"]

Item = dict[str, Any]
"""`input_ids` and `labels` without padding, int64 arrays or lists; `segment_ids` beside them where it is packed; of a
pair of replies `chosen_input_ids`, `chosen_labels`, `rejected_input_ids` and `rejected_labels`."""


class Items(Dataset[Item]):
    """Items made of the examples that the store's array `order` names; `store` may be opened in another process."""

    def __init__(self, store: Store, order: str) -> None:
        self.store = store
        self.order_name = order

    @property
    def order(self) -> NDArray[np.int64]:
        """Indices of the examples."""
        return self.store.array(self.order_name)

    @property
    def folder(self) -> Path:
        """Where the store is."""
        return self.store.folder

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Item:
        raise NotImplementedError

    def examples(self, index: int) -> NDArray[np.int64]:
        """Which examples of the store are in item `index`."""
        return self.order[index : index + 1]

    def origins(self, index: int) -> list[str]:
        """File and row of each example in item `index`, for messages."""
        return [self.store.origin(int(example)) for example in self.examples(self._checked(index))]

    def _checked(self, index: int) -> int:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"item {index} of {size}")
        return int(index) % size


class SingleItems(Items):
    """One example an item."""

    def __getitem__(self, index: int) -> Item:
        """`input_ids` and `labels`, (T,)."""
        ids, labels = self.store.read(*self.store.bounds(int(self.order[self._checked(index)])))
        return {"input_ids": ids, "labels": labels}


class PackedItems(Items):
    """Several examples an item, behind each other; the array `<order>_ends` says where each item ends in the order."""

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def _ends(self) -> NDArray[np.int64]:
        return self.store.array(f"{self.order_name}_ends")

    def examples(self, index: int) -> NDArray[np.int64]:
        """Which examples of the store are in item `index`."""
        return self.order[int(self._ends[index - 1]) if index else 0 : int(self._ends[index])]

    def __getitem__(self, index: int) -> Item:
        """`input_ids`, `labels` and `segment_ids`, (T,)."""
        examples = self.examples(self._checked(index))
        return _joined([self.store.read(*self.store.bounds(int(example))) for example in examples])


class StreamItems(Items):
    """Documents as one stream that is cut into items of `row_length` tokens: what crosses an end goes on in the next.

    The array `<order>_stream` holds where each document ends in the stream.
    """

    def __init__(self, store: Store, order: str, row_length: int) -> None:
        super().__init__(store, order)
        self.row_length = row_length

    def __len__(self) -> int:
        num_tokens = int(self._ends[-1]) if len(self._ends) else 0
        whole, rest = divmod(num_tokens, self.row_length)
        return whole + (rest > 1)  # a single token has no next one to learn

    @property
    def _ends(self) -> NDArray[np.int64]:
        return self.store.array(f"{self.order_name}_stream")

    def examples(self, index: int) -> NDArray[np.int64]:
        """Which examples of the store are in item `index`."""
        begin, end = self._span(index)
        first, last = np.searchsorted(self._ends, [begin, end - 1], side="right")
        return self.order[int(first) : int(last) + 1]

    def _span(self, index: int) -> tuple[int, int]:
        begin = index * self.row_length
        return begin, min(begin + self.row_length, int(self._ends[-1]))

    def __getitem__(self, index: int) -> Item:
        """`input_ids`, `labels` and `segment_ids`, (T,)."""
        begin, end = self._span(self._checked(index))
        position = int(np.searchsorted(self._ends, begin, side="right"))
        parts = []
        while begin < end:
            start = int(self._ends[position - 1]) if position else 0
            stop = min(int(self._ends[position]), end)
            offset = self.store.bounds(int(self.order[position]))[0] - start
            parts.append(self.store.read(begin + offset, stop + offset))
            begin, position = stop, position + 1
        return _joined(parts)


class PairItems(Items):
    """Two replies to one prompt an item: the examples that the order names, and the ones behind them."""

    def __getitem__(self, index: int) -> Item:
        """The ids and labels of both, each (T,)."""
        chosen = int(self.order[self._checked(index)])
        item: Item = {}
        for name, example in (("chosen", chosen), ("rejected", chosen + 1)):
            item[f"{name}_input_ids"], item[f"{name}_labels"] = self.store.read(*self.store.bounds(example))
        return item


def _joined(parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Item:
    """Segments behind each other; no segment's first token is learnt, as what stands before it is another's."""
    labels = np.concatenate([part[1] for part in parts])
    lengths = [len(part[0]) for part in parts]
    labels[np.cumsum([0, *lengths[:-1]])] = IGNORED_LABEL
    return {
        "input_ids": np.concatenate([part[0] for part in parts]),
        "labels": labels,
        "segment_ids": np.repeat(np.arange(1, len(parts) + 1), lengths),
    }


def collate(items: Sequence[Mapping[str, Any]], pad_to: int | None = None) -> dict[str, Tensor]:
    """A batch, padded on the right: `input_ids`, `labels`, `attention_mask`, each (B, T) int64.

    T is the longest item, or `pad_to`. The mask holds 0 for padding and segment ids from 1 on elsewhere. Where an item
    has `segment_ids` there are `position_ids` as well, which count from 0 in each segment. Of pairs of replies there
    are two rows each: all chosen ones, then all rejected ones.
    """
    if "chosen_input_ids" in items[0]:
        items = [
            {"input_ids": item[f"{name}_input_ids"], "labels": item[f"{name}_labels"]}
            for name in ("chosen", "rejected")
            for item in items
        ]
    length = pad_to if pad_to is not None else max(len(item["input_ids"]) for item in items)
    shape = (len(items), length)
    batch = {
        "input_ids": np.full(shape, PAD_TOKEN_ID, dtype=np.int64),
        "labels": np.full(shape, IGNORED_LABEL, dtype=np.int64),
        "attention_mask": np.zeros(shape, dtype=np.int64),
    }
    is_packed = any("segment_ids" in item for item in items)
    if is_packed:
        batch["position_ids"] = np.zeros(shape, dtype=np.int64)
    for row, item in enumerate(items):
        size = len(item["input_ids"])
        batch["input_ids"][row, :size] = item["input_ids"]
        batch["labels"][row, :size] = item["labels"]
        segments = np.asarray(item.get("segment_ids", np.ones(size, np.int64)))
        batch["attention_mask"][row, :size] = segments
        if is_packed:
            starts = np.flatnonzero(np.diff(segments, prepend=0))
            batch["position_ids"][row, :size] = np.arange(size) - np.repeat(starts, np.diff(starts, append=size))
    return {name: torch.from_numpy(values) for name, values in batch.items()}
