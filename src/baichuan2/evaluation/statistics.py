"""How sure a score is: intervals of 95 %, and whether two models differ on the same items.

Shares of right answers get Wilson's interval (E. B. Wilson, 1927, JASA 22, 209-212), which stays within 0 and 1 and
holds for few items. Means over subjects join the intervals of the subjects by recovering their variances (G. Y. Zou,
W. Huang, X. Zhang, 2009, Computational Statistics & Data Analysis 53, 1080-1085); with many items that is the variance
of stratified sampling. Differences on the same items: variance of Agresti and Min (2005, Statistics in Medicine 24,
729-740), and McNemar's test in its exact form (Q. McNemar, 1947, Psychometrika 12, 153-157).

They tell how far a score would move with other items of the same kind. Other prompts move it more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Interval", "PairCounts", "difference_interval", "mcnemar", "mean_interval", "scale_of", "wilson"]

Z = 1.959963984540054
"""The normal distribution holds 95 % within so many standard deviations."""
Interval = tuple[float, float]


def scale_of(metric: str) -> float:
    """What makes a score one from 0 to 100: 1 for BLEU, which is one already; 100 for shares, as all others are."""
    return 1.0 if metric == "bleu" else 100.0


def wilson(num_right: int, total: int) -> Interval:
    """Wilson's interval of a share, `num_right` of `total`, which is 1 at least."""
    share, squared = num_right / total, Z * Z
    middle = (share + squared / (2 * total)) / (1 + squared / total)
    half = Z / (1 + squared / total) * math.sqrt(share * (1 - share) / total + squared / (4 * total * total))
    # at the ends the formula gives 0 and 1 but for rounding
    return (0.0 if num_right == 0 else max(0.0, middle - half), 1.0 if num_right == total else min(1.0, middle + half))


def mean_interval(values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """The interval of the plain mean of independent `values` with their `intervals`; one of each at least."""
    count = len(values)
    mean = sum(values) / count
    below = math.sqrt(sum((value - low) ** 2 for value, (low, _) in zip(values, intervals, strict=True))) / count
    above = math.sqrt(sum((high - value) ** 2 for value, (_, high) in zip(values, intervals, strict=True))) / count
    return mean - below, mean + above


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Items that two models answered: how many, and how many only one of them got right."""

    total: int
    only_first: int
    only_second: int

    @property
    def difference(self) -> float:
        """The second's share of right answers less the first's."""
        return (self.only_second - self.only_first) / self.total

    @property
    def variance(self) -> float:
        """That of the difference, with half an item more in each of the four cells, as Agresti and Min do."""
        total, moved, gained = (
            self.total + 2,
            self.only_first + self.only_second + 1,
            self.only_second - self.only_first,
        )
        return (moved - gained * gained / total) / (total * total)


def difference_interval(parts: Sequence[PairCounts]) -> Interval:
    """The interval of the mean difference over `parts`, each of the same weight: subjects, or all items as one part."""
    mean = sum(part.difference for part in parts) / len(parts)
    half = Z * math.sqrt(sum(part.variance for part in parts)) / len(parts)
    return max(-1.0, mean - half), min(1.0, mean + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided exact p-value of McNemar's test: how often chance alone splits the flipped items so unevenly."""
    total, smaller = only_first + only_second, min(only_first, only_second)
    term, below = 1, 0  # whole numbers of any size: nothing is rounded before the division
    for index in range(smaller + 1):
        below += term
        term = term * (total - index) // (index + 1)
    p_value: float = 2 * below / 2**total
    return min(1.0, p_value)
