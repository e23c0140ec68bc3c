"""The operators `torch.ops.baichuan2.multiply_*`: sound for torch, right for any numbers, closed to wrong arguments."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from baichuan2.kernels import products
from baichuan2.quantization.nf4 import quantize_nf4
from tests.kernels.weights import CODEBOOK, FORMATS, OPERATORS, Stored, as_met, num_groups, of_nf4, stored, tolerance

pytestmark = pytest.mark.skipif(not products.is_available(), reason="the library of kernels is not built here")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NUM_LEVELS = 1 if products.instructions() is None else 1 + products.INSTRUCTIONS.index(products.instructions())
BAD = (math.nan, math.inf, -math.inf)
levels = st.integers(0, NUM_LEVELS - 1)


def random_inputs(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def at_level(level: int, weight: Stored, inputs: Tensor) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_limit", lambda: level)
        return weight.times(inputs)


def of_flushed(inputs: Tensor, weight: Stored) -> Tensor | float:
    """What subnormal inputs add to the product, which AVX-512 BF16 and AMX by their definition take for zeros."""
    if products.INSTRUCTIONS.index("AVX-512 BF16") >= NUM_LEVELS or inputs.dtype != torch.bfloat16:
        return 0.0
    magnitudes = inputs.double().abs()
    is_subnormal = magnitudes < torch.finfo(torch.bfloat16).tiny
    return torch.where(is_subnormal, magnitudes, 0.0) @ weight.dense.abs().T


def check(result: Tensor, inputs: Tensor, weight: Stored, level: int = NUM_LEVELS - 1) -> None:
    """`result` (M, N) is the product where it is a number; no number where the product is none."""
    assert (result.dtype, result.shape) == (inputs.dtype, (*inputs.shape[:-1], weight.dense.shape[0]))
    weight = replace(weight, dense=as_met(weight.dense, inputs, products.INSTRUCTIONS[level]))
    exact, found = inputs.double() @ weight.dense.T, result.double()
    is_number = exact.isfinite()
    assert not found[~is_number].isfinite().any()
    is_same = ~exact.isinf() | (found == exact) | found.isnan()  # infinite scales of both signs meet in other order
    assert is_same.all()
    # what rounds beyond the largest number of the dtype may be infinite
    is_large = exact.abs() > torch.finfo(inputs.dtype).max * (1 - 2**-8)
    is_close = (found - exact).abs() <= tolerance(inputs, weight) + of_flushed(inputs, weight)
    assert (is_close | ~is_number | (is_large & (found.sign() == exact.sign()))).all()


# --- numbers


hostile = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-40, 1e-30, 1.0, -3.0, 1e4, 1e25, -1e30])
hostile_scales = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 2.0**-24, -(2.0**-15), 1.0, 65504.0])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    levels,
    st.sampled_from(FORMATS[:7]),
    st.integers(1, 70),
    st.integers(1, 9),
    st.integers(1, 200),
    st.sampled_from(DTYPES),
    st.dictionaries(st.tuples(st.integers(0, 69), st.integers(0, 199)), hostile, max_size=4),
    st.dictionaries(st.tuples(st.integers(0, 8), st.integers(0, 6)), hostile_scales, max_size=4),
)
@example(NUM_LEVELS - 1, "int8 g0", 1, 1, 1, torch.bfloat16, {(0, 0): 1e-40}, {(0, 0): 65504.0})
def test_any_number_may_be_among_inputs_and_scales(
    level: int,
    name: str,
    rows: int,
    outputs: int,
    width: int,
    dtype: torch.dtype,
    numbers: dict[tuple[int, int], float],
    of_scales: dict[tuple[int, int], float],
) -> None:
    inputs = random_inputs(rows, width, dtype=dtype, seed=width)
    for (row, column), value in numbers.items():
        inputs[row % rows, column % width] = value
    scales = random_inputs(outputs, num_groups(name, width), dtype=torch.float16)
    for (row, column), value in of_scales.items():
        scales[row % outputs, column % scales.shape[1]] = value
    weight = stored(name, outputs, width, scales=scales)
    check(at_level(level, weight, inputs), inputs, weight, level)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    levels,
    st.booleans(),
    st.integers(1, 70),
    st.integers(1, 9),
    st.integers(1, 6),
    st.sampled_from(DTYPES),
    st.dictionaries(st.tuples(st.integers(0, 69), st.integers(0, 383)), hostile, max_size=4),
    st.dictionaries(st.integers(0, 53), st.sampled_from([*BAD, 0.0, 1e-40, 1e6, -1e6]), max_size=2),
)
def test_any_number_may_be_among_inputs_and_scales_of_nf4(
    level: int,
    is_double: bool,
    rows: int,
    outputs: int,
    blocks: int,
    dtype: torch.dtype,
    numbers: dict[tuple[int, int], float],
    of_scales: dict[int, float],
) -> None:
    inputs = random_inputs(rows, 64 * blocks, dtype=dtype, seed=blocks)
    for (row, column), value in numbers.items():
        inputs[row % rows, column % inputs.shape[1]] = value
    four = quantize_nf4(random_inputs(outputs, 64 * blocks), double=is_double)
    scales = four.nested_absmax if is_double else four.absmax
    assert scales is not None
    for index, value in of_scales.items():
        scales[index % len(scales)] = value
    weight = of_nf4("nf4", four)
    check(at_level(level, weight, inputs), inputs, weight, level)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_number_of_rows(name: str, dtype: torch.dtype) -> None:
    weight = stored(name, 5, 192)
    for rows in range(1, 71):
        inputs = random_inputs(rows, 192, dtype=dtype, seed=rows)
        check(weight.times(inputs), inputs, weight)


@pytest.mark.parametrize("name", FORMATS)
def test_the_largest_inputs(name: str) -> None:
    """Up to 2^100, a sum times a scale stays far from the end of float32."""
    weight = stored(
        name, 3, 128, scales=None if name.startswith("nf4") else torch.ones(3, num_groups(name, 128)).half()
    )
    inputs = random_inputs(4, 128) * 2.0**100
    for level in range(NUM_LEVELS):
        check(at_level(level, weight, inputs), inputs, weight, level)


# --- places in memory


def moved(part: object, offset: int) -> object:
    """A tensor's values at an address that is off a multiple of the element by `offset` bytes; others as they are."""
    if not isinstance(part, Tensor):
        return part
    raw = part.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
    buffer = bytearray(64 + offset) + raw
    start = 64 + offset
    return torch.frombuffer(buffer, dtype=part.dtype, offset=start, count=part.numel()).view(part.shape)


@pytest.mark.parametrize("offset", [1, 2, 3, 31])
@pytest.mark.parametrize("name", FORMATS)
def test_addresses_need_no_alignment(name: str, offset: int) -> None:
    weight = stored(name, 7, 192)
    for dtype, level in itertools.product(DTYPES, range(NUM_LEVELS)):
        inputs = random_inputs(3, 192, dtype=dtype)
        displaced = weight.multiply(moved(inputs, offset), *(moved(part, offset) for part in weight.parts))
        assert torch.equal(displaced, weight.times(inputs))
        assert torch.equal(at_level(level, weight, moved(inputs, offset)), at_level(level, weight, inputs))


@pytest.mark.parametrize("name", FORMATS)
def test_inputs_of_any_strides(name: str) -> None:
    weight = stored(name, 7, 192)
    full = random_inputs(8, 2, 400)
    wanted = weight.times(full[:, :, 3:195].contiguous())
    assert torch.equal(weight.times(full[:, :, 3:195]), wanted)
    assert torch.equal(weight.times(full[:, 1, 3:195]), wanted[:, 1])
    spread = random_inputs(192, 3).T
    assert torch.equal(weight.times(spread), weight.times(spread.contiguous()))
    assert torch.equal(weight.times(full[0, 0, 3:4].expand(2, 192)), weight.times(full[0, 0, 3:4].repeat(2, 192)))
    negated = torch.complex(full, full).conj().imag[0, :, :192]
    assert torch.equal(weight.times(negated), -weight.times(full[0, :, :192]))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 5)])
def test_no_rows(name: str, shape: tuple[int, ...]) -> None:
    result = stored(name, 7, 128).times(torch.ones(*shape, 128, dtype=torch.bfloat16))
    assert (result.shape, result.dtype) == ((*shape, 7), torch.bfloat16)


def test_no_outputs_and_no_inputs() -> None:
    inputs, none = torch.ones(2, 64), torch.zeros(0, 1).half()
    assert OPERATORS.multiply_int4(inputs, torch.zeros(0, 32).byte(), none, CODEBOOK, 64).shape == (2, 0)
    assert OPERATORS.multiply_int8(inputs, torch.zeros(0, 64).char(), none, 0).shape == (2, 0)
    nothing = torch.ones(2, 0)
    sums = OPERATORS.multiply_int4(nothing, torch.zeros(3, 0).byte(), torch.zeros(3, 0).half(), CODEBOOK, 64)
    assert torch.equal(sums, torch.zeros(2, 3))
    assert torch.equal(
        OPERATORS.multiply_int8(nothing, torch.zeros(3, 0).char(), torch.ones(3, 1).half(), 0), torch.zeros(2, 3)
    )


# --- torch's own tools


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_finds_the_operators_sound(name: str, dtype: torch.dtype) -> None:
    weight = stored(name, 6, 128)
    for inputs in (random_inputs(2, 128, dtype=dtype), random_inputs(2, 3, 128, dtype=dtype).transpose(0, 1)):
        torch.library.opcheck(weight.multiply, (inputs, *weight.parts))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("device", ["meta", "fake"])
def test_shapes_without_numbers(name: str, device: str) -> None:
    weight, inputs = stored(name, 6, 128), torch.ones(2, 3, 128, dtype=torch.float16)
    if device == "meta":
        parts = [part.to("meta") if isinstance(part, Tensor) else part for part in weight.parts]
        result = weight.multiply(inputs.to("meta"), *parts)
    else:
        with FakeTensorMode() as mode:
            parts = [mode.from_tensor(part) if isinstance(part, Tensor) else part for part in weight.parts]
            result = weight.multiply(mode.from_tensor(inputs), *parts)
    assert (result.shape, result.dtype) == ((2, 3, 6), torch.float16)


class Layers(nn.Module):
    """One layer of each format, and something of torch's own between them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        weights = [stored(name, 64, 64, seed=index) for index, name in enumerate(FORMATS)]
        for weight in weights:
            if weight.name.startswith("nf4"):
                weight.layer.weight_dtype = dtype
        self.layers = nn.ModuleList(weight.layer for weight in weights)
        for layer in self.layers:
            for name, values in layer.named_buffers():
                setattr(layer, name, values.clone())  # export warns of views

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = inputs + nn.functional.normalize(layer(inputs), dim=-1)
        return inputs


def operators_in(graph: torch.fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if "baichuan2" in str(node.target)]


needs_fast = pytest.mark.skipif(NUM_LEVELS == 1, reason="layers do not use plain C")


@needs_fast
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_module_gives_the_same_numbers(dtype: torch.dtype, dynamic: bool) -> None:
    module, graphs = Layers(dtype), []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(module, backend=backend, fullgraph=True, dynamic=dynamic)
    with torch.no_grad():
        for rows in (2, 5):
            inputs = random_inputs(rows, 64, dtype=dtype)
            assert torch.equal(compiled(inputs), module(inputs))
    assert len(operators_in(graphs[0].graph)) == len(FORMATS)
    assert len(graphs) == (1 if dynamic else 2)


@needs_fast
@pytest.mark.slow
def test_a_layer_compiled_by_inductor_gives_the_same_numbers() -> None:
    layer, inputs = stored("int4 g32", 64, 64).layer, random_inputs(3, 64)
    torch.compiler.reset()
    compiled = torch.compile(lambda rows: layer(rows * 2) + 1, fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(inputs), layer(inputs * 2) + 1, rtol=1e-5, atol=1e-6)


@needs_fast
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_exported_module_gives_the_same_numbers(dtype: torch.dtype, tmp_path: Any) -> None:
    module, inputs = Layers(dtype), random_inputs(3, 64, dtype=dtype)
    rows = torch.export.Dim("rows", min=1, max=32)
    with torch.no_grad():
        exported = torch.export.export(module, (inputs,), dynamic_shapes=({0: rows},))
        assert len(operators_in(exported.graph)) == len(FORMATS)
        torch.export.save(exported, tmp_path / "layers.pt2")
        again = torch.export.load(tmp_path / "layers.pt2").module()
        for count in (1, 3, 17):
            inputs = random_inputs(count, 64, dtype=dtype)
            assert torch.equal(exported.module()(inputs), module(inputs))
            assert torch.equal(again(inputs), module(inputs))


@pytest.mark.parametrize("name", FORMATS)
def test_the_gradient_of_a_layer_is_that_of_the_dense_weight(name: str) -> None:
    weight = stored(name, 6, 128)
    inputs = random_inputs(3, 128).requires_grad_()
    weight.layer(inputs).square().sum().backward()
    wanted = 2 * (inputs.detach().double() @ weight.dense.T) @ weight.dense
    assert inputs.grad is not None
    assert torch.allclose(inputs.grad.double(), wanted, rtol=1e-4, atol=1e-3)
