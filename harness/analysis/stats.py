"""Intervals and tests for accuracies measured over seeds × examples, where every seed sees the same examples.

Estimand everywhere: the mean over *new* seeds and *new* examples, of which those at hand are random samples.
Seeds and examples are crossed, so neither "n = seeds × examples" nor a bootstrap over one of them is right.

How well it does, simulated with logit-normal right-or-wrong answers (108 designs, 4,000 replicates each: 41, 128 or 400
examples; effects of seed, of example and of arm by example from none to large; levels from 12 % to 98 %). Coverage of
95 % intervals, mean over the designs and lowest design:

| seeds | difference of two arms | level | equal arms told apart (mean, most) |
|---|---|---|---|
| 2 | 98.1 %, 94.9 % | 98.0 %, 92.5 % | 1.8 %, 5.6 % |
| 3 | 97.7 %, 94.4 % | 97.3 %, 90.2 % | 2.1 %, 5.4 % |
| 6 | 97.2 %, 93.1 % | 96.7 %, 90.4 % | 2.6 %, 5.5 % |
| 10 | 97.1 %, 94.0 % | 96.6 %, 91.6 % | 2.7 %, 5.4 % |

Above 98 % with 41 examples or arms that hardly ever disagree; lowest where seeds differ much and examples do not, so
that seed means are skewed. What no interval mends is seeds that either learn the task or do not: with one in four
failing, level intervals over 6 seeds cover 81 % (10 seeds: 94 %; differences of two such arms: 98 % and 96 %), since
a failing seed may not be among them. The report shows the lowest and the highest seed for that reason.
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


def half_width(ms: MeanSquares, confidence: ArrayLike) -> Floats:
    """Half the interval's width: h² = [t²(S−1)·MS_seeds + t²(E−1)·max(MS_examples − MS_residual, 0)] / (S·E).

    The variance of the mean is (MS_seeds + MS_examples − MS_residual)/(S·E) by the method of moments (Searle, Casella
    & McCulloch 1992, ch. 4). Each independent part gets the t quantile of its own degrees of freedom, a combination
    that never covers less than promised for normal effects (Banerjee 1960; Mickey & Brown 1966); Satterthwaite's
    single quantile covered as little as 88 % of differences and 83 % of levels at 2 seeds. h² is never below the
    parts alone.
    """
    from scipy.special import stdtrit

    quantile = (1 + np.asarray(confidence, dtype=np.float64)) / 2
    t_seeds = stdtrit(ms.n_seeds - 1, quantile)
    t_examples = stdtrit(ms.n_examples - 1, quantile)
    both = t_seeds**2 * ms.seeds + t_examples**2 * np.maximum(ms.examples - ms.residual, 0)
    return np.sqrt(np.maximum(both, t_examples**2 * ms.examples) / (ms.n_seeds * ms.n_examples))


def crossed_interval(matrix: ArrayLike, confidence: float = 0.95, pseudo: Pseudo = ()) -> Interval:
    """Mean of matrix [..., S, E] and its interval over crossed random seeds and examples (see `half_width`).

    One seed says nothing of other seeds and one example nothing of others: the ends are NaN then.
    """
    x = np.asarray(matrix, dtype=np.float64)
    if 0 in x.shape[-2:]:
        nothing = np.full(x.shape[:-2], np.nan)
        return Interval(nothing, nothing, nothing)
    mean = x.mean((-1, -2))
    if x.shape[-2] < 2 or x.shape[-1] < 2:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    ms = mean_squares(x, pseudo)
    half = half_width(ms, confidence)
    return Interval(mean, np.minimum(ms.mean - half, mean), np.maximum(ms.mean + half, mean))


def level_interval(matrix: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of an accuracy, from right or wrong by seed and example: within 0 and 1, never of zero width."""
    mean, low, high = crossed_interval(matrix, confidence, LEVEL_PSEUDO)
    return Interval(mean, np.maximum(low, 0), np.minimum(high, 1))


def difference_interval(matrix: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of a paired difference, from one arm's result minus the other's by seed and example (−1, 0 or 1)."""
    mean, low, high = crossed_interval(matrix, confidence, DIFFERENCE_PSEUDO)
    return Interval(mean, np.maximum(low, -1), np.minimum(high, 1))


def difference_p(matrix: ArrayLike) -> float:
    """Two-sided p of a difference of zero: 1 − the largest confidence at which `difference_interval` leaves zero out.

    matrix [S, E]; NaN with fewer than two seeds or examples. It is ≤ 0.05 exactly when the 95 % interval excludes zero.
    """
    from scipy.optimize import brentq

    x = np.asarray(matrix, dtype=np.float64)
    if min(x.shape) < 2:
        return float("nan")
    ms = mean_squares(x, DIFFERENCE_PSEUDO)

    def excess(log_alpha: float) -> float:
        return float(half_width(ms, -np.expm1(log_alpha)) - abs(ms.mean))

    largest, smallest = -1e-12, float(np.log(1e-9))  # logarithms of p = 1 and of a p that nobody needs more exactly
    if excess(largest) >= 0:
        return 1.0
    if excess(smallest) <= 0:
        return 1e-9
    return float(np.exp(brentq(excess, smallest, largest, xtol=1e-9)))


def smallest_detectable_difference(matrix: ArrayLike, power: float = 0.8, confidence: float = 0.95) -> float:
    """The true difference that a design with these variances finds with 80 % power at two-sided 5 %, by t.

    δ = half_width + t(S−1; power)·√variance (Cohen 1988, ch. 2, with the estimated variance put in). matrix [S, E].
    """
    from scipy.special import stdtrit

    x = np.asarray(matrix, dtype=np.float64)
    if min(x.shape) < 2:
        return float("nan")
    ms = mean_squares(x, DIFFERENCE_PSEUDO)
    variance = np.maximum(ms.seeds + np.maximum(ms.examples - ms.residual, 0), ms.examples) / (
        ms.n_seeds * ms.n_examples
    )
    return float(half_width(ms, confidence) + stdtrit(ms.n_seeds - 1, power) * np.sqrt(variance))


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
