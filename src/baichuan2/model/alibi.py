"""ALiBi positions of the 13B (Press, Smith, Lewis 2022, arXiv 2108.12409): slopes, and the bias block by block.

A real 13B has 40 heads; a bias over 4,096 x 4,096 places would take 2.7 GB. So the bias is never held whole: attention
asks for the rows it works on.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baichuan2.quantization.uncast_buffers import UncastBuffers

# a block of bias rows may take this many bytes in float32, all heads and all padded inputs of a batch together
BLOCK_BYTES = 32 * 2**20
# a key this far away gets no attention from any head: the least slope is 2^-8, scores are below thousands; and times
# any slope it is still a number in float32 and bfloat16
HIDDEN_DISTANCE = -1e30


def alibi_slopes(num_heads: int) -> list[float]:
    """The slope of each of `num_heads` heads, steepest first within each geometric run.

    For a power of two n: 2^(-8/n), 2^(-16/n), ... Otherwise the slopes of the next smaller power of two, then every
    other slope of the next larger one (paper: §3 and its footnote on other head counts).
    """
    power = 2 ** math.floor(math.log2(num_heads))
    start = 2.0 ** (-8.0 / power)
    slopes = [start ** (head + 1) for head in range(power)]
    if power < num_heads:
        slopes += alibi_slopes(2 * power)[0::2][: num_heads - power]
    return slopes


class BaichuanAlibi(UncastBuffers):
    """Holds the slopes as a buffer that moves with the model and is never saved."""

    slopes: Tensor  # (H,) float32

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.register_buffer("slopes", self.compute_slopes(), persistent=False)

    def compute_slopes(self) -> Tensor:
        """The slopes, (H,) float32."""
        return torch.tensor(alibi_slopes(self.num_heads), dtype=torch.float32)


@dataclass(frozen=True)
class AlibiBias:
    """The position bias of one forward pass, made in blocks of query rows.

    `past` is the number of cached keys before the first query row (an int, or a 0-d tensor with a static cache).
    `form` "relative" is slope * (j - i) for query i and key j; "key_index" is slope * j, rounded to `dtype`, as the
    released inference code has it. Both give the same attention in exact arithmetic, as they differ by a constant per
    row (reference: §5).
    """

    slopes: Tensor
    past: int | Tensor
    num_rows: int
    dtype: torch.dtype
    form: Literal["relative", "key_index"]

    def __getitem__(self, place: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        """One element, float32, at (input, head, query row, key): as if this were the whole tensor (B, H, T, S)."""
        _, head, row, key = place
        distance = key - row - self.past if self.form == "relative" else key
        return self.slopes[head] * distance

    def rows_per_block(self, num_keys: int, batch: int = 1) -> int:
        """How many query rows fit into one block over `num_keys` keys, when `batch` inputs have masks of their own."""
        return max(1, BLOCK_BYTES // (4 * batch * self.slopes.numel() * num_keys))

    def block(self, start: int, stop: int, num_keys: int, visible: Tensor | None = None) -> Tensor:
        """The bias of query rows start..stop over the first `num_keys` keys, in `dtype`.

        Shape (1, H, stop - start, num_keys), or (1, H, 1, num_keys) in the form "key_index", which is the same for
        each row. `visible` (B, 1, stop - start, num_keys), boolean: the result has its shape, with H heads, and a value
        that no score outweighs where it is False.
        """
        device = self.slopes.device
        keys = torch.arange(num_keys, device=device, dtype=torch.float32)
        distance = keys[None, :]  # (1, S)
        if self.form == "relative":
            rows = torch.arange(start, stop, device=device, dtype=torch.float32) + self.past
            distance = keys[None, :] - rows[:, None]  # (T, S)
        distance = distance[None, None]  # (1, 1, T or 1, S)
        if visible is not None:
            distance = torch.where(visible, distance, HIDDEN_DISTANCE)
        bias = (self.slopes[:, None, None] * distance).to(self.dtype)
        # rows that see nothing must stay finite, or they would be no numbers after the softmax
        return bias.clamp_min(torch.finfo(self.dtype).min) if self.dtype == torch.float16 else bias
