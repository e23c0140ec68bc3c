"""Quantised layers against the product with their own dequantised weight, and what they do when they are moved."""

import copy
import io

import pytest
import torch
from torch import nn

from baichuan2 import QuantizationError
from baichuan2.kernels import products
from baichuan2.quantization.apply import quantized_linear, replace_modules
from baichuan2.quantization.blockwise import NONUNIFORM_CODEBOOK, quantize_int8
from baichuan2.quantization.linear import (
    Int4Linear,
    Int8Embedding,
    Int8Linear,
    NF4Linear,
    QuantizedLinear,
    has_fast_products,
)
from baichuan2.quantization.scheme import QuantizationSpec, Scheme

CODEBOOK = tuple(NONUNIFORM_CODEBOOK.tolist())
SPECS = {
    "int8 row": QuantizationSpec(format="int8", group_size=0),
    "int8 group": QuantizationSpec(format="int8", group_size=32),
    "int4 even": QuantizationSpec(format="int4", group_size=32),
    "int4 even, wide groups": QuantizationSpec(format="int4", group_size=128),
    "int4 codebook": QuantizationSpec(format="int4", group_size=64, codebook=CODEBOOK),
    "nf4": QuantizationSpec(format="nf4", group_size=64, weight_dtype="bfloat16"),
    "nf4 plain": QuantizationSpec(format="nf4", group_size=64, compressed_statistics=False, weight_dtype="float32"),
}
SHAPES = ((48, 128), (32, 96), (17, 40), (1, 64), (64, 256))


def weight(shape: tuple[int, int]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])) * 0.05


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPECS)
def test_the_product_is_that_with_the_dequantised_weight(name: str, shape: tuple[int, int]) -> None:
    layer = quantized_linear(SPECS[name], weight(shape))
    dense = layer.dequantize()
    assert dense.shape == shape
    assert (dense - weight(shape)).norm() < weight(shape).norm() * (0.01 if "int8" in name else 0.14)
    assert torch.equal(layer.dequantize(rows=slice(3, 9)), dense[3:9])
    for leading in ((), (3,), (2, 70)):
        inputs = torch.randn(*leading, shape[1], generator=torch.Generator().manual_seed(1))
        exact = nn.functional.linear(inputs, dense)
        assert torch.allclose(layer(inputs), exact, atol=1e-5)
        half = layer(inputs.bfloat16())
        assert half.dtype == torch.bfloat16
        assert (half.float() - exact).norm() / exact.norm() < 0.012  # weights, inputs and sums in bfloat16


@pytest.mark.parametrize("name", SPECS)
def test_blocks_of_rows_make_no_difference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = quantized_linear(SPECS[name], weight((48, 128)))
    inputs = torch.randn(100, 128)
    whole = layer(inputs)
    monkeypatch.setattr("baichuan2.quantization.linear.WEIGHTS_AT_A_TIME", 128 * 7)
    assert torch.allclose(layer(inputs), whole, atol=1e-6)
    wanted = inputs.clone().requires_grad_()
    layer(wanted).sum().backward()
    assert torch.allclose(wanted.grad, torch.ones(100, 48) @ layer.dequantize(), atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_state_and_copies(name: str) -> None:
    layer = quantized_linear(SPECS[name], weight((64, 128)))
    inputs = torch.randn(2, 128).bfloat16()
    before = layer(inputs)
    assert set(layer.state_dict()) == {key for key, _ in layer.named_buffers()}
    for other in (copy.deepcopy(layer), saved_and_loaded(layer)):
        assert torch.equal(other(inputs), before)
    for cast in (layer.half(), layer.double(), layer.to("cpu", torch.bfloat16)):
        assert torch.equal(cast(inputs), before)


def saved_and_loaded(layer: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)  # our own bytes
    return loaded


def test_a_packed_copy_follows_its_weight() -> None:
    layer = quantized_linear(SPECS["int4 even"], weight((64, 128)))
    other = quantized_linear(SPECS["int4 even"], weight((64, 128)) * 2)
    assert isinstance(layer, Int4Linear)
    inputs = torch.randn(2, 128).bfloat16()
    first = layer(inputs)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(inputs), other(inputs))
    assert not torch.equal(layer(inputs), first)


def test_the_embedding_looks_up_rows_in_the_dtype_of_the_model() -> None:
    table = weight((50, 40))
    with torch.device("meta"):
        layer = Int8Embedding(50, 40, 32, dtype=torch.float32, padding_idx=0)
    stored = quantize_int8(table, group_size=32)
    layer.weight_codes, layer.weight_scales = stored.codes, stored.scales
    ids = torch.tensor([[1, 49], [0, 7]])
    assert torch.equal(layer(ids), layer.dequantize()[ids])
    assert (layer(ids) - table[ids]).abs().max() < 0.002
    assert layer.bfloat16()(ids).dtype == torch.bfloat16
    assert layer.weight_scales.dtype == torch.float16


@pytest.mark.parametrize("name", SPECS)
def test_compiled_it_gives_the_same(name: str) -> None:
    layer = quantized_linear(SPECS[name], weight((48, 128)))
    inputs = torch.randn(3, 128)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(inputs), layer(inputs), atol=1e-6)


def test_bits_per_weight() -> None:
    assert Scheme("int4", 64).bits_per_weight(4096) == 4.25
    assert Scheme("int4", 32).bits_per_weight(11008) == 4.5
    assert Scheme("int8", 0).bits_per_weight(4096) == pytest.approx(8 + 16 / 4096)
    assert Scheme("nf4").bits_per_weight(4096) == pytest.approx(4.127, abs=1e-3)
    for name, spec in SPECS.items():
        layer = quantized_linear(spec, weight((64, 256)))
        tables = sum(buffer.nbytes for key, buffer in layer.named_buffers() if key.endswith("_code"))
        stored = sum(buffer.nbytes for buffer in layer.buffers()) - tables
        expected = spec.scheme.bits_per_weight(256) if "plain" not in name else 4.5
        assert stored * 8 / (64 * 256) == pytest.approx(expected, rel=0.002), name


def test_what_cannot_be_replaced() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(QuantizationError, match="0 has a bias"):
        replace_modules(module, ["0"], lambda name, layer: layer)
    with pytest.raises(QuantizationError, match="1 is no plain linear layer"):
        replace_modules(module, ["1"], lambda name, layer: layer)
    with pytest.raises(QuantizationError, match="no layer called 2"):
        replace_modules(module, ["2"], lambda name, layer: layer)


def test_nan_is_refused() -> None:
    broken = weight((8, 64))
    broken[3, 3] = float("nan")
    for spec in SPECS.values():
        with pytest.raises(QuantizationError):
            quantized_linear(spec, broken)


def test_ragged_rows_as_released_or_as_the_format_says() -> None:
    stored = quantized_linear(SPECS["nf4 plain"], weight((16, 80)))
    assert isinstance(stored, NF4Linear)
    right = stored.dequantize()
    stored.as_released = True
    released = stored.dequantize()
    assert torch.equal(released[0], right[0])  # the first row begins at the first block
    assert not torch.equal(released[1:], right[1:])
    assert torch.equal(stored.dequantize(rows=slice(2, 5)), released[2:5])
    assert isinstance(stored, QuantizedLinear)


@pytest.mark.parametrize("has_own_kernels", [True, False])
@pytest.mark.parametrize("offset", [0, 1, 8, 32])
def test_codes_and_inputs_at_any_place_in_memory(
    offset: int, has_own_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_own_kernels:
        monkeypatch.setattr(products, "_library", lambda: None)
    layer = quantized_linear(SPECS["int8 row"], weight((64, 256)))
    expected = layer(torch.ones(2, 256).bfloat16())
    memory = torch.zeros(64 * 256 + 64, dtype=torch.int8)
    moved = memory[offset : offset + 64 * 256].view(64, 256)
    layer.weight_codes = moved.copy_(layer.weight_codes)
    inputs = torch.ones(2 * 256 + 64).bfloat16()[offset : offset + 512].view(2, 256)
    assert torch.equal(layer(inputs), expected)
    moved.zero_()
    assert not layer(inputs).any()
    even = quantized_linear(SPECS["int4 even"], weight((64, 256)))
    assert torch.equal(even(inputs), even(inputs.clone()))


def test_changes_in_place_are_noticed_and_moves_leave_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_library", lambda: None)  # torch's product keeps a copy, ours none
    layer = quantized_linear(SPECS["int4 even"], weight((64, 128)))
    assert isinstance(layer, Int4Linear)
    inputs = torch.randn(2, 128).bfloat16()
    before = layer(inputs)
    layer.weight_scales.mul_(2)
    assert torch.allclose(layer(inputs), before * 2)
    assert layer._packed is not None
    layer.to("meta")
    assert layer._packed is None


@pytest.mark.skipif(not has_fast_products(), reason="there are no fast kernels of our own here")
@pytest.mark.parametrize("rows", [1, 17, 64, 65, 300])
@pytest.mark.parametrize("name", ["int4 even", "int8 row"])
def test_where_our_own_kernels_run_nothing_is_copied(name: str, rows: int) -> None:
    layer = quantized_linear(SPECS[name], weight((64, 256)))
    assert isinstance(layer, Int4Linear | Int8Linear)
    stored = {key: values.T.contiguous().T if values.dim() == 2 else values for key, values in layer.named_buffers()}
    inputs = torch.randn(rows, 256).bfloat16()
    layer(inputs)
    for key, values in stored.items():  # not even for a weight that lies in memory in another order
        setattr(layer, key, values)
    layer(inputs)
    assert (layer._packed if isinstance(layer, Int4Linear) else layer._copy) is None


@pytest.mark.parametrize("name", SPECS)
def test_layers_made_in_inference_mode_multiply(name: str) -> None:
    with torch.inference_mode():
        layer = quantized_linear(SPECS[name], weight((64, 128)))
        inputs = torch.randn(2, 128).bfloat16()
        assert torch.equal(layer(inputs), layer(inputs))


def test_ids_beyond_the_table_are_refused() -> None:
    with torch.device("meta"):
        layer = Int8Embedding(50, 40, 32, dtype=torch.float32, padding_idx=0)
    stored = quantize_int8(weight((50, 40)), group_size=32)
    layer.weight_codes, layer.weight_scales = stored.codes, stored.scales
    for wrong in (-1, 50):
        with pytest.raises(IndexError):
            layer(torch.tensor([5, wrong]))
