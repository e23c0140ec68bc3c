"""Intervals and tests against published tables, other ways to the same number, and simulation."""

import math
import random

import pytest

from baichuan2.evaluation.statistics import (
    PairCounts,
    difference_interval,
    mcnemar,
    mean_interval,
    wilson,
)


@pytest.mark.parametrize(
    ("num_right", "total", "low", "high"),
    [  # R. G. Newcombe, 1998, Statistics in Medicine 17, 857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(num_right, total, low, high):
    assert wilson(num_right, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_at_none_and_all():
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
    assert wilson(3, 7)[0] == pytest.approx(1 - wilson(4, 7)[1])


def test_the_mean_of_one_subject_is_that_subject():
    assert mean_interval([0.7], [wilson(7, 10)]) == pytest.approx(wilson(7, 10))


def test_with_many_items_the_mean_has_the_variance_of_stratified_sampling():
    counts = [(30_000, 100_000), (45_000, 50_000), (5_000, 80_000)]
    shares = [right / total for right, total in counts]
    low, high = mean_interval(shares, [wilson(*one) for one in counts])
    deviation = (
        math.sqrt(sum(share * (1 - share) / total for share, (_, total) in zip(shares, counts, strict=True))) / 3
    )
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=1e-3)


def test_the_interval_of_a_mean_holds_the_truth_nineteen_times_of_twenty():
    generator = random.Random(3)
    truth, sizes, rounds = [0.3, 0.6, 0.9, 0.25], [20, 12, 25, 21], 1500
    held = 0
    for _ in range(rounds):
        right = [sum(generator.random() < p for _ in range(size)) for p, size in zip(truth, sizes, strict=True)]
        pairs = list(zip(right, sizes, strict=True))
        low, high = mean_interval([one / size for one, size in pairs], [wilson(*pair) for pair in pairs])
        held += low <= sum(truth) / 4 <= high
    assert 0.93 <= held / rounds <= 0.98


@pytest.mark.parametrize(
    ("only_first", "only_second", "expected"),
    [(0, 0, 1.0), (3, 3, 1.0), (0, 5, 2 / 32), (2, 8, 0.109375), (500, 620, 0.00037241375554407185)],
)
def test_mcnemar_is_the_binomial_test(only_first, only_second, expected):
    assert mcnemar(only_first, only_second) == pytest.approx(expected, rel=1e-12)
    assert mcnemar(only_second, only_first) == mcnemar(only_first, only_second)


def test_mcnemar_takes_thousands_of_items():
    assert mcnemar(7000, 7000) == 1.0
    assert 0 < mcnemar(6000, 7000) < 1e-15


def test_a_paired_difference_is_that_of_agresti_and_min():
    # A. Agresti's table of approval ratings: 1,600 people, 150 and 86 of them changed their mind
    part = PairCounts(1600, 86, 150)
    assert part.difference == 0.04
    assert difference_interval([part]) == pytest.approx((0.0211, 0.0589), abs=2e-4)


def test_differences_of_subjects_weigh_the_same():
    parts = [PairCounts(10, 0, 5), PairCounts(1000, 0, 0)]
    low, high = difference_interval(parts)
    assert (low + high) / 2 == pytest.approx(0.25)
