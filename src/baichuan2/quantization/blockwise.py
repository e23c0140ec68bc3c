"""Weights in 4 or 8 bits, groups of consecutive inputs sharing a scale: our own format.

int4: weight[n, k] = scales[n, k // group_size] * codebook[code[n, k]] / 128; int8: the code itself takes the place of
the codebook's value. This file rounds to nearest; `gptq` chooses codes by what the layer is fed. Knows tensors only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from baichuan2.errors import QuantizationError
from baichuan2.quantization.scales import UNIT, Grid, absmax_scales, scaled, search_scales

__all__ = [
    "NONUNIFORM_CODEBOOK",
    "UNIFORM_CODEBOOK",
    "Int4Tensor",
    "Int8Tensor",
    "check_weight",
    "dequantize_int4",
    "dequantize_int8",
    "int4_grid",
    "int8_grid",
    "pack_int4",
    "quantize_int4",
    "quantize_int8",
    "scale_factors",
    "unpack_int4",
]

UNIFORM_CODEBOOK = torch.arange(-128, 128, 16, dtype=torch.int8)
"""Evenly spaced values: -128, -112, ..., 112."""
NONUNIFORM_CODEBOOK = torch.tensor(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=torch.int8
)
"""Denser near 0, where most weights of a group lie: the values of llama.cpp's IQ4_NL."""

PACKED_INPUTS = 64  # so many inputs of a row are packed together, the first half in the low bits of 32 bytes
CHUNK = 1 << 18  # weights handled at once: their temporaries stay in the processor's cache
LARGEST = 60000.0  # weights beyond it would need scales beyond float16


@dataclass(frozen=True, eq=False)
class Int4Tensor:
    """A weight (N, K) in 4 bits.

    `codes`: uint8 (N, ceil(K / 64) * 32), packed as `pack_int4` says. `scales`: float16 (N, ceil(K / group_size)).
    `codebook`: int8 (16,), ascending.
    """

    codes: Tensor
    scales: Tensor
    codebook: Tensor
    group_size: int
    in_features: int


@dataclass(frozen=True, eq=False)
class Int8Tensor:
    """A weight (N, K) in 8 bits.

    `codes`: int8 (N, K) from -127 to 127. `scales`: float16 (N, ceil(K / group_size)); `group_size` 0: one for a row.
    """

    codes: Tensor
    scales: Tensor
    group_size: int


def pack_int4(codes: Tensor, *, padding: int = 8) -> Tensor:
    """`codes` uint8 (N, K) below 16, two in a byte: uint8 (N, ceil(K / 64) * 32).

    Of each 64 consecutive inputs, byte j of 32 has input j in its low half and input j + 32 in its high half, so that
    vector code unpacks them without shuffling. Rows are filled up with `padding`.
    """
    rows, in_features = codes.shape
    codes = F.pad(codes, (0, -in_features % PACKED_INPUTS), value=padding)
    low, high = codes.reshape(rows, -1, 2, PACKED_INPUTS // 2).unbind(2)  # (N, blocks, 32) each
    return (low | (high << 4)).reshape(rows, -1)


def unpack_int4(packed: Tensor, in_features: int) -> Tensor:
    """What `pack_int4` packed: uint8 (N, `in_features`)."""
    rows = packed.shape[0]
    halves = packed.reshape(rows, packed.shape[1] * 2 // PACKED_INPUTS, PACKED_INPUTS // 2)
    codes = torch.stack([halves & 15, halves >> 4], dim=2)  # (N, blocks, 2, 32)
    return codes.reshape(rows, packed.shape[1] * 2)[:, :in_features]


def quantize_int4(
    weight: Tensor,
    *,
    group_size: int,
    codebook: Tensor | None = None,
    search: bool = True,
    importance: Tensor | None = None,
) -> Int4Tensor:
    """`weight` (N, K) rounded to the nearest of 16 values for each group of `group_size` inputs.

    `codebook`: int8 (16,), None: evenly spaced. `search`: look for the scales with the least squared error; without,
    the largest weight of a group decides. `importance`: (K,), how much the errors of an input count in that search.

    Raises:
        QuantizationError: the weight is not a finite matrix.
    """
    check_weight(weight)
    codebook = (UNIFORM_CODEBOOK if codebook is None else codebook).to(weight.device)
    grid = int4_grid(codebook)
    codes, scales = _round_to_nearest(weight, grid, group_size, scale_factors(4) if search else None, importance)
    zero = int(grid.nearest(torch.zeros(1, device=weight.device)))
    return Int4Tensor(pack_int4(codes, padding=zero), scales, codebook, group_size, weight.shape[1])


def quantize_int8(
    weight: Tensor, *, group_size: int, search: bool = True, importance: Tensor | None = None
) -> Int8Tensor:
    """`weight` (N, K) rounded to the nearest of 255 values for each group of `group_size` inputs; 0: each row.

    `search`, `importance` and what is raised: as for `quantize_int4`.
    """
    check_weight(weight)
    grid = int8_grid(weight.device)
    codes, scales = _round_to_nearest(weight, grid, group_size, scale_factors(8) if search else None, importance)
    return Int8Tensor((codes.short() - 127).char(), scales, group_size)


def dequantize_int4(tensor: Int4Tensor, dtype: torch.dtype = torch.float32, rows: slice | None = None) -> Tensor:
    """The weight (N, K), or only some of its rows, in `dtype`; products are taken in float32 and rounded once."""
    rows = slice(None) if rows is None else rows
    codes, scales = tensor.codes[rows], _half_block_scales(tensor, rows)  # (N, B, 2)
    num_rows, num_blocks = scales.shape[:2]
    levels = tensor.codebook.float() / UNIT
    byte = torch.arange(256, device=codes.device)
    index = codes.reshape(-1).int()
    values = torch.empty(num_rows, num_blocks, 2, PACKED_INPUTS // 2, dtype=dtype, device=codes.device)
    # a table of bytes costs one look-up for each half, where codes would have to be taken apart first
    for half, table in enumerate((levels[byte & 15], levels[byte >> 4])):
        found = torch.index_select(table, 0, index).view(num_rows, num_blocks, PACKED_INPUTS // 2)
        values[:, :, half] = (found * scales[:, :, half, None]).to(dtype)
    return values.view(num_rows, num_blocks * PACKED_INPUTS)[:, : tensor.in_features]


def _half_block_scales(tensor: Int4Tensor, rows: slice) -> Tensor:
    """The scale of each half of a block of 64 inputs, float32 (N, B, 2)."""
    scales = tensor.scales[rows].float()
    num_halves = tensor.codes.shape[1] * 2 // (PACKED_INPUTS // 2)
    scales = scales.repeat_interleave(tensor.group_size // (PACKED_INPUTS // 2), dim=1)[:, :num_halves]
    return F.pad(scales, (0, num_halves - scales.shape[1])).view(scales.shape[0], num_halves // 2, 2)


def dequantize_int8(tensor: Int8Tensor, dtype: torch.dtype = torch.float32, rows: slice | None = None) -> Tensor:
    """The weight (N, K), or only some of its rows, in `dtype`."""
    rows = slice(None) if rows is None else rows
    values = tensor.codes[rows].float() / UNIT
    return _times_scales(values, tensor.scales[rows], tensor.group_size).to(dtype)


def _times_scales(values: Tensor, scales: Tensor, group_size: int) -> Tensor:
    """`values` (N, K) times the scale of their group; exact in float32, where 8 and 11 bits fit in 24."""
    in_features = values.shape[1]
    if group_size == 0:
        return values * scales.float()
    return values * scales.float().repeat_interleave(group_size, dim=1)[:, :in_features]


def int4_grid(codebook: Tensor) -> Grid:
    """The values of a codebook, int8 (16,)."""
    return Grid(codebook)


def int8_grid(device: torch.device) -> Grid:
    """The values -127 ... 127."""
    return Grid(torch.arange(-127, 128, device=device))


def scale_factors(bits: int) -> Tensor:
    """The multiples of the absmax scale that a search tries; both signs where the values lie unevenly around 0."""
    if bits == 8:
        return torch.linspace(0.97, 1.15, 19)
    steps = torch.linspace(0.75, 1.2, 9)
    return torch.cat([steps, -steps])


def check_weight(weight: Tensor) -> None:
    """Refuses what cannot be quantised.

    Raises:
        QuantizationError: not a matrix of floating-point numbers, on no device, or with NaN, infinite or huge weights.
    """
    if weight.dim() != 2 or weight.numel() == 0 or not weight.is_floating_point():
        raise QuantizationError(f"only matrices of floating-point weights are quantised, got {_describe(weight)}")
    if weight.device.type == "meta":
        raise QuantizationError("the weight is not in memory but offloaded: load the model without device_map")
    low, high = (bound.item() for bound in weight.aminmax())
    if not (low > -LARGEST and high < LARGEST):  # False for NaN as well
        bad = "NaN" if low != low or high != high else f"{low:g} or {high:g}"
        raise QuantizationError(
            f"the weight {_describe(weight)} holds {bad}: only finite weights below 60000 are quantised"
        )


def _describe(weight: Tensor) -> str:
    return f"{str(weight.dtype).removeprefix('torch.')} {tuple(weight.shape)}"


def _round_to_nearest(
    weight: Tensor, grid: Grid, group_size: int, factors: Tensor | None, importance: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Codes uint8 (N, K) and scales float16 (N, groups) of `weight` (N, K)."""
    rows, in_features = weight.shape
    width = group_size or in_features
    padding = -in_features % width
    if importance is None:
        importance = torch.ones(in_features, device=weight.device)
    importance = F.pad(_positive(importance), (0, padding)).reshape(-1, width).T[:, None]  # (width, 1, groups)
    codes = torch.empty(rows, in_features, dtype=torch.uint8, device=weight.device)
    scales = torch.empty(rows, importance.shape[2], dtype=torch.float16, device=weight.device)
    for part in _row_slices(rows, in_features + padding):
        groups = F.pad(weight[part].float(), (0, padding)).reshape(-1, importance.shape[2], width)
        groups = groups.permute(2, 0, 1).contiguous()  # (width, rows, groups)
        best = absmax_scales(groups, grid) if factors is None else search_scales(groups, grid, importance, factors)
        chosen = grid.nearest(scaled(groups, best)).permute(1, 2, 0)  # (rows, groups, width)
        codes[part] = chosen.reshape(len(chosen), -1)[:, :in_features]
        scales[part] = best.half()
    return codes, scales


def _positive(importance: Tensor) -> Tensor:
    """`importance` (K,) in float32 with no zeros, so that no weight is arbitrary."""
    importance = importance.float()
    mean = importance.mean()
    return importance / mean + 1e-6 if mean > 0 else torch.ones_like(importance)


def _row_slices(rows: int, width: int) -> Iterator[slice]:
    step = max(1, CHUNK // width)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
