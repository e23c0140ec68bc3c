"""How the logits of two models differ: how much, and in which of the ways that give a cause away.

Three things can be told from logits alone. A constant added to a whole row changes no probability, so it is taken out.
A head whose rows were not scaled to one length multiplies each token's logit by a factor of its own, the same at all
places. And the first token of a text attends to itself alone, so its logits know neither positions nor the order of
queries and keys.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LogitDifferences", "LogitMeter"]

EARLY = 16
"""Positions after the first that count as early; the late ones are as far away again, four times."""
LEAST_PLACES = 16
"""Places from which a factor for each token can be told."""


@dataclass(frozen=True, kw_only=True)
class LogitDifferences:
    """Logits of B beside those of A, over all places.

    `maximum`, `mean`: of absolute differences. `centred_maximum`, `centred_mean`: the same after the mean of each row
    was taken out of it. `relative`: root mean square of the centred differences beside that of A's centred logits;
    `relative_first`, `relative_early` and `relative_late`: at the first token of texts, at the 16 after it, and from
    position 64 on; None where there are none.
    `raw_relative`: as `relative`, nothing taken out; `scaled_relative`: what is left of it when each token's logits are
    multiplied by the factor that fits best. `scale_spread`: standard deviation of these factors beside their mean;
    `scale_mean`: their mean. None with too few places.
    `lengths_correlation`: of their logarithms with those of the lengths of the head's rows; None where no side has any.
    """

    is_bitwise: bool
    num_places: int
    maximum: float
    mean: float
    centred_maximum: float
    centred_mean: float
    relative: float
    relative_first: float | None
    relative_early: float | None
    relative_late: float | None
    raw_relative: float
    scaled_relative: float | None
    scale_mean: float | None
    scale_spread: float | None
    lengths_correlation: float | None


class LogitMeter:
    """Collects places, in any number of pieces."""

    def __init__(self, vocab_size: int) -> None:
        self._is_bitwise = True
        self._maximum = self._centred_maximum = 0.0
        self._sum = self._centred_sum = 0.0
        self._places: list[Tensor] = []  # (3, n): position, squares of the centred difference, of A's centred logits
        # of each token: squares of A, of B, products
        self._squares = torch.zeros(3, vocab_size, dtype=torch.float64)

    def add(self, a: Tensor, b: Tensor, positions: Tensor) -> None:
        """Adds the logits (n, V) of both at n places; `positions` (n,) from 0."""
        self._is_bitwise = self._is_bitwise and a.dtype == b.dtype and torch.equal(a, b)
        a, b = a.float(), b.float()
        difference = b - a
        self._maximum = max(self._maximum, difference.abs().max().item())
        self._sum += difference.abs().sum(dtype=torch.float64).item()
        centred = difference - difference.mean(-1, keepdim=True)
        self._centred_maximum = max(self._centred_maximum, centred.abs().max().item())
        self._centred_sum += centred.abs().sum(dtype=torch.float64).item()
        squares = [rows.square().sum(-1, dtype=torch.float64) for rows in (centred, a - a.mean(-1, keepdim=True))]
        self._places.append(torch.stack([positions.double(), *squares]))
        products = (a * a, b * b, a * b)
        self._squares += torch.stack([product.sum(0, dtype=torch.float64) for product in products])

    def result(self, head_lengths: Tensor | None = None) -> LogitDifferences:
        """The differences over all places added, at least one; `head_lengths` (V,): of the head's rows of one side."""
        places = torch.cat(self._places, 1)
        count, size = places.shape[1], self._squares.shape[1]
        position = places[0]
        aa, bb, ab = self._squares
        raw = ((aa + bb - 2 * ab).clamp(min=0).sum() / bb.sum()).sqrt().item()
        scales: Tensor | None = None
        scaled: float | None = None
        if count >= LEAST_PLACES:
            scales = ab / aa.clamp(min=1e-30)
            scaled = ((bb - ab * scales).clamp(min=0).sum() / bb.sum()).sqrt().item()
        return LogitDifferences(
            is_bitwise=self._is_bitwise,
            num_places=count,
            maximum=self._maximum,
            mean=self._sum / (count * size),
            centred_maximum=self._centred_maximum,
            centred_mean=self._centred_sum / (count * size),
            relative=_relative(places) or 0.0,
            relative_first=_relative(places[:, position == 0]),
            relative_early=_relative(places[:, (position > 0) & (position <= EARLY)]),
            relative_late=_relative(places[:, position >= 4 * EARLY]),
            raw_relative=raw,
            scaled_relative=scaled,
            scale_mean=None if scales is None else scales.mean().item(),
            scale_spread=None if scales is None else (scales.std() / scales.mean().abs()).item(),
            lengths_correlation=None if scales is None or head_lengths is None else _correlation(scales, head_lengths),
        )


def _relative(places: Tensor) -> float | None:
    if places.shape[1] == 0:
        return None
    return (places[1].sum() / places[2].sum().clamp(min=1e-30)).sqrt().item()


def _correlation(left: Tensor, right: Tensor) -> float | None:
    # of logarithms: a head that was scaled on one side alone gives 1 or -1, whichever side that is
    pair = torch.stack([left.double(), right.double()]).clamp(min=1e-30).log()
    if not bool((pair.std(1) > 0).all()):
        return None
    return torch.corrcoef(pair)[0, 1].item()
