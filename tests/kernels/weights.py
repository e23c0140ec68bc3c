"""Weights in every format as the operators take them, beside the dense weight that they stand for."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from baichuan2.kernels import products
from baichuan2.quantization.blockwise import (
    NONUNIFORM_CODEBOOK,
    Int4Tensor,
    Int8Tensor,
    dequantize_int4,
    dequantize_int8,
    pack_int4,
)
from baichuan2.quantization.linear import Int4Linear, Int8Linear, NF4Linear
from baichuan2.quantization.nf4 import NF4Tensor, dequantize_nf4, quantize_nf4

CODEBOOK = NONUNIFORM_CODEBOOK.tolist()
OPERATORS = torch.ops.baichuan2


@dataclass(frozen=True)
class Stored:
    """A weight (N, K): `parts` follow the inputs when `multiply` is called; `dense` is in float64."""

    name: str
    multiply: Callable[..., Tensor]
    parts: tuple[object, ...]
    dense: Tensor
    layer: nn.Module

    def times(self, inputs: Tensor) -> Tensor:
        """`inputs` (..., K) times the weight, by the operator."""
        return self.multiply(inputs, *self.parts)

    def with_part(self, index: int, part: object) -> "Stored":
        """The same with another part."""
        return replace(self, parts=(*self.parts[:index], part, *self.parts[index + 1 :]))


FORMATS = ("int4 g32", "int4 g64", "int4 g128", "int8 g0", "int8 g32", "int8 g64", "int8 g128", "nf4", "nf4 double")


def stored(name: str, outputs: int, width: int, seed: int = 0, scales: Tensor | None = None) -> Stored:
    """A random weight (N, K) in one of FORMATS; `scales` (N, groups) take the place of random ones, not for NF4."""
    generator = torch.Generator().manual_seed(seed)
    if name.startswith("nf4"):
        spread = torch.rand(outputs, 1, generator=generator) * 5
        return of_nf4(name, quantize_nf4(torch.randn(outputs, width, generator=generator) * spread, double="d" in name))
    group_size = int(name.rpartition("g")[2])
    if scales is None:
        scales = torch.randn(outputs, num_groups(name, width), generator=generator).half()
    if name.startswith("int8"):
        codes = torch.randint(-127, 128, (outputs, width), generator=generator).to(torch.int8)
        eight = Int8Tensor(codes, scales, group_size)
        parts = (codes, scales, group_size)
        dense = dequantize_int8(eight, torch.float64)
        return Stored(name, OPERATORS.multiply_int8, parts, dense, Int8Linear.from_tensor(eight))
    codes = pack_int4(torch.randint(0, 16, (outputs, width), generator=generator, dtype=torch.uint8), padding=15)
    four = Int4Tensor(codes, scales, NONUNIFORM_CODEBOOK, group_size, width)
    parts = (codes, scales, CODEBOOK, group_size)
    dense = dequantize_int4(four, torch.float64)
    return Stored(name, OPERATORS.multiply_int4, parts, dense, Int4Linear.from_tensor(four))


def num_groups(name: str, width: int) -> int:
    """How many scales a row of `width` inputs has."""
    group_size = int(name.rpartition("g")[2])
    return -(-width // group_size) if group_size else 1


def of_nf4(name: str, weight: NF4Tensor) -> Stored:
    """The weight as the operator takes it, for inputs in the weight's own dtype."""
    outputs = weight.shape[0]
    nested = (weight.offset, weight.nested_absmax, weight.nested_code)
    parts = (weight.codes, weight.code, weight.absmax, *nested, outputs)
    dense = dequantize_nf4(weight, torch.float32).double()
    return Stored(name, OPERATORS.multiply_nf4, parts, dense, NF4Linear.from_tensor(weight))


def as_met(dense: Tensor, inputs: Tensor, instructions: str | None) -> Tensor:
    """`dense` (N, K) as `inputs` (M, K) meet it: for many of them the matrix unit's is rounded to bfloat16.

    There are no subnormal numbers there.
    """
    is_many = inputs.numel() > products.MOST_ROWS * inputs.shape[-1]
    if instructions != products.INSTRUCTIONS[-1] or inputs.dtype != torch.bfloat16 or not is_many:
        return dense
    rounded = dense.to(torch.bfloat16)
    return torch.where(rounded.abs() < torch.finfo(torch.bfloat16).tiny, 0.0, rounded.double())


def tolerance(inputs: Tensor, weight: Stored) -> Tensor:
    """The error (M, N) allowed: sums in float32, one rounding of the result, bfloat16 levels of NF4."""
    x, dense = inputs.double(), weight.dense
    magnitudes = x.abs() @ dense.abs().T
    roundings = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}
    of_levels = 2.0**-9 if weight.name.startswith("nf4") and inputs.dtype == torch.bfloat16 else 2e-6
    exact = (x @ dense.T).abs()
    return magnitudes * of_levels + exact * roundings[inputs.dtype] + torch.finfo(inputs.dtype).tiny
