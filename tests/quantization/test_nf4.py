"""NF4: equal to bitsandbytes bit by bit, to the golden numbers, and to the definition written as loops."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from baichuan2.errors import QuantizationError
from baichuan2.quantization import nf4
from baichuan2.quantization.nf4 import DYNAMIC_CODE, NF4_CODE, NF4Tensor, dequantize_nf4, quantize_nf4

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "quant" / "linear_quant.safetensors")
NAMES = ("w0", "w1", "w2", "w3")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def library() -> Any:
    return pytest.importorskip("bitsandbytes").functional


def unpacked(tensor: NF4Tensor) -> Tensor:
    """The level of each weight (n,), without its scale."""
    return NF4_CODE[torch.stack([tensor.codes >> 4, tensor.codes & 15], dim=1).view(-1).long()][: tensor.num_values]


def dequantized_by_definition(tensor: NF4Tensor) -> Tensor:
    """Level times the scale of its block in row-major order, float32 (N, K)."""
    blocks = torch.arange(tensor.num_values) // tensor.block_size
    return (unpacked(tensor) * tensor.scales()[blocks]).view(tensor.shape)


def dequantized_as_the_library_errs(tensor: NF4Tensor) -> Tensor:
    """What bitsandbytes 0.50.2 gives on a CPU with AVX-512 where K is a multiple of 16, but not of the block size.

    It counts the blocks of each row from row · (K // block size), and so takes the scales of other blocks.
    """
    num_rows, width = tensor.shape
    blocks = torch.arange(num_rows)[:, None] * (width // tensor.block_size) + torch.arange(width) // tensor.block_size
    return unpacked(tensor).view(tensor.shape) * tensor.scales()[blocks]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("double", [False, True])
def test_quantised_equals_golden(name: str, double: bool) -> None:
    tensor = quantize_nf4(GOLDEN[f"{name}.weight_fp16"], double=double)
    prefix = f"{name}.nf4_double" if double else f"{name}.nf4"
    assert torch.equal(tensor.codes, GOLDEN[f"{prefix}.packed"].view(-1))
    assert torch.equal(tensor.absmax, GOLDEN[f"{prefix}.absmax"])
    assert tensor.dtype == torch.float16
    assert tensor.is_double == double
    if double:
        assert torch.equal(tensor.offset.view(1), GOLDEN[f"{prefix}.offset"])
        assert torch.equal(tensor.nested_absmax, GOLDEN[f"{prefix}.nested_absmax"])


def test_tables_equal_golden() -> None:
    assert torch.equal(NF4_CODE, GOLDEN["nf4_code"])
    assert torch.equal(DYNAMIC_CODE, GOLDEN["nested_code_256"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("double", [False, True])
def test_dequantised_equals_golden(name: str, double: bool) -> None:
    tensor = quantize_nf4(GOLDEN[f"{name}.weight_fp16"], double=double)
    golden = GOLDEN[f"{name}.nf4_double.dequant" if double else f"{name}.nf4.dequant"]
    if name == "w1":  # 40x112: the golden numbers hold the library's error; they tell that levels and scales are right
        assert torch.equal(dequantized_as_the_library_errs(tensor).half(), golden)
    else:
        assert torch.equal(dequantize_nf4(tensor, torch.float16), golden)
    assert torch.equal(dequantize_nf4(tensor, torch.float16), dequantized_by_definition(tensor).half())


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Odd sizes, blocks of zeros and of one magnitude, values on the borders of the levels, huge and tiny ones."""
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, 80)))
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(shape, generator=generator)
    kind = draw(st.sampled_from(["normal", "zeros", "half zeros", "one magnitude", "borders"]))
    if kind == "zeros":
        values.zero_()
    elif kind == "half zeros":
        values.view(-1)[: values.numel() // 2] = 0
    elif kind == "one magnitude":
        values.sign_()
    elif kind == "borders":
        levels = torch.cat([(NF4_CODE[:-1] + NF4_CODE[1:]) / 2, NF4_CODE])
        values = levels[torch.randint(0, len(levels), shape, generator=generator)]
    largest = 4 if dtype == torch.float16 else 33
    return (values * 10.0 ** draw(st.integers(-largest - 8, largest))).to(dtype)


@settings(max_examples=200, deadline=None)
@given(weight=weights(), block_size=st.sampled_from([64, 64, 32, 128]), double=st.booleans())
def test_quantised_equals_bitsandbytes(weight: Tensor, block_size: int, double: bool) -> None:
    codes, state = library().quantize_4bit(weight, blocksize=block_size, compress_statistics=double, quant_type="nf4")
    tensor = quantize_nf4(weight, block_size=block_size, double=double)
    assert torch.equal(tensor.codes, codes.view(-1))
    assert torch.equal(tensor.absmax, state.absmax)
    assert torch.equal(tensor.code, state.code)
    if double:
        assert torch.equal(tensor.offset, state.offset)
        assert torch.equal(tensor.nested_absmax, state.state2.absmax)
        assert torch.equal(tensor.nested_code, state.state2.code)


@settings(max_examples=60, deadline=None)
@given(
    num_rows=st.integers(1, 20),
    num_row_blocks=st.integers(1, 5),
    dtype=st.sampled_from(DTYPES),
    double=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_dequantised_equals_bitsandbytes(
    num_rows: int, num_row_blocks: int, dtype: torch.dtype, double: bool, seed: int
) -> None:
    """Where its own result is right: rows of whole blocks."""
    weight = torch.randn(num_rows, 64 * num_row_blocks, generator=torch.Generator().manual_seed(seed)).to(dtype)
    codes, state = library().quantize_4bit(weight, compress_statistics=double, quant_type="nf4")
    expected = library().dequantize_4bit(codes, state)
    assert torch.equal(dequantize_nf4(quantize_nf4(weight, double=double), dtype), expected)


def test_every_step_of_the_8_bit_scales_equals_bitsandbytes() -> None:
    """All 65536 steps to which the library rounds, and the numbers just around their borders."""
    steps = (torch.arange(65537, dtype=torch.float64) - 0.5) / 32767.5 - 1
    values = torch.cat([steps, steps - 1e-7, steps + 1e-7]).float().clamp(-1, 1)
    values = torch.nn.functional.pad(values, (0, -len(values) % 255)).view(-1, 255)
    scales = torch.nn.functional.pad(values, (1, 0), value=1.0).reshape(-1)  # each block begins with its greatest
    expected, state = library().quantize_blockwise(scales, blocksize=256)
    codes, absmax = nf4._quantize_scales(scales)
    assert torch.equal(codes, expected)
    assert torch.equal(absmax, state.absmax)


@settings(max_examples=60, deadline=None)
@given(weight=weights(), double=st.booleans(), dtype=st.sampled_from(DTYPES), data=st.data())
def test_dequantised_follows_the_definition_and_in_rows(
    weight: Tensor, double: bool, dtype: torch.dtype, data: st.DataObject
) -> None:
    tensor = quantize_nf4(weight, double=double)
    whole = dequantize_nf4(tensor, dtype)
    assert whole.dtype == dtype
    assert torch.equal(whole, dequantized_by_definition(tensor).to(dtype))
    first = data.draw(st.integers(0, weight.shape[0]))
    stop = data.draw(st.integers(first, weight.shape[0]))
    assert torch.equal(dequantize_nf4(tensor, dtype, rows=(first, stop)), whole[first:stop])


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", [(97, 331), (64, 512), (33, 1065)])  # more than 256 blocks: two scales of scales
def test_slices_do_not_show(monkeypatch: pytest.MonkeyPatch, double: bool, shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    whole = quantize_nf4(weight, double=double)
    dequantized = dequantize_nf4(whole, torch.float32)
    monkeypatch.setattr(nf4, "VALUES_AT_A_TIME", 256)
    sliced = quantize_nf4(weight, double=double)
    assert torch.equal(sliced.codes, whole.codes)
    assert torch.equal(sliced.absmax, whole.absmax)
    assert torch.equal(dequantize_nf4(whole, torch.float32), dequantized)
    assert torch.equal(dequantize_nf4(whole, torch.float32, rows=(7, 30)), dequantized[7:30])
    assert torch.equal(dequantized, dequantized_by_definition(whole))


def test_a_transposed_weight_is_quantised_as_it_reads() -> None:
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(2))
    assert torch.equal(quantize_nf4(weight.t()).codes, quantize_nf4(weight.t().contiguous()).codes)


def test_sizes() -> None:
    tensor = quantize_nf4(torch.randn(100, 333, generator=torch.Generator().manual_seed(3)))
    assert (tensor.num_values, tensor.num_blocks) == (33300, 521)
    assert tensor.num_bytes == 16650 + 521 + 4 + 3 * 4
    assert quantize_nf4(torch.ones(3, 3), double=False).num_bytes == 5 + 4


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(64), "a matrix"),
        (torch.zeros(0, 64), "a matrix"),
        (torch.zeros(2, 64, dtype=torch.float64), "float64"),
        (torch.zeros(2, 64, dtype=torch.int8), "int8"),
        (torch.full((2, 64), float("nan")), "NaN or infinite"),
        (torch.tensor([[1.0] * 65 + [float("inf")]]), "NaN or infinite"),
        (torch.full((4, 64), 3e38), "double=False"),
    ],
)
def test_refuses(weight: Tensor, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        quantize_nf4(weight)


def test_refuses_other_block_sizes_and_rows() -> None:
    with pytest.raises(QuantizationError, match="48"):
        quantize_nf4(torch.ones(2, 64), block_size=48)
    tensor = quantize_nf4(torch.ones(2, 64))
    for rows in ((0, 3), (-1, 1), (2, 1)):
        with pytest.raises(QuantizationError, match="2 rows"):
            dequantize_nf4(tensor, torch.float32, rows=rows)
