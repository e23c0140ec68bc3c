"""What a decode step computes, over a cache whose length is a number on the device.

`PlainKernels` takes torch's own operations, on any device; `FusedKernels` those of `kernels.fused`, on a GPU. Both can
be recorded in a CUDA graph: nothing here waits for the device or asks for a value. Recorded, the plain ones know the
buffers that they saw, the fused ones find any from a table.
"""

import functools
import importlib.util
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache

from baichuan2.engine import step_products
from baichuan2.model.alibi import AlibiBias
from baichuan2.model.attention import attend
from baichuan2.model.block import RMSNorm
from baichuan2.model.rope import rotate

__all__ = ["FusedKernels", "Places", "PlainKernels", "PromptKernels", "StepKernels", "has_fused_kernels"]

ALIGNMENT = 16  # bytes, of a head's keys: what the fused attention loads at once


@dataclass(frozen=True)
class Places:
    """Where the T new tokens of each of B inputs stand, on the device, so that a recorded step sees new values.

    `held` (1,) int64: tokens in the cache before them, padding included. `firsts` (B,) int64: the first place that each
    input sees; padding on the left lies before it.
    """

    held: Tensor
    firsts: Tensor
    num_new: int

    def places(self) -> Tensor:
        """The new tokens' places in the cache, (T,) int64."""
        return torch.arange(self.num_new, device=self.held.device) + self.held

    def positions(self) -> Tensor:
        """Their distances from the first token of their input, (B, T) int64: what turns the 7B's keys."""
        return (self.places()[None] - self.firsts[:, None]).clamp_min(0)


class StepKernels(Protocol):
    """The stages of a step. M = B * T rows."""

    @staticmethod
    def key(cache: Cache) -> tuple[int, ...]:
        """What of `cache` a recorded step depends on."""

    def bind(self, cache: Cache) -> None:
        """Takes note of where the cache's buffers lie; before each step whose cache may have grown or be another."""

    def add_norm(self, hidden: Tensor, delta: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
        """`hidden` + `delta` (M, C), and its norm (M, C)."""

    def mixed(self, packed: Tensor, layer: int, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """Attention of the rows of `packed` (M, 3 * C), whose keys and values go to the cache: (M, C).

        `rotation`: cosines and sines (B, 1, T, D), or None where the bias by distance tells positions.
        """

    def times(self, layer: Any, inputs: Tensor) -> Tensor:
        """`inputs` (M, K) times the weight of a linear layer, (M, N)."""

    def times_weight(self, weight: Tensor, inputs: Tensor) -> Tensor:
        """`inputs` (M, K) times `weight` (N, K), (M, N)."""

    def gated(self, mlp: Any, inputs: Tensor) -> Tensor:
        """silu(gate(`inputs`)) * up(`inputs`), (M, I), by the layers of `mlp`."""


class PlainKernels:
    """By torch: the same operations and roundings as the modules, over all the room that the cache has."""

    def __init__(self, places: Places, num_heads: int, slopes: Tensor | None, dtype: torch.dtype) -> None:
        self._places, self._num_heads, self._slopes, self._dtype = places, num_heads, slopes, dtype
        self._cache: weakref.ref[Cache] | None = None  # a step outlives the caches that it worked on

    @staticmethod
    def key(cache: Cache) -> tuple[int, ...]:
        """Their addresses and room: a recorded step knows no other buffers."""
        return (cache.layers[0].capacity, *_addresses(cache))

    def bind(self, cache: Cache) -> None:
        """Sees the buffers; makes numbers of the room that was never written to: zero times such is not always zero."""
        self._cache = weakref.ref(cache)
        held = cache.get_seq_length()
        for layer in cache.layers:
            for parts in layer.buffers:
                parts[0][:, :, held:] = 0

    def add_norm(self, hidden: Tensor, delta: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
        """See `StepKernels`."""
        summed = hidden if delta is None else hidden + delta
        return summed, norm(summed)

    def mixed(self, packed: Tensor, layer: int, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """See `StepKernels`."""
        batch, num_new = len(self._places.firsts), self._places.num_new
        parts = packed.view(batch, num_new, 3, self._num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)  # each (B, H, T, D)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        cache = None if self._cache is None else self._cache()
        assert cache is not None
        (keys,), (values,) = cache.layers[layer].buffers  # (B, H, capacity, D) each
        places = self._places.places()
        keys.index_copy_(2, places, key)
        values.index_copy_(2, places, value)
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=self._mask(keys.shape[2]))
        return mixed.transpose(1, 2).reshape(batch * num_new, -1)

    def _mask(self, capacity: int) -> Tensor:
        """Which keys a row sees, (B, 1, T, capacity) boolean, or the bias (B, H, T, capacity) that says so too."""
        places = self._places
        key = torch.arange(capacity, device=places.held.device)
        visible = (key <= places.places()[:, None]) & (key >= places.firsts[:, None, None])  # (B, T, capacity)
        if self._slopes is None:
            return visible[:, None]
        bias = AlibiBias(self._slopes, places.held, places.num_new, self._dtype, "relative")
        return bias.block(0, places.num_new, capacity, visible=visible[:, None])

    def times(self, layer: Any, inputs: Tensor) -> Tensor:
        """See `StepKernels`."""
        product: Tensor = layer(inputs)
        return product

    def times_weight(self, weight: Tensor, inputs: Tensor) -> Tensor:
        """See `StepKernels`."""
        return F.linear(inputs, weight)

    def gated(self, mlp: Any, inputs: Tensor) -> Tensor:
        """See `StepKernels`."""
        gated: Tensor = F.silu(mlp.gate_proj(inputs)) * mlp.up_proj(inputs)
        return gated


class FusedKernels:
    """By `kernels.fused`, over as many keys as there are."""

    def __init__(self, places: Places, num_heads: int, slopes: Tensor | None, num_layers: int) -> None:
        from baichuan2.kernels import fused

        self._fused = fused
        self._places, self._num_heads, self._slopes = places, num_heads, slopes
        device = places.held.device
        self._addresses = torch.zeros(num_layers, 2, dtype=torch.long, device=device)
        self._capacity = torch.zeros(1, dtype=torch.long, device=device)

    @staticmethod
    def key(_cache: Cache) -> tuple[int, ...]:
        """Nothing: a recorded step serves any cache."""
        return ()

    def bind(self, cache: Cache) -> None:
        """Writes the table of addresses."""
        self._addresses.copy_(torch.tensor(_addresses(cache)).view(-1, 2))
        self._capacity.fill_(cache.layers[0].capacity)

    def add_norm(self, hidden: Tensor, delta: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
        """See `StepKernels`."""
        return self._fused.add_norm(hidden, delta, norm.weight, norm.eps)

    def mixed(self, packed: Tensor, layer: int, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """See `StepKernels`."""
        query, places = self._placed(packed, layer, rotation), self._places
        where = (self._addresses[layer], places.held, self._capacity)
        scaling = float(query.shape[-1] ** -0.5)
        return self._fused.attend(query, *where, places.firsts, self._slopes, places.num_new, scaling)

    def _placed(self, packed: Tensor, layer: int, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """Turned queries (M, H, D), after keys and values have gone to the cache."""
        rows = packed.shape[0]
        angles = None
        if rotation is not None:  # (B or 1, 1, T, D) each
            batch = rows // self._places.num_new
            cosine, sine = (part.expand(batch, -1, -1, -1).reshape(rows, -1) for part in rotation)
            angles = (cosine, sine)
        where = (self._addresses[layer], self._places.held, self._capacity)
        parts = packed.view(rows, 3, self._num_heads, -1)
        return self._fused.rotate_and_store(parts, angles, *where, self._places.num_new)

    def times(self, layer: Any, inputs: Tensor) -> Tensor:
        """See `StepKernels`."""
        return step_products.times(layer, inputs)

    def times_weight(self, weight: Tensor, inputs: Tensor) -> Tensor:
        """See `StepKernels`."""
        return step_products.times_weight(weight, inputs)

    def gated(self, mlp: Any, inputs: Tensor) -> Tensor:
        """See `StepKernels`."""
        return step_products.gated_times(mlp, inputs)


class PromptKernels(FusedKernels):
    """For a whole prompt without padding, over an empty cache; `attentions` are the modules of the layers."""

    def __init__(self, places: Places, num_heads: int, slopes: Tensor | None, attentions: Sequence[Any]) -> None:
        super().__init__(places, num_heads, slopes, len(attentions))
        self._attentions = attentions
        self._layers: list[Any] = []

    def bind(self, cache: Cache) -> None:
        """Sees the buffers as well."""
        super().bind(cache)
        self._layers = [layer.buffers for layer in cache.layers]

    def mixed(self, packed: Tensor, layer: int, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """By the model's own attention."""
        places, rows = self._places, packed.shape[0]
        batch, num_new = rows // places.num_new, places.num_new
        query = self._placed(packed, layer, rotation).view(batch, num_new, self._num_heads, -1).transpose(1, 2)
        (keys,), (values,) = self._layers[layer]  # (B, H, capacity, D) each
        bias = None
        if self._slopes is not None:
            bias = AlibiBias(self._slopes, 0, num_new, query.dtype, "relative")
        operands = (query, keys[:, :, :num_new], values[:, :, :num_new])
        mixed, _ = attend(self._attentions[layer], *operands, None, bias)  # (B, T, H, D)
        return mixed.reshape(rows, -1)

    def times(self, layer: Any, inputs: Tensor) -> Tensor:
        """The layer's own product: it has many rows."""
        product: Tensor = layer(inputs)
        return product

    def gated(self, mlp: Any, inputs: Tensor) -> Tensor:
        """See `StepKernels`."""
        gated: Tensor = self._fused.gated(mlp.gate_proj(inputs), mlp.up_proj(inputs))
        return gated


@functools.cache
def has_fused_kernels() -> bool:
    """Whether Triton is there; whether it works shows with the first step."""
    return importlib.util.find_spec("triton") is not None


def _addresses(cache: Cache) -> list[int]:
    """Of each layer's keys and values."""
    return [parts[0].data_ptr() for layer in cache.layers for parts in layer.buffers]
