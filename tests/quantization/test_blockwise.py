"""Group-wise 4 and 8 bits: layout, values, scales, and what cannot be quantised."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baichuan2.errors import QuantizationError
from baichuan2.quantization.blockwise import (
    NONUNIFORM_CODEBOOK,
    UNIFORM_CODEBOOK,
    Int4Tensor,
    Int8Tensor,
    dequantize_int4,
    dequantize_int8,
    pack_int4,
    quantize_int4,
    quantize_int8,
    unpack_int4,
)

CODEBOOKS = pytest.mark.parametrize("codebook", [UNIFORM_CODEBOOK, NONUNIFORM_CODEBOOK], ids=["uniform", "nonuniform"])
GROUPS = pytest.mark.parametrize("group_size", [32, 64, 128])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def int4_oracle(tensor: Int4Tensor) -> Tensor:
    """The weight, by the words of the format and a loop."""
    rows = len(tensor.codes)
    weight = torch.empty(rows, tensor.in_features, dtype=torch.float64)
    for n in range(rows):
        for k in range(tensor.in_features):
            block, place = divmod(k, 64)
            byte = int(tensor.codes[n, block * 32 + place % 32])
            code = byte % 16 if place < 32 else byte // 16
            scale = float(tensor.scales[n, k // tensor.group_size])
            weight[n, k] = scale * int(tensor.codebook[code]) / 128
    return weight


def int8_oracle(tensor: Int8Tensor) -> Tensor:
    rows, in_features = tensor.codes.shape
    weight = torch.empty(rows, in_features, dtype=torch.float64)
    for n in range(rows):
        for k in range(in_features):
            group = k // tensor.group_size if tensor.group_size else 0
            weight[n, k] = float(tensor.scales[n, group]) * int(tensor.codes[n, k]) / 128
    return weight


def error(weight: Tensor, restored: Tensor, importance: Tensor | float = 1.0) -> Tensor:
    return ((weight - restored).double().square() * importance).sum(1)


@given(rows=st.integers(1, 4), in_features=st.integers(1, 200), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_packed_codes_come_back(rows: int, in_features: int, seed: int) -> None:
    codes = torch.randint(0, 16, (rows, in_features), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    packed = pack_int4(codes)
    assert packed.shape == (rows, -(-in_features // 64) * 32)
    assert torch.equal(unpack_int4(packed, in_features), codes)


def test_layout_of_the_bytes() -> None:
    codes = (torch.arange(128) % 16).to(torch.uint8)[None]
    codes[0, 32:64] = 5
    packed = pack_int4(codes)[0].tolist()
    assert packed[:32] == [0x50 + j % 16 for j in range(32)]
    assert packed[32:] == [j % 16 * 0x11 for j in range(32)]


@CODEBOOKS
def test_rows_are_filled_up_with_the_value_nearest_to_nothing(codebook: Tensor) -> None:
    packed = quantize_int4(random(3, 70), group_size=32, codebook=codebook).codes
    assert (unpack_int4(packed, 128)[:, 70:] == codebook.int().abs().argmin()).all()


@CODEBOOKS
@GROUPS
@pytest.mark.parametrize("shape", [(3, 150), (1, 64), (2, 31)])
def test_int4_weights_are_what_the_format_says(codebook: Tensor, group_size: int, shape: tuple[int, int]) -> None:
    tensor = quantize_int4(random(*shape), group_size=group_size, codebook=codebook)
    assert (tensor.codes.dtype, tensor.scales.dtype, tensor.codebook.dtype) == (torch.uint8, torch.half, torch.int8)
    assert tensor.scales.shape == (shape[0], -(-shape[1] // group_size))
    assert torch.equal(dequantize_int4(tensor).double(), int4_oracle(tensor))


@pytest.mark.parametrize("group_size", [0, 32, 64, 128])
@pytest.mark.parametrize("shape", [(3, 150), (1, 64), (2, 31)])
def test_int8_weights_are_what_the_format_says(group_size: int, shape: tuple[int, int]) -> None:
    tensor = quantize_int8(random(*shape), group_size=group_size)
    assert (tensor.codes.dtype, tensor.scales.dtype) == (torch.int8, torch.half)
    assert tensor.codes.abs().max() <= 127
    assert tensor.scales.shape == (shape[0], -(-shape[1] // group_size) if group_size else 1)
    assert torch.equal(dequantize_int8(tensor).double(), int8_oracle(tensor))


def test_some_rows_in_another_number_format() -> None:
    weight, rows = random(10, 96), slice(2, 7)
    int4, int8 = quantize_int4(weight, group_size=32), quantize_int8(weight, group_size=32)
    assert torch.equal(dequantize_int4(int4, torch.bfloat16, rows), dequantize_int4(int4).bfloat16()[rows])
    assert torch.equal(dequantize_int8(int8, torch.half, rows), dequantize_int8(int8).half()[rows])


@CODEBOOKS
@GROUPS
@pytest.mark.parametrize("is_weighted", [False, True])
def test_searched_scales_are_never_worse_and_mostly_better(
    codebook: Tensor, group_size: int, is_weighted: bool
) -> None:
    weight = random(50, 200) * 0.02
    weight[:5] *= random(5, 200, seed=1).exp()  # a few rows with heavy tails
    importance = random(200, seed=2).exp() if is_weighted else None
    plain = quantize_int4(weight, group_size=group_size, codebook=codebook, search=False)
    searched = quantize_int4(weight, group_size=group_size, codebook=codebook, importance=importance)
    counts = 1.0 if importance is None else importance
    before, after = (error(weight, dequantize_int4(tensor), counts) for tensor in (plain, searched))
    assert (after <= before * (1 + 1e-5)).all()
    assert (after / before).mean() < 0.94


@pytest.mark.parametrize("group_size", [0, 32])
def test_searched_scales_in_8_bits_are_never_worse(group_size: int) -> None:
    weight = random(50, 200) * 0.02
    before, after = (
        error(weight, dequantize_int8(quantize_int8(weight, group_size=group_size, search=search)))
        for search in (False, True)
    )
    assert (after <= before * (1 + 1e-5)).all()
    assert (after / before).mean() < 0.98


def test_every_code_is_the_nearest_one() -> None:
    weight = random(20, 128) * 0.02
    tensor = quantize_int4(weight, group_size=32, codebook=NONUNIFORM_CODEBOOK)
    choices = tensor.scales.float().repeat_interleave(32, 1)[..., None] * tensor.codebook.float() / 128
    least = (choices - weight[..., None]).abs().amin(-1)
    assert torch.allclose((dequantize_int4(tensor) - weight).abs(), least, rtol=0, atol=1e-8)


@given(exponent=st.integers(-12, 12), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_weights_that_the_format_holds_come_back_unchanged(exponent: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (4, 128), generator=generator)
    codes[:, ::32] = 0  # each group reaches the extreme value
    scales = (torch.rand(4, 4, generator=generator) + 1).half().float() * 2.0**exponent
    weight = scales.repeat_interleave(32, 1) * UNIFORM_CODEBOOK.float()[codes] / 128
    assert torch.equal(dequantize_int4(quantize_int4(weight, group_size=32)), weight)


@pytest.mark.parametrize("group_size", [0, 32, 128])
def test_8_bits_miss_by_at_most_half_a_step(group_size: int) -> None:
    weight = random(20, 256) * 0.02
    tensor = quantize_int8(weight, group_size=group_size, search=False)
    largest = weight.reshape(20, -1, group_size or 256).abs().amax(2).repeat_interleave(group_size or 256, 1)
    # half a step of largest / 127, and float16's rounding of the scale
    assert ((dequantize_int8(tensor) - weight).abs() <= largest * (0.5 / 127 + 2**-11) * 1.001).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -0.37, 3e-5, 1e-9, 50000.0])
def test_constant_weights(value: float) -> None:
    weight = torch.full((2, 70), value)
    for restored in (
        dequantize_int4(quantize_int4(weight, group_size=32)),
        dequantize_int4(quantize_int4(weight, group_size=64, codebook=NONUNIFORM_CODEBOOK)),
        dequantize_int8(quantize_int8(weight, group_size=0)),
    ):
        assert torch.allclose(restored, weight, rtol=2e-3, atol=1e-8)


def test_empty_groups_stay_exactly_empty() -> None:
    weight = random(4, 128)
    weight[:, 32:64] = 0
    restored = dequantize_int4(quantize_int4(weight, group_size=32, codebook=NONUNIFORM_CODEBOOK))
    assert (restored[:, 32:64] == 0).all()
    assert (restored[:, :32] != 0).any()


def test_importance_of_nothing_counts_all_alike() -> None:
    weight = random(4, 128)
    plain = quantize_int4(weight, group_size=32)
    assert torch.equal(quantize_int4(weight, group_size=32, importance=torch.zeros(128)).codes, plain.codes)


@pytest.mark.parametrize("rows", [1, 5000])
def test_rows_do_not_depend_on_those_handled_with_them(rows: int) -> None:
    weight = random(5000, 64)
    whole = quantize_int4(weight, group_size=32)
    part = quantize_int4(weight[-rows:].bfloat16().float(), group_size=32)
    again = quantize_int4(weight.bfloat16(), group_size=32)
    assert torch.equal(part.codes, again.codes[-rows:])
    assert torch.equal(part.scales, again.scales[-rows:])
    assert whole.codes.shape == again.codes.shape


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(3), r"got float32 \(3,\)"),
        (torch.zeros(3, 0), r"got float32 \(3, 0\)"),
        (torch.zeros(3, 4, dtype=torch.int8), r"got int8 \(3, 4\)"),
        (torch.tensor([[1.0, float("nan")]]), r"float32 \(1, 2\) holds NaN"),
        (torch.tensor([[1.0, float("inf")]]), r"float32 \(1, 2\) holds .*inf"),
        (torch.tensor([[1.0, -70000.0]]), "holds -70000"),
        (torch.empty(3, 4, device="meta"), "offloaded"),
    ],
)
def test_what_cannot_be_quantised_is_told(weight: Tensor, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        quantize_int4(weight, group_size=32)
    with pytest.raises(QuantizationError, match=message):
        quantize_int8(weight, group_size=32)
