"""Our own products against the product with the dequantised weight in float64, for every instruction set here."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baichuan2.kernels import products
from baichuan2.quantization.blockwise import (
    NONUNIFORM_CODEBOOK,
    UNIFORM_CODEBOOK,
    Int4Tensor,
    Int8Tensor,
    dequantize_int4,
    dequantize_int8,
    pack_int4,
)
from baichuan2.quantization.nf4 import dequantize_nf4, quantize_nf4
from tests.kernels.weights import FORMATS, as_met, stored

pytestmark = pytest.mark.skipif(not products.is_available(), reason="the library of kernels is not built here")

TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}
"""Relative to the sum of the magnitudes (float32) or to the result (a rounding of the output)."""
NUM_INSTRUCTIONS = len(products.INSTRUCTIONS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=range(NUM_INSTRUCTIONS), ids=products.INSTRUCTIONS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(products, "_limit", lambda: request.param)
    skip_without(request.param)
    return int(request.param)


def skip_without(level: int) -> None:
    """Under a limit of `level`: skips where this processor, or what may be used of it, ends below."""
    if products.instructions() != products.INSTRUCTIONS[level]:
        pytest.skip(f"this processor lacks {products.INSTRUCTIONS[level]}")


def int4(rows: int, width: int, group_size: int, codebook: Tensor = NONUNIFORM_CODEBOOK) -> Int4Tensor:
    generator = torch.Generator().manual_seed(rows * 1000 + width)
    codes = pack_int4(torch.randint(0, 16, (rows, width), generator=generator, dtype=torch.uint8), padding=15)
    scales = torch.randn(rows, -(-width // group_size), generator=generator).half()
    return Int4Tensor(codes, scales, codebook, group_size, width)


def int8(rows: int, width: int, group_size: int) -> Int8Tensor:
    generator = torch.Generator().manual_seed(rows * 1000 + width)
    codes = torch.randint(-127, 128, (rows, width), generator=generator).to(torch.int8)
    scales = torch.randn(rows, -(-width // group_size) if group_size else 1, generator=generator).half()
    return Int8Tensor(codes, scales, group_size)


def times_int4(inputs: Tensor, weight: Int4Tensor) -> Tensor:
    return products.multiply_int4(
        inputs, weight.codes, weight.scales, list(map(int, weight.codebook)), weight.group_size
    )


def times_int8(inputs: Tensor, weight: Int8Tensor) -> Tensor:
    return products.multiply_int8(inputs, weight.codes, weight.scales, weight.group_size)


def check(result: Tensor, inputs: Tensor, weight: Tensor) -> None:
    """`result` is the product of `inputs` (M, K) and `weight` (N, K), up to sums in float32 and one rounding."""
    weight = as_met(weight, inputs, products.instructions())
    assert result.dtype == inputs.dtype
    assert result.shape == (*inputs.shape[:-1], weight.shape[0])
    exact = inputs.double() @ weight.double().T
    magnitudes = inputs.double().abs() @ weight.double().abs().T
    rounding = 0 if inputs.dtype == torch.float32 else TOLERANCES[inputs.dtype]
    smallest = torch.finfo(inputs.dtype).tiny
    assert ((result.double() - exact).abs() <= magnitudes * 2e-6 + exact.abs() * rounding + smallest).all()


def random_inputs(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)).to(dtype)


dtypes = st.sampled_from(list(TOLERANCES))
widths = st.one_of(st.integers(1, 330), st.sampled_from([64, 128, 256, 512, 1088]))


@pytest.mark.parametrize("level_number", range(NUM_INSTRUCTIONS), ids=products.INSTRUCTIONS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(1, 35),
    widths,
    st.one_of(st.integers(1, 20), st.integers(21, 90)),
    st.sampled_from([32, 64, 128]),
    dtypes,
    st.booleans(),
    st.integers(1, 2),
)
def test_int4_of_any_shape(
    level_number: int,
    outputs: int,
    width: int,
    rows: int,
    group_size: int,
    dtype: torch.dtype,
    even: bool,
    threads: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_limit", lambda: level_number)
        skip_without(level_number)
        patch.setattr(torch, "get_num_threads", lambda: threads)
        weight = int4(outputs, width, group_size, UNIFORM_CODEBOOK if even else NONUNIFORM_CODEBOOK)
        inputs = random_inputs(rows, width, dtype)
        check(times_int4(inputs, weight), inputs, dequantize_int4(weight, torch.float64))


@pytest.mark.parametrize("level_number", range(NUM_INSTRUCTIONS), ids=products.INSTRUCTIONS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 11), widths, st.integers(1, 20), st.sampled_from([0, 32, 64, 128]), dtypes, st.integers(1, 2))
def test_int8_of_any_shape(
    level_number: int, outputs: int, width: int, rows: int, group_size: int, dtype: torch.dtype, threads: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_limit", lambda: level_number)
        skip_without(level_number)
        patch.setattr(torch, "get_num_threads", lambda: threads)
        weight, inputs = int8(outputs, width, group_size), random_inputs(rows, width, dtype)
        check(times_int8(inputs, weight), inputs, dequantize_int8(weight, torch.float64))


@pytest.mark.parametrize("double", [True, False], ids=["double", "plain"])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("outputs", "width", "rows"), [(1, 64, 1), (7, 192, 3), (37, 1088, 2), (6, 4096, 9)])
def test_nf4(level: int, outputs: int, width: int, rows: int, dtype: torch.dtype, double: bool) -> None:
    generator = torch.Generator().manual_seed(outputs)
    spread = torch.rand(outputs, 1, generator=generator) * 5  # scales that differ
    stored = quantize_nf4(torch.randn(outputs, width, generator=generator) * spread, double=double)
    inputs = random_inputs(rows, width, dtype)
    nested = None
    if stored.is_double:
        assert stored.offset is not None
        assert stored.nested_absmax is not None
        assert stored.nested_code is not None
        nested = (stored.offset, stored.nested_absmax, stored.nested_code)
    result = products.multiply_nf4(inputs, stored.codes, stored.code, stored.absmax, nested, outputs)
    weight = dequantize_nf4(stored, torch.float32)
    if dtype != torch.bfloat16:
        return check(result, inputs, weight)
    exact = inputs.double() @ weight.double().T
    magnitudes = inputs.double().abs() @ weight.double().abs().T
    assert ((result.double() - exact).abs() <= magnitudes * 2**-9 + exact.abs() * 2**-8).all()
    return None


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("outputs", "width", "rows"),
    [(1, 64, 65), (33, 2176, 256), (70, 192, 545)],
    ids=["few outputs", "several panels of inputs", "several chunks of rows"],
)
def test_prompts(name: str, outputs: int, width: int, rows: int) -> None:
    """Rows in company are what they are in other company, on any number of threads; and NaN stays in its row."""
    if not name.startswith("nf4"):
        width -= 7  # no whole block
    elif products.instructions() == "AVX-512 BF16":
        pytest.skip("levels are rounded there, see test_nf4")
    weight, inputs = stored(name, outputs, width), random_inputs(rows, width, torch.bfloat16)
    inputs[3, width - 1] = float("nan")
    result = weight.times(inputs)
    assert result[3].isnan().all()
    dense = weight.layer.dequantize(torch.bfloat16 if products.instructions() == "AMX BF16" else torch.float32)
    others = [row for row in range(rows) if row != 3]
    check(result[others], inputs[others], dense)
    torch.set_num_threads(3)
    assert torch.equal(weight.times(inputs[-70:]).nan_to_num(), result[-70:].nan_to_num())


@pytest.mark.skipif(not products.has_tiles(), reason="no matrix unit here, or no library of kernels")
@pytest.mark.parametrize(("outputs", "width", "rows"), [(1, 5, 1), (33, 2171, 256), (70, 100, 545)])
def test_weights_in_bfloat16(outputs: int, width: int, rows: int) -> None:
    weight, inputs = random_inputs(outputs, width, torch.bfloat16), random_inputs(rows, width, torch.bfloat16)
    check(products.multiply_bfloat16(inputs, weight), inputs, weight)
    with pytest.raises(ValueError, match="weight must be"):
        products.multiply_bfloat16(inputs, weight[:, 1:])
    with pytest.raises(ValueError, match="inputs must be"):
        products.multiply_bfloat16(inputs.float(), weight)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_numbers_that_are_none_spread_to_their_row_only(level: int, dtype: torch.dtype) -> None:
    for bad in (float("nan"), float("inf"), -float("inf")):
        inputs = random_inputs(3, 200, dtype)
        inputs[1, 150] = bad
        for result, weight in (
            (times_int4(inputs, w4 := int4(9, 200, 64)), dequantize_int4(w4)),
            (times_int8(inputs, w8 := int8(9, 200, 32)), dequantize_int8(w8)),
        ):
            check(result[::2], inputs[::2], weight)
            exact = inputs.double() @ weight.double().T
            assert torch.equal(result[1].double(), exact[1]) or (bad != bad and result[1].isnan().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_scales(level: int, dtype: torch.dtype) -> None:
    largest, least = torch.finfo(torch.float16).max, 2.0**-24
    weight = int4(8, 256, 32)
    weight.scales[:4], weight.scales[4:6], weight.scales[6], weight.scales[7] = largest, least, 0.0, -largest
    eight = int8(8, 256, 32)
    eight.scales.copy_(weight.scales)
    for size in (1e-25, 1.0, 1e25):
        inputs = random_inputs(2, 256, dtype) * size
        check(times_int4(inputs, weight), inputs, dequantize_int4(weight, torch.float64))
        check(times_int8(inputs, eight), inputs, dequantize_int8(eight, torch.float64))


@pytest.mark.parametrize("offset", [0, 1, 3, 33])
def test_any_place_in_memory(level: int, offset: int) -> None:
    weight = int4(8, 320, 64)
    inputs = random_inputs(2, 320, torch.bfloat16)
    codes = torch.zeros(weight.codes.numel() + 64, dtype=torch.uint8)
    codes = codes[offset : offset + weight.codes.numel()].view(8, -1).copy_(weight.codes)
    scales = torch.zeros(weight.scales.numel() + 64, dtype=torch.float16)
    scales = scales[offset : offset + weight.scales.numel()].view(8, -1).copy_(weight.scales)
    moved = Int4Tensor(codes, scales, weight.codebook, 64, 320)
    x = torch.zeros(700, dtype=torch.bfloat16)[offset : offset + 640].view(2, 320).copy_(inputs)
    assert torch.equal(times_int4(x, moved), times_int4(inputs, weight))


def test_threads_make_no_difference(level: int) -> None:
    weight, inputs = int4(37, 256, 32), random_inputs(3, 256, torch.bfloat16)
    one = times_int4(inputs, weight)
    torch.set_num_threads(3)
    assert torch.equal(times_int4(inputs, weight), one)


def test_shapes_of_inputs() -> None:
    weight = int4(5, 96, 32)
    for shape in ((96,), (2, 3, 96), (0, 96)):
        inputs = torch.ones(shape)
        result = times_int4(inputs, weight)
        assert result.shape == (*shape[:-1], 5)
        assert torch.allclose(result, inputs @ dequantize_int4(weight).T, rtol=1e-5, atol=1e-5)
    spaced = torch.randn(96, 2).T
    assert torch.equal(times_int4(spaced, weight), times_int4(spaced.contiguous(), weight))


def test_a_weight_that_does_not_fit_is_refused() -> None:
    weight = int4(5, 96, 32)
    for inputs, size in ((torch.ones(2, 95 - 32), 32), (torch.ones(2, 96), 64), (torch.ones(2, 96), 16)):
        with pytest.raises(ValueError, match="does not fit"):
            products.multiply_int4(inputs, weight.codes, weight.scales, list(range(16)), size)
    with pytest.raises(ValueError, match="must be"):
        products.multiply_int4(torch.ones(2, 96), weight.codes, weight.scales.float(), list(range(16)), 32)


def test_operators_are_sound() -> None:
    weight, eight = int4(5, 96, 32), int8(5, 96, 32)
    inputs = torch.ones(2, 96)
    operators = torch.ops.baichuan2
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        operators.multiply_int4, (inputs, weight.codes, weight.scales, list(range(16)), 32), test_utils=tests
    )
    torch.library.opcheck(operators.multiply_int8, (inputs, eight.codes, eight.scales, 32), test_utils=tests)
