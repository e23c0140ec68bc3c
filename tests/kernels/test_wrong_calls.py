"""Every wrong call of an operator ends in an exception of Python: a process of its own shows that nothing crashes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baichuan2.kernels import products, steps
from tests.kernels.weights import CODEBOOK, FORMATS, Stored, stored

ROOT = Path(__file__).parents[2]
WIDTH = 192
OUTPUTS = 7
EXPECTED = (ValueError, RuntimeError, TypeError, IndexError, AttributeError)
"""What torch itself raises for wrong arguments; None for a tensor arrives as None."""


def wrong_tensors(tensor: Tensor) -> Iterator[tuple[str, object]]:
    """What a caller may give in the place of a part of a weight."""
    yield "nothing", None
    yield "a number", 3
    yield "bytes", bytes(tensor.numel())
    yield "a row too few", tensor[:-1] if tensor.dim() else tensor.new_empty(0)
    yield "a row too many", torch.cat([tensor.reshape(1, *tensor.shape)] * 2).flatten(0, 1 if tensor.dim() else 0)
    yield "empty", tensor.new_empty(0)
    yield "of other numbers", tensor.to(torch.float64)
    yield "of larger codes", tensor.to(torch.int64)
    yield "complex", tensor.to(torch.complex64)
    yield "truths", tensor.bool()
    yield "on no device", tensor.to("meta")
    yield "sparse", tensor.to_sparse()
    if tensor.numel() > 1:
        yield "one value expanded", tensor.flatten()[:1].expand(tensor.shape)
        yield "with gaps", torch.stack([tensor, tensor], dim=-1)[..., 0]
    if tensor.dim() > 1:
        yield "one row expanded", tensor[:1].expand(tensor.shape)
        yield "with a column too few", tensor[:, :-1].contiguous()
        yield "transposed", tensor.T.contiguous()
        yield "flat", tensor.flatten()
    if tensor.dim() > 1 and tensor.shape[1] > 1:
        yield "one column expanded", tensor[:, :1].expand(tensor.shape)
        yield "of columns", tensor.T.contiguous().T
    emptied = tensor.clone()
    emptied.untyped_storage().resize_(0)
    yield "without memory", emptied


def wrong_numbers(name: str, part: object) -> Iterator[tuple[str, object]]:
    """What a caller may give in the place of an argument that is no tensor."""
    if isinstance(part, list):
        for codebook in ([], [1], CODEBOOK[:15], [*CODEBOOK, 0], [1000] * 16, [-129] * 16, [2**62] * 16, [0.5] * 16):
            yield f"codebook {codebook}", codebook
        return
    sizes = {-1, -32, -64, 1, 16, 31, 63, 96, 256, 2**31, 2**62, -(2**63)}
    if not name.startswith("int8"):
        sizes |= {0}
    for number in sorted(sizes | {OUTPUTS - 1, OUTPUTS + 1}):
        yield f"number {number}", number
    yield "2^64", 2**64
    yield "a word", "64"
    yield "nothing", None


def wrong_calls(weight: Stored) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Arguments, each with one that is wrong."""
    inputs = torch.ones(3, WIDTH)
    # any rows of any strides are right; and a row of int4 is filled up, so that one input fewer fits too
    right = ["a row", "expanded", "gaps", "of columns"] + ["a column too few"] * weight.name.startswith("int4")
    for label, wrong in wrong_tensors(inputs):
        if not any(words in label for words in right):
            yield f"inputs: {label}", (wrong, *weight.parts)
    for width in (WIDTH - 64, WIDTH + 64, WIDTH + 1, 0):
        yield f"inputs of width {width}", (torch.ones(3, width), *weight.parts)
    yield "inputs: no row", (torch.tensor(1.0), *weight.parts)
    for index, part in enumerate(weight.parts):
        wrongs = wrong_tensors(part) if isinstance(part, Tensor) else wrong_numbers(weight.name, part)
        for label, wrong in [] if part is None else wrongs:
            is_flat = weight.name.startswith("nf4") and label in ("transposed", "flat")
            if not is_flat:
                yield f"part {index}: {label}", (inputs, *weight.with_part(index, wrong).parts)
        yield f"part {index} missing", (inputs, *weight.parts[:index], *weight.parts[index + 1 :])
    yield "nothing at all", ()


def refuse_all() -> None:
    """Makes every wrong call; prints those that are not refused."""
    for name in FORMATS:
        weight = stored(name, OUTPUTS, WIDTH)
        weight.times(torch.ones(3, WIDTH))
        count = 0
        for label, arguments in wrong_calls(weight):
            print(name, label, file=sys.stderr, flush=True)  # the last line names what crashed
            count += 1
            try:
                weight.multiply(*arguments)
            except EXPECTED:
                continue
            print(f"{name}: {label} is not refused")
        assert count > 60, count
    print("all were tried")


@pytest.mark.skipif(not products.is_available(), reason="the library of kernels is not built here")
def test_wrong_calls_are_refused() -> None:
    script = "from tests.kernels.test_wrong_calls import refuse_all; refuse_all()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-300:]
    assert done.stdout == "all were tried\n"


@pytest.mark.skipif(not products.is_available(), reason="the library of kernels is not built here")
@pytest.mark.parametrize(
    ("index", "wrong", "message"),
    [
        (
            0,
            torch.zeros(7, 64, dtype=torch.uint8),
            r"does not fit inputs \(3, 192\): codes must be torch.uint8 \(7, 96\)",
        ),
        (0, torch.zeros(7, 96, dtype=torch.uint8, device="meta"), r"codes must lie .* on cpu, got .* on meta"),
        (1, torch.zeros(7, 3), r"scales must be torch.float16 \(7, 3\), got torch.float32 \(7, 3\)"),
        (1, torch.zeros(7, 1).half().expand(7, 3), r"scales must lie as one piece .* got strides \(1, 0\)"),
        (2, [1, 2], "a codebook must hold 16 numbers from -128 to 127"),
        (3, 48, "int4 has groups of 32, 64, 128, got 48"),
    ],
)
def test_what_is_wrong_is_said(index: int, wrong: object, message: str) -> None:
    weight = stored("int4 g64", OUTPUTS, WIDTH)
    with pytest.raises(ValueError, match=message):
        weight.with_part(index, wrong).times(torch.ones(3, WIDTH))
    with pytest.raises(ValueError, match=r"inputs must be rows of float32, bfloat16 or float16, got torch.float64"):
        weight.times(torch.ones(3, WIDTH, dtype=torch.float64))
    eight_bit_scales = stored("nf4 double", OUTPUTS, WIDTH)
    with pytest.raises(ValueError, match="in 8 bits with offset, nested_absmax, nested_code, got no offset"):
        eight_bit_scales.with_part(3, None).times(torch.ones(3, WIDTH))


@pytest.mark.parametrize(
    ("group_size", "codebook", "message"),
    [
        (256, CODEBOOK, "int4 has groups of 32, 64, 128, got 256"),
        (16, CODEBOOK, "int4 has groups of 32, 64, 128, got 16"),
        (0, CODEBOOK, "int4 has groups of 32, 64, 128, got 0"),
        (64, [*CODEBOOK[:15], 200], "a codebook must hold 16 numbers from -128 to 127"),
        (64, CODEBOOK[:15], "a codebook must hold 16 numbers from -128 to 127"),
    ],
)
def test_steps_refuse_weights_that_c_would_read_wrongly(group_size: int, codebook: list[int], message: str) -> None:
    codes = torch.zeros(OUTPUTS, WIDTH // 2, dtype=torch.uint8)
    scales = torch.ones(OUTPUTS, -(-WIDTH // (group_size or WIDTH)), dtype=torch.float16)
    with pytest.raises(ValueError, match=message):
        steps.int4_weight(codes, scales, codebook, group_size, WIDTH)


def test_steps_refuse_int8_groups_and_weights_without_memory() -> None:
    codes, scales = torch.zeros(OUTPUTS, WIDTH, dtype=torch.int8), torch.ones(OUTPUTS, 12, dtype=torch.float16)
    with pytest.raises(ValueError, match="int8 has groups of 0, 32, 64, 128, got 16"):
        steps.int8_weight(codes, scales, 16)
    emptied = torch.zeros(OUTPUTS, WIDTH, dtype=torch.bfloat16)
    emptied.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"a tensor \(7, 192\) has no memory any more"):
        steps.plain_weight(emptied)
