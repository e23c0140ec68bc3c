"""NF4 layers through bitsandbytes, as on an accelerator: the library's product on the processor, and on a GPU."""

import copy
import pickle
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from baichuan2.quantization import linear
from baichuan2.quantization.linear import NF4Linear
from baichuan2.quantization.nf4 import dequantize_nf4, quantize_nf4

pytest.importorskip("bitsandbytes")
from baichuan2.quantization.bnb import nf4_product

SHAPES = [(96, 128), (64, 64), (1, 256), (320, 192)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 0.01, torch.float16: 0.002}


def weight(shape: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def inputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def assert_close(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    assert found.shape == wanted.shape
    assert ((found.float() - wanted.float()).norm() / wanted.float().norm()).item() < TOLERANCES[dtype]


@pytest.fixture
def through_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Layers on the processor take the way of those on an accelerator."""
    make = linear._library_nf4
    make.cache_clear()
    monkeypatch.setattr(NF4Linear, "_suits_library", lambda self, _: self.in_features % 64 == 0)
    yield
    make.cache_clear()


@pytest.mark.parametrize("is_double", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_librarys_product_is_that_with_the_dequantised_weight(
    shape: tuple[int, int], dtype: torch.dtype, is_double: bool
) -> None:
    stored = quantize_nf4(weight(shape).to(dtype), double=is_double)
    multiply = nf4_product(stored)
    dense = dequantize_nf4(stored, dtype).float()
    for leading in ((), (1,), (5,), (2, 1), (2, 70), (0,)):
        values = inputs(*leading, shape[1]).to(dtype)
        wanted = nn.functional.linear(values.float(), dense)
        found = multiply(values)
        if values.numel() == 0:
            assert (found.shape, found.dtype) == (wanted.shape, dtype)
        else:
            assert_close(found, wanted, dtype)


def test_it_holds_no_copies() -> None:
    stored = quantize_nf4(weight((96, 128)).bfloat16())
    multiply = nf4_product(stored)
    before = multiply(inputs(3, 128))
    stored.codes.copy_(stored.codes.flip(0))
    assert not torch.equal(multiply(inputs(3, 128)), before)


def test_layers_make_it_once_and_again_after_a_change(through_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(linear, "_library_nf4", lambda: lambda stored: made.append(stored) or nf4_product(stored))
    layer = NF4Linear.from_tensor(quantize_nf4(weight((96, 128))))
    values = inputs(3, 128)

    def assert_right() -> None:
        assert torch.allclose(layer(values), nn.functional.linear(values, layer.dequantize()), atol=1e-6)

    for _ in range(3):
        assert_right()
    assert len(made) == 1
    other = NF4Linear.from_tensor(quantize_nf4(weight((96, 128), seed=5)))
    layer.load_state_dict(other.state_dict(), assign=True)
    assert_right()
    assert torch.equal(layer(values), other(values))
    num_made = len(made)
    layer.to("cpu")
    assert layer._product is None  # else the memory of a device that was left would stay taken
    assert_right()
    assert len(made) == num_made + 1
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert clone._product is None
        assert torch.equal(clone(values), layer(values))


def test_gradients_reach_the_inputs(through_library: None) -> None:
    layer = NF4Linear.from_tensor(quantize_nf4(weight((96, 128))))
    values = inputs(4, 128).requires_grad_()
    layer(values).sum().backward()
    assert values.grad is not None
    assert torch.allclose(values.grad, torch.ones(4, 96) @ layer.dequantize(), atol=1e-5)


def test_ragged_rows_and_a_missing_library_take_the_plain_way(
    through_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ragged = NF4Linear.from_tensor(quantize_nf4(weight((32, 96))))
    whole = NF4Linear.from_tensor(quantize_nf4(weight((32, 128))))
    monkeypatch.delitem(sys.modules, "baichuan2.quantization.bnb")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for layer in (ragged, whole):
        values = inputs(3, layer.in_features)
        wanted = nn.functional.linear(values, layer.dequantize())
        assert torch.allclose(layer(values), wanted, atol=1e-6)
        assert layer._product is None


def test_the_processor_takes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_library_nf4", lambda: pytest.fail("the library was asked"))
    NF4Linear.from_tensor(quantize_nf4(weight((32, 128))))(inputs(3, 128))


@pytest.mark.gpu
@pytest.mark.parametrize("is_double", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_on_a_gpu(shape: tuple[int, int], dtype: torch.dtype, is_double: bool) -> None:
    layer = NF4Linear.from_tensor(quantize_nf4(weight(shape).to(dtype), double=is_double))
    dense = layer.dequantize()
    layer.cuda()
    for leading in ((1,), (5,), (2, 70)):
        values = inputs(*leading, shape[1]).to(dtype)
        found = layer(values.cuda())
        assert found.is_cuda
        assert_close(found.cpu(), nn.functional.linear(values.float(), dense), dtype)
    assert layer._product is not None
    values = inputs(4, shape[1]).to(dtype).cuda().requires_grad_()
    layer(values).sum().backward()
    assert values.grad is not None
    assert_close(values.grad.cpu(), (torch.ones(4, shape[0]) @ dense), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("width", [96, 128])
def test_ragged_rows_on_a_gpu(width: int) -> None:
    layer = NF4Linear.from_tensor(quantize_nf4(weight((32, width)).half()))
    wanted = layer(inputs(3, width).half())
    assert_close(layer.cuda()(inputs(3, width).half().cuda()).cpu(), wanted, torch.float16)
    assert (layer._product is None) == (width == 96)
