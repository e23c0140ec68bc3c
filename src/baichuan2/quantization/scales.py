"""Values that codes stand for, and the scale of a group of weights that loses least.

A group is `width` consecutive weights of one row with one scale: weight = scale * value / 128. Everything here works on
groups laid out as (width, ...), one column for each group, so that sums over a group are sums of whole rows.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["UNIT", "Grid", "absmax_scales", "group_errors", "half", "scaled", "search_scales"]

UNIT = 128.0
"""The value that stands for a whole scale: it keeps float16 scales near the largest weight, far from its subnormals."""

TABLE_HALF = 256  # half steps on either side of 0
LARGEST_HALF = 65504.0


@dataclass(frozen=True, eq=False)
class Grid:
    """The ascending whole values (L,), from -128 to 127, that the codes 0 ... L - 1 stand for.

    The borders between neighbours are multiples of 1/2, so a table of half steps knows the nearest value of anything:
    an order of magnitude faster than a binary search.
    """

    values: Tensor

    @cached_property
    def _code_table(self) -> Tensor:
        middles = torch.arange(-TABLE_HALF, TABLE_HALF, device=self.values.device) / 2 + 0.25
        values = self.values.float()
        return torch.bucketize(middles, (values[1:] + values[:-1]) / 2).to(torch.uint8)

    @cached_property
    def _value_table(self) -> Tensor:
        return self.values.float()[self._code_table.int()]

    @cached_property
    def extreme(self) -> float:
        """The value furthest from 0, which the largest weight of a group is given without a search."""
        return float(max(self.values[0], self.values[-1], key=abs))

    def nearest(self, scaled: Tensor) -> Tensor:
        """The codes of the values nearest to `scaled`, uint8 of its shape."""
        return self._code_table.index_select(0, _table_index(scaled)).view(scaled.shape)

    def round(self, scaled: Tensor) -> Tensor:
        """The values nearest to `scaled`, float32 of its shape."""
        return self._value_table.index_select(0, _table_index(scaled)).view(scaled.shape)


def _table_index(scaled: Tensor) -> Tensor:
    index = (scaled * 2).floor_().clamp_(-TABLE_HALF, TABLE_HALF - 1).add_(TABLE_HALF)
    return index.int().reshape(-1)


def scaled(groups: Tensor, scales: Tensor) -> Tensor:
    """`groups` (width, ...) in units of the values, where `scales` (...) is 0: zeros."""
    return groups * torch.where(scales == 0, 0.0, UNIT / scales)


def group_errors(groups: Tensor, scales: Tensor, grid: Grid, importance: Tensor) -> Tensor:
    """The sum of importance * error² over each of `groups` (width, ...), rounded with `scales` (...): (...)."""
    difference = groups - scales * grid.round(scaled(groups, scales)) / UNIT
    return (importance * difference.square_()).sum(0)


def absmax_scales(groups: Tensor, grid: Grid) -> Tensor:
    """Scales (...) that give the largest weight of each of `groups` (width, ...) the extreme value; float16 numbers."""
    largest = groups.gather(0, groups.abs().argmax(0, keepdim=True)).squeeze(0)
    return half(largest * (UNIT / grid.extreme))


def half(scales: Tensor) -> Tensor:
    """`scales` as they will be stored: rounded to float16."""
    return scales.clamp(-LARGEST_HALF, LARGEST_HALF).half().float()


def search_scales(groups: Tensor, grid: Grid, importance: Tensor, factors: Tensor) -> Tensor:
    """Scales (...) with the least sum of importance * error² among those tried, for `groups` (width, ...).

    For the codes that a tried scale leads to, the best scale is known: minimising sum h (w - s v)² over s gives
    s = sum h w v / sum h v², and lowers the error from sum h w² by (sum h w v)² / sum h v². So each of `factors` times
    the absmax scale proposes codes, and the largest such reduction wins. Never worse than absmax scales. `importance`
    broadcasts to `groups`. The result holds float16 numbers in float32.
    """
    base = absmax_scales(groups, grid)
    weighted = groups * importance
    most = torch.zeros_like(base)
    best = base.clone()
    for factor in factors.tolist():
        values = grid.round(scaled(groups, base * factor))
        overlap, size = (weighted * values).sum(0), (importance * values.square()).sum(0)
        reduction = overlap.square() / size.clamp_min(torch.finfo(torch.float32).tiny)
        is_better = reduction > most
        most = torch.where(is_better, reduction, most)
        best = torch.where(is_better, overlap * UNIT / size, best)
    best = half(best)
    is_worse = group_errors(groups, best, grid, importance) > group_errors(groups, base, grid, importance)
    return torch.where(is_worse, base, best)
