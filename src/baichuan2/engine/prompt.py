"""A prompt's pass on a processor with a matrix unit: the modules' products, and kernels in C for all between them.

For whole prompts in bfloat16 without padding. `engine.processor` asks `suits`, and knows that the modules are ours.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from baichuan2.engine.cache import GrowingLayer
from baichuan2.kernels import products, prompts
from baichuan2.model.attention import attend
from baichuan2.model.block import alibi_bias

__all__ = ["prompt_logits", "suits"]

ROWS_AT_A_TIME = 4096
"""More go through in pieces of so many tokens, for the memory of what is between the products."""


def suits(model: Any, ids: Tensor, firsts: list[int], cache: Cache) -> bool:
    """Whether `prompt_logits` takes these ids (B, T) and is the fastest way; `firsts`: padding at their begin."""
    kinds = {type(layer) for layer in cache.layers} or {cache.layer_class_to_replicate}
    if ids.numel() <= products.MOST_ROWS or any(firsts) or kinds != {GrowingLayer}:
        return False
    return model.model.norm.weight.dtype == torch.bfloat16 and prompts.is_available(model.config.head_dim)


def prompt_logits(model: Any, ids: Tensor, buffers: list[Any], held: int, num_kept: int) -> Tensor:
    """Logits (B, `num_kept`, V) of the last places of ids (B, T).

    `buffers` of each layer: keys and values ((B, H, capacity, D),) of `held` tokens, with room for T more, which are
    written there.
    """
    batch, num_new = ids.shape
    rotary = model.model.rotary_emb
    angles = (
        None if rotary is None else _angles(rotary, held, num_new)
    )  # of all pieces: some rules look at the last place
    count = -(-num_new // max(1, ROWS_AT_A_TIME // batch))
    logits = []
    for piece in range(count):
        begin, end = piece * num_new // count, (piece + 1) * num_new // count
        wanted = min(end - begin, max(0, end - (num_new - num_kept)))
        rotation = None if angles is None else (angles[0][begin:end], angles[1][begin:end])
        logits.append(_piece_logits(model, ids[:, begin:end], rotation, buffers, held + begin, wanted))
    return logits[0] if count == 1 else torch.cat(logits, dim=1)


def _piece_logits(
    model: Any, ids: Tensor, rotation: tuple[Tensor, Tensor] | None, buffers: list[Any], held: int, num_kept: int
) -> Tensor:
    """As `prompt_logits`, in one piece; `rotation`: cosines and sines (T, D); `num_kept` may be 0."""
    decoder, (batch, num_new) = model.model, ids.shape
    mask = None
    if held:  # rows see all that was held, and one another up to themselves
        mask = torch.ones(num_new, held + num_new, dtype=torch.bool).tril(held)[None, None]
    hidden = decoder.embed_tokens(ids)
    bias = alibi_bias(decoder.alibi, model.config, hidden, held, is_training=False)
    hidden = hidden.view(batch * num_new, -1)  # (M, C), a copy that is changed in place
    delta: Tensor | None = None
    for layer, ((keys,), (values,)) in zip(decoder.layers, buffers, strict=True):
        normed = prompts.add_norm(hidden, delta, *_norm(layer.input_layernorm))
        attention, mlp = layer.self_attn, layer.mlp
        packed = _product(attention.W_pack, normed).view(batch, num_new, 3, attention.num_heads, attention.head_dim)
        query = prompts.rotate_and_store(packed, rotation, keys, values, held)  # (B, H, T, D)
        seen = slice(held + num_new)
        mixed, _ = attend(attention, query, keys[:, :, seen], values[:, :, seen], mask, bias)  # (B, T, H, D)
        delta = _product(attention.o_proj, mixed.reshape(batch * num_new, -1))
        normed = prompts.add_norm(hidden, delta, *_norm(layer.post_attention_layernorm))
        delta = _product(mlp.down_proj, prompts.gated(_product(mlp.gate_proj, normed), _product(mlp.up_proj, normed)))
    if num_kept == 0:
        return torch.empty(batch, 0, model.lm_head.out_features, dtype=hidden.dtype)
    last = _last(hidden, batch, num_kept)
    normed = prompts.add_norm(last, None if delta is None else _last(delta, batch, num_kept), *_norm(decoder.norm))
    logits: Tensor = model.lm_head(normed.view(batch, num_kept, -1))
    return logits


def _product(layer: nn.Module, rows: Tensor) -> Tensor:
    """`rows` (M, K) times the layer's weight: (M, N)."""
    if type(layer) is nn.Linear and layer.weight.is_contiguous():
        return products.multiply_bfloat16(rows, layer.weight.detach())
    product: Tensor = layer(rows)
    return product


def _norm(norm: Any) -> tuple[Tensor, float]:
    return norm.weight.detach(), norm.eps


def _last(states: Tensor, batch: int, num_kept: int) -> Tensor:
    """The last places of each input's rows (M, C): (B * `num_kept`, C) in one piece."""
    return states.view(batch, -1, states.shape[-1])[:, -num_kept:].reshape(batch * num_kept, -1).contiguous()


def _angles(rotary: Any, held: int, num_new: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the new places, (T, D) each."""
    places = torch.arange(held, held + num_new)
    cosine, sine = rotary(places, places[None])  # (1, 1, T, D) each
    return cosine[0, 0].contiguous(), sine[0, 0].contiguous()
