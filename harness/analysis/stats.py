"""Intervals and tests for accuracies measured over seeds × examples, where every seed sees the same examples.

Estimand everywhere: the mean over *new* seeds and *new* examples, of which those at hand are random samples.
Seeds and examples are crossed, so neither "n = seeds × examples" nor a bootstrap over one of them is right.

How well it does is measured by simulation: right-or-wrong answers with logit-normal effects of seed (standard deviation
0.3 or 1), of example (1 or 2) and of arm by example (none or 1), levels from 15 % to 87 %, 128 or 400 examples; 24
designs, 3,000 replicates each at 2 and 3 seeds, 8,000 at 6 and 6,000 at 10. Coverage of 95 % intervals and the share of
equal arms told apart, mean over the designs and the extremes (tests/test_coverage.py runs it again):

| seeds | difference of two arms | level | equal arms told apart |
|---|---|---|---|
| 2 | 96.4 % (94.4 to 98.6) | 96.6 % (94.1 to 98.9) | 3.5 %, at most 5.2 % |
| 3 | 96.1 % (94.3 to 98.3) | 96.4 % (94.0 to 98.6) | 4.0 %, at most 5.6 % |
| 6 | 95.7 % (94.6 to 97.2) | 95.7 % (94.7 to 97.0) | 4.2 %, at most 5.0 % |
| 10 | 96.0 % (95.1 to 97.1) | 96.2 % (95.4 to 97.0) | 3.9 %, at most 4.8 % |

(An extreme of 24 shares, each known to ±0.5 points with 8,000 replicates and ±0.8 with 3,000.) A suite gives no verdict
below its `minimum_seeds`. With 41 examples, levels of 98 % or arms that hardly ever disagree, they are conservative
(97 to 100 %).

Where seeds are skewed, differences of two such arms hold, since what is paired is symmetric, and levels do not. With
exponential effects of seeds, tail to the left, in the same 24 designs at 6 seeds: differences 96.4 % (94.8 to 97.6),
equal arms told apart in 3.4 % (at most 5.2 %, ±0.7), levels 94.0 % (86.2 to 98.0). With seeds that either learn a task
or do not, one in four failing: levels over 6 seeds cover 81 % (10 seeds: 94 %), differences 98 % and 96 %. No interval
mends that: a failing seed may not be among the six. The report shows the lowest and the highest seed for that reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Pseudo = tuple[tuple[float, float], ...]

LEVEL_PSEUDO: Pseudo = ((1.0, 2.0), (0.0, 2.0))
"""Two right and two wrong examples (Agresti & Coull 1998), so that "all right" does not mean "certainly always right".

With zero variance at hand the interval becomes Agresti and Coull's for the examples alone, which approximates Wilson's.
"""

DIFFERENCE_PSEUDO: Pseudo = ((1.0, 0.5), (-1.0, 0.5), (0.0, 1.0))
"""Half an example in each cell of the paired 2×2 table (Agresti & Min 2005, Statistics in Medicine 24:729-740)."""


class Interval(NamedTuple):
    """A mean with the ends of its interval; NaN ends where one seed or one example allows none."""

    mean: Floats
    low: Floats
    high: Floats


class MeanSquares(NamedTuple):
    """Two-way analysis of variance without replication, of matrices [..., seeds, examples]."""

    mean: Floats  # [...] with pseudo-examples in it
    seeds: Floats  # [...] expected value: E·σ²_seed + σ²_residual
    examples: Floats  # [...] expected value: S·σ²_example + σ²_residual
    residual: Floats  # [...] expected value: σ²_residual
    n_seeds: int
    n_examples: float


def mean_squares(matrix: ArrayLike, pseudo: Pseudo = ()) -> MeanSquares:
    """Mean squares of matrix [..., S, E], S and E ≥ 2. `pseudo` adds examples (value, weight) that all seeds share."""
    x = np.asarray(matrix, dtype=np.float64)
    weights = np.ones(x.shape[-1])
    if pseudo:
        values, extra = (np.array(part) for part in zip(*pseudo, strict=True))
        x = np.concatenate([x, np.broadcast_to(values, (*x.shape[:-1], len(values)))], axis=-1)
        weights = np.concatenate([weights, extra])
    s, e = x.shape[-2], float(weights.sum())
    by_seed = (x * weights).sum(-1) / e
    by_example = x.mean(-2)
    mean = by_seed.mean(-1)
    ss_seeds = e * ((by_seed - mean[..., None]) ** 2).sum(-1)
    ss_examples = s * (weights * (by_example - mean[..., None]) ** 2).sum(-1)
    ss_total = (weights * (x - mean[..., None, None]) ** 2).sum((-1, -2))
    ss_residual = np.maximum(ss_total - ss_seeds - ss_examples, 0)  # rounding can leave −1e−17
    return MeanSquares(
        mean, ss_seeds / (s - 1), ss_examples / (e - 1), ss_residual / ((s - 1) * (e - 1)), s, e
    )  # fmt: skip


ENOUGH_SEEDS = 5
"""From here on the half width takes Satterthwaite's quantile; below, the more cautious combination."""

WIDER = 1.04
"""Factor on Satterthwaite's half width. His degrees of freedom are estimated from the variances that they belong to,
and accuracies are bounded, so that effects of seeds are flatter than normal: without it, equal arms are told apart in
up to 5.4 % of experiments (the worst designs at 6 seeds, 40,000 replicates, ±0.1), with it in at most 5.0 %."""


def half_width(ms: MeanSquares, confidence: ArrayLike) -> Floats:
    """Half the interval's width. The variance of the mean is V = (MS_seeds + MS_examples − MS_residual)/(S·E) by the
    method of moments (Searle, Casella & McCulloch 1992, ch. 4), never below MS_examples/(S·E).

    From 5 seeds on: WIDER·t·√V with Satterthwaite's (1946) degrees of freedom, (Σ v)²/Σ(v²/df) over the parts v of V,
    at least S − 1. Below, each independent part gets the t quantile of its own degrees of freedom, a combination that
    never covers less than promised for normal effects (Banerjee 1960; Mickey & Brown 1966): Satterthwaite's single
    quantile covered as little as 88 % of differences and 83 % of levels at 2 seeds.
    """
    from scipy.special import stdtrit

    quantile = (1 + np.asarray(confidence, dtype=np.float64)) / 2
    examples = np.maximum(ms.examples - ms.residual, 0)
    total = np.maximum(ms.seeds + examples, ms.examples)
    if ms.n_seeds >= ENOUGH_SEEDS:
        spread = ms.seeds**2 / (ms.n_seeds - 1) + examples**2 / (ms.n_examples - 1)
        freedom = total**2 / np.where(spread > 0, spread, 1)
        t = stdtrit(np.maximum(freedom, ms.n_seeds - 1), quantile)
        return np.asarray(WIDER * t * np.sqrt(total / (ms.n_seeds * ms.n_examples)))
    t_seeds = stdtrit(ms.n_seeds - 1, quantile)
    t_examples = stdtrit(ms.n_examples - 1, quantile)
    both = t_seeds**2 * ms.seeds + t_examples**2 * examples
    return np.sqrt(np.maximum(both, t_examples**2 * ms.examples) / (ms.n_seeds * ms.n_examples))


def level_interval(matrix: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of an accuracy, from right or wrong by seed and example [..., S, E]: in 0 to 1, never of zero width.

    Means of seeds near 0 or 1 are skewed. So each end moves outwards to where it would be on the scale of log-odds
    (delta method), by the share of the variance that lies between seeds: without that, as little as 91.6 % were
    covered where seeds differ much.
    """
    x = np.asarray(matrix, dtype=np.float64)
    unknown = _without_interval(x)
    if unknown is not None:
        return unknown
    ms = mean_squares(x, LEVEL_PSEUDO)
    half, mean = half_width(ms, confidence), x.mean((-1, -2))
    between = np.maximum(ms.seeds - ms.residual, 0)
    share = between / np.maximum(between + np.maximum(ms.examples, ms.residual), 1e-12)
    odds, step = np.log(ms.mean / (1 - ms.mean)), half / (ms.mean * (1 - ms.mean))
    ends = []
    for sign, farther in ((-1, np.minimum), (1, np.maximum)):
        linear = ms.mean + sign * half
        skewed = 1 / (1 + np.exp(-(odds + sign * step)))
        ends.append(farther(linear + share * (farther(linear, skewed) - linear), mean))
    return Interval(mean, np.maximum(ends[0], 0), np.minimum(ends[1], 1))


def _without_interval(x: Floats) -> Interval | None:
    """What is left where there is no interval: one seed says nothing of other seeds, one example nothing of others."""
    if 0 in x.shape[-2:]:
        nothing = np.full(x.shape[:-2], np.nan)
        return Interval(nothing, nothing, nothing)
    if x.shape[-2] < 2 or x.shape[-1] < 2:
        mean = x.mean((-1, -2))
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    return None


def difference_interval(matrix: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of a paired difference, from one arm's result minus the other's by seed and example [..., S, E] (−1, 0
    or 1): mean ± `half_width`, over crossed random seeds and examples."""
    x = np.asarray(matrix, dtype=np.float64)
    unknown = _without_interval(x)
    if unknown is not None:
        return unknown
    ms = mean_squares(x, DIFFERENCE_PSEUDO)
    half, mean = half_width(ms, confidence), x.mean((-1, -2))
    low, high = np.minimum(ms.mean - half, mean), np.maximum(ms.mean + half, mean)
    return Interval(mean, np.maximum(low, -1), np.minimum(high, 1))


def between(one: Interval, other: Interval) -> Interval:
    """Interval of the difference of two independent estimates, from their own intervals: each end squares and adds the
    distances that move it (Zou & Donner 2008, Statistics in Medicine 27:1693-1702)."""
    low = np.hypot(one.mean - one.low, other.high - other.mean)
    high = np.hypot(one.high - one.mean, other.mean - other.low)
    mean = one.mean - other.mean
    return Interval(mean, mean - low, mean + high)


def difference_p(matrix: ArrayLike) -> float:
    """Two-sided p of a difference of zero: 1 − the largest confidence at which `difference_interval` leaves zero out.

    matrix [S, E]; NaN with fewer than two seeds or examples. It is ≤ 0.05 exactly when the 95 % interval excludes zero.
    """

    x = np.asarray(matrix, dtype=np.float64)
    if min(x.shape) < 2:
        return float("nan")
    ms = mean_squares(x, DIFFERENCE_PSEUDO)
    return _alpha_at(ms, abs(float(ms.mean)))


def equivalence_p(matrix: ArrayLike, band: float) -> float:
    """p that the difference lies outside ±band: two one-sided tests (Schuirmann 1987), the larger of their p.

    matrix [S, E]; NaN with fewer than two seeds or examples. It is ≤ 0.025 exactly when the 95 % interval lies inside
    the band, ≤ 0.05 when the 90 % interval does.
    """
    x = np.asarray(matrix, dtype=np.float64)
    if min(x.shape) < 2:
        return float("nan")
    ms = mean_squares(x, DIFFERENCE_PSEUDO)
    room = band - abs(float(ms.mean))
    return _alpha_at(ms, room) / 2 if room > 0 else 1 - _alpha_at(ms, -room) / 2


def _alpha_at(ms: MeanSquares, distance: float) -> float:
    """1 − the confidence at which `half_width` is `distance`: between 1e-9, which nobody needs more exactly, and 1."""
    from scipy.optimize import brentq

    def excess(log_alpha: float) -> float:
        return float(half_width(ms, -np.expm1(log_alpha)) - distance)

    largest, smallest = -1e-12, float(np.log(1e-9))
    if excess(largest) >= 0:
        return 1.0
    if excess(smallest) <= 0:
        return 1e-9
    return float(np.exp(brentq(excess, smallest, largest, xtol=1e-9)))


def smallest_detectable_difference(matrix: ArrayLike, power: float = 0.8, confidence: float = 0.95) -> float:
    """The true difference that a design with these variances finds with 80 % power at two-sided 5 %, by t.

    δ = half_width + t(S−1; power)·√variance (Cohen 1988, ch. 2, with the estimated variance put in). matrix [S, E].
    """
    x = np.asarray(matrix, dtype=np.float64)
    if min(x.shape) < 2:
        return float("nan")
    return _detectable(mean_squares(x, DIFFERENCE_PSEUDO), power, confidence)


def _detectable(ms: MeanSquares, power: float, confidence: float) -> float:
    from scipy.special import stdtrit

    variance = np.maximum(ms.seeds + np.maximum(ms.examples - ms.residual, 0), ms.examples) / (
        ms.n_seeds * ms.n_examples
    )
    return float((half_width(ms, confidence) + stdtrit(ms.n_seeds - 1, power) * np.sqrt(variance)).item())


class Spread(NamedTuple):
    """Variances of a paired difference in one run and example: between seeds, between examples, and the rest."""

    seeds: float
    examples: float
    residual: float

    def design(self, seeds: int, examples: float) -> MeanSquares:
        """The mean squares that a design of this size is expected to show."""
        by_seed = examples * self.seeds + self.residual
        by_example = seeds * self.examples + self.residual
        zero, one, other, rest = np.array([0.0, by_seed, by_example, self.residual])[:, None]
        return MeanSquares(zero, one, other, rest, seeds, examples)


ASSUMED = Spread(seeds=2 * 0.03**2, examples=0.15, residual=0.15)
"""Before any run: an arm's seeds spread by 3 points (users of the published code report 2 to 3.3), the arms disagree
on 30 % of the examples, and half of that comes again with every seed."""


def planned_difference(seeds: int, examples: int, spread: Spread = ASSUMED, power: float = 0.8) -> float:
    """The true difference that a design of this size would find with this power, before the runs; NaN below 2 seeds."""
    if min(seeds, examples) < 2:
        return float("nan")
    return _detectable(spread.design(seeds, examples), power, 0.95)


MOST_SEEDS = 1000
"""More than anyone would run: `seeds_needed` looks no further."""


def seeds_needed(matrix: ArrayLike, power: float = 0.8) -> int | None:
    """Seeds at which a true difference of the size seen would be found with this power, given the variances seen.

    None where no number of seeds up to 1,000 would do: the difference is too small for these examples. matrix [S, E].
    """
    x = np.asarray(matrix, dtype=np.float64)
    if min(x.shape) < 2:
        return None
    ms = mean_squares(x, DIFFERENCE_PSEUDO)
    seeds, examples, residual = (float(part) for part in (ms.seeds, ms.examples, ms.residual))
    spread = Spread(max(seeds - residual, 0) / ms.n_examples, max(examples - residual, 0) / ms.n_seeds, residual)

    def seen(seeds: int) -> bool:
        return _detectable(spread.design(seeds, ms.n_examples), power, 0.95) <= abs(float(ms.mean))

    if not seen(MOST_SEEDS):
        return None
    low, high = 1, MOST_SEEDS  # seen(high) holds, and what more seeds see they see, too
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if middle >= 2 and seen(middle) else (middle, high)
    return high


def mcnemar(left: ArrayLike, right: ArrayLike) -> Floats:
    """Exact two-sided McNemar p (McNemar 1947) of each seed's pair of runs, from right or wrong [S, E] of two arms.

    It speaks of these two trained networks on new examples, and says nothing of other seeds.
    """
    from scipy.stats import binom

    a, b = (np.asarray(side, dtype=bool) for side in (left, right))
    only_a, only_b = (a & ~b).sum(-1), (b & ~a).sum(-1)
    return np.minimum(np.float64(1), 2 * binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))


def sign_flip_test(differences: ArrayLike) -> float:
    """Exact two-sided p that paired differences [S] are symmetric about zero: the share of the 2^S ways to set their
    signs whose sum is at least as far from zero as the one seen (Fisher 1935, §21). At most 20 seeds; NaN for none.
    """
    d: list[float] = np.asarray(differences, dtype=np.float64).tolist()
    if len(d) > 20:
        raise ValueError(f"sign_flip_test enumerates 2^S signs and takes at most 20 seeds, not {len(d)}")
    if len(d) == 0:
        return float("nan")
    sums: Floats = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.mean(np.abs(sums) >= abs(sum(d)) - 1e-12))


def smallest_p(seeds: int) -> float:
    """The smallest p that `sign_flip_test` can give: 2/2^S, so 0.031 at 6 seeds, and never below 0.05 at 5."""
    return 2.0 / 2**seeds if seeds else float("nan")


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (Holm 1979), in the order given. A family of none stays empty."""
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def wilson(right: int, examples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's (1927) interval of a share of independent examples. For one run; it knows nothing of other seeds."""
    if examples == 0:
        return float("nan"), float("nan")
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(right, examples, alpha=1 - confidence, method="wilson")
    return float(low), float(high)
