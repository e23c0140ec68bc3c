"""The tensors of bitsandbytes in safetensors files: the same bytes as the library's, spoilt scales, and 8 bits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from baichuan2.errors import CheckpointError, QuantizationError
from baichuan2.quantization.bnb_layout import (
    dequantize_int8_rows,
    has_packed_scales,
    quantize_int8_rows,
    read_int8,
    read_nf4,
    repair_packed_scales,
    write_int8,
    write_nf4,
)
from baichuan2.quantization.nf4 import dequantize_nf4, quantize_nf4

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "quant" / "linear_quant.safetensors")
LAYER = "model.layers.0.mlp.up_proj"
NAME = LAYER + ".weight"
STATE = NAME + ".quant_state.bitsandbytes__nf4"
Tensors = dict[str, Tensor]


def random_weight(num_rows: int = 64, width: int = 128, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(num_rows, width, generator=torch.Generator().manual_seed(0)).to(dtype)


def library_layer(weight: Tensor, *, double: bool, storage: torch.dtype = torch.uint8) -> Any:
    """The library's own 4-bit layer, quantised, in evaluation mode."""
    bnb = pytest.importorskip("bitsandbytes")
    num_rows, width = weight.shape
    kind = {"quant_type": "nf4", "compress_statistics": double, "quant_storage": storage}
    layer = bnb.nn.Linear4bit(width, num_rows, bias=False, compute_dtype=torch.bfloat16, **kind)
    layer.weight = bnb.nn.Params4bit(weight.clone(), requires_grad=False, module=layer, **kind)
    return layer.to("cpu").eval()


def saved(layer: Any, path: Path) -> Tensors:
    """The tensors of the layer, through a safetensors file."""
    save_file({f"{LAYER}.{key}": value.contiguous() for key, value in layer.state_dict().items()}, path)
    return load_file(path)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 128), (17, 24), (300, 64)])
def test_writes_and_reads_what_the_library_writes(
    tmp_path: Path, dtype: torch.dtype, double: bool, shape: tuple[int, int]
) -> None:
    weight = random_weight(*shape, dtype)
    tensor = quantize_nf4(weight, double=double)
    theirs = saved(library_layer(weight, double=double), tmp_path / "model.safetensors")
    ours = write_nf4(tensor, NAME)
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype, key
        assert torch.equal(ours[key], value), key
    got = read_nf4(theirs, NAME)
    assert (got.shape, got.dtype, got.block_size, got.is_double) == (shape, dtype, 64, double)
    assert torch.equal(dequantize_nf4(got, torch.float32), dequantize_nf4(tensor, torch.float32))


def test_reads_codes_stored_as_other_numbers(tmp_path: Path) -> None:
    weight = random_weight()
    theirs = saved(library_layer(weight, double=True, storage=torch.bfloat16), tmp_path / "model.safetensors")
    assert theirs[NAME].dtype == torch.bfloat16
    assert torch.equal(read_nf4(theirs, NAME).codes, quantize_nf4(weight).codes)


def test_written_tensors_can_be_saved_beside_each_other(tmp_path: Path) -> None:
    tensor, other = (quantize_nf4(random_weight(num_rows)) for num_rows in (64, 32))
    path = tmp_path / "model.safetensors"
    save_file(write_nf4(tensor, NAME) | write_nf4(other, NAME.replace("up", "gate")), path)
    assert torch.equal(read_nf4(load_file(path), NAME).absmax, tensor.absmax)


def run_once_and_save(weight: Tensor, path: Path, *, double: bool) -> tuple[Tensors, Tensors]:
    """What the library saves before and after one pass in evaluation mode."""
    if not pytest.importorskip("bitsandbytes").functional.has_avx512bf16():
        pytest.skip("only on processors with AVX-512 bfloat16 does the library rearrange weights")
    layer = library_layer(weight, double=double)
    before = saved(layer, path)
    with torch.no_grad():
        layer(torch.ones(2, weight.shape[1], dtype=torch.bfloat16))
    return before, saved(layer, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scales_saved_after_a_run_are_told_and_repaired(tmp_path: Path, dtype: torch.dtype) -> None:
    before, after = run_once_and_save(random_weight(dtype=dtype), tmp_path / "model.safetensors", double=False)
    assert not has_packed_scales(before, NAME)
    assert has_packed_scales(after, NAME)
    with pytest.raises(CheckpointError, match=r"after the model had already been run.*save the model again") as caught:
        read_nf4(after, NAME)
    assert str(caught.value).startswith(NAME)
    assert "\n" not in str(caught.value)
    repaired, is_exact = repair_packed_scales(after, NAME)
    assert is_exact == (dtype == torch.bfloat16)
    for key, value in before.items():
        if is_exact or not key.endswith(".absmax"):
            assert torch.equal(repaired[key], value), key
    torch.testing.assert_close(repaired[NAME + ".absmax"], before[NAME + ".absmax"], rtol=1 / 256, atol=0)


def test_double_quantisation_survives_a_run_with_drifted_scales(tmp_path: Path) -> None:
    before, after = run_once_and_save(random_weight(), tmp_path / "model.safetensors", double=True)
    expected = dequantize_nf4(read_nf4(before, NAME), torch.float32)
    got = dequantize_nf4(read_nf4(after, NAME), torch.float32)
    assert (got - expected).norm() / expected.norm() < 0.01


def packed(weight: Tensor) -> Tensors:
    """A file with spoilt scales, made without the library."""
    tensors = write_nf4(quantize_nf4(weight, double=False), NAME)
    scales = tensors[NAME + ".absmax"].view(weight.shape[0], -1)
    return tensors | {NAME + ".absmax": scales.t().bfloat16().contiguous()}


def test_spoilt_scales_are_repaired_without_the_library() -> None:
    weight = random_weight(dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match="already been run"):
        read_nf4(packed(weight), NAME)
    repaired, is_exact = repair_packed_scales(packed(weight), NAME)
    assert is_exact
    assert torch.equal(read_nf4(repaired, NAME).absmax, quantize_nf4(weight, double=False).absmax)


def test_repairs_nothing_else() -> None:
    with pytest.raises(CheckpointError, match="nothing to repair"):
        repair_packed_scales(write_nf4(quantize_nf4(random_weight()), NAME), NAME)
    tensors = packed(random_weight())
    with pytest.raises(CheckpointError, match=r"must have the shape \(2, 64\), got \(64, 2\)"):
        repair_packed_scales(tensors | {NAME + ".absmax": tensors[NAME + ".absmax"].t()}, NAME)


def without(key: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(key)


def put(key: str, value: Tensor) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__setitem__(key, value)


def describe(**changes: object) -> Callable[[Tensors], None]:
    """Changes entries of the JSON description; None deletes one."""

    def change(tensors: Tensors) -> None:
        state = json.loads(bytes(tensors[STATE].tolist())) | changes
        text = json.dumps({key: value for key, value in state.items() if value is not None})
        tensors[STATE] = torch.tensor(list(text.encode()), dtype=torch.uint8)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(NAME), f"{NAME} is missing"),
        (without(NAME + ".absmax"), "absmax is missing"),
        (without(NAME + ".quant_map"), "quant_map is missing"),
        (without(NAME + ".nested_quant_map"), "nested_quant_map is missing"),
        (without(NAME + ".nested_absmax"), r"the scales must be float32 \(128\), got uint8"),
        (without(STATE), "bitsandbytes__nf4 is missing"),
        (put(NAME + ".quant_state.bitsandbytes__fp4", torch.zeros(1)), "FP4, which is not read"),
        (put(NAME, torch.zeros(64, 64, dtype=torch.uint8)), "one row or column"),
        (put(NAME, torch.zeros(4095, 1, dtype=torch.uint8)), "the 4-bit codes must be"),
        (put(NAME + ".absmax", torch.zeros(127, dtype=torch.uint8)), r"the scales must be uint8 \(128\)"),
        (put(NAME + ".nested_absmax", torch.tensor([float("nan")])), "got NaN"),
        (put(NAME + ".quant_map", torch.linspace(-1, 1, 16)), "not that of NF4"),
        (put(STATE, torch.tensor([123, 255], dtype=torch.uint8)), "is no JSON"),
        (put(STATE, torch.tensor([1.5])), "float32, not bytes"),
        (put(STATE, torch.tensor(list(b"[]"), dtype=torch.uint8)), "a JSON object, got a list"),
        (put(STATE, torch.tensor(list(b"[" * 200000), dtype=torch.uint8)), "is no JSON"),
        (describe(quant_type="fp4"), "must describe the type 'nf4', got 'fp4'"),
        (describe(blocksize=None), "no whole number blocksize"),
        (describe(blocksize=48), "the block size must be one of"),
        (describe(blocksize=128), r"the scales must be uint8 \(64\)"),
        (describe(shape=None), "two positive sizes, got None"),
        (describe(shape=[64]), "two positive sizes"),
        (describe(shape=[-64, -128]), "two positive sizes"),
        (describe(shape=[64, "128"]), "two positive sizes"),
        (describe(dtype="int8"), "must have a dtype out of float32, float16, bfloat16, got 'int8'"),
        (describe(dtype=[1]), "must have a dtype"),
        (describe(nested_blocksize=100), "block size of the scales must be one of"),
        (describe(nested_dtype="int8"), "nested_dtype"),
        (describe(nested_dtype=["float32"]), "nested_dtype"),
        (describe(nested_offset=None), "no float32 number nested_offset"),
        (describe(nested_offset=1e300), "no float32 number nested_offset"),
        (describe(nested_offset=float("nan")), "no float32 number nested_offset"),
        (describe(nested_offset="1"), "no float32 number nested_offset"),
    ],
)
def test_refuses_what_is_wrong(change: Callable[[Tensors], None], message: str) -> None:
    tensors = write_nf4(quantize_nf4(random_weight()), NAME)
    change(tensors)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_nf4(tensors, NAME)
    assert str(caught.value).startswith(NAME)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["w0", "w1", "w2", "w3"])
def test_int8_equals_golden(name: str) -> None:
    codes, scales = quantize_int8_rows(GOLDEN[f"{name}.weight_fp16"])
    assert torch.equal(codes, GOLDEN[f"{name}.int8.CB"])
    assert torch.equal(scales, GOLDEN[f"{name}.int8.SCB"])
    assert torch.equal(dequantize_int8_rows(codes, scales, torch.float32), GOLDEN[f"{name}.int8.dequant_fp32"])


@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(1, 600),
    width=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    exponent=st.integers(-9, 3),
    seed=st.integers(0, 1000),
)
def test_int8_equals_bitsandbytes(num_rows: int, width: int, dtype: torch.dtype, exponent: int, seed: int) -> None:
    weight = (torch.randn(num_rows, width, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent).to(dtype)
    weight[0] = 0
    expected, expected_scales, _ = pytest.importorskip("bitsandbytes").functional.int8_vectorwise_quant(weight.half())
    codes, scales = quantize_int8_rows(weight)
    assert torch.equal(codes, expected)
    assert torch.equal(scales, expected_scales)


def test_int8_layer_of_the_library_is_read_and_written(tmp_path: Path) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear8bitLt(128, 64, bias=False, has_fp16_weights=False)
    layer.weight = bnb.nn.Int8Params(random_weight(), requires_grad=False, has_fp16_weights=False)
    theirs = saved(layer.to("cpu"), tmp_path / "model.safetensors")
    codes, scales = quantize_int8_rows(random_weight())
    ours = write_int8(codes, scales, NAME)
    assert {key: value.dtype for key, value in ours.items()} == {key: value.dtype for key, value in theirs.items()}
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    read_codes, read_scales = read_int8(theirs, NAME)
    assert torch.equal(read_codes, codes)
    assert torch.equal(read_scales, scales)


def test_int8_without_a_format_is_row_major() -> None:
    tensors = write_int8(*quantize_int8_rows(random_weight()), NAME)
    del tensors[LAYER + ".weight_format"]
    assert torch.equal(read_int8(tensors, NAME)[0], tensors[NAME])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(NAME), f"{NAME} is missing"),
        (without(LAYER + ".SCB"), "SCB is missing"),
        (put(NAME, torch.ones(64, 128)), "an int8 matrix"),
        (put(NAME, torch.ones(64, dtype=torch.int8)), "an int8 matrix"),
        (put(LAYER + ".SCB", torch.ones(63)), "must hold 64 numbers"),
        (put(LAYER + ".SCB", torch.ones(64, dtype=torch.int32)), "must hold 64 numbers"),
        (put(LAYER + ".SCB", torch.full((64,), float("nan"))), "NaN"),
        (put(LAYER + ".SCB", -torch.ones(64)), "negative"),
        (put(LAYER + ".weight_format", torch.tensor(1, dtype=torch.uint8)), "row-major"),
    ],
)
def test_int8_refuses_what_is_wrong(change: Callable[[Tensors], None], message: str) -> None:
    tensors = write_int8(*quantize_int8_rows(random_weight()), NAME)
    change(tensors)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_int8(tensors, NAME)
    assert str(caught.value).startswith(LAYER)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "weight", [torch.ones(3), torch.ones(0, 3), torch.ones(2, 2, dtype=torch.int8), torch.full((2, 2), 1e5)]
)
def test_int8_refuses_what_it_cannot_take(weight: Tensor) -> None:
    with pytest.raises(QuantizationError):
        quantize_int8_rows(weight)
