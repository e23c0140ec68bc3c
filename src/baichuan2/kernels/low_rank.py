"""Adapters as steps in C take them: for each weight of each decoder layer two thin matrices and a gain, or nothing."""

import ctypes
from collections.abc import Sequence
from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

__all__ = ["WEIGHTS_OF_LAYER", "Change", "ChangeTable", "LowRankStructure"]

WEIGHTS_OF_LAYER = 5

Change = tuple[Tensor, Tensor, Tensor | None]
"""What an adapter makes of a weight W (N, K), W + up^T down by rows times gain: down (R, K), up (R, N), gain (N,)."""


class LowRankStructure(ctypes.Structure):
    """Mirror of `LowRank` in native/step.h."""

    _fields_ = (("down", c_void_p), ("up", c_void_p), ("gain", c_void_p), ("rank", c_int64))


class ChangeTable:
    """The changes of all adapters, (num_adapters, num_layers, WEIGHTS_OF_LAYER), where C reads them."""

    def __init__(
        self, adapters: Sequence[Sequence[Sequence[Change | None]]], shapes: Sequence[Sequence[tuple[int, int]]]
    ) -> None:
        """`adapters[a][l][w]`, of weights (N, K) of `shapes[l][w]`; ValueError where C would read beyond them."""
        self.num_adapters = len(adapters)
        self.most_rank = 0
        self._kept_alive = adapters
        structures = []
        for layers in adapters:
            if len(layers) != len(shapes) or any(len(layer) != WEIGHTS_OF_LAYER for layer in layers):
                raise ValueError("an adapter needs a change, or None, for each weight of each layer")
            for layer, of_layer in zip(layers, shapes, strict=True):
                structures += [self._structure(change, shape) for change, shape in zip(layer, of_layer, strict=True)]
        self._array = (LowRankStructure * len(structures))(*structures)

    @property
    def address(self) -> int | None:
        """Where the table begins; None where there is no adapter."""
        return ctypes.addressof(self._array) if self.num_adapters else None

    def _structure(self, change: Change | None, shape: tuple[int, int]) -> LowRankStructure:
        if change is None:
            return LowRankStructure()
        down, up, gain = change
        num_outputs, num_inputs = shape
        rank = down.shape[0]
        wanted: list[tuple[Tensor, tuple[int, ...]]] = [(down, (rank, num_inputs)), (up, (rank, num_outputs))]
        if gain is not None:
            wanted.append((gain, (num_outputs,)))
        for values, size in wanted:
            is_right = tuple(values.shape) == size and values.dtype == torch.float32 and values.is_contiguous()
            if not is_right or values.device.type != "cpu" or rank == 0:
                raise ValueError(f"a change of a weight {shape} has a part {tuple(values.shape)}, {values.dtype}")
        self.most_rank = max(self.most_rank, rank)
        return LowRankStructure(down.data_ptr(), up.data_ptr(), None if gain is None else gain.data_ptr(), rank)
