"""Linear layers by bitsandbytes: its numbers, and weights that stay whole through passes, saving, moving, training."""

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baichuan2.errors import QuantizationError
from baichuan2.quantization import bnb

library = pytest.importorskip("bitsandbytes")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HALF = [torch.bfloat16, torch.float16]
# rows and columns of weights: what the fast kernel takes, and what it does not
FITTING = [(64, 64), (128, 192), (192, 320)]
ODD = [(32, 72), (40, 64), (33, 50), (32, 96), (24, 48)]
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 8e-3}  # of a result, relative to its norm

needs_kernel = pytest.mark.skipif(not bnb.has_fast_kernel(), reason="needs a processor with AVX-512 and bfloat16")


class Head(nn.Linear):
    pass


def values(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def net(rows: int = 128, columns: int = 64, dtype: torch.dtype = torch.float32, bias: bool = False) -> Any:
    """Two layers, of which the second goes back to the width of the first."""
    layers = [nn.Linear(columns, rows, bias=bias), nn.Linear(rows, columns, bias=bias)]
    with torch.no_grad():
        for seed, layer in enumerate(layers):
            layer.weight.copy_(values(*layer.weight.shape, seed=seed) * layer.in_features**-0.5)
    return nn.Sequential(*layers).to(dtype).eval()


def quantized(bits: int, *args: Any, **kwargs: Any) -> Any:
    module = net(*args, **kwargs)
    bnb.quantize_linears(module, bits)
    return module


def library_layers(rows: int = 128, columns: int = 64, **options: Any) -> Any:
    """4-bit layers as transformers puts them in place, with `options` of the library."""
    module = net(rows, columns, torch.bfloat16)
    for index, layer in enumerate(module):
        new = library.nn.Linear4bit(layer.in_features, layer.out_features, bias=False, **options)
        kept = {
            name: options[name] for name in ("compress_statistics", "quant_type", "quant_storage") if name in options
        }
        new.weight = library.nn.Params4bit(layer.weight.data, requires_grad=False, module=new, **kept).to("cpu")
        module[index] = new
    return module.eval()


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        found_bytes, wanted_bytes = (each.reshape(-1).view(torch.uint8) for each in (found[name], tensor))
        assert torch.equal(found_bytes, wanted_bytes), name


def dequantized(layer: Any) -> Tensor:
    """The weight (N, K) by looking up its codes one by one, in float32, then rounded to its dtype."""
    state, codes = layer.weight.quant_state, layer.weight.data.view(torch.uint8).reshape(-1)
    scales = state.absmax
    if state.nested:
        scales = library.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    pairs = torch.stack((codes >> 4, codes & 15), dim=1).reshape(-1)[: state.shape.numel()]
    weights = state.code[pairs.long()] * scales.repeat_interleave(state.blocksize)[: len(pairs)]
    return weights.reshape(state.shape).to(state.dtype).float()


def assert_near(found: Tensor, wanted: Tensor, limit: float) -> None:
    difference = ((found.float() - wanted.float()).norm() / wanted.float().norm()).item()
    assert difference <= limit, f"differs by {difference:.3g}"


@torch.no_grad()
def run(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*FITTING, *ODD])
def test_4_bits_are_nf4_with_compressed_scales(shape: tuple[int, int], dtype: torch.dtype) -> None:
    dense = net(*shape, dtype)
    module = quantized(4, *shape, dtype)
    for layer, original in zip(module, dense, strict=True):
        codes, state = library.functional.quantize_4bit(
            original.weight, blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        assert type(layer) is bnb.Linear4bit
        assert not layer.weight.requires_grad
        assert torch.equal(layer.weight, codes)
        assert torch.equal(layer.weight.quant_state.absmax, state.absmax)
        assert torch.equal(layer.weight.quant_state.state2.absmax, state.state2.absmax)
        assert (layer.weight.quant_state.dtype, layer.weight.quant_state.blocksize) == (dtype, 64)
        assert_near(dequantized(layer), original.weight, 0.12)
        by_library = library.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        assert by_library.dtype == dtype
        assert_near(by_library, dequantized(layer), ROUNDING[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*FITTING, *ODD])
def test_8_bits_are_rounded_by_rows(shape: tuple[int, int], dtype: torch.dtype) -> None:
    dense = net(*shape, dtype)
    module = quantized(8, *shape, dtype)
    for layer, original in zip(module, dense, strict=True):
        weight = original.weight.detach().half().float()
        scales = weight.abs().amax(dim=1)
        assert type(layer) is bnb.Linear8bitLt
        assert layer.weight.dtype == torch.int8
        assert torch.equal(layer.weight.SCB, scales)
        assert (layer.weight.float() - weight * 127 / scales[:, None]).abs().max() <= 0.51
        assert (layer.state.threshold, layer.state.has_fp16_weights) == (6.0, False)


@pytest.mark.parametrize("num_rows", [1, 7])
@pytest.mark.filterwarnings("ignore:the fast 4-bit kernel wants:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*FITTING, *ODD])
def test_4_bit_products(shape: tuple[int, int], dtype: torch.dtype, num_rows: int) -> None:
    layer = quantized(4, *shape, dtype)[0]
    x = values(num_rows, shape[1], seed=9, dtype=dtype)
    wanted = x.float() @ dequantized(layer).T
    found = run(layer, x)
    assert found.dtype == dtype
    assert_near(found, wanted, ROUNDING[dtype])
    assert torch.equal(run(layer, x), found)
    assert run(layer, x[:0]).shape == (0, shape[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*FITTING, *ODD])
def test_8_bit_products(shape: tuple[int, int], dtype: torch.dtype) -> None:
    layer = quantized(8, *shape, dtype)[0]
    x = values(7, shape[1], seed=9, dtype=dtype)
    x[:, 3] *= 20  # a column of outliers, which is multiplied in float16
    weight = layer.weight.float() * layer.weight.SCB[:, None] / 127
    found = run(layer, x)
    assert found.dtype == dtype
    assert_near(found, x.float() @ weight.T, 0.01)
    assert torch.equal(run(layer, x), found)


def test_the_outliers_matter() -> None:
    """Without the threshold the column of outliers would take the scale of its rows from all the others."""
    layer = quantized(8, 96, 192)[0]
    x = values(7, 192, seed=9)
    x[:, 3] *= 200
    wanted = x @ (layer.weight.float() * layer.weight.SCB[:, None] / 127).T
    assert_near(run(layer, x), wanted, 0.01)
    rest = x.clone()
    rest[:, 3] = 0
    layer.state.threshold = 0.0
    error = run(layer, x) - wanted
    assert error.norm() > 0.1 * (rest @ (layer.weight.float() * layer.state.SCB[:, None] / 127).T).norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [8, 4])
def test_biases_stay(bits: int, dtype: torch.dtype) -> None:
    dense = net(dtype=dtype, bias=True)
    module = copy.deepcopy(dense)
    bnb.quantize_linears(module, bits)
    x = values(3, 64, seed=9, dtype=dtype)
    assert torch.equal(module[0].bias, dense[0].bias)
    without = quantized(bits, dtype=dtype)
    assert dense[0].bias.abs().max() > 0.05
    assert_near(run(module[0], x), run(without[0], x) + dense[0].bias, ROUNDING[dtype])


OPTIONS = {
    "double": {"compress_statistics": True, "quant_type": "nf4"},
    "single": {"compress_statistics": False, "quant_type": "nf4"},
    "fp4": {"compress_statistics": False, "quant_type": "fp4"},
    "stored as bfloat16": {"compress_statistics": True, "quant_type": "nf4", "quant_storage": torch.bfloat16},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_pass_leaves_the_weights_whole(kind: str) -> None:
    """On processors with the fast kernel the library saves garbage here, or scales that were rounded."""
    module = library_layers(**OPTIONS[kind])
    before = tensors(module)
    weights = [dequantized(layer) for layer in module]
    bnb.mend_linears(module)
    x = values(2, 64, seed=9, dtype=torch.bfloat16)
    first = run(module, x)
    for _ in range(2):
        assert module[0]._is_packed() is bnb.has_fast_kernel()
        assert_same(module.state_dict(), before)
        for layer, weight in zip(module, weights, strict=True):
            assert torch.equal(dequantized(layer), weight)
        assert torch.equal(run(module, x), first)


def pickled(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
@pytest.mark.parametrize("bits", [8, 4])
def test_copies_after_a_pass(bits: int, duplicate: Callable[[nn.Module], nn.Module]) -> None:
    module = quantized(bits, dtype=torch.bfloat16)
    before = tensors(module)
    x = values(2, 64, seed=9, dtype=torch.bfloat16)
    wanted = run(module, x)
    double = duplicate(module)
    assert torch.equal(run(double, x), wanted)
    assert_same(tensors(double), before)
    assert_same(tensors(module), before)


def test_what_moves_is_the_layout_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own layers arrive on a GPU in the order of the processor's kernel when they go by `.to`."""
    module = quantized(4, dtype=torch.bfloat16)
    codes = module[0].weight.data.clone()
    run(module, values(2, 64, dtype=torch.bfloat16))
    seen = []

    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((self.data.clone(), getattr(self.quant_state, "packing_format_for_cpu", False)))
        return self

    monkeypatch.setattr(library.nn.Params4bit, "to", to)
    module.to("cpu")
    assert torch.equal(seen[0][0], codes)
    assert [packed for _, packed in seen] == [False, False]


@pytest.mark.parametrize("is_used", [False, True])
def test_8_bit_codes_follow_the_weight(is_used: bool) -> None:
    layer = quantized(8)[0]
    x = values(2, 64)
    if is_used:
        run(layer, x)
    moved = nn.Sequential(layer)._apply(lambda tensor: tensor.data.clone())[0]
    holder = moved.state if is_used else moved.weight
    assert holder.CB.data_ptr() == moved.weight.data_ptr()
    assert torch.equal(run(moved, x), run(quantized(8)[0], x))


@pytest.mark.gpu
@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("move", [lambda module: module.cuda(), lambda module: module.to("cuda:0")])
@pytest.mark.parametrize("bits", [8, 4])
def test_moving_to_a_gpu_and_back(bits: int, move: Callable[[Any], Any], is_used: bool) -> None:
    module = quantized(bits, dtype=torch.float16)
    before = tensors(module)
    x = values(2, 64, seed=9, dtype=torch.float16)
    wanted = run(module, x)
    if not is_used:
        module = quantized(bits, dtype=torch.float16)
    module = move(module)
    assert_near(run(module, x.cuda()).cpu(), wanted, 0.01)
    assert_same({name: tensor.cpu() for name, tensor in module.state_dict().items()}, before)
    assert torch.equal(run(module.cpu(), x), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [8, 4])
def test_quantising_on_a_gpu(bits: int) -> None:
    module = net(dtype=torch.float16).cuda()
    bnb.quantize_linears(module, bits)
    assert {tensor.device.type for tensor in module.parameters()} == {"cuda"}
    x = values(2, 64, seed=9, dtype=torch.float16)
    assert_near(run(module, x.cuda()).cpu(), run(quantized(bits, dtype=torch.float16), x), 0.02)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [8, 4])
def test_gradients_after_a_pass(bits: int, dtype: torch.dtype) -> None:
    """The kernel for inference has no gradients; the library would go on using it."""

    def gradient(is_used: bool) -> Tensor:
        module = quantized(bits, dtype=dtype)
        if is_used:
            run(module, values(2, 64, dtype=dtype))
        x = values(2, 64, seed=9, dtype=dtype).requires_grad_()
        module.train()(x).square().sum().backward()
        assert x.grad is not None
        return x.grad

    assert gradient(False).abs().max() > 0
    assert torch.equal(gradient(True), gradient(False))


@needs_kernel
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("shape", ODD)
def test_sizes_that_the_kernel_cannot_take(shape: tuple[int, int], dtype: torch.dtype) -> None:
    module = quantized(4, *shape, dtype)
    x = values(3, shape[1], seed=9, dtype=dtype)
    again = nn.Sequential(*module, *module, *module)
    with pytest.warns(UserWarning, match="will be dequantised at each pass instead") as caught:
        run(again, x)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "\n" not in message
    name, layer = next((name, layer) for name, layer in module.named_modules() if name and not layer._fits_kernel())
    assert f": {name} ({layer.in_features} in, {layer.out_features} out)" in message


def test_no_warning_where_nothing_is_slower() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(quantized(4, *ODD[0]), values(2, ODD[0][1]))
        run(quantized(4, *FITTING[0], torch.bfloat16), values(2, FITTING[0][1], dtype=torch.bfloat16))


def test_the_library_says_nothing_at_each_pass(caplog: pytest.LogCaptureFixture) -> None:
    for bits in (8, 4):
        for dtype in DTYPES:
            run(quantized(bits, dtype=dtype), values(1, 64, dtype=dtype))
    assert caplog.messages == []


def test_which_layers_are_replaced() -> None:
    module = nn.ModuleDict({"first": net()[0], "kept": net()[0], "head": Head(64, 128), "words": nn.Embedding(9, 64)})
    module["first"].train()
    assert bnb.quantize_linears(module, 4, keep=["kept"]) == ["first"]
    assert [type(layer) for layer in module.values()] == [bnb.Linear4bit, nn.Linear, Head, nn.Embedding]
    assert module["first"].training


def test_mending_keeps_objects_and_weights() -> None:
    module = library_layers(**OPTIONS["single"])
    before, layers = tensors(module), list(module)
    bnb.mend_linears(module)
    assert all(new is old for new, old in zip(module, layers, strict=True))
    assert_same(tensors(module), before)
    assert isinstance(module[0], library.nn.Linear4bit)  # adapters and the framework look for it


def test_the_same_weights_give_the_same_codes() -> None:
    for bits in (8, 4):
        assert_same(tensors(quantized(bits)), tensors(quantized(bits)))


def test_weights_that_others_hold_survive() -> None:
    module = net(512, 512)
    weight = module[0].weight
    wanted = weight.detach().clone()
    bnb.quantize_linears(module, 4)
    assert torch.equal(weight, wanted)


@pytest.mark.parametrize("bits", [16, 3, 0, True, "4", 4.5, None])
def test_other_bits(bits: Any) -> None:
    module = net()
    with pytest.raises(QuantizationError, match="to 8 or 4 bits, got") as caught:
        bnb.quantize_linears(module, bits)
    assert isinstance(caught.value, ValueError)
    assert type(module[0]) is nn.Linear


def test_weights_that_cannot_be_quantised() -> None:
    module = net()
    module[1].to("meta")
    with pytest.raises(QuantizationError, match="1 is not in memory but offloaded"):
        bnb.quantize_linears(module, 4)
    assert type(module[0]) is nn.Linear
    with pytest.raises(QuantizationError, match=r"0: only float32.* got torch\.float64"):
        bnb.quantize_linears(net().double(), 8)
    with pytest.raises(QuantizationError, match="no linear layer to quantise"):
        bnb.quantize_linears(quantized(4), 4)
