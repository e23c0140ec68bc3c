"""Baichuan weights as llama.cpp lays them out: which of its architectures runs them, and which tensor is made of what.

Three differences lie between the layouts. W_pack is split into its three parts. llama.cpp turns neighbouring values of
a head where our rotation turns its halves, so the rows of queries and keys of a rotary model are reordered. And the
head is stored with rows of unit length, as the format knows no normalised head. Needs no gguf package.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baichuan2.errors import CheckpointError
from baichuan2.model.configuration_baichuan import BaichuanConfig

__all__ = [
    "NORM_NAMES",
    "PACKED_NAMES",
    "PLAIN_NAMES",
    "GgufTensor",
    "architecture_of",
    "gguf_tensors",
    "rope_scaling",
    "to_halves",
    "to_neighbours",
]

EMBEDDING = "token_embd.weight"
HEAD = "output.weight"
PACKED_NAMES = ("attn_q", "attn_k", "attn_v")
PLAIN_NAMES = {
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NORM_NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
ALIBI_LAYERS = 40  # by which llama.cpp tells a Baichuan model with ALiBi from one with rotary positions


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the file.

    `source`: its name in the checkpoint. `rows`: (R,) int64, the rows of the source that it has, in its order; None:
    all as they are. `is_normalized`: rows get unit length. `shape`: (R, K), or (K,).
    """

    name: str
    source: str
    shape: tuple[int, ...]
    rows: Tensor | None = None
    is_normalized: bool = False


def architecture_of(config: BaichuanConfig) -> str:
    """The name of llama.cpp's architecture: `llama` for rotary positions, `baichuan` for ALiBi.

    Raises:
        CheckpointError: llama.cpp would run this model with other positions than it was trained with.
    """
    if config.position_embedding == "rope":
        rope_scaling(config)
        return "llama"
    if config.num_hidden_layers != ALIBI_LAYERS:
        raise CheckpointError(
            f"llama.cpp gives ALiBi positions to Baichuan models of {ALIBI_LAYERS} layers only, this one has "
            f"{config.num_hidden_layers}: it would answer nonsense there. Its other layouts are made by to-safetensors "
            "and to-baichuan1"
        )
    return "baichuan"


def rope_scaling(config: BaichuanConfig) -> Mapping[str, Any]:
    """The `rope_parameters` of a rotary model: the default ones, or linear scaling with its factor.

    Raises:
        CheckpointError: they are of a kind that cannot be written.
    """
    parameters: Mapping[str, Any] = config.rope_parameters or {}
    kind = parameters.get("rope_type", "default")
    if kind not in ("default", "linear"):
        raise CheckpointError(
            f"config.json asks for {kind} scaling of rotary positions, which to-gguf does not write: give a model with "
            "the default positions or linear scaling"
        )
    return parameters


def gguf_tensors(config: BaichuanConfig) -> list[GgufTensor]:
    """All tensors of the file, in the order in which they lie there."""
    hidden, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    packed = torch.arange(3 * hidden).chunk(3)
    if config.position_embedding == "rope":
        heads = config.num_attention_heads
        query, key, value = packed
        packed = (to_neighbours(query[:, None], heads)[:, 0], to_neighbours(key[:, None], heads)[:, 0], value)
    shapes = {
        "attn_output": (hidden, hidden),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    tensors = [GgufTensor(EMBEDDING, "model.embed_tokens.weight", (vocab, hidden))]
    for layer in range(config.num_hidden_layers):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        for name, rows in zip(PACKED_NAMES, packed, strict=True):
            source = f"{ours}.self_attn.W_pack.weight"
            tensors.append(GgufTensor(f"{theirs}.{name}.weight", source, (hidden, hidden), rows))
        for name, source in PLAIN_NAMES.items():
            tensors.append(GgufTensor(f"{theirs}.{name}.weight", f"{ours}.{source}.weight", shapes[name]))
        for name, source in NORM_NAMES.items():
            tensors.append(GgufTensor(f"{theirs}.{name}.weight", f"{ours}.{source}.weight", (hidden,)))
    tensors.append(GgufTensor("output_norm.weight", "model.norm.weight", (hidden,)))
    is_normalized = bool(config.normalized_head)
    tensors.append(GgufTensor(HEAD, "lm_head.weight", (vocab, hidden), is_normalized=is_normalized))
    return tensors


def to_neighbours(weight: Tensor, num_heads: int) -> Tensor:
    """Rows (H*D, K) of heads whose halves are turned -> the same rows with the values of a pair side by side."""
    return weight.reshape(num_heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def to_halves(weight: Tensor, num_heads: int) -> Tensor:
    """The inverse of `to_neighbours`."""
    return weight.reshape(num_heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
