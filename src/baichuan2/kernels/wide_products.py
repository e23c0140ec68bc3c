"""Products of half-precision numbers in float32, for processors that multiply only those fast.

Without AVX-512 BF16 or a matrix unit torch's own products in bfloat16 and float16 run at a sixth of the speed of
float32 (AMD Zen 3, torch 2.13: 8 to 11 beside 58 GFLOP/s a core). Both sum in float32 and round the result once, so
nothing but the order of a sum differs. A weight is widened a block at a time, which pays for many rows of inputs alone.
"""

import platform
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["WideProducts", "multiplies_half_slowly"]

LEAST_ROWS = 16  # below, widening the weight costs more than it saves
WIDENED_AT_A_TIME = 1 << 22  # weights
HALF = (torch.bfloat16, torch.float16)
PRODUCTS: dict[Callable[..., Any], int] = {F.scaled_dot_product_attention: 3, Tensor.matmul: 2, torch.matmul: 2}
"""Functions that multiply their first arguments, and how many these are."""


def multiplies_half_slowly(dtype: torch.dtype) -> bool:
    """Whether torch's products in `dtype` on this processor are slower than in float32."""
    if dtype not in HALF or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    is_bfloat16 = dtype == torch.bfloat16
    names = ["_is_avx512_bf16_supported", "_is_amx_tile_supported"] if is_bfloat16 else ["_is_amx_fp16_supported"]
    return not any(getattr(torch.cpu, name, bool)() for name in names)


class WideProducts(TorchFunctionMode):
    """Inside, products and attention of half-precision tensors on such a processor are computed in float32.

    Results are in the number format that they have without, rounded once.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and not kwargs and args[2:] in ((), (None,)) and _suits(*args[:2]):
            return _linear(*args[:2])
        num_products = PRODUCTS.get(func, 0)
        if num_products and _suits(*args[:num_products]):
            wide = (part.float() for part in args[:num_products])
            return func(*wide, *args[num_products:], **kwargs).to(args[0].dtype)
        return func(*args, **kwargs)


def _suits(inputs: Tensor, *others: Tensor) -> bool:
    tensors = (inputs, *others)
    if any(part.device.type != "cpu" or part.dtype != inputs.dtype for part in tensors):
        return False
    return inputs.shape[:-1].numel() >= LEAST_ROWS and multiplies_half_slowly(inputs.dtype)


def _linear(inputs: Tensor, weight: Tensor) -> Tensor:
    """`inputs` (..., K) times `weight` (N, K): (..., N)."""
    wide = inputs.float()
    result = inputs.new_empty(*inputs.shape[:-1], weight.shape[0])
    step = max(1, WIDENED_AT_A_TIME // weight.shape[1])
    for start in range(0, weight.shape[0], step):
        rows = slice(start, start + step)
        result[..., rows] = F.linear(wide, weight[rows].float())
    return result
