"""Attention of both sizes through the framework's attention interface, with the ALiBi bias made block by block.

The bias travels as `position_bias`, never folded into the mask: the framework turns float masks into boolean ones on
Ascend devices, which would destroy it. Long inputs are cut into blocks of query rows, so that no tensor of
heads x rows x keys is ever whole, in training neither.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_mask
from torch.utils.checkpoint import checkpoint
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from baichuan2.model.alibi import AlibiBias
from baichuan2.model.branches import Branches
from baichuan2.model.segments import Segments, attend_segments

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


@dataclass
class _Implementations:
    """Attention functions by name."""

    functions: Mapping[str, AttentionFunction]


_implementations = _Implementations({"sdpa": sdpa_attention_forward})


def use_functions(functions: Mapping[str, AttentionFunction]) -> None:
    """Implementations by name from here on: `modeling_baichuan` gives the framework's, to which its users may add."""
    _implementations.functions = functions


def eager_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, softmax in float32; the only way that can return its weights.

    `query` (B, H, T, D), `key` and `value` (B, H, S, D), `attention_mask` boolean (True = attend) or additive,
    broadcastable to (B, H, T, S) like `position_bias`. Returns the mixed values (B, T, H, D) and the weights
    (B, H, T, S). Baichuan has no dropout: the interface's
    argument is taken and left.
    """
    scores = (query @ key.transpose(2, 3)).float() * scaling  # (B, H, T, S)
    if position_bias is not None:
        scores = scores + position_bias
    scores = _masked(scores, attention_mask)
    weights = scores.softmax(dim=-1).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def official_alibi_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """The 13B's attention with the rounding of the released code: each step in the dtype of the model.

    Arguments and results as in `eager_attention`. In half precision scores, bias, softmax and weights are all
    rounded, which is what makes the released numbers differ from exact ones (reference: §5).
    """
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])  # (B, H, T, S)
    if position_bias is not None:
        scores = scores + position_bias.to(scores.dtype)
    scores = _masked(scores, attention_mask)
    weights = scores.softmax(dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def _masked(scores: Tensor, attention_mask: Tensor | None) -> Tensor:
    if attention_mask is None:
        return scores
    lowest = torch.finfo(scores.dtype).min
    if attention_mask.dtype == torch.bool:
        return scores.masked_fill(~attention_mask, lowest)
    return (scores + attention_mask).clamp_min(lowest)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    bias: AlibiBias | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Mixed values (B, T, H, D), and the attention weights (B, H, T, S) if asked for or None.

    `query` (B, H, T, D); `key` and `value` (B, H, S, D) with the cached places first. `attention_mask` is what the
    framework made for the chosen implementation: None (causal, or a single row that sees all), boolean
    (B, 1, T, S), additive, a block mask, segments of packed inputs, or branches, whose keys and values so far lie with
    them. `module` names the implementation by its config.
    """
    if isinstance(attention_mask, Branches):
        return _attend_branches(module, query, key, value, attention_mask, bias, kwargs), None
    wants_weights = bool(kwargs.pop("output_attentions", module.config.output_attentions))
    function = _choose(module, bias, wants_weights)
    kwargs.update(scaling=module.scaling, dropout=0.0)
    num_rows = query.shape[2]
    if isinstance(attention_mask, Segments):
        if not wants_weights and function is not official_alibi_attention:  # whose rounding depends on the place
            return _attend_one_by_one(module, query, key, value, attention_mask, bias, kwargs), None
        attention_mask = attention_mask.mask().to(query.device)
    if wants_weights and not isinstance(attention_mask, Tensor | None):
        attention_mask = create_mask(attention_mask.mask_mod, query.shape[0], 1, num_rows, key.shape[2], query.device)
    if attention_mask is None and num_rows > 1:
        key, value = key[:, :, :num_rows], value[:, :, :num_rows]  # an empty static cache behind the first rows
    num_keys = key.shape[2]
    block_rows = num_rows
    if bias is not None and not wants_weights and isinstance(attention_mask, Tensor | None):
        batch = 1 if attention_mask is None else attention_mask.shape[0]
        block_rows = bias.rows_per_block(num_keys, batch)
    if num_rows <= block_rows:
        if attention_mask is None and num_rows > 1 and function in (eager_attention, official_alibi_attention):
            attention_mask = _causal_rows(0, num_rows, num_keys, query.device)
        if bias is None:
            return function(module, query, key, value, attention_mask, **kwargs)
        if not isinstance(attention_mask, Tensor | None):
            # flex attention asks for single elements of the bias, and needs no tensor
            return function(module, query, key, value, attention_mask, position_bias=bias, **kwargs)
        if attention_mask is None and num_rows > 1:
            attention_mask = _causal_rows(0, num_rows, num_keys, query.device)
        masks = _bias_and_mask(function, bias, attention_mask, 0, num_rows, num_keys)
        return function(module, query, key, value, **{**kwargs, **masks})
    assert bias is not None
    return _attend_in_blocks(function, module, query, key, value, attention_mask, bias, block_rows, kwargs), None


def _attend_one_by_one(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    bias: AlibiBias | None,
    kwargs: dict[str, Any],
) -> Tensor:
    """`attend` within each segment; (B, T, H, D)."""
    num_rows = query.shape[2]

    def one(rows: Tensor, keys: Tensor, values: Tensor, its_bias: AlibiBias | None) -> Tensor:
        return attend(module, rows, keys, values, None, its_bias, **kwargs)[0]

    # behind the rows may lie an empty static cache
    return attend_segments(segments, query, key[:, :, :num_rows], value[:, :, :num_rows], bias, one)


def _attend_branches(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    branches: Branches,
    bias: AlibiBias | None,
    kwargs: dict[str, Any],
) -> Tensor:
    """`attend` for each branch with what lies before it; (1, T, H, D)."""

    def one(rows: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, its_bias: AlibiBias | None) -> Tensor:
        return attend(module, rows, keys, values, mask, its_bias, **kwargs)[0]

    return branches.attend(module.layer_idx, query, key, value, bias, one)


def _choose(module: Any, bias: AlibiBias | None, wants_weights: bool) -> AttentionFunction:
    if bias is not None and module.config.alibi_numerics == "official":
        return official_alibi_attention
    implementation = module.config._attn_implementation
    if wants_weights or implementation == "eager":
        return eager_attention
    return _implementations.functions[implementation]


def _bias_and_mask(
    function: AttentionFunction, bias: AlibiBias, mask: Tensor | None, start: int, stop: int, num_keys: int
) -> dict[str, Any]:
    """The bias of query rows start..stop and their mask, as the attention function takes them.

    A mask that is the same for all heads is cheaper applied to the distances, before they are multiplied by a slope per
    head. Our own functions take it beside the bias, as they round or average in their own way.
    """
    if mask is None or mask.dtype != torch.bool or function in (eager_attention, official_alibi_attention):
        return {"attention_mask": mask, "position_bias": bias.block(start, stop, num_keys)}
    return {
        "attention_mask": None,
        "position_bias": bias.block(start, stop, num_keys, visible=mask),
        "is_causal": False,  # the bias hides the keys to come
    }


def _causal_rows(start: int, stop: int, num_keys: int, device: torch.device) -> Tensor:
    """Boolean (1, 1, stop - start, num_keys): row i sees the keys 0..i. For inputs without cached keys."""
    rows = torch.arange(start, stop, device=device)
    return (torch.arange(num_keys, device=device) <= rows[:, None])[None, None]


def _attend_in_blocks(  # budget: one call frame of attention, which has this many operands
    function: AttentionFunction,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    bias: AlibiBias,
    block_rows: int,
    kwargs: dict[str, Any],
) -> Tensor:
    """`attend` for long inputs: the same result, one block of query rows after the other; (B, T, H, D)."""

    def one_block(start: int, stop: int, num_keys: int, rows: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if attention_mask is None:
            mask = _causal_rows(start, stop, num_keys, query.device)
        elif attention_mask.shape[2] == 1:
            mask = attention_mask[..., :num_keys]
        else:
            mask = attention_mask[:, :, start:stop, :num_keys]
        masks = _bias_and_mask(function, bias, mask, start, stop, num_keys)
        return function(module, rows, keys, values, **{**kwargs, **masks})[0]

    outputs = []
    for start in range(0, query.shape[2], block_rows):
        stop = min(start + block_rows, query.shape[2])
        # without a mask the first row follows no cache, and later keys are hidden from these rows anyway
        num_keys = stop if attention_mask is None else key.shape[2]
        operands = (query[:, :, start:stop], key[:, :, :num_keys], value[:, :, :num_keys])
        if torch.is_grad_enabled() and query.requires_grad:
            # autograd would keep each block's bias for the backward pass: all of them together are what must not be
            outputs.append(checkpoint(one_block, start, stop, num_keys, *operands, use_reentrant=False))
        else:
            outputs.append(one_block(start, stop, num_keys, *operands))
    return torch.cat(outputs, dim=1)
