"""Values that codes stand for, and the scale of a group of weights that loses least.

A group is `width` consecutive weights of one row with one scale: weight = scale * value / 128. Everything here works on
groups laid out as (width, ...), one column for each group, so that sums over a group are sums of whole rows.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["UNIT", "Grid", "absmax_scales", "group_errors", "search_scales"]

UNIT = 128.0
"""The value that stands for a whole scale: it keeps float16 scales near the largest weight, far from its subnormals."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The ascending values (L,), float32, that the codes 0 ... L - 1 stand for."""

    values: Tensor

    @cached_property
    def _step(self) -> float | None:
        """The distance between neighbours, where all have the same."""
        steps = self.values.diff()
        return float(steps[0]) if bool((steps == steps[0]).all()) else None

    @cached_property
    def _borders(self) -> Tensor:
        return (self.values[1:] + self.values[:-1]) / 2

    @cached_property
    def extreme(self) -> float:
        """The value furthest from 0, which the largest weight of a group is given without a search."""
        return float(max(self.values[0], self.values[-1], key=abs))

    def nearest(self, scaled: Tensor) -> Tensor:
        """The codes of the values nearest to `scaled`, int64 of its shape."""
        if self._step is None:
            return torch.bucketize(scaled, self._borders)
        codes = ((scaled - self.values[0]) / self._step).round_()
        return codes.clamp_(0, len(self.values) - 1).long()

    def round(self, scaled: Tensor) -> Tensor:
        """The values nearest to `scaled`, float32 of its shape."""
        if self._step is None:
            return self.values[torch.bucketize(scaled, self._borders)]
        first, last = float(self.values[0]), float(self.values[-1])
        return ((scaled - first) / self._step).round_().mul_(self._step).add_(first).clamp_(first, last)


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
    return scales.half().float()


def search_scales(
    groups: Tensor, grid: Grid, importance: Tensor, factors: Tensor, start: Tensor | None = None
) -> Tensor:
    """Scales (...) with the least sum of importance * error² among those tried, for `groups` (width, ...).

    For the codes that a tried scale leads to, the best scale is known: minimising sum h (w - s v)² over s gives
    s = sum h w v / sum h v², and lowers the error from sum h w² by (sum h w v)² / sum h v². So each of `factors` times
    the absmax scale proposes codes, and the largest such reduction wins. Never worse than absmax scales, nor than
    `start` (...). `importance` broadcasts to `groups`. The result holds float16 numbers in float32.
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
    for known in (base,) if start is None else (base, start):
        is_worse = group_errors(groups, best, grid, importance) > group_errors(groups, known, grid, importance)
        best = torch.where(is_worse, known, best)
    return best
