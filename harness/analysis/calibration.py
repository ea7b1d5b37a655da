"""calibration.csv and reliability.csv: does a halting head know when its answer is right? By cell, split and segments.

The score is the halting logit q_halt alone: both halting rules train it, as a binary classifier, towards "the answer of
this segment is right", so σ(q_halt) is a probability that can be wrong. (q_learning decides by q_halt − q_continue, a
difference of two values of which the second predicts the future, not this answer.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import rankdata

from harness.analysis.by_segment import BySegment, depths

Row = dict[str, Any]

KEY = ("cell_id", "task", "arm", "seed")

BINS = 15
"""Of the calibration error: the usual number (Guo et al. 2017, arXiv 1706.04599)."""


def auroc(scores: np.ndarray, right: np.ndarray) -> float | None:
    """Area under the ROC curve of scores [N] for right [N] bool, by mid-ranks; None where all or none are right."""
    positives = int(right.sum())
    negatives = len(right) - positives
    if not positives or not negatives:
        return None
    ranks = float(rankdata(scores)[right].sum())
    return (ranks - positives * (positives + 1) / 2) / (positives * negatives)


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error of confidence [N] in [0, 1] against right [N] bool, in BINS equally wide bins."""
    place = _bins(confidence)
    gap = np.bincount(place, right - confidence, minlength=BINS)
    return float(np.abs(gap).sum() / len(right))


def calibration(run: Row, splits: Sequence[BySegment]) -> Iterator[Row]:
    """Rows of one finished run; none for an arm without a halting head."""
    for own in splits:
        if own.q_halt is None:
            continue
        trained = _trained(run, own)
        for segments in depths(trained):
            q_halt, correct = own.q_halt[:, segments - 1], own.right[:, segments - 1]
            confidence = expit(q_halt)
            area = auroc(q_halt, correct)
            count = int(correct.sum())
            yield {
                **{name: run[name] for name in KEY},
                "split": own.split,
                "segments": segments,
                "trained": int(segments == trained),
                "auroc": area,
                "calibration_error": calibration_error(confidence, correct),
                "confidence": float(confidence.mean()),
                "right": count,
                "wrong": len(correct) - count,
                "reason": None if area is not None else f"all answers are {'right' if count else 'wrong'}",
            }


def reliability(run: Row, splits: Sequence[BySegment]) -> Iterator[Row]:
    """Rows of reliability.csv: the bins of the calibration error at the trained depth that hold an example."""
    for own in splits:
        if own.q_halt is None:
            continue
        trained = _trained(run, own)
        confidence, right = expit(own.q_halt[:, trained - 1]), own.right[:, trained - 1]
        place = _bins(confidence)
        for i in np.unique(place):
            at = place == i
            yield {
                **{name: run[name] for name in KEY},
                "split": own.split,
                "low": i / BINS,
                "high": (i + 1) / BINS,
                "confidence": float(confidence[at].mean()),
                "right": int(right[at].sum()),
                "examples": int(at.sum()),
            }


def _trained(run: Row, own: BySegment) -> int:
    return min(int(run["segments"]), own.right.shape[1])


def _bins(confidence: np.ndarray) -> np.ndarray:
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
