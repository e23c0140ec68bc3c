"""Kernels for a GPU against torch's operations: on a GPU, or, with TRITON_INTERPRET=1, by Triton's own interpreter.

Triton is no requirement of this package: torch for NVIDIA and AMD brings it.
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from baichuan2.engine import graphs
from baichuan2.engine.cache import new_cache
from baichuan2.engine.graphs import GraphModel, State
from baichuan2.model.block import RMSNorm
from baichuan2.model.rope import rotate
from baichuan2.quantization.blockwise import (
    NONUNIFORM_CODEBOOK,
    dequantize_int4,
    dequantize_int8,
    quantize_int4,
    quantize_int8,
)
from tests.engine.test_graphs import in_few_bits
from tests.tiny import random_ids, tiny_model

fused = pytest.importorskip("baichuan2.kernels.fused", reason="no Triton here", exc_type=ImportError)

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
pytestmark = [] if IS_INTERPRETED else [pytest.mark.gpu]
# of numbers around 1, whose sums are float32: a rounding that falls the other way
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 2**-6, torch.float16: 2**-9}
DTYPES = list(TOLERANCES)


@pytest.fixture(autouse=True)
def larger_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    if IS_INTERPRETED:  # a program takes milliseconds
        monkeypatch.setattr(fused, "ROWS_OF_WEIGHT", 64)


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def close(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> bool:
    tolerance = TOLERANCES[dtype]
    assert found.shape == wanted.shape
    return torch.allclose(found.double(), wanted.double(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [320, 4096])
def test_add_norm(width: int, dtype: torch.dtype) -> None:
    hidden, delta = numbers(3, width, dtype=dtype), numbers(3, width, dtype=dtype, seed=1)
    norm = RMSNorm(width, 1e-6).to(DEVICE, dtype)
    norm.weight.data = numbers(width, dtype=dtype, seed=2)
    summed, normed = fused.add_norm(hidden, delta, norm.weight, norm.eps)
    assert close(summed, hidden + delta, dtype)
    assert close(normed, norm(summed), dtype)
    summed, normed = fused.add_norm(hidden, None, norm.weight, norm.eps)
    assert summed is hidden
    assert close(normed, norm(hidden), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gated(dtype: torch.dtype) -> None:
    gate, up = numbers(3, 700, dtype=dtype) * 3, numbers(3, 700, dtype=dtype, seed=1)
    assert close(fused.gated(gate, up), torch.nn.functional.silu(gate) * up, dtype)


def skip_products_that_the_interpreter_gets_wrong(rows: int, dtype: torch.dtype) -> None:
    if IS_INTERPRETED and rows > 1 and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16 in `dot`")


def weight_of(count: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return numbers(count, width, dtype=dtype, seed=7) * width**-0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "width"), [(130, 320), (37, 1504)])
def test_one_row_of_inputs(count: int, width: int, dtype: torch.dtype) -> None:
    inputs, weight, other = numbers(1, width, dtype=dtype), weight_of(count, width, dtype), weight_of(2 * count, width)
    wanted = inputs.double() @ weight.double().T
    assert close(fused.row_times(inputs, weight), wanted, dtype)
    up = other[count:].to(dtype)
    gated = torch.nn.functional.silu(wanted) * (inputs.double() @ up.double().T)
    assert close(fused.row_gated(inputs, weight, up), gated, dtype)


@pytest.mark.parametrize("rows", [1, 5, 20])
@pytest.mark.parametrize("group_size", [0, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_in_8_bits(rows: int, group_size: int, dtype: torch.dtype) -> None:
    skip_products_that_the_interpreter_gets_wrong(rows + group_size, dtype)
    inputs, stored = numbers(rows, 448, dtype=dtype), quantize_int8(weight_of(70, 448), group_size=group_size)
    found = fused.times_int8(inputs, stored.codes, stored.scales, group_size, 1 / 128)
    assert close(found, inputs.double() @ dequantize_int8(stored).double().T, dtype)
    if group_size == 0:
        found = fused.times_int8(inputs, stored.codes, stored.scales.float()[:, 0] / 128 * 127, 0, 1 / 127)
        assert close(found, inputs.double() @ dequantize_int8(stored).double().T, dtype)


@pytest.mark.parametrize("rows", [1, 5, 20])
@pytest.mark.parametrize(("width", "group_size"), [(448, 32), (1120, 64)])  # the second ends inside of 64 inputs
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_in_4_bits(rows: int, width: int, group_size: int, dtype: torch.dtype) -> None:
    skip_products_that_the_interpreter_gets_wrong(rows, dtype)
    inputs = numbers(rows, width, dtype=dtype)
    stored = quantize_int4(weight_of(70, width), group_size=group_size, codebook=NONUNIFORM_CODEBOOK)
    levels = stored.codebook.float() / 128
    found = fused.times_int4(inputs, stored.codes, stored.scales, levels, group_size)
    assert close(found, inputs.double() @ dequantize_int4(stored).double().T, dtype)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    ("batch", "num_new", "heads", "size", "held"),
    [(2, 1, 4, 64, 77), (1, 1, 5, 128, 900), (2, 3, 5, 48, 130), (16, 1, 40, 32, 3), (1, 5, 4, 64, 1)],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention(
    batch: int, num_new: int, heads: int, size: int, held: int, has_bias: bool, dtype: torch.dtype
) -> None:
    shape = (batch, heads, 1024, size)
    keys, values = (torch.full(shape, torch.nan, device=DEVICE, dtype=dtype) for _ in range(2))
    keys[:, :, :held] = numbers(batch, heads, held, size, dtype=dtype, seed=3)
    values[:, :, :held] = numbers(batch, heads, held, size, dtype=dtype, seed=4)
    packed = numbers(batch * num_new, 3, heads, size, dtype=dtype, seed=5)
    angles = numbers(batch * num_new, size // 2, dtype=torch.float32, seed=6).repeat(1, 2)
    rotation = None if has_bias else (angles.cos(), angles.sin())
    slopes = torch.linspace(0.01, 0.5, heads, device=DEVICE) if has_bias else None
    firsts = torch.arange(batch, device=DEVICE) % (held + 1)
    where = (
        torch.tensor([keys.data_ptr(), values.data_ptr()], device=DEVICE),
        torch.tensor([held], device=DEVICE),
        torch.tensor([1024], device=DEVICE),
    )
    asked = fused.rotate_and_store(packed, rotation, *where, num_new)
    found = fused.attend(asked, *where, firsts, slopes, num_new, size**-0.5)

    query, key, value = packed.view(batch, num_new, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
    if rotation is not None:
        cosine, sine = (part.view(batch, 1, num_new, size) for part in rotation)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
    stop = held + num_new
    assert close(asked.view(batch, num_new, heads, size).transpose(1, 2), query, dtype)
    assert close(keys[:, :, held:stop], key, dtype)
    assert torch.equal(values[:, :, held:stop], value)
    assert keys[:, :, stop:].isnan().all()
    assert values[:, :, stop:].isnan().all()
    place, seen = torch.arange(held, stop, device=DEVICE), torch.arange(stop, device=DEVICE)
    scores = query.double() @ keys[:, :, :stop].double().transpose(2, 3) * size**-0.5
    if slopes is not None:
        scores = scores + slopes.double()[:, None, None] * (seen - place[:, None])
    visible = (seen <= place[:, None]) & (seen >= firsts[:, None, None, None])
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    wanted = (weights @ values[:, :, :stop].double()).transpose(1, 2).reshape(batch * num_new, -1)
    assert close(found, wanted, dtype)


FORMATS = {"7b": "none", "13b": "none", "7b int8": "int8", "13b int4": "int4", "7b LLM.int8": "library"}


@torch.inference_mode()
@pytest.mark.parametrize("case", FORMATS)
@pytest.mark.parametrize("batch", [1, 2])
def test_a_whole_step(case: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "LEAST_PROMPT", 1)
    format = FORMATS[case]
    model: Any = tiny_model("7b" if case.startswith("7b") else "13b").to(DEVICE)
    stepped = model  # what a step is to compute
    if format == "library":
        pytest.importorskip("bitsandbytes")
        model.quantize(8)
        stepped = tiny_model("7b").to(DEVICE)
        for name, layer in model.named_modules():
            if type(layer).__name__ == "Linear8bitLt":  # its codes, without the library's rounding of inputs
                weight = layer.weight.data.float() * layer.weight.SCB[:, None] / 127
                stepped.get_submodule(name).weight.data = weight
    elif format != "none":
        model = stepped = in_few_bits(model, format)
    ids = random_ids(batch, 20).to(DEVICE)
    step = GraphModel(model, [0] * batch, State((), is_recorded=False, is_fused=True))
    logits = []
    for taken in (stepped, step):
        cache = new_cache()
        given = {"attention_mask": None, "past_key_values": cache, "use_cache": True}
        first = (model if format == "library" else taken)(input_ids=ids[:, :15], logits_to_keep=1, **given).logits
        logits.append(first)
        for start, stop in ((15, 16), (16, 19), (19, 20)):
            logits.append(taken(input_ids=ids[:, start:stop], logits_to_keep=stop - start, **given).logits)
    assert step._state.failure is None
    assert step._state.is_fused
    assert len(step._state.steps) == 2
    assert all((one - other).abs().max() <= 2e-5 for one, other in zip(logits[:4], logits[4:], strict=True))
