"""Weights in 4 bits by the NF4 code, the one that `quantize(4)` and the official 4-bit files use: plain tensors.

Row-major blocks of 64 weights share one scale, their greatest magnitude; a weight is the index of the nearest of 16
levels of its block. The scales themselves may be kept in 8 bits ("double quantisation", Dettmers et al. 2023, arXiv
2305.14314). The results are those of bitsandbytes on a CPU, bit by bit, without that library. Knows no files.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from baichuan2.errors import CheckpointError, QuantizationError

__all__ = ["DYNAMIC_CODE", "NF4_CODE", "NF4Tensor", "check_nf4", "dequantize_nf4", "quantize_nf4"]

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
NESTED_BLOCK_SIZE = 256  # scales that share a scale of their own
FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
SMALLEST_SCALE = 1e-38  # a block of zeros is divided by this one
VALUES_AT_A_TIME = 1 << 20  # a multiple of each block size; keeps the temporaries at some ten megabytes
LOOKUP_STEPS = 65535  # the library rounds scales to this many steps of the range -1 to 1 before it looks for a code
CODE_TOLERANCE = 1e-6

# Quantiles of the normal distribution, scaled to -1 ... 1, with an exact zero: table of bitsandbytes
NF4_CODE = torch.tensor(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    dtype=torch.float32,
)


def _dynamic_code() -> Tensor:
    """The 256 ascending levels of 8-bit scales: seven decades, each with twice the levels of the one below."""
    levels = [0.0, 1.0]
    for doublings in range(7):
        edges = torch.linspace(0.1, 1, 2**doublings + 1, dtype=torch.float32)
        middles = 10 ** (doublings - 6) * ((edges[:-1] + edges[1:]) / 2)
        levels += middles.tolist() + (-middles).tolist()
    return torch.tensor(sorted(levels), dtype=torch.float32)


DYNAMIC_CODE = _dynamic_code()


@dataclass(frozen=True, eq=False)
class NF4Tensor:
    """A weight (N, K) in 4 bits; n = N·K, blocks = ceil(n / block_size).

    `codes`: uint8 (ceil(n/2),), two weights a byte, the earlier one in the high half. `dtype`: that of the weight
    before. `absmax`: the scales, float32 (blocks,); or, where `nested_absmax` is there, their codes, uint8 (blocks,):
    scale = nested_code[code] · nested_absmax of its block of `nested_block_size` scales + offset. `offset`: float32
    scalar. `nested_absmax`: float32 (ceil(blocks/nested_block_size),). `nested_code`: float32 (256,). `code`: float32
    (16,).
    """

    codes: Tensor
    shape: tuple[int, int]
    dtype: torch.dtype
    absmax: Tensor
    offset: Tensor | None = None
    nested_absmax: Tensor | None = None
    nested_code: Tensor | None = None
    code: Tensor = NF4_CODE
    block_size: int = 64
    nested_block_size: int = NESTED_BLOCK_SIZE

    @property
    def is_double(self) -> bool:
        """Whether the scales are kept in 8 bits."""
        return self.nested_absmax is not None

    @property
    def num_values(self) -> int:
        """Number of weights, n."""
        return self.shape[0] * self.shape[1]

    @property
    def num_blocks(self) -> int:
        """Number of scales."""
        return -(self.num_values // -self.block_size)

    @property
    def num_bytes(self) -> int:
        """Memory of codes and scales, without the two constant tables."""
        parts = (self.codes, self.absmax, self.offset, self.nested_absmax)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def scales(self, first_block: int = 0, stop_block: int | None = None) -> Tensor:
        """The scales of a range of blocks (of all by default), float32 (stop_block - first_block,)."""
        stop_block = self.num_blocks if stop_block is None else stop_block
        scales = self.absmax[first_block:stop_block]
        if self.nested_absmax is None:
            return scales.float()
        assert self.nested_code is not None
        assert self.offset is not None
        blocks = torch.arange(first_block, stop_block, device=scales.device)
        scales = self.nested_code[scales.int()] * self.nested_absmax[blocks // self.nested_block_size]
        return scales + self.offset


def quantize_nf4(weight: Tensor, *, block_size: int = 64, double: bool = True) -> NF4Tensor:
    """The weight (N, K) in NF4, as bitsandbytes on a CPU quantises it. `double`: the scales in 8 bits.

    float32, float16 or bfloat16; neither is changed. Takes some ten megabytes beside the result.

    Raises:
        QuantizationError: another shape, number format or block size, or values that are NaN, infinite or too large.
    """
    if weight.dim() != 2 or weight.numel() == 0:
        raise QuantizationError(f"NF4 quantises a matrix, got the shape {tuple(weight.shape)}")
    if weight.dtype not in FLOAT_DTYPES:
        raise QuantizationError(f"NF4 quantises float32, float16 or bfloat16 weights, got {weight.dtype}")
    if block_size not in BLOCK_SIZES:
        raise QuantizationError(f"the block size of NF4 must be one of {BLOCK_SIZES}, got {block_size}")
    with torch.no_grad():
        codes, absmax = _quantize_values(weight.reshape(-1), block_size)
        shape = (weight.shape[0], weight.shape[1])
        code = NF4_CODE.to(weight.device)
        if not double:
            return NF4Tensor(codes, shape, weight.dtype, absmax, code=code, block_size=block_size)
        offset = absmax.mean()
        nested_codes, nested_absmax = _quantize_scales(absmax - offset)
        if not bool(torch.isfinite(nested_absmax).all()):
            raise QuantizationError(
                "the scales of the weight add up to more than float32 holds: quantise with double=False"
            )
    return NF4Tensor(
        codes,
        shape,
        weight.dtype,
        nested_codes,
        offset,
        nested_absmax,
        DYNAMIC_CODE.to(weight.device),
        code,
        block_size,
    )


def _quantize_values(values: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Packed codes and scales of a flat tensor, slice by slice."""
    num_values = values.numel()
    codes = torch.empty(-(num_values // -2), dtype=torch.uint8, device=values.device)
    absmax = torch.empty(-(num_values // -block_size), dtype=torch.float32, device=values.device)
    borders = ((NF4_CODE[:-1] + NF4_CODE[1:]) / 2).to(values.device)
    for start in range(0, num_values, VALUES_AT_A_TIME):
        part = values[start : start + VALUES_AT_A_TIME].float()
        num_whole = part.numel() - part.numel() % block_size
        blocks = part[:num_whole].view(-1, block_size)
        scales = absmax[start // block_size : (start + part.numel() + block_size - 1) // block_size]
        scales[: len(blocks)] = blocks.abs().amax(dim=1)
        # the library multiplies whole blocks by the inverse of the scale, and divides the rest
        scaled = [(blocks * scales[: len(blocks), None].clamp(min=SMALLEST_SCALE).reciprocal()).view(-1)]
        if num_whole < part.numel():
            scales[-1] = part[num_whole:].abs().amax().clamp(min=SMALLEST_SCALE)
            scaled.append(part[num_whole:] / scales[-1])
        if part.numel() % 2:
            scaled.append(part.new_zeros(1))
        # a value on a border gets the lower level
        indices = torch.bucketize(torch.cat(scaled) if len(scaled) > 1 else scaled[0], borders, out_int32=True)
        pairs = indices.view(-1, 2)
        codes[start // 2 : start // 2 + len(pairs)] = (pairs[:, 0] << 4) | pairs[:, 1]
    if not bool(torch.isfinite(absmax).all()):
        raise QuantizationError("the weight holds NaN or infinite numbers, which no code stands for")
    return codes, absmax


@cache
def _dynamic_lookup() -> Tensor:
    """The code of each step of the range -1 to 1, uint8 (LOOKUP_STEPS + 1,)."""
    steps = torch.arange(LOOKUP_STEPS + 1, dtype=torch.float32) * (2 / LOOKUP_STEPS) - 1
    return torch.bucketize(steps, (DYNAMIC_CODE[:-1] + DYNAMIC_CODE[1:]) / 2).to(torch.uint8)


def _quantize_scales(scales: Tensor) -> tuple[Tensor, Tensor]:
    """8-bit codes of float32 scales (blocks,), and the scales of those.

    The code is not always the nearest one: the library rounds to one of 65536 steps first, as done here.
    """
    padded = torch.nn.functional.pad(scales, (0, -scales.numel() % NESTED_BLOCK_SIZE)).view(-1, NESTED_BLOCK_SIZE)
    absmax = padded.abs().amax(dim=1)  # (nested blocks,)
    # where all are 0 the code does not matter; the library's is the first
    scaled = torch.where(absmax[:, None] == 0, -1.0, padded * absmax[:, None].reciprocal()).clamp(-1, 1)
    steps = ((scaled + 1) * (LOOKUP_STEPS / 2) + 0.5).nan_to_num(0.0).int()
    return _dynamic_lookup().to(scales.device)[steps].view(-1)[: scales.numel()].contiguous(), absmax


def dequantize_nf4(tensor: NF4Tensor, dtype: torch.dtype, rows: tuple[int, int] | None = None) -> Tensor:
    """The weight (N, K) in `dtype`, or its rows from rows[0] up to (without) rows[1], of which only those are computed.

    Products are taken in float32 and rounded once.
    """
    first_row, stop_row = (0, tensor.shape[0]) if rows is None else rows
    if not 0 <= first_row <= stop_row <= tensor.shape[0]:
        raise QuantizationError(f"the weight has {tensor.shape[0]} rows, asked for {first_row} up to {stop_row}")
    width = tensor.shape[1]
    first, stop = first_row * width, stop_row * width
    result = torch.empty(stop - first, dtype=dtype, device=tensor.codes.device)
    pairs = _pair_table(tensor.code)
    position = first
    while position < stop:
        # from the start of a block, which lies on a byte's border
        block_start = position - position % tensor.block_size
        end = min(stop, block_start + VALUES_AT_A_TIME)
        values = _dequantize_values(tensor, pairs, block_start, end)
        result[position - first : end - first] = values[position - block_start :]
        position = end
    return result.view(stop_row - first_row, width)


def _pair_table(code: Tensor) -> Tensor:
    """The two levels of each byte as one 64-bit number, so that one look-up gets both: int64 (256,)."""
    byte = torch.arange(256, device=code.device)
    return torch.stack([code[byte >> 4], code[byte & 15]], dim=1).view(torch.int64).view(-1)


def _dequantize_values(tensor: NF4Tensor, pairs: Tensor, start: int, stop: int) -> Tensor:
    """Weights `start` (the first of a block) up to `stop`, float32 (stop - start,)."""
    block_size = tensor.block_size
    codes = tensor.codes[start // 2 : (stop + 1) // 2]
    values = torch.index_select(pairs, 0, codes.int()).view(torch.float32)[: stop - start]
    scales = tensor.scales(start // block_size, (stop + block_size - 1) // block_size)
    num_whole = values.numel() - values.numel() % block_size
    values[:num_whole].view(-1, block_size).mul_(scales[: num_whole // block_size, None])
    if num_whole < values.numel():
        values[num_whole:].mul_(scales[-1])
    return values


def check_nf4(tensor: NF4Tensor, name: str) -> None:
    """Checks that a tensor that was read from a file is whole and consistent.

    Raises:
        CheckpointError: it is not; one line that begins with `name`.
    """
    if len(tensor.shape) != 2 or min(tensor.shape) <= 0:
        raise CheckpointError(f"{name}: a quantised weight has two positive sizes, got {tuple(tensor.shape)}")
    if tensor.dtype not in FLOAT_DTYPES:
        raise CheckpointError(f"{name}: a weight is float32, float16 or bfloat16, got {tensor.dtype}")
    for size, what in ((tensor.block_size, "block size"), (tensor.nested_block_size, "block size of the scales")):
        if size not in BLOCK_SIZES:
            raise CheckpointError(f"{name}: the {what} must be one of {BLOCK_SIZES}, got {size}")
    if tensor.is_double and (tensor.offset is None or tensor.nested_code is None):
        raise CheckpointError(f"{name}: the scales are in 8 bits, but their offset or their code is missing")
    byte, real = torch.uint8, torch.float32
    num_nested = -(tensor.num_blocks // -tensor.nested_block_size)
    expected = (
        ("4-bit codes", tensor.codes, byte, (-(tensor.num_values // -2),)),
        ("code table", tensor.code, real, (len(NF4_CODE),)),
        ("scales", tensor.absmax, byte if tensor.is_double else real, (tensor.num_blocks,)),
        ("offset", tensor.offset, real, ()),
        ("scales of the scales", tensor.nested_absmax, real, (num_nested,)),
        ("code table of the scales", tensor.nested_code, real, (len(DYNAMIC_CODE),)),
    )
    for what, part, dtype, shape in expected:
        if part is not None:
            _check_part(f"{name}: the {what}", part, dtype, shape)
    if not torch.allclose(tensor.code.cpu(), NF4_CODE, rtol=0, atol=CODE_TOLERANCE):
        raise CheckpointError(f"{name}: the code table is not that of NF4")
    _check_scales(tensor, name)


def _check_part(what: str, part: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if part.dtype != dtype or tuple(part.shape) != shape:
        raise CheckpointError(
            f"{what} must be {_description(dtype, shape)}, got {_description(part.dtype, tuple(part.shape))}"
        )
    if dtype.is_floating_point and not bool(torch.isfinite(part).all()):
        raise CheckpointError(f"{what} must be numbers, got NaN or infinity")


def _check_scales(tensor: NF4Tensor, name: str) -> None:
    for what, part in (("scale", tensor.absmax), ("scale of scales", tensor.nested_absmax)):
        if part is not None and part.dtype != torch.uint8 and bool((part < 0).any()):
            raise CheckpointError(f"{name}: a {what} is a magnitude, got {part.min().item():.6g}")


def _description(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    sizes = "x".join(map(str, shape)) or "scalar"
    return f"{str(dtype).removeprefix('torch.')} ({sizes})"
