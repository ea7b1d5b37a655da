"""One line over all tasks: interquartile mean of the arms' runs, and probability of improvement between arms.

Both after Agarwal et al. 2021 (arXiv 2108.13264). An accuracy counts as the share of the way from the task's floor to
1, so that tasks with different floors can stand in one mean. The tasks of a suite are chosen, not drawn at random:
there is no interval over them, but the range that is left when any one task is taken out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

Row = dict[str, Any]
Scores = dict[str, list[float]]  # task → one score per run


def overall(tasks: Mapping[str, Sequence[str]], runs: Sequence[Row], floors: Mapping[str, float]) -> Iterator[Row]:
    """Rows of overall.csv. `tasks` gives each task's arms in order; runs are the finished rows of runs.csv.

    An arm's mean is over the tasks that it has runs on, a pair's probability over those that both have.
    """
    scores: dict[str, Scores] = {}
    for run in runs:
        score = normalised(float(run["test_exact"]), floors.get(run["task"], 0.0))
        scores.setdefault(run["arm"], {}).setdefault(run["task"], []).append(score)
    arms = [arm for arm in dict.fromkeys(arm for own in tasks.values() for arm in own) if arm in scores]
    for arm in arms:
        own = scores[arm]
        yield {"measure": "iqm", "arm": arm, "other": None, **_ranged(lambda s: iqm(_pooled(s)), own)}
    for arm, other in combinations(arms, 2):
        shared = [task for task in scores[arm] if task in scores[other]]
        if shared:
            pairs = {task: _wins(scores[arm][task], scores[other][task]) for task in shared}
            yield {"measure": "improvement", "arm": arm, "other": other, **_ranged(improvement, pairs)}


def normalised(accuracy: float, floor: float) -> float:
    """0 at the floor, 1 where all is right; below 0 for less than the floor. 0 where the floor itself is 1."""
    return (accuracy - floor) / (1 - floor) if floor < 1 else 0.0


def iqm(values: Sequence[float]) -> float:
    """Mean of the middle half: a quarter of the runs is cut at each end, broken numbers by weight. NaN for none."""
    x = np.sort(np.asarray(values, dtype=np.float64))
    if x.size == 0:
        return math.nan
    edges = np.arange(x.size + 1, dtype=np.float64)
    low, high = x.size / 4, 3 * x.size / 4
    weights = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
    return float((weights * x).sum() / weights.sum())


def improvement(pairs: Mapping[str, Sequence[float]]) -> float:
    """Mean over tasks of the share of pairs of runs that the first arm wins, ties counted half."""
    return float(np.mean([np.mean(wins) for wins in pairs.values()])) if pairs else math.nan


def _wins(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """1, ½ or 0 for every pair of runs."""
    a, b = np.asarray(one)[:, None], np.asarray(other)[None]
    found: list[float] = ((a > b) + 0.5 * (a == b)).ravel().tolist()
    return found


def _pooled(scores: Mapping[str, Sequence[float]]) -> list[float]:
    return [score for own in scores.values() for score in own]


def _ranged(figure: Callable[[Scores], float], scores: Scores) -> Row:
    """The figure, and the lowest and highest with one task taken out; none where there is one task only."""
    without = [figure({t: s for t, s in scores.items() if t != task}) for task in scores] if len(scores) > 1 else []
    return {
        "value": figure(scores),
        "low": min(without, default=None),
        "high": max(without, default=None),
        "tasks": len(scores),
    }
