"""The rows of each step, by their numbers, and what is said and kept of a step whose loss or gradient is no number."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler

from baichuan2.finetune.folders import write_text

__all__ = ["EpochSampler", "NumberedBatches", "NumberedRows", "NumberedStream", "StepBatches", "with_numbers"]

ROW = "row_number"
ROWS = "row_numbers"
NUM_TOKENS = "num_tokens"
MAX_NAMED = 16

Item = dict[str, Any]


class NumberedRows(Dataset[Item]):
    """A dataset whose items carry their index."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        return {**self._rows[index], ROW: int(index)}


class NumberedStream(IterableDataset[Item]):
    """A stream whose items carry their place in it."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Item]:
        for number, item in enumerate(self._rows):
            yield {**item, ROW: number}

    def set_epoch(self, epoch: int) -> None:
        """Passed on, where the stream has epochs."""
        if hasattr(self._rows, "set_epoch"):
            self._rows.set_epoch(epoch)


def with_numbers(dataset: Any) -> Any:
    """`dataset` with numbered items; as it is where its rows have no order of their own."""
    return NumberedStream(dataset) if isinstance(dataset, IterableDataset) else NumberedRows(dataset)


class EpochSampler(Sampler[int]):
    """A sampler that draws the order of each epoch from the epoch's number alone, whatever came before."""

    def __init__(self, sampler: Any, seed: int) -> None:
        self._sampler = sampler
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        self._sampler.generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(self._sampler)

    def set_epoch(self, epoch: int) -> None:
        """The next order is that epoch's."""
        self._epoch = epoch


class NumberedBatches:
    """A collate function that also gives the numbers of the rows and how many tokens are no padding, both as ints."""

    def __init__(self, collate: Callable[[list[Item]], dict[str, Any]]) -> None:
        self._collate = collate

    def __call__(self, items: list[Item]) -> dict[str, Any]:
        """The batch of numbered items."""
        rows = [item.pop(ROW) for item in items]
        batch = self._collate(items)
        return {**batch, ROWS: rows, NUM_TOKENS: int((batch["attention_mask"] != 0).sum())}


@dataclass
class StepBatches:
    """The batches of one step of the optimizer, with their losses as tensors that nobody has waited for."""

    batches: list[dict[str, Any]] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    num_tokens: int = 0

    def take(self, inputs: dict[str, Any]) -> None:
        """Remembers a batch, and takes out of it what is for us alone."""
        self.rows.append(inputs.pop(ROWS, []))
        self.num_tokens += inputs.pop(NUM_TOKENS, 0)
        self.batches.append(dict(inputs))

    @property
    def loss(self) -> Tensor:
        """Of the step: a float32 scalar."""
        return torch.stack([loss.float() for loss in self.losses]).sum()

    def suspects(self) -> list[tuple[dict[str, Any], list[int]]]:
        """The batches whose loss is no number; all, where each is one and only the gradient is not."""
        pairs = list(zip(self.batches, self.rows, strict=True))
        bad = [pair for pair, loss in zip(pairs, self.losses, strict=True) if not math.isfinite(loss.item())]
        return bad or pairs


Origins = Callable[[int], list[str]]
"""File and row of what is in the training item of that index."""


def named_rows(rows: Sequence[int], origins: Origins | None = None) -> str:
    """`rows 3, 17, 40`, or where they come from; of many the first ones."""
    names = list(map(str, rows))
    if origins is not None:
        names = [name for row in rows[:MAX_NAMED] for name in origins(row)]
        return ", ".join(names[:MAX_NAMED]) + (", ..." if max(len(names), len(rows)) > MAX_NAMED else "")
    return (
        f"row{'s' if len(rows) != 1 else ''} "
        + ", ".join(names[:MAX_NAMED])
        + (", ..." if len(rows) > MAX_NAMED else "")
    )


def save_batches(
    path: Path,
    suspects: Sequence[tuple[Mapping[str, Any], Sequence[int]]],
    *,
    facts: Mapping[str, Any],
    decode: Callable[[list[int]], str],
    origins: Origins | None = None,
) -> None:
    """Writes every row of the batches as JSON: its number, its ids and labels without padding, its text."""
    found = []
    for batch, numbers in suspects:
        ids, labels, mask = (batch[name].tolist() for name in ("input_ids", "labels", "attention_mask"))
        is_pairs = len(ids) == 2 * len(numbers)  # two rows each, chosen replies first
        for index, row in enumerate(ids):
            number = numbers[index % len(numbers)] if numbers else None
            kept = [place for place, value in enumerate(mask[index]) if value != 0]
            found.append(
                {
                    "row": number,
                    **({"from": origins(number)} if origins is not None and number is not None else {}),
                    **({"reply": ("chosen", "rejected")[index // len(numbers)]} if is_pairs else {}),
                    "input_ids": [row[place] for place in kept],
                    "labels": [labels[index][place] for place in kept],
                    "text": decode([row[place] for place in kept]),
                }
            )
    write_text(path, json.dumps({**facts, "rows": found}, ensure_ascii=False, indent=1) + "\n")
