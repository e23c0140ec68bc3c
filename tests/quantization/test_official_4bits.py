"""The list of the official 4-bit files: read from the goldens, in its variants, and refused where anything is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from baichuan2.errors import CheckpointError
from baichuan2.quantization.nf4 import NF4Tensor, dequantize_nf4, quantize_nf4
from baichuan2.quantization.official_4bits import CODES_SUFFIX, STATE_SUFFIX, read_quant_state, write_quant_state

GOLDEN_DIR = Path(__file__).parents[1] / "golden"
NAME = "model.layers.0.mlp.up_proj.weight"


def weight(num_rows: int = 48, width: int = 128) -> torch.Tensor:
    return torch.randn(num_rows, width, generator=torch.Generator().manual_seed(0)).half()


def state_of(tensor: NF4Tensor) -> list[Any]:
    """The list, copied so deeply that a test may change it."""
    items: list[Any] = write_quant_state(tensor)
    if items[4] is not None:
        items[4] = [items[4][0], list(items[4][1])]
    return items


def assert_same(got: NF4Tensor, expected: NF4Tensor) -> None:
    for part in ("codes", "absmax", "offset", "nested_absmax", "nested_code", "code"):
        left, right = getattr(got, part), getattr(expected, part)
        assert (left is None) == (right is None), part
        assert left is None or (left.dtype == right.dtype and torch.equal(left, right)), part
    for part in ("shape", "dtype", "block_size", "nested_block_size"):
        assert getattr(got, part) == getattr(expected, part), part


@pytest.mark.parametrize("case", ["rope_h4", "alibi_h5"])
def test_golden_files_hold_what_we_quantise(case: str) -> None:
    folder = GOLDEN_DIR / "quant" / f"official_4bits_layout_{case}"
    stored = torch.load(folder / "pytorch_model.bin", weights_only=True)
    originals = load_file(GOLDEN_DIR / case / "model.safetensors")
    names = [key.removesuffix(STATE_SUFFIX) for key in stored if key.endswith(STATE_SUFFIX)]
    assert len(names) in (10, 15)
    for name in names:
        got = read_quant_state(stored[name + STATE_SUFFIX], stored[name + CODES_SUFFIX], name)
        assert_same(got, quantize_nf4(originals[name].half()))
        distance = (dequantize_nf4(got, torch.float32) - originals[name]).norm() / originals[name].norm()
        assert distance < 0.11  # of 4 bits; levels or scales in another order give 1 and more
        written = write_quant_state(got)
        original = stored[name + STATE_SUFFIX]
        assert written[1:4] == original[1:4]
        assert written[5] == original[5]
        assert written[4][1][2:] == original[4][1][2:]
        assert [type(item) for item in written] == [type(item) for item in original]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("block_size", [64, 128])
def test_written_lists_survive_a_file(tmp_path: Path, double: bool, block_size: int) -> None:
    tensor = quantize_nf4(weight(), double=double, block_size=block_size)
    path = tmp_path / "pytorch_model.bin"
    torch.save({"data": tensor.codes[:, None], "quant_state": write_quant_state(tensor)}, path)
    loaded = torch.load(path, weights_only=True)
    assert_same(read_quant_state(loaded["quant_state"], loaded["data"], NAME), tensor)


def without_code_table(items: list[Any]) -> None:
    del items[6]


def with_tail(*tail: object) -> Callable[[list[Any]], None]:
    def change(items: list[Any]) -> None:
        items[4][1][3:] = tail

    return change


def put(index: int, value: object) -> Callable[[list[Any]], None]:
    def change(items: list[Any]) -> None:
        items[index] = value

    return change


def put_nested(index: int, value: object) -> Callable[[list[Any]], None]:
    def change(items: list[Any]) -> None:
        items[4][1][index] = value

    return change


def as_parameters(items: list[Any]) -> None:
    items[0] = nn.Parameter(items[0], requires_grad=False)
    items[6] = nn.Parameter(items[6])


def as_tuples(items: list[Any]) -> None:
    items[1] = tuple(items[1])
    items[4] = (items[4][0].reshape(1), tuple(items[4][1]))


@pytest.mark.parametrize(
    "change",
    [
        without_code_table,
        with_tail(),
        with_tail(False),
        with_tail(False, None, None),
        with_tail(False, torch.float16, None, None, None),
        put(1, [48, 128]),
        as_parameters,
        as_tuples,
    ],
)
def test_variants_of_old_versions_are_read(change: Callable[[list[Any]], None]) -> None:
    tensor = quantize_nf4(weight())
    items = state_of(tensor)
    change(items)
    for codes in (tensor.codes, tensor.codes[:, None], tensor.codes[None], nn.Parameter(tensor.codes, False)):
        assert_same(read_quant_state(items, codes, NAME), tensor)


def nan_at(values: torch.Tensor) -> torch.Tensor:
    values = values.clone()
    values[-1] = float("nan")
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(0, torch.zeros(95, dtype=torch.uint8)), r"the scales must be uint8 \(96\), got uint8 \(95\)"),
        (put(0, torch.ones(96)), r"the scales must be uint8 \(96\), got float32 \(96\)"),
        (put(0, [1, 2]), r"the scales must be a tensor, got \[1, 2\]"),
        (put(0, torch.zeros(96, dtype=torch.uint8).to_sparse()), "dense tensor"),
        (put(1, torch.Size([48, 64])), "the 4-bit codes must be"),
        (put(1, torch.Size([48, 128, 1])), "two sizes"),
        (put(1, torch.Size([48 * 128])), "two sizes"),
        (put(1, [-48, -128]), "two positive sizes"),
        (put(1, [0, 128]), "two positive sizes"),
        (put(1, [48.0, 128]), "whole number, got 48.0"),
        (put(1, [True, 128]), "whole number, got True"),
        (put(1, "48x128"), "the shape must be a list"),
        (put(2, "float16"), "must be a dtype, got 'float16'"),
        (put(2, torch.int8), "float32, float16 or bfloat16, got torch.int8"),
        (put(3, 128), "the scales must be uint8"),
        (put(3, 48), "the block size must be one of"),
        (put(3, -64), "the block size must be one of"),
        (put(3, 64.0), "whole number, got 64.0"),
        (put(3, True), "whole number, got True"),
        (put(4, None), r"the scales must be float32 \(96\), got uint8"),
        (put(4, torch.tensor(1.0)), r"fifth item of the quant_state must be a list, got a tensor \(\)"),
        (put(4, [torch.tensor(1.0)]), "a pair of offset and scales, got 1 items"),
        (put(4, [torch.ones(2), []]), "the offset must be one number"),
        (put(4, [torch.tensor(1.0), [torch.ones(1)]]), "with a code table and a block size, got 1 items"),
        (put(5, "fp4"), "'fp4', which is not read"),
        (put(5, "int8"), "must be 'nf4', got 'int8'"),
        (put(5, torch.ones(3)), r"must be 'nf4', got a tensor \(3,\)"),
        (put(6, torch.ones(15)), r"the code table must be float32 \(16\)"),
        (put(6, torch.linspace(-1, 1, 16)), "not that of NF4"),
        (put(6, torch.full((16,), float("nan"))), "the code table must be numbers, got NaN"),
        (put(6, None), "the code table must be a tensor, got None"),
        (put_nested(0, torch.ones(2)), r"the scales of the scales must be float32 \(1\)"),
        (put_nested(0, torch.tensor([float("nan")])), "the scales of the scales must be numbers"),
        (put_nested(0, torch.tensor([float("inf")])), "the scales of the scales must be numbers"),
        (put_nested(0, torch.tensor([-1.0])), "is a magnitude, got -1"),
        (put_nested(1, torch.ones(255)), r"the code table of the scales must be float32 \(256\)"),
        (put_nested(2, 100), "the block size of the scales must be one of"),
        (put_nested(2, None), "the block size of the scales must be a whole number"),
        (put_nested(2, 64), r"the scales of the scales must be float32 \(2\)"),
        (put_nested(3, True), "not compressed further"),
        (put_nested(5, torch.tensor(1.0)), "not compressed further"),
        (put_nested(6, []), "not compressed further"),
        (lambda items: items.append(None), "6 or 7 items"),
        (lambda items: items.__delitem__(slice(5, None)), "6 or 7 items"),
        (lambda items: items[4].__setitem__(0, torch.tensor(float("nan"))), "the offset must be numbers"),
        (lambda items: items[4].__setitem__(0, torch.tensor(1.0).double()), "the offset must be float32"),
    ],
)
def test_refuses_what_is_wrong(change: Callable[[list[Any]], None], message: str) -> None:
    tensor = quantize_nf4(weight())
    items = state_of(tensor)
    change(items)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_quant_state(items, tensor.codes, NAME)
    assert str(caught.value).startswith(NAME)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(3071, dtype=torch.uint8), r"the 4-bit codes must be uint8 \(3072\), got uint8 \(3071\)"),
        (torch.zeros(3072, dtype=torch.int8), "got int8"),
        (torch.zeros(48, 64, dtype=torch.uint8), "one row or column"),
        (None, "the codes must be a tensor, got None"),
    ],
)
def test_refuses_wrong_codes(codes: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_quant_state(write_quant_state(quantize_nf4(weight())), codes, NAME)


def test_refuses_wrong_single_scales() -> None:
    tensor = quantize_nf4(weight(), double=False)
    for scales, message in ((nan_at(tensor.absmax), "got NaN"), (-tensor.absmax, "magnitude")):
        items = state_of(tensor)
        items[0] = scales
        with pytest.raises(CheckpointError, match=message):
            read_quant_state(items, tensor.codes, NAME)


JUNK = st.recursive(
    st.sampled_from([None, True, 0, -1, 64, 2**70, 1.5, "nf4", "a\nb", torch.float16, torch.ones(16), torch.ones(())]),
    lambda inner: st.lists(inner, max_size=8),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(junk=JUNK, index=st.integers(-1, 6), nested_index=st.integers(0, 2))
def test_junk_is_refused_in_one_line(junk: Any, index: int, nested_index: int) -> None:
    """Anything in place of the list, of an item or of an item inside: an error of ours, or a tensor that is whole."""
    tensor = quantize_nf4(weight())
    items = state_of(tensor)
    if index == 4:
        items[4][1][nested_index] = junk
    elif index >= 0:
        items[index] = junk
    try:
        read = read_quant_state(junk if index < 0 else items, tensor.codes, NAME)
    except CheckpointError as error:
        message = str(error)
    else:
        message = ""
        assert dequantize_nf4(read, torch.float32).isfinite().all()
    assert "\n" not in message
