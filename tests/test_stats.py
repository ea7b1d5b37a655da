"""The intervals and tests: coverage by simulation, exactness, and honesty where there is nothing to estimate from."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis import stats

REPLICATES = 2000
EXAMPLES = 128

# effect of seed, effect of example, mean log-odds: what a design is made of
DESIGNS = [(0.3, 0.5, 0.0), (0.5, 1.0, 1.0), (1.0, 2.0, 0.0), (1.0, 1.0, -1.0)]


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def expected(mean: float, variance: float) -> float:
    """Mean of a logit-normal, by quadrature: what an interval should cover."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    return float((logistic(mean + np.sqrt(variance) * nodes) * weights).sum() / weights.sum())


def two_arms(seeds: int, design: tuple[float, float, float], gap: float, random: np.random.Generator) -> np.ndarray:
    """[2, R, S, E] right or wrong; both arms meet the same examples, and seeds that partly move together."""
    seed, example, mean = design
    shape = (REPLICATES, seeds, EXAMPLES)
    shared = 0.5 * seed * random.standard_normal((*shape[:2], 1)) + example * random.standard_normal(
        (shape[0], 1, EXAMPLES)
    )
    arms = []
    for offset in (0.0, gap):
        own = seed * random.standard_normal((*shape[:2], 1)) + 0.5 * example * random.standard_normal(
            (shape[0], 1, EXAMPLES)
        )
        arms.append(random.random(shape) < logistic(mean + offset + shared + own))
    return np.stack(arms).astype(float)


def coverage(seeds: int, design: tuple[float, float, float], gap: float) -> tuple[float, float]:
    """Share of 95 % intervals that hold the truth: of the difference, and of the second arm's level."""
    random = np.random.default_rng([seeds, int(10 * gap), *(int(100 * abs(x)) for x in design)])
    arms = two_arms(seeds, design, gap, random)
    variance = 1.25 * (design[0] ** 2 + design[1] ** 2)
    levels = [expected(design[2] + offset, variance) for offset in (0.0, gap)]
    difference = stats.difference_interval(arms[0] - arms[1])
    level = stats.level_interval(arms[1])
    held = [
        (i.low <= truth) & (truth <= i.high) for i, truth in ((difference, levels[0] - levels[1]), (level, levels[1]))
    ]
    return float(held[0].mean()), float(held[1].mean())


@pytest.mark.parametrize("seeds", [6, 10])
def test_intervals_cover_what_they_promise_with_many_seeds(seeds: int) -> None:
    for design in DESIGNS:
        difference, level = coverage(seeds, design, 0.7)
        assert 0.925 <= difference <= 0.98, design
        assert 0.925 <= level <= 0.98, design


@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_are_conservative_with_few_seeds(seeds: int) -> None:
    found = np.array([coverage(seeds, design, 0.7) for design in DESIGNS])
    assert found.min() >= 0.94


def test_equal_arms_are_seldom_told_apart_over_a_family_of_tasks() -> None:
    """Holm rejects some task of three exactly when the smallest p is at most 0.05 / 3."""
    random = np.random.default_rng(5)
    rejected = np.zeros(REPLICATES, bool)
    single = []
    for design in DESIGNS[:3]:
        arms = two_arms(6, design, 0.0, random)
        for confidence, note in ((0.95, single.append), (1 - 0.05 / 3, None)):
            interval = stats.difference_interval(arms[0] - arms[1], confidence)
            found = (interval.low > 0) | (interval.high < 0)
            if note:
                note(found.mean())
            else:
                rejected |= found
    assert np.mean(single) <= 0.055
    assert rejected.mean() <= 0.06


def test_more_seeds_and_more_examples_narrow_an_interval() -> None:
    random = np.random.default_rng(0)
    hardness = random.standard_normal(400)

    def width(seeds: int, examples: int) -> float:
        right = logistic(0.5 * random.standard_normal((seeds, 1)) + hardness[:examples]) > random.random(
            (seeds, examples)
        )
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


def test_design_finds_the_difference_that_it_says_it_finds() -> None:
    """At the smallest detectable difference about 80 % of experiments exclude zero; t errs a little."""
    random = np.random.default_rng(11)
    noise = 0.05 * random.standard_normal((REPLICATES, 6, 1)) + 0.4 * random.standard_normal((REPLICATES, 6, EXAMPLES))
    size = np.mean([stats.smallest_detectable_difference(one) for one in noise])
    found = stats.difference_interval(noise + size).low > 0
    assert 0.75 <= found.mean() <= 0.93


def test_wilson() -> None:
    low, high = stats.wilson(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert np.isnan(stats.wilson(0, 0)).all()
