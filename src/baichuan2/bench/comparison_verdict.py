"""What a comparison means: how far two models are apart, in four classes, and what the figures say of the cause."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from baichuan2.bench.logit_differences import LogitDifferences
from baichuan2.bench.quality import Quality

__all__ = ["ROUNDING", "Cause", "Level", "Verdict", "coarser", "judge", "judge_replies"]

Level = Literal["identical", "rounding", "close", "different", "same-text", "near-ties"]

ROUNDING = {"float32": 5e-5, "float16": 6e-3, "bfloat16": 4e-2}
"""Up to which relative difference of logits two models are the same to the rounding of that number format.

Three times what it is on tiny and demo models of both position schemes, as deeper models round more often.
"""
CLOSE_KL = 0.1
CLOSE_AGREEMENT = 0.8
CLOSE_LOGPROB = 0.1
FITS = 0.3
"""A way to differ explains a difference when it leaves less than this part of it."""
FIRST = 0.1
"""First tokens count as equal when they differ less than this part of the rest: few bits alone make it 0.2 to 0.6."""
GROWS = 2.0
"""By how much the differences are larger late in a text than early, where they grow; plain rounding makes it 1.2."""
SPREAD = 0.02
"""By so much at least do the lengths of a head's rows differ, where they were not normalised."""


class Parting(Protocol):
    """Where two replies part; see `comparison_replies.Parting`."""

    @property
    def is_near_tie(self) -> bool:
        """Whether rounding alone may have decided."""


@dataclass(frozen=True)
class Cause:
    """What may be behind a difference; `key` names the sentence, `values` fill it in."""

    key: str
    values: dict[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """How far apart, and why. `number_format`: whose rounding explains the difference, with level "rounding"."""

    level: Level
    number_format: str | None
    causes: tuple[Cause, ...]


def coarser(left: str, right: str) -> str:
    """The one of two number formats that rounds more."""
    return max(left, right, key=lambda name: ROUNDING.get(name, 0.0))


def judge(
    differences: LogitDifferences,
    quality: Quality,
    partings: Sequence[Parting],
    *,
    number_format: str,
    few_bits: tuple[str, ...],
) -> Verdict:
    """The class of a difference in logits, and its likely causes.

    `partings`: where greedy replies part. `number_format`: the coarser one of those that A and B compute in.
    `few_bits`: the formats of sides whose weights are held in few bits.
    """
    # logits come from whole texts, replies from one token after the other: a program may do the one well only
    is_clear = any(not parting.is_near_tie for parting in partings)
    decoding = (Cause("decoding"),) if is_clear else ()
    if differences.is_bitwise:
        return Verdict("identical", None, decoding)
    for name in ("float32",) if few_bits else ("float32", number_format):
        if differences.relative <= ROUNDING.get(name, 0.0):
            grows = (Cause("positions-grow"),) if _grows(differences) else ()
            return Verdict("rounding", name, decoding or grows)
    is_close = quality.kl_mean <= CLOSE_KL and quality.agreement >= CLOSE_AGREEMENT
    return Verdict("close" if is_close else "different", None, tuple(_causes(differences, number_format, few_bits)))


def judge_replies(
    partings: Sequence[Parting | None], logprob_difference: float | None, *, number_format: str
) -> Verdict:
    """The class of a difference where nothing but greedy replies is known.

    `partings`: of each prompt, None where both replies are the same. `logprob_difference`: mean, where it is known.
    """
    parted = [parting for parting in partings if parting is not None]
    if not parted:
        return Verdict("same-text", None, ())
    if all(parting.is_near_tie for parting in parted):
        return Verdict("near-ties", number_format, ())
    is_close = logprob_difference is not None and logprob_difference <= CLOSE_LOGPROB
    return Verdict("close" if is_close else "different", None, (Cause("served"),))


def _causes(differences: LogitDifferences, number_format: str, few_bits: tuple[str, ...]) -> list[Cause]:
    head = _head_cause(differences)
    if head is not None:
        return [head]
    noise = (
        max(ROUNDING.get(number_format, 0.0), FITS * differences.relative)
        if few_bits
        else ROUNDING.get(number_format, 0.0)
    )
    first = differences.relative_first
    if first is not None and first <= noise and first < FIRST * differences.relative:
        return [Cause("positions-grow" if _grows(differences) else "attention")]
    if few_bits:
        return [Cause("few-bits", {"formats": ", ".join(dict.fromkeys(few_bits))})]
    return [Cause("weights")]


def _grows(differences: LogitDifferences) -> bool:
    early, late = differences.relative_early, differences.relative_late
    return early is not None and late is not None and late > GROWS * early


def _head_cause(differences: LogitDifferences) -> Cause | None:
    left, mean, spread = differences.scaled_relative, differences.scale_mean, differences.scale_spread
    if left is None or mean is None or spread is None or left >= FITS * differences.raw_relative or mean <= 0:
        return None
    if spread < SPREAD:
        return Cause("scale", {"factor": mean})
    correlation = differences.lengths_correlation
    if correlation is not None and correlation > 0.9:
        return Cause("head-b")
    if correlation is not None and correlation < -0.9:
        return Cause("head-a")
    return Cause("head")
