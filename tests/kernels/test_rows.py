"""Products of few rows (native/rows.h) against float64, for every instruction set here, by the C interface itself."""

import ctypes
import itertools
from collections.abc import Iterator
from ctypes import c_float, c_int, c_int64, c_void_p
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baichuan2.kernels import products
from baichuan2.kernels.library import opened
from baichuan2.kernels.steps import MOST_ROWS, Weight
from baichuan2.quantization.blockwise import (
    NONUNIFORM_CODEBOOK,
    Int4Tensor,
    Int8Tensor,
    dequantize_int4,
    dequantize_int8,
    pack_int4,
)
from baichuan2.quantization.nf4 import dequantize_nf4, quantize_nf4

pytestmark = pytest.mark.skipif(opened().library is None, reason="the library of kernels is not built here")

NUM_INSTRUCTIONS = len(products.INSTRUCTIONS)
FORMATS = ("int4 g32", "int4 g64", "int4 g128", "int8 g0", "int8 g32", "int8 g64", "int8 g128", "nf4", "nf4 double")
SIXTEEN_BITS = {"bfloat16": (3, torch.bfloat16), "float16": (4, torch.float16)}
BLOCK = 64
DIGITS = 2.0**-16
"""Error of an input, relative to the greatest of its block of 64; and of a level of NF4, relative to 1."""
GUARD = -7.25
AMX_INT8, LEAST_ROWS_AMX = 4, 3
"""Bit of the extension, and how many rows go through the matrix unit at least."""


@dataclass(frozen=True)
class Case:
    """A weight in C, in float64 (N, K), its NF4 levels' share of error (N, K), and what must stay alive."""

    weight: Weight
    exact: Tensor
    of_levels: Tensor | None = None
    alive: list[Any] = field(default_factory=list)


def library() -> ctypes.CDLL:
    found = opened().library
    assert found is not None
    for name in ("rows_room", "rows_scratch"):
        getattr(found, name).restype = c_int64
    found.rows_room.argtypes = (c_void_p, c_int64)
    found.rows_scratch.argtypes = (c_void_p,)
    found.rows_prepare.argtypes = (c_void_p, c_void_p, c_int64, c_void_p, c_int, c_int)
    found.rows_multiply.argtypes = (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int64, c_void_p)
    found.baichuan2_weight_size.restype = c_int64
    return found


@pytest.fixture(params=range(NUM_INSTRUCTIONS), ids=products.INSTRUCTIONS)
def level(request: pytest.FixtureRequest) -> Iterator[int]:
    if library().baichuan2_instructions() < request.param:
        pytest.skip(f"this processor lacks {products.INSTRUCTIONS[request.param]}")
    library().rows_limit(request.param)
    yield request.param
    library().rows_limit(-1)


def room(size: int, value: int = 0xAB) -> Tensor:
    """Memory (size,) at a multiple of 64, filled so that nobody counts on zeros."""
    raw = torch.full((size + 64,), value, dtype=torch.uint8)
    start = -raw.data_ptr() % 64
    return raw[start : start + size]


def multiply(case: Case, inputs: Tensor, parts: int = 1, pieces: int = 1) -> Tensor:
    """`inputs` float32 (M, K) times the weight, float32 (M, N), shared as `parts` threads and `pieces` calls would."""
    found, weight, rows = library(), case.weight, inputs.shape[0]
    outputs = weight.num_outputs
    address = ctypes.addressof(weight)
    prepared = room(found.rows_room(address, rows))
    scratch = room(found.rows_scratch(address))
    for part in reversed(range(parts)):
        found.rows_prepare(address, inputs.data_ptr(), rows, prepared.data_ptr(), part, parts)
    result = torch.full((rows, outputs + 3), GUARD)
    edges = [outputs * piece // pieces for piece in range(pieces + 1)]
    for first, last in itertools.pairwise(edges):
        target = result.data_ptr() + 4 * first
        found.rows_multiply(address, prepared.data_ptr(), rows, first, last, target, outputs + 3, scratch.data_ptr())
    assert (result[:, outputs:] == GUARD).all()
    return result[:, :outputs].contiguous()


def has_amx(level_number: int, name: str) -> bool:
    """Whether several rows go through the matrix unit."""
    is_there = library().baichuan2_extensions() & AMX_INT8 != 0
    return is_there and level_number == NUM_INSTRUCTIONS - 1 and name not in SIXTEEN_BITS


def displaced(values: Tensor, offset: int) -> Tensor:
    """A copy that starts `offset` bytes off a multiple of 64, with nothing readable assumed around it."""
    raw = values.contiguous().view(-1).view(torch.uint8)
    target = room(raw.numel() + offset)[offset:]
    return target.copy_(raw)


def make(name: str, outputs: int, width: int, seed: int = 0, offset: int = 0, scales: Tensor | None = None) -> Case:
    """A random weight (N, K) in one of FORMATS or SIXTEEN_BITS; `scales` take the place of random ones."""
    generator = torch.Generator().manual_seed(seed)
    if name in SIXTEEN_BITS:
        number, dtype = SIXTEEN_BITS[name]
        values = torch.randn(outputs, width, generator=generator).to(dtype)
        codes = displaced(values, offset)
        weight = Weight(codes=codes.data_ptr(), num_outputs=outputs, num_inputs=width, format=number)
        return Case(weight, values.double(), None, [codes])
    if name.startswith("nf4"):
        return make_nf4(outputs, width, generator, offset, name == "nf4 double")
    group_size = int(name.rpartition("g")[2])
    groups = -(-width // group_size) if group_size else 1
    if scales is None:
        scales = torch.randn(outputs, groups, generator=generator).half()
    if name.startswith("int8"):
        codes = torch.randint(-127, 128, (outputs, width), generator=generator).to(torch.int8)
        exact = dequantize_int8(Int8Tensor(codes, scales, group_size), torch.float64)
        levels = None
    else:
        codes = pack_int4(torch.randint(0, 16, (outputs, width), generator=generator, dtype=torch.uint8), padding=15)
        stored = Int4Tensor(codes, scales, NONUNIFORM_CODEBOOK, group_size, width)
        exact = dequantize_int4(stored, torch.float64)
        levels = (c_float * 16)(*(value / 128 for value in NONUNIFORM_CODEBOOK.tolist()))
    alive = [displaced(codes, offset), displaced(scales, offset), levels]
    weight = Weight(
        codes=alive[0].data_ptr(),
        scales=alive[1].data_ptr(),
        levels=ctypes.addressof(levels) if levels else None,
        num_outputs=outputs,
        num_inputs=width,
        group_size=group_size,
        format=int(name.startswith("int8")),
    )
    return Case(weight, exact, None, alive)


def make_nf4(outputs: int, width: int, generator: torch.Generator, offset: int, double: bool) -> Case:
    spread = torch.rand(outputs, 1, generator=generator) * 5
    stored = quantize_nf4(torch.randn(outputs, width, generator=generator) * spread, double=double)
    alive = [displaced(stored.codes, offset), displaced(stored.absmax, offset), stored.code]
    weight = Weight(
        codes=alive[0].data_ptr(),
        scales=alive[1].data_ptr(),
        levels=stored.code.data_ptr(),
        num_outputs=outputs,
        num_inputs=width,
        group_size=BLOCK,
        format=2,
        scale_kind=1,
    )
    if double:
        assert stored.nested_code is not None
        assert stored.nested_absmax is not None
        assert stored.offset is not None
        alive += [stored.nested_code, stored.nested_absmax]
        weight.nested_levels, weight.nested_scales = stored.nested_code.data_ptr(), stored.nested_absmax.data_ptr()
        weight.offset, weight.scale_kind = stored.offset.item(), 2
    scales = stored.scales().double().abs().view(outputs, -1).repeat_interleave(BLOCK, dim=1)
    exact = dequantize_nf4(stored, torch.float32).double()
    return Case(weight, exact, scales, alive)


def check(result: Tensor, inputs: Tensor, case: Case) -> None:
    """`result` (M, N) is the product, up to the inputs' and levels' 16 bits and sums in float32."""
    x, weight = inputs.double(), case.exact
    magnitudes = x.abs() @ weight.abs().T
    allowed = magnitudes * 2e-6 + torch.finfo(torch.float32).tiny
    if case.weight.format < 3:
        width = x.shape[1]
        padded = torch.nn.functional.pad(x.abs(), (0, -width % BLOCK)).view(x.shape[0], -1, BLOCK)
        greatest = padded.amax(dim=2).repeat_interleave(BLOCK, dim=1)[:, :width]
        allowed += greatest @ weight.abs().T * DIGITS
    if case.of_levels is not None:
        allowed += x.abs() @ case.of_levels.T * DIGITS
        # the smaller digits of an input and of a level are not multiplied with each other
        allowed += greatest @ case.of_levels.T * DIGITS
    assert ((result.double() - x @ weight.T).abs() <= allowed).all()


def random_inputs(rows: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1000)
    return torch.randn(rows, width, generator=generator).bfloat16().float()


def test_the_mirror_has_the_size_of_the_structure() -> None:
    assert library().baichuan2_weight_size() == ctypes.sizeof(Weight)


def test_steps_are_advised_for_weights_in_few_bits_where_they_are_for_numbers(level: int) -> None:
    """The matrix unit multiplies codes only; without vectors no step is worth while."""
    of_codes, of_numbers = (library().baichuan2_step_rows(level, is_16_bits) for is_16_bits in (0, 1))
    assert 0 <= of_numbers <= of_codes <= MOST_ROWS
    assert (of_codes > 0) == (of_numbers > 0)
    assert level > 0 or of_codes == 0


names = st.sampled_from((*FORMATS, *SIXTEEN_BITS))
widths = st.one_of(st.integers(1, 330), st.sampled_from([64, 128, 256, 512, 1024, 1031, 1088, 1100, 2050, 2112]))


@pytest.mark.parametrize("level_number", range(NUM_INSTRUCTIONS), ids=products.INSTRUCTIONS)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    names,
    st.integers(1, 40),
    widths,
    st.integers(1, MOST_ROWS),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 1000),
    st.integers(0, 3),
)
def test_any_weight_of_any_shape(
    level_number: int, name: str, outputs: int, width: int, rows: int, parts: int, pieces: int, seed: int, offset: int
) -> None:
    if library().baichuan2_instructions() < level_number:
        pytest.skip(f"this processor lacks {products.INSTRUCTIONS[level_number]}")
    if name.startswith("nf4"):
        width = -(-width // BLOCK) * BLOCK
    try:
        library().rows_limit(level_number)
        case, inputs = make(name, outputs, width, seed, offset), random_inputs(rows, width, seed)
        result = multiply(case, inputs, parts, pieces)
        check(result, inputs, case)
        row = seed % rows  # alone, or with the fewest that take the same way, the same to the last bit
        fewest = LEAST_ROWS_AMX if rows >= LEAST_ROWS_AMX and has_amx(level_number, name) else 1
        assert torch.equal(multiply(case, inputs[row].repeat(fewest, 1))[fewest - 1], result[row])
    finally:
        library().rows_limit(-1)


@pytest.mark.parametrize("name", [*FORMATS, *SIXTEEN_BITS])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_no_value_of_an_input_is_too_large_or_too_small(level: int, name: str, rows: int) -> None:
    case, inputs = make(name, 19, 256, seed=5), random_inputs(rows, 256, seed=5)
    expected = multiply(case, inputs)
    for factor in (2.0**-100, 2.0**-66, 2.0**-63, 2.0**79, 2.0**81, 2.0**101):
        changed = inputs.clone()
        changed[0] *= factor
        result = multiply(case, changed, parts=2)
        check(result, changed, case)
        assert torch.equal(result[1:], expected[1:])
        one_block = inputs.clone()
        one_block[0, 64:128] *= factor
        check(multiply(case, one_block), one_block, case)
    zeros = torch.zeros(rows, 256)
    assert torch.equal(multiply(case, zeros), zeros[:, :19])


@pytest.mark.parametrize("name", [*FORMATS, *SIXTEEN_BITS])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_row_with_what_is_no_number_says_so_and_spoils_no_other(
    level: int, name: str, value: float, rows: int
) -> None:
    case, inputs = make(name, 19, 320, seed=6), random_inputs(rows, 320, seed=6)
    expected = multiply(case, inputs)
    inputs[rows - 1, 70] = value
    result = multiply(case, inputs, parts=3, pieces=2)
    assert torch.equal(result[:-1], expected[:-1])
    # a level of zero makes NaN of infinity, any other keeps its sign
    exact = inputs[-1:].double() @ case.exact.T
    assert torch.equal(result[-1:].isnan(), exact.isnan())
    assert torch.equal(result[-1:].isposinf(), exact.isposinf())
    assert torch.equal(result[-1:].isneginf(), exact.isneginf())


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_level_that_is_no_number_is_not_passed_over(level: int, value: float, rows: int) -> None:
    case, inputs = make("nf4", 5, 128, seed=7), random_inputs(rows, 128, seed=7)
    levels = case.alive[2].clone()
    levels[3] = value  # which each of the outputs has among its 128 weights
    case.weight.levels = levels.data_ptr()
    assert not multiply(case, inputs).isfinite().any()
