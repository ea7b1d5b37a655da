"""Halting behaviour by run and split: flips.csv, stopping.csv and effort.csv, all from what examples.csv.gz records.

Flips show overthinking (an answer that was right is right no more), stopping what accuracy costs under three rules, and
effort whether harder examples take more segments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm, spearmanr

from harness.analysis.by_segment import BySegment, depths

Row = dict[str, Any]

KEY = ("cell_id", "task", "arm", "seed")


def flips(run: Row, splits: Sequence[BySegment]) -> Iterator[Row]:
    """Rows of flips.csv: what each segment after the first changed. None for an arm of one pass."""
    trained = int(run["segments"])
    for own in splits:
        for m in range(1, own.right.shape[1]):
            before, after = own.right[:, m - 1], own.right[:, m]
            yield {
                **{name: run[name] for name in KEY},
                "split": own.split,
                "segments": m + 1,
                "gained": int((~before & after).sum()),
                "lost": int((before & ~after).sum()),
                "right": int(after.sum()),
                "examples": len(after),
                "beyond_training": int(m + 1 > trained),
            }


def stopping(run: Row, splits: Sequence[BySegment]) -> Iterator[Row]:
    """Rows of stopping.csv: mean segments used and accuracy, where each rule may use at most so many segments."""
    trained = int(run["segments"])
    flops = float(run["flops_per_answer"]) / trained  # linear in segments
    for own in splits:
        most = min(trained, own.right.shape[1])
        if most < 2:
            continue
        rows = np.arange(len(own.right))
        first_right = np.full(len(rows), most)
        for m in reversed(range(most)):
            first_right[own.right[:, m]] = m + 1
        asked = {"fixed": np.full(len(rows), most), "model": own.halting_step.astype(np.int64), "oracle": first_right}
        for rule, steps in asked.items():
            for allowed in depths(most):
                used = np.minimum(steps, allowed)
                yield {
                    **{name: run[name] for name in KEY},
                    "split": own.split,
                    "stopping": rule,
                    "segments": allowed,
                    "segments_used": float(used.mean()),
                    "flops_per_answer": flops * float(used.mean()),
                    "exact": float(own.right[rows, used - 1].mean()),
                    "examples": len(rows),
                }


def effort(run: Row, splits: Sequence[BySegment]) -> Iterator[Row]:
    """Rows of effort.csv, of arms of several segments."""
    if int(run["segments"]) < 2:
        return
    for own in splits:
        known = ~np.isnan(own.difficulty)
        steps, difficulty = own.halting_step[known], own.difficulty[known]
        found = rank_correlation(steps, difficulty)
        reason = None
        if found is None:
            same = "all examples are equally difficult" if len(set(difficulty)) < 2 else "all halt at the same step"
            reason = same if len(steps) else "no example's difficulty is known"
        low, high = fisher_interval(found, len(steps)) if found is not None else (None, None)
        yield {
            **{name: run[name] for name in KEY},
            "split": own.split,
            "spearman": found,
            "low": low,
            "high": high,
            "examples": len(steps),
            "reason": reason,
        }


def rank_correlation(steps: np.ndarray, difficulty: np.ndarray) -> float | None:
    """Spearman's correlation of two [N], ties at mid-ranks; None where either is constant."""
    if len(set(steps)) < 2 or len(set(difficulty)) < 2:
        return None
    return float(spearmanr(steps, difficulty)[0])


def fisher_interval(correlation: float, n: int) -> tuple[float | None, float | None]:
    """95 % interval of a rank correlation of n pairs: Fisher's z with variance (1 + r²/2)/(n − 3) (Bonett and Wright
    2000, doi 10.1007/BF02294183). No ends below 5 pairs; a perfect correlation is its own interval."""
    if n < 5:
        return None, None
    if abs(correlation) >= 1:
        return correlation, correlation
    half = float(norm.ppf(0.975)) * math.sqrt((1 + correlation**2 / 2) / (n - 3))
    z = math.atanh(correlation)
    return math.tanh(z - half), math.tanh(z + half)
