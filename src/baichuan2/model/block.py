"""The parts of a decoder layer, as torch modules that know nothing of the framework's model classes.

`modeling_baichuan` builds its layers from them, and so does `plain`, which does without the framework's class. Module
names are the checkpoint's keys. Shape letters (docs/shapes.md): B batch, T new tokens, S all tokens in view, H heads,
D head size, C hidden size, I inner size, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache

from baichuan2.model.alibi import AlibiBias, BaichuanAlibi
from baichuan2.model.attention import attend
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.rope import rotate

__all__ = ["MLP", "UNUSED_NAMES", "Attention", "RMSNorm", "alibi_bias", "last_places"]

UNUSED_NAMES = (r"rotary_emb\.inv_freq", r"decoder\.version")
"""Patterns of names in files that no model uses: rotary tables of Baichuan 1, a version in some old ones (§3)."""


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang, Sennrich 2019, arXiv 1910.07467): float32 inside, cast before the weight."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`hidden_states` (..., C) scaled to unit mean square, times the weight; dtype of the weight."""
        wide = hidden_states.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * wide.to(self.weight.dtype)


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values, and as many key heads as query heads."""

    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.num_heads = config.num_attention_heads
        self.num_key_value_groups = 1
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.is_causal = True
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        rotation: tuple[Tensor, Tensor] | None = None,
        bias: AlibiBias | None = None,
        kv_cache: Cache | None = None,
        padding_rows: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The mixed states (B, T, C), and the attention weights (B, H, T, S) where they were asked for."""
        batch, num_rows, _ = hidden_states.shape
        packed = self.W_pack(hidden_states).view(batch, num_rows, 3, self.num_heads, self.head_dim)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, T, D)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if kv_cache is not None:
            key, value = kv_cache.update(key, value, self.layer_idx)  # (B, H, S, D)
        mixed, weights = attend(self, query, key, value, attention_mask, bias, **kwargs)
        if padding_rows is not None:
            average = value.mean(dim=2)[:, None]  # (B, 1, H, D)
            mixed = torch.where(padding_rows[:, :, None, None], average, mixed)
        return self.o_proj(mixed.reshape(batch, num_rows, -1)), weights


class MLP(nn.Module):
    """The gated feed-forward part: down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., C) to (..., C), through (..., I)."""
        return self.down_proj(F.silu(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


def alibi_bias(
    alibi: BaichuanAlibi | None, config: BaichuanConfig, hidden_states: Tensor, past: int | Tensor, *, is_training: bool
) -> AlibiBias | None:
    """The position bias of `hidden_states` (B, T, C) behind `past` cached keys; None for rotary positions."""
    if alibi is None:
        return None
    is_official = config.alibi_numerics == "official"
    # Only the CPU kernel is known to add a float32 bias to half-precision scores; elsewhere, and in float64, it
    # must match them.
    is_wide = hidden_states.dtype == torch.float64
    keeps_float32 = not is_official and hidden_states.device.type == "cpu" and not is_wide
    return AlibiBias(
        slopes=alibi.slopes,
        past=past,
        num_rows=hidden_states.shape[1],
        dtype=torch.float32 if keeps_float32 else hidden_states.dtype,
        form="key_index" if is_official and not is_training else "relative",
    )


def last_places(hidden_states: Tensor, number: int) -> Tensor:
    """The last `number` places (B, number, C) of (B, T, C), in memory of their own; all of them for 0.

    A slice keeps the strides of the whole, with which torch turns and copies the head for each product: 6 s and 1 GB
    for the 7B on two cores (torch 2.13). `contiguous()` takes one row as it is.
    """
    if number <= 0:
        return hidden_states
    return hidden_states[:, -number:].clone(memory_format=torch.contiguous_format)
