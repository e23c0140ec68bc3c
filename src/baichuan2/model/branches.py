"""Texts that begin alike, one after the other in one row: what two of them share is computed once.

In sorted order each text goes on from some place of the one before it, so the keys and values of a single text, the
path, are all that is ever held. A pass takes any number of such continuations, and the next one goes on where it ended.
There is no padding, and no copy of what is shared.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from baichuan2.model.alibi import AlibiBias

__all__ = ["AttendOne", "Branches", "Path"]

AttendOne = Callable[[Tensor, Tensor, Tensor, Tensor | None, AlibiBias | None], Tensor]
"""Attention of one branch: query (1, H, n, D), key and value (1, H, S, D), mask, bias -> (1, n, H, D)."""


class Path:
    """Keys and values of the text that is being read, for each layer in buffers (1, H, capacity, D)."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: places of the longest text."""
        self.capacity = capacity
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}

    def buffers(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Those of a layer, for keys and values such as `like` (1, H, any, D)."""
        if layer not in self._buffers:
            shape = (1, like.shape[1], self.capacity, like.shape[3])
            self._buffers[layer] = (like.new_empty(shape), like.new_empty(shape))
        return self._buffers[layer]


@dataclass(frozen=True)
class Branches:
    """The texts of one pass, as attention wants to know them.

    `pieces`: for each text how many places of the one before it begins with, and how many new ones follow. The first
    text of a pass goes on from the last one of the pass before.
    """

    pieces: tuple[tuple[int, int], ...]
    path: Path

    def places(self) -> Tensor:
        """The place of each new token in its text, (N,) int64."""
        return torch.cat([torch.arange(start, start + num_new) for start, num_new in self.pieces])

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, bias: AlibiBias | None, attend_one: AttendOne
    ) -> Tensor:
        """Mixed values (1, N, H, D) of the new tokens, with `query`, `key` and `value` (1, H, N, D).

        Afterwards the path is that of the last text.
        """
        keys, values = self.path.buffers(layer, key)
        mixed, done = [], 0
        for start, num_new in self.pieces:
            stop, rows = start + num_new, slice(done, done + num_new)
            keys[:, :, start:stop], values[:, :, start:stop] = key[:, :, rows], value[:, :, rows]
            mask = None
            if start and num_new > 1:
                places = torch.arange(stop, device=query.device)
                mask = (places <= places[start:, None])[None, None]  # (1, 1, n, S)
            its_bias = replace(bias, past=start, num_rows=num_new) if bias is not None else None
            mixed.append(attend_one(query[:, :, rows], keys[:, :, :stop], values[:, :, :stop], mask, its_bias))
            done += num_new
        return torch.cat(mixed, dim=1)
