"""Products of half-precision numbers in float32: rounded once, and none that a processor multiplies fast."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from baichuan2.kernels import wide_products
from baichuan2.kernels.wide_products import WideProducts, multiplies_half_slowly

DTYPES = [torch.bfloat16, torch.float16]
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": lambda inputs, weight: F.linear(inputs, weight),
    "linear without bias": lambda inputs, weight: F.linear(inputs, weight, None),
    "layer": lambda inputs, weight: layer_of(weight)(inputs),
    "operator": lambda inputs, weight: inputs @ weight.T,
    "attention": lambda inputs, weight: F.scaled_dot_product_attention(
        *(part[None, None] for part in (inputs, weight, weight)),
        attn_mask=torch.ones(20, 70, dtype=torch.bool).tril(50),
    ),
}


class Watched(TorchDispatchMode):
    """Notes in which number formats products are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in ("mm", "attention", "linear", "matmul")):
            self.dtypes.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


def layer_of(weight: Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return layer


def operands(dtype: torch.dtype, rows: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(rows, 32, generator=generator).to(dtype),
        torch.randn(70, 32, generator=generator).to(dtype),
    )


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor without such products, and a weight in several blocks."""
    monkeypatch.setattr(wide_products, "multiplies_half_slowly", lambda dtype: dtype in DTYPES)
    monkeypatch.setattr(wide_products, "WIDENED_AT_A_TIME", 32 * 32)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_they_are_float32_rounded_once(dtype: torch.dtype, name: str) -> None:
    product = PRODUCTS[name]
    inputs, weight = operands(dtype)
    with torch.inference_mode(), WideProducts(), Watched() as watched:
        found = product(inputs, weight)
    assert watched.dtypes == {torch.float32}
    assert found.dtype == dtype
    exact = product(inputs.float(), weight.float())
    unit = torch.finfo(dtype).eps * exact.abs().max()
    assert (found.float() - exact).abs().max() <= 0.51 * unit


@pytest.mark.usefixtures("slow")
def test_others_are_left_alone() -> None:
    inputs, weight = operands(torch.bfloat16, rows=3)
    with torch.inference_mode(), WideProducts():
        bias = torch.ones(70, dtype=torch.bfloat16)
        few, biased = F.linear(inputs, weight), F.linear(*operands(torch.bfloat16), bias)
        whole = F.linear(inputs.float(), weight.float())
    assert torch.equal(few, F.linear(inputs, weight))
    assert torch.equal(biased, F.linear(*operands(torch.bfloat16), bias))
    assert whole.dtype == torch.float32


def test_float32_is_never_slow() -> None:
    assert not multiplies_half_slowly(torch.float32)
    assert isinstance(multiplies_half_slowly(torch.bfloat16), bool)
