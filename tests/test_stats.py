"""Intervals and tests: exactness, and honesty where there is nothing to estimate from (coverage: test_coverage)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binomtest

from harness.analysis import stats


def test_more_seeds_and_more_examples_narrow_an_interval() -> None:
    random = np.random.default_rng(0)
    hardness = random.standard_normal(400)

    def width(seeds: int, examples: int) -> float:
        right = expit(0.5 * random.standard_normal((seeds, 1)) + hardness[:examples]) > random.random((seeds, examples))
        interval = stats.level_interval(right)
        return float(interval.high - interval.low)

    assert np.mean([width(3, 100) for _ in range(20)]) > np.mean([width(12, 400) for _ in range(20)])


def test_one_seed_has_a_mean_but_no_interval() -> None:
    mean, low, high = stats.level_interval(np.ones((1, 50)))
    assert mean == 1 and np.isnan(low) and np.isnan(high)
    assert np.isnan(stats.difference_p(np.ones((1, 50))))
    assert np.isnan(stats.smallest_detectable_difference(np.ones((1, 50))))


def test_all_right_is_not_certainty() -> None:
    _, low, high = stats.level_interval(np.ones((6, 100)))
    assert stats.wilson(100, 100)[0] == pytest.approx(low, abs=0.02)
    assert low < 0.97 and high == 1
    _, low, high = stats.level_interval(np.zeros((6, 100)))
    assert low == 0 and high > 0.03


def test_identical_answers_leave_a_little_doubt_that_shrinks_with_examples() -> None:
    widths = [np.ptp(stats.difference_interval(np.zeros((6, n)))[1:]) for n in (50, 500, 5000)]
    assert widths[0] > widths[1] > widths[2] > 0


def test_examples_alone_never_give_certainty_about_seeds() -> None:
    """Two seeds that differ by 20 points on a million examples still say little about a third."""
    right = np.zeros((2, 10_000))
    right[0, :4000], right[1, :6000] = 1, 1
    interval = stats.level_interval(right)
    assert interval.high - interval.low > 0.9


def test_p_and_interval_never_disagree() -> None:
    random = np.random.default_rng(3)
    for gap in np.linspace(-0.3, 0.3, 60):
        delta = (random.random((5, 60)) < 0.5 + gap / 2).astype(float) - (random.random((5, 60)) < 0.5 - gap / 2)
        p = stats.difference_p(delta)
        for confidence in (0.9, 0.95, 0.99):
            _, low, high = stats.difference_interval(delta, confidence)
            assert (p <= 1 - confidence) == (low > 0 or high < 0)


def test_p_of_nothing_is_one_and_of_everything_is_tiny() -> None:
    assert stats.difference_p(np.zeros((6, 50))) == 1
    assert 0 < stats.difference_p(np.ones((6, 5000))) < 1e-6


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_sign_flip_counts_every_sign(differences: list[int]) -> None:
    seen = abs(sum(differences))
    flips = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in flips]
    assert stats.sign_flip_test(differences) == pytest.approx(np.mean([total >= seen for total in sums]))


def test_sign_flip_cannot_go_below_its_smallest_p() -> None:
    assert stats.sign_flip_test([0.1, 0.2, 0.3, 0.1, 0.2, 0.4]) == stats.smallest_p(6) == 0.03125
    assert stats.smallest_p(5) > 0.05
    assert stats.sign_flip_test(np.full(20, 0.1)) == stats.smallest_p(20)
    with pytest.raises(ValueError, match="20 seeds"):
        stats.sign_flip_test(np.ones(21))


def test_holm_is_stepwise() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]) == []


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_mcnemar_is_the_exact_binomial_test_of_the_disagreements(only_a: int, only_b: int, both: int) -> None:
    left = np.array([[1] * only_a + [0] * only_b + [1] * both])
    right = np.array([[0] * only_a + [1] * only_b + [1] * both])
    p = stats.mcnemar(left, right)
    assert p.shape == (1,)
    assert p[0] == pytest.approx(binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1)


def test_equivalence_is_two_one_sided_tests() -> None:
    """p ≤ 0.025 exactly where the 95 % interval lies inside the band, p ≤ 0.05 where the 90 % interval does."""
    random = np.random.default_rng(4)
    verdicts = set()
    for shift in np.linspace(-0.06, 0.06, 41):
        delta = random.choice([-1, 0, 1], size=(6, 400), p=[0.05 - shift / 2, 0.9, 0.05 + shift / 2]).astype(float)
        for band in (0.02, 0.05):
            p = stats.equivalence_p(delta, band)
            for level, confidence in ((0.025, 0.95), (0.05, 0.9)):
                _, low, high = stats.difference_interval(delta, confidence)
                assert (p <= level) == (-band < low and high < band)
                verdicts.add(p <= level)
    assert verdicts == {True, False}
    assert stats.equivalence_p(np.ones((6, 50)), 0.01) > 0.99
    assert np.isnan(stats.equivalence_p(np.ones((1, 50)), 0.01))


def test_a_plan_sees_less_with_fewer_seeds_and_nothing_with_one() -> None:
    seen = [stats.planned_difference(seeds, 400) for seeds in (2, 3, 6, 10, 100)]
    assert seen == sorted(seen, reverse=True) and seen[-1] > 0
    assert np.isnan(stats.planned_difference(1, 400)) and np.isnan(stats.planned_difference(6, 1))
    assert stats.planned_difference(6, 4000) < stats.planned_difference(6, 100)


def test_seeds_needed_are_few_for_a_large_difference_and_none_for_no_difference() -> None:
    random = np.random.default_rng(6)

    def needed(shift: float) -> int | None:
        noise = random.choice([-1, 0, 1], size=(5, 300), p=[0.1, 0.8 - shift, 0.1 + shift])
        return stats.seeds_needed(noise)

    large, small = needed(0.5), needed(0.08)
    assert large is not None and large <= 3
    assert small is not None and small > large
    assert stats.seeds_needed(np.zeros((5, 300))) is None
    assert stats.seeds_needed(np.ones((1, 300))) is None


def test_wilson() -> None:
    low, high = stats.wilson(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert np.isnan(stats.wilson(0, 0)).all()
