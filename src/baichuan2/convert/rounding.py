"""How one weight is rounded, under which names it stands in a file, and how it is read back.

The stages between a weight (N, K) and the tensors of a shard: `round_weight` makes a layer that holds few bits,
`tensors_of` names what it stores, `layer_from` makes the layer again, `check_rounded` compares it with the weight.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from baichuan2.errors import CheckpointError
from baichuan2.quantization.apply import CODEBOOKS, TABLE_GROUP_SIZE
from baichuan2.quantization.blockwise import (
    Int4Tensor,
    Int8Tensor,
    quantize_int4,
    quantize_int8,
)
from baichuan2.quantization.bnb_layout import read_nf4, write_nf4
from baichuan2.quantization.gptq import Hessian, Problem, gptq_int4, gptq_int8, problems
from baichuan2.quantization.linear import Int4Linear, Int8Linear, NF4Linear, QuantizedLinear
from baichuan2.quantization.nf4 import NF4_CODE, quantize_nf4
from baichuan2.quantization.scheme import DEFAULT_CODEBOOK, HEAD_SCHEMES
from baichuan2.quantization.scheme import DEFAULT_GROUP_SIZES as OWN_GROUP_SIZES
from baichuan2.settings import QuantizeSettings

__all__ = [
    "DEFAULT_GROUP_SIZES",
    "HEAD_ROUNDINGS",
    "TABLE_ROUNDING",
    "Rounding",
    "check_rounded",
    "largest_error",
    "layer_from",
    "round_table",
    "round_weight",
    "tensors_of",
]

DEFAULT_GROUP_SIZES = {**OWN_GROUP_SIZES, "official-4bits": OWN_GROUP_SIZES["nf4"]}
DEFAULT_METHODS = {"int8": "gptq", "int4": "gptq", "nf4": "nearest", "official-4bits": "nearest"}
ROWS = 1024  # of a weight, embedding or head, handled at once
CALIBRATED_ROWS = 8192  # of a head, for which one more root of its inputs' products is taken
# scales that were searched may cut the largest weights off, and calibrated codes may err more for the outputs' sake
SLACK = 2.0


@dataclass(frozen=True)
class Rounding:
    """The choices of `QuantizeSettings` that decide what a weight becomes, with none left open.

    `weight_dtype` (nf4): the number format that a weight is rounded to before, and that it has when it is computed.
    """

    format: str
    group_size: int
    method: str
    codebook: str | None = None
    weight_dtype: str = "float16"

    @classmethod
    def of(cls, settings: QuantizeSettings, source_dtype: torch.dtype) -> "Rounding":
        """What the settings ask for, for weights that are stored in `source_dtype`."""
        name = settings.format
        group_size = settings.group_size if settings.group_size is not None else DEFAULT_GROUP_SIZES[name]
        codebook = (settings.codebook or DEFAULT_CODEBOOK) if name == "int4" else None
        # official folders say float16 in all their parts
        dtype = torch.float16 if name == "official-4bits" else source_dtype
        method = settings.method or DEFAULT_METHODS[name]
        return cls(name, group_size, method, codebook, str(dtype).removeprefix("torch."))

    @property
    def is_own(self) -> bool:
        """Whether the folder will be in this package's own format."""
        return self.format in ("int8", "int4")


def round_weight(rounding: Rounding, weight: Tensor, problem: Problem | None = None) -> QuantizedLinear:
    """The layer that stores `weight` (N, K); `problem`: what its inputs made of it, for gptq.

    Raises:
        QuantizationError: the weight holds NaN or infinite numbers.
    """
    size = rounding.group_size
    searches = rounding.method == "search"
    if rounding.format == "int8":
        if problem is not None:
            return Int8Linear.from_tensor(gptq_int8(weight, problem, group_size=size))
        return Int8Linear.from_tensor(quantize_int8(weight, group_size=size, search=searches))
    if rounding.format == "int4":
        assert rounding.codebook is not None
        codebook = CODEBOOKS[rounding.codebook]
        if problem is not None:
            return Int4Linear.from_tensor(gptq_int4(weight, problem, group_size=size, codebook=codebook))
        return Int4Linear.from_tensor(quantize_int4(weight, group_size=size, codebook=codebook, search=searches))
    return NF4Linear.from_tensor(quantize_nf4(weight.to(getattr(torch, rounding.weight_dtype))))


TABLE_ROUNDING = Rounding("int8", TABLE_GROUP_SIZE, "search")
"""Of a quantised embedding."""
HEAD_ROUNDINGS = {
    name: Rounding(name, scheme.group_size, "search", DEFAULT_CODEBOOK if name == "int4" else None)
    for name, scheme in HEAD_SCHEMES.items()
}
"""Of a quantised head, by its format."""


def round_table(
    table: Tensor, rounding: Rounding = TABLE_ROUNDING, *, is_normalized: bool, inputs: Hessian | None = None
) -> QuantizedLinear:
    """An embedding or head (V, C), with its rows brought to unit length before where `is_normalized`.

    `inputs`: what a head is fed, for codes that change its logits least. Some rows at a time are more than stored.

    Raises:
        QuantizationError: the table or its inputs hold NaN or infinite numbers.
    """
    step = ROWS if inputs is None else CALIBRATED_ROWS
    stored: dict[str, Tensor] = {}
    for start in range(0, len(table), step):
        rows = slice(start, start + step)
        values = F.normalize(table[rows].float()) if is_normalized else table[rows].float()
        part = round_weight(rounding, values, None if inputs is None else problems([values], inputs)[0])
        for name, numbers in tensors_of(part, "").items():
            if name not in stored:
                stored[name] = numbers.new_empty(len(table), *numbers.shape[1:])
            stored[name][rows] = numbers
    return layer_from(rounding, stored, "", table.shape[1])


def tensors_of(layer: QuantizedLinear, name: str) -> dict[str, Tensor]:
    """What a shard holds for the layer `name`, such as `model.layers.0.mlp.up_proj`."""
    if isinstance(layer, NF4Linear):
        return write_nf4(layer.stored(), f"{name}.weight")
    stored: dict[str, Any] = layer.state_dict()
    return {f"{name}.{part}": values for part, values in stored.items()}


def layer_from(rounding: Rounding, tensors: Mapping[str, Tensor], name: str, in_features: int) -> QuantizedLinear:
    """The layer `name` out of the tensors of a shard; the inverse of `tensors_of`.

    Raises:
        CheckpointError: a part is missing or damaged.
    """
    if not rounding.is_own:
        return NF4Linear.from_tensor(read_nf4(tensors, f"{name}.weight"))
    try:
        codes, scales = tensors[f"{name}.weight_codes"], tensors[f"{name}.weight_scales"]
    except KeyError as error:
        raise CheckpointError(f"{error.args[0]} is missing") from None
    if rounding.format == "int8":
        return Int8Linear.from_tensor(Int8Tensor(codes, scales, rounding.group_size))
    assert rounding.codebook is not None
    codebook = CODEBOOKS[rounding.codebook]
    return Int4Linear.from_tensor(Int4Tensor(codes, scales, codebook, rounding.group_size, in_features))


def check_rounded(
    layer: QuantizedLinear, weight: Tensor, name: str, bound: float, *, is_normalized: bool = False
) -> float:
    """The relative error of a layer against the weight (N, K) that it stands for, root mean square.

    `is_normalized`: it stands for the rows brought to unit length.

    Raises:
        CheckpointError: it is above `bound`, which no sound file can be.
    """
    error = size = 0.0
    for start in range(0, len(weight), ROWS):
        rows = slice(start, start + ROWS)
        values = F.normalize(weight[rows].float()) if is_normalized else weight[rows].float()
        error += float((layer.dequantize(torch.float32, rows) - values).square().sum(dtype=torch.float64))
        size += float(values.square().sum(dtype=torch.float64))
    relative = (error / size) ** 0.5 if size > 0 else float(error > 0)
    if not relative <= bound:
        raise CheckpointError(
            f"{name}: what was written is not the weight: its relative error is {relative:.3g}, at most {bound:.3g} is "
            "possible; this is a defect of baichuan2 or of the memory of this machine"
        )
    return relative


def largest_error(rounding: Rounding) -> float:
    """The greatest relative error that `check_rounded` lets pass for a weight of this format.

    A weight is at most half a step of its group's largest weight off, so the error of a group of n is below
    sqrt(n) * half a step times the group's own size; far more than what real weights show.
    """
    width = rounding.group_size or 1 << 14
    if rounding.format == "int8":
        half_step = 0.5 / 127
    elif rounding.format == "int4":
        assert rounding.codebook is not None
        values = CODEBOOKS[rounding.codebook].float()
        half_step = float((values[1:] - values[:-1]).max() / 2 / values.abs().max())
    else:
        half_step = float((NF4_CODE[1:] - NF4_CODE[:-1]).max() / 2)
    return min(SLACK * math.sqrt(width) * half_step, 1.0)
