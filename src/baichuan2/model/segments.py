"""Packed inputs: several texts behind each other in one row, none of which sees another.

A mask of rows x keys would let attention compute all pairs and hide most of them. Segments that lie in one piece, as
packing makes them, are attended to one by one instead: the cost is the sum of their squares, and no mask is made.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from baichuan2.model.alibi import AlibiBias

AttendOne = Callable[[Tensor, Tensor, Tensor, AlibiBias | None], Tensor]
"""Causal attention of one segment: query, key, value (1, H, n, D) and the bias of its places -> (1, n, H, D)."""


@dataclass(frozen=True)
class Segments:
    """Which places of a batch belong together."""

    ids: Tensor
    """(B, T) integers, 0 for padding; equal ids in an input are one segment."""
    lengths: tuple[tuple[int, ...], ...]
    """For each input the lengths of its runs of equal ids, padding included; they sum up to T."""
    is_padding: tuple[tuple[bool, ...], ...]
    """Which of these runs are padding."""

    def mask(self) -> Tensor:
        """Boolean (B, 1, T, T): True where a row sees a key."""
        return segment_mask(self.ids)


def find_segments(ids: Tensor) -> Segments | None:
    """The segments of a batch, `ids` (B, T); None where one of them lies in several pieces."""
    lengths, is_padding = [], []
    for row in ids.cpu():
        values, counts = torch.unique_consecutive(row, return_counts=True)
        found = [value for value in values.tolist() if value]
        if len(set(found)) < len(found):
            return None
        lengths.append(tuple(counts.tolist()))
        is_padding.append(tuple(value == 0 for value in values.tolist()))
    return Segments(ids, tuple(lengths), tuple(is_padding))


def segment_mask(ids: Tensor) -> Tensor:
    """Boolean (B, 1, T, T), True where a row sees a key of its own segment; `ids` (B, T) integers, 0 for padding."""
    same = ids[:, :, None] == ids[:, None, :]  # (B, T, T)
    is_text = ids[:, None, :] > 0
    here = torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)  # padding rows see themselves: no NaN
    return ((same & is_text).tril() | here)[:, None]


def attend_segments(
    segments: Segments, query: Tensor, key: Tensor, value: Tensor, bias: AlibiBias | None, attend_one: AttendOne
) -> Tensor:
    """Mixed values (B, T, H, D) of `query`, `key` and `value` (B, H, T, D); padding places keep their own value."""
    mixed = []
    for row, lengths in enumerate(segments.lengths):
        # split, not slices: their gradients are put together once, not added up in a tensor of full size each
        operands = (states[row : row + 1] for states in (query, key, value))
        queries, keys, values = (torch.split(states, list(lengths), dim=2) for states in operands)
        outputs = []
        for index, is_padding in enumerate(segments.is_padding[row]):
            if is_padding:
                outputs.append(values[index].transpose(1, 2))
                continue
            its_bias = replace(bias, num_rows=lengths[index]) if bias is not None else None
            outputs.append(attend_one(queries[index], keys[index], values[index], its_bias))
        mixed.append(torch.cat(outputs, dim=1))
    return torch.cat(mixed)


def without_first_labels(labels: Tensor, attention_mask: Tensor | None, ignored: int) -> Tensor:
    """`labels` (B, T) without those whose place before belongs to another segment: nothing there could tell them.

    `attention_mask` as `BaichuanModel.forward` takes it; other forms than segment ids change nothing.
    """
    if attention_mask is None or attention_mask.dtype == torch.bool or attention_mask.shape != labels.shape:
        return labels
    before, here = attention_mask[:, :-1], attention_mask[:, 1:]
    is_first = ((before != here) & (before > 0) & (here > 0)).to(labels.device)
    return torch.cat((labels[:, :1], labels[:, 1:].masked_fill(is_first, ignored)), dim=1)
