"""Keys and values in 8 bits: half the memory and, over a long context, half the time of attention.

Each token of each head has its own scale, so a new token never changes what is stored. The step in C writes and reads
the same numbers (native/attention.h): change both.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from baichuan2.engine.cache import GrowingLayer

__all__ = ["LAYERS", "Int8Layer"]

MOST = 127.0
TINY = 2.0**-100
"""Of a token whose numbers are all smaller the codes are zeros: the factor of yet smaller ones would be infinite."""


class Int8Layer(GrowingLayer):
    """A layer whose parts are codes, int8 (B, H, capacity, D), and scales, float32 (B, H, capacity, 1).

    A number is its code times its scale, the largest magnitude of the token's head / 127.
    """

    def _split(self, states: Tensor) -> tuple[Tensor, ...]:
        wide = states.float()
        most = wide.abs().amax(dim=-1, keepdim=True)  # (B, H, T, 1)
        # a multiplication, as in C; where all are zero or tiny the factor is zero
        factors = torch.where(most >= TINY, MOST / most, 0.0)
        return (wide * factors).round().to(torch.int8), most / MOST

    def _join(self, parts: Iterable[Tensor]) -> Tensor:
        codes, scales = parts
        return (codes.float() * scales).to(self.dtype)


LAYERS: dict[str, type[GrowingLayer]] = {"same": GrowingLayer, "int8": Int8Layer}
"""The layers of a cache by the setting `kv_cache`."""
