"""Buffers that keep their numbers when the model around them is cast.

`model.half()` and `model.to(dtype)` cast buffers like weights. Scales and codes must stay what stands in the file;
rotary frequencies and ALiBi slopes are multiplied by positions, in the thousands: rounded to bfloat16 first, they would
be off by whole positions.
"""

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn

__all__ = ["UncastBuffers"]


class UncastBuffers(nn.Module):
    """A module whose own buffers move between devices with the model, but are never rounded."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `half`, `cuda` and their kin call; a cast is undone from the values of before."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, values in before.items():
            after = getattr(self, name)
            if after.dtype != values.dtype:
                setattr(self, name, values.to(after.device))
        return self
