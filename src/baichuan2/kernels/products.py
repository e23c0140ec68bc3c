"""Our own products with 4-bit and 8-bit weights on the processor: they read the weight where its file is mapped.

The library is compiled at installation (`build`); where it is missing, `is_available` is False and callers take another
way. Products are torch operators, `torch.ops.baichuan2.multiply_*`, so compiled and exported models hold them.
Levels and inputs are multiplied exactly, sums are taken in float32; but on the matrix unit more than MOST_ROWS rows of
bfloat16 inputs meet weights rounded to bfloat16, as everywhere where a weight is computed first.
"""

import ctypes
import functools
from ctypes import c_float, c_int32, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from baichuan2.kernels.constant import constant
from baichuan2.kernels.library import INSTRUCTIONS, limit, num_threads, opened

__all__ = [
    "INSTRUCTIONS",
    "has_tiles",
    "instructions",
    "is_available",
    "levels_of",
    "multiply_bfloat16",
    "multiply_int4",
    "multiply_int8",
    "multiply_nf4",
    "suits",
]

MOST_ROWS = 64
"""Rows of inputs up to which the products beat computing the weight once; with the matrix unit they always do."""
GROUP_SIZES = {"int4": (32, 64, 128), "int8": (0, 32, 64, 128)}
NF4_BLOCK_SIZE, NESTED_BLOCK_SIZE = 64, 256
NUM_LEVELS = 16
FORMATS = {"int4": 0, "int8": 1, "nf4": 2, "bfloat16": 3}
NUMBERS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
SCALES_FLOAT16, SCALES_FLOAT32, SCALES_DOUBLE = 0, 1, 2


class Product(ctypes.Structure):
    """Mirror of `Product` in native/product.h, which says what the fields are: change both."""

    _fields_ = (
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("levels", c_void_p),
        ("nested_levels", c_void_p),
        ("nested_scales", c_void_p),
        ("inputs", c_void_p),
        ("outputs", c_void_p),
        ("num_outputs", c_int64),
        ("num_inputs", c_int64),
        ("num_rows", c_int64),
        ("group_size", c_int64),
        ("offset", c_float),
        ("format", c_int32),
        ("scale_kind", c_int32),
        ("number", c_int32),
    )


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library, or None where there is none that fits."""
    library = opened().library
    try:
        if library is None or library.baichuan2_product_size() != ctypes.sizeof(Product):
            return None
        library.baichuan2_multiply.argtypes = (ctypes.POINTER(Product), ctypes.c_int, ctypes.c_int)
    except AttributeError:  # of another version
        return None
    return library


def _limit() -> int:
    return limit(len(INSTRUCTIONS) - 1)


def is_available() -> bool:
    """Whether there are products of our own here."""
    return _library() is not None


@constant
def _is_fast() -> bool:
    """Whether there is more than plain C; a compiled model holds the answer."""
    return instructions() not in (None, INSTRUCTIONS[0])


@constant
def has_tiles() -> bool:
    """Whether the matrix unit multiplies bfloat16 inputs."""
    return instructions() == INSTRUCTIONS[-1]


def instructions() -> str | None:
    """The instruction set that is used for bfloat16 inputs, one of INSTRUCTIONS; None without the library."""
    library = _library()
    return None if library is None else INSTRUCTIONS[min(library.baichuan2_instructions(), _limit())]


def suits(inputs: Tensor, *weight: Tensor) -> bool:
    """Whether the products take `inputs` (..., K) and the parts of `weight`, codes first, and are the fastest way."""
    if inputs.dtype not in NUMBERS or inputs.numel() == 0 or not _is_fast():
        return False
    if not all(part.device.type == "cpu" and part.is_contiguous() for part in (inputs[:0], *weight)):
        return False
    return (inputs.dtype == torch.bfloat16 and has_tiles()) or inputs.numel() <= MOST_ROWS * inputs.shape[-1]


def multiply_int4(inputs: Tensor, codes: Tensor, scales: Tensor, codebook: list[int], group_size: int) -> Tensor:
    """`inputs` (..., K) times an `Int4Tensor` (N, K) in its parts: (..., N) in the dtype of `inputs`."""
    result: Tensor = torch.ops.baichuan2.multiply_int4(inputs, codes, scales, codebook, group_size)
    return result


def multiply_int8(inputs: Tensor, codes: Tensor, scales: Tensor, group_size: int) -> Tensor:
    """`inputs` (..., K) times an `Int8Tensor` (N, K) in its parts: (..., N) in the dtype of `inputs`."""
    result: Tensor = torch.ops.baichuan2.multiply_int8(inputs, codes, scales, group_size)
    return result


def multiply_nf4(
    inputs: Tensor,
    codes: Tensor,
    code: Tensor,
    absmax: Tensor,
    nested: tuple[Tensor, Tensor, Tensor] | None,
    out_features: int,
) -> Tensor:
    """`inputs` (..., K), K a multiple of 64, times an `NF4Tensor` (N, K) in its parts: (..., N).

    `nested`: offset, nested_absmax and nested_code where the scales are in 8 bits. bfloat16 inputs meet the 16 levels
    rounded to bfloat16; weights are not rounded once more after their scale.
    """
    offset, nested_absmax, nested_code = nested or (None, None, None)
    result: Tensor = torch.ops.baichuan2.multiply_nf4(
        inputs, codes, code, absmax, offset, nested_absmax, nested_code, out_features
    )
    return result


def multiply_bfloat16(inputs: Tensor, weight: Tensor) -> Tensor:
    """`inputs` (..., K) times `weight` (N, K), both bfloat16: (..., N). On the matrix unit only, and no torch operator.

    Raises:
        ValueError: they do not fit.
        RuntimeError: there is no matrix unit, see `has_tiles`.
    """
    _check_inputs(inputs)
    _check_part(inputs, "weight", weight, torch.bfloat16, (weight.shape[0], inputs.shape[-1]))
    if inputs.dtype != torch.bfloat16 or inputs.device.type != "cpu":
        raise ValueError(f"inputs must be bfloat16 on the processor, got {inputs.dtype} on {inputs.device}")
    if not has_tiles():
        raise RuntimeError("this processor has no matrix unit for bfloat16, or the library of kernels is missing")
    return _run(inputs, weight.shape[0], "bfloat16", codes=_address(weight))


@functools.lru_cache(maxsize=64)
def levels_of(codebook: tuple[int, ...]) -> Any:
    """The 16 levels of a codebook, float32, as an array of C that stays alive with it.

    Raises:
        ValueError: they are not 16, or not 8-bit numbers, which kernels count on.
    """
    if len(codebook) != NUM_LEVELS or min(codebook) < -128 or max(codebook) > 127:
        raise ValueError(f"a codebook must hold {NUM_LEVELS} numbers from -128 to 127, got {codebook}")
    return (c_float * NUM_LEVELS)(*(value / 128 for value in codebook))


def _address(part: Tensor) -> int:
    """Where the values lie; a tensor whose memory was taken away, as sharding does between steps, is refused."""
    if part.data_ptr() == 0 and part.numel() > 0:
        raise ValueError(f"a tensor {tuple(part.shape)} has no memory any more")
    return part.data_ptr()


def _run(inputs: Tensor, out_features: int, format_name: str, **parts: Any) -> Tensor:
    """Fills in what all formats share, and computes."""
    library = _library()
    if library is None:
        raise RuntimeError("the library of kernels is missing: python -m baichuan2.kernels.build")
    inputs = inputs.contiguous()
    in_features = inputs.shape[-1]
    outputs = inputs.new_empty((*inputs.shape[:-1], out_features))
    if inputs.numel() == 0 or outputs.numel() == 0:
        return outputs.zero_()  # sums of nothing
    product = Product(
        inputs=_address(inputs),
        outputs=outputs.data_ptr(),
        num_outputs=out_features,
        num_inputs=in_features,
        num_rows=inputs.numel() // in_features,
        format=FORMATS[format_name],
        number=NUMBERS[inputs.dtype],
        **parts,
    )
    if library.baichuan2_multiply(product, _limit(), num_threads()) != 0:
        raise MemoryError("no memory for the inputs of a product")
    return outputs


def _multiply_int4(inputs: Tensor, codes: Tensor, scales: Tensor, codebook: list[int], group_size: int) -> Tensor:
    _check_int4(inputs, codes, scales, codebook, group_size)
    levels = levels_of(tuple(codebook))
    return _run(
        inputs,
        codes.shape[0],
        "int4",
        codes=_address(codes),
        scales=_address(scales),
        levels=ctypes.addressof(levels),
        group_size=group_size,
        scale_kind=SCALES_FLOAT16,
    )


def _multiply_int8(inputs: Tensor, codes: Tensor, scales: Tensor, group_size: int) -> Tensor:
    _check_int8(inputs, codes, scales, group_size)
    return _run(
        inputs,
        codes.shape[0],
        "int8",
        codes=_address(codes),
        scales=_address(scales),
        group_size=group_size,
        scale_kind=SCALES_FLOAT16,
    )


def _multiply_nf4(
    inputs: Tensor,
    codes: Tensor,
    code: Tensor,
    absmax: Tensor,
    offset: Tensor | None,
    nested_absmax: Tensor | None,
    nested_code: Tensor | None,
    out_features: int,
) -> Tensor:
    _check_nf4(inputs, codes, code, absmax, offset, nested_absmax, nested_code, out_features)
    parts: dict[str, Any] = {"scale_kind": SCALES_FLOAT32}
    if nested_absmax is not None and nested_code is not None and offset is not None:
        parts = {
            "scale_kind": SCALES_DOUBLE,
            "nested_levels": _address(nested_code),
            "nested_scales": _address(nested_absmax),
            "offset": offset.item(),
        }
    pointers = {"codes": _address(codes), "scales": _address(absmax), "levels": _address(code)}
    return _run(inputs, out_features, "nf4", **pointers, group_size=NF4_BLOCK_SIZE, **parts)


def _check_int4(inputs: Tensor, codes: Tensor, scales: Tensor, codebook: list[int], group_size: int) -> None:
    _check_inputs(inputs)
    levels_of(tuple(codebook))
    _check_part(inputs, "codes", codes, torch.uint8, (codes.shape[0], -(-inputs.shape[-1] // 64) * 32))
    _check_part(inputs, "scales", scales, torch.float16, (codes.shape[0], _num_groups("int4", inputs, group_size)))


def _check_int8(inputs: Tensor, codes: Tensor, scales: Tensor, group_size: int) -> None:
    _check_inputs(inputs)
    _check_part(inputs, "codes", codes, torch.int8, (codes.shape[0], inputs.shape[-1]))
    _check_part(inputs, "scales", scales, torch.float16, (codes.shape[0], _num_groups("int8", inputs, group_size)))


def _check_nf4(
    inputs: Tensor,
    codes: Tensor,
    code: Tensor,
    absmax: Tensor,
    offset: Tensor | None,
    nested_absmax: Tensor | None,
    nested_code: Tensor | None,
    out_features: int,
) -> None:
    _check_inputs(inputs)
    if out_features < 0 or inputs.shape[-1] % NF4_BLOCK_SIZE:
        raise ValueError(f"NF4 has rows of whole blocks, got {inputs.shape[-1]} inputs and {out_features} outputs")
    num_blocks = inputs.shape[-1] // NF4_BLOCK_SIZE * out_features
    _check_part(inputs, "codes", codes, torch.uint8, (num_blocks * NF4_BLOCK_SIZE // 2,))
    _check_part(inputs, "code", code, torch.float32, (NUM_LEVELS,))
    nested = {"offset": offset, "nested_absmax": nested_absmax, "nested_code": nested_code}
    is_plain = all(part is None for part in nested.values())
    _check_part(inputs, "absmax", absmax, torch.float32 if is_plain else torch.uint8, (num_blocks,))
    for (name, part), size in zip(nested.items(), (1, -(-num_blocks // NESTED_BLOCK_SIZE), 256), strict=True):
        if part is not None:
            _check_part(inputs, name, part, torch.float32, (size,))
        elif not is_plain:
            raise ValueError(f"the scales of an NF4 weight are in 8 bits with {', '.join(nested)}, got no {name}")


def _check_inputs(inputs: Tensor) -> None:
    if inputs.dim() == 0 or inputs.dtype not in NUMBERS:
        raise ValueError(
            f"inputs must be rows of float32, bfloat16 or float16, got {inputs.dtype} {tuple(inputs.shape)}"
        )


def _num_groups(format_name: str, inputs: Tensor, group_size: int) -> int:
    if group_size not in GROUP_SIZES[format_name]:
        sizes = ", ".join(map(str, GROUP_SIZES[format_name]))
        raise ValueError(f"the weight does not fit: {format_name} has groups of {sizes}, got {group_size}")
    return -(-inputs.shape[-1] // group_size) if group_size else 1


def _check_part(inputs: Tensor, name: str, part: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Refuses a part of a weight that the library, which is given addresses alone, would read wrongly or beyond.

    A shape of one number: so many in any shape.
    """
    is_whole = part.shape == shape if len(shape) > 1 else part.numel() == shape[0]
    if not is_whole or part.dtype != dtype:
        raise ValueError(
            f"the weight does not fit inputs {tuple(inputs.shape)}: {name} must be {dtype} {shape}, "
            f"got {part.dtype} {tuple(part.shape)}"
        )
    if not part.is_contiguous() or part.device != inputs.device:
        raise ValueError(
            f"{name} must lie as one piece where the inputs are, on {inputs.device}, got strides {part.stride()} "
            f"on {part.device}"
        )


_WEIGHT_OF_ROWS = "Tensor inputs, Tensor codes, Tensor scales"
_OPERATORS = torch.library.Library("baichuan2", "FRAGMENT")  # type: ignore[no-untyped-call]
_OPERATORS.define(f"multiply_int4({_WEIGHT_OF_ROWS}, int[] codebook, int group_size) -> Tensor")  # type: ignore[no-untyped-call]
_OPERATORS.define(f"multiply_int8({_WEIGHT_OF_ROWS}, int group_size) -> Tensor")  # type: ignore[no-untyped-call]
_OPERATORS.define(  # type: ignore[no-untyped-call]
    "multiply_nf4(Tensor inputs, Tensor codes, Tensor code, Tensor absmax, Tensor? offset, Tensor? nested_absmax, "
    "Tensor? nested_code, int out_features) -> Tensor"
)
for _name, _function in (("int4", _multiply_int4), ("int8", _multiply_int8), ("nf4", _multiply_nf4)):
    _OPERATORS.impl(f"multiply_{_name}", _function, "CPU")  # type: ignore[no-untyped-call]


# traced and meta tensors come here, also beside real ones: what cannot be computed must not pass


@torch.library.register_fake("baichuan2::multiply_int4")  # type: ignore[untyped-decorator]
def _shape_of_int4(inputs: Tensor, codes: Tensor, scales: Tensor, codebook: list[int], group_size: int) -> Tensor:
    _check_int4(inputs, codes, scales, codebook, group_size)
    return inputs.new_empty((*inputs.shape[:-1], codes.shape[0]))


@torch.library.register_fake("baichuan2::multiply_int8")  # type: ignore[untyped-decorator]
def _shape_of_int8(inputs: Tensor, codes: Tensor, scales: Tensor, group_size: int) -> Tensor:
    _check_int8(inputs, codes, scales, group_size)
    return inputs.new_empty((*inputs.shape[:-1], codes.shape[0]))


@torch.library.register_fake("baichuan2::multiply_nf4")  # type: ignore[untyped-decorator]
def _shape_of_nf4(inputs: Tensor, *parts: Any) -> Tensor:
    _check_nf4(inputs, *parts)
    return inputs.new_empty((*inputs.shape[:-1], parts[-1]))
