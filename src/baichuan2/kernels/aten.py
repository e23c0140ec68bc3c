"""torch's own products with 8-bit and 4-bit weights, on the processor.

They win while few rows are multiplied: beyond, computing the weight once and using the matrix units is faster. Both
take bfloat16 inputs only at speed; int4 needs evenly spaced values, int8 one scale a row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PackedInt4", "aligned", "fits_aten", "multiply_int4", "multiply_int8", "pack_int4_for_aten", "suits_aten"]

MOST_ROWS = 64
"""Above it the plain way is as fast: 0.65 ms a row against 45 ms for the weight, 11008x4096 on 2 cores (2026-11)."""
INPUTS_AT_ONCE = 64
ALIGNMENT = 64
OUTPUTS_AT_ONCE = 16
ZERO_CODE = 8
CODES_OF_128 = 16  # an even step of the codebook is 16/128 of a scale


@dataclass(frozen=True, eq=False)
class PackedInt4:
    """A weight (N, K) as the operator wants it: `codes` uint8 (N, K/2) in its own order, `scales` (K/group, N, 2)."""

    codes: Tensor
    scales: Tensor
    group_size: int


def suits_aten(inputs: Tensor) -> bool:
    """Whether `inputs` (..., K) are what the operators are fast for."""
    is_narrow = inputs.numel() <= MOST_ROWS * inputs.shape[-1]
    return inputs.device.type == "cpu" and inputs.dtype == torch.bfloat16 and is_narrow and inputs.numel() > 0


def aligned(tensor: Tensor) -> Tensor:
    """`tensor` where the operators can read it, a copy if need be: they crash on memory off their vector's width."""
    return tensor if tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone().contiguous()


def fits_aten(in_features: int, out_features: int, group_size: int = 0) -> bool:
    """Whether the operators take a weight of this size; torch checks none of it, and reads beyond other ones."""
    return in_features % max(group_size, INPUTS_AT_ONCE) == 0 and out_features % OUTPUTS_AT_ONCE == 0


def pack_int4_for_aten(codes: Tensor, scales: Tensor, group_size: int) -> PackedInt4:
    """The weight with evenly spaced codes uint8 (N, K) and scales (N, K/group), for `multiply_int4`."""
    packed = torch._convert_weight_to_int4pack_for_cpu(codes.int(), 1)  # the 1 is read by other devices only
    # the operator computes (code - 8) * scale + offset
    steps = scales.float() * (CODES_OF_128 / 128)
    pairs = torch.stack((steps, torch.zeros_like(steps)), dim=-1).transpose(0, 1)
    return PackedInt4(packed, pairs.to(torch.bfloat16).contiguous(), group_size)


def multiply_int4(inputs: Tensor, weight: PackedInt4) -> Tensor:
    """`inputs` (..., K) in bfloat16 times the weight: (..., N). Scales are rounded to bfloat16."""
    rows = aligned(inputs.reshape(-1, inputs.shape[-1]))
    product = torch._weight_int4pack_mm_for_cpu(rows, weight.codes, weight.group_size, weight.scales)
    return product.reshape(*inputs.shape[:-1], -1)


def multiply_int8(inputs: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """`inputs` (..., K) in bfloat16 times int8 `codes` (N, K) with one scale a row (N, 1): (..., N).

    `codes` must be `aligned`. The operator would round the scales to bfloat16: it gets ones, and the sums are scaled in
    float32.
    """
    rows = aligned(inputs.reshape(-1, inputs.shape[-1]))
    sums = torch._weight_int8pack_mm(rows, codes, torch.ones(codes.shape[0], dtype=inputs.dtype))
    return (sums.float() * (scales.float().view(-1) / 128)).to(inputs.dtype).reshape(*inputs.shape[:-1], -1)
