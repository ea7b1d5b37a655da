"""calibration.csv: does a halting head know when its answer is right? By cell, split and number of segments.

The score is the halting logit q_halt alone: both halting rules train it, as a binary classifier, towards "the answer of
this segment is right", so σ(q_halt) is a probability that can be wrong. (q_learning decides by q_halt − q_continue, a
difference of two values of which the second predicts the future, not this answer.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import rankdata

from harness.analysis.results import read_table
from harness.errors import BrokenData

Row = dict[str, Any]

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
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gap = np.bincount(place, right - confidence, minlength=BINS)
    return float(np.abs(gap).sum() / len(right))


def calibration(run: Row, folder: Path) -> Iterator[Row]:
    """Rows of one finished run from its share of examples; none for an arm without a halting head."""
    columns = ["split", "correct_by_segment", "q_halt_by_segment"]
    path = folder / "examples.csv.gz"
    frame = read_table(path, "examples", columns)
    frame = frame[frame["q_halt_by_segment"] != ""]
    for split, part in frame.groupby("split", sort=False):
        try:
            lines = [[float(logit) for logit in text.split(";")] for text in part["q_halt_by_segment"]]
            logits = np.array(lines, np.float64)  # [N, M]
            right = _digits(part["correct_by_segment"]).reshape(logits.shape)
        except ValueError as error:
            raise BrokenData(f"{path}: split {split}: segments don't agree between rows ({error})") from None
        trained = min(int(run["segments"]), len(lines[0]))
        for segments in sorted({2**k for k in range(trained.bit_length())} | {trained}):
            q_halt, correct = logits[:, segments - 1], right[:, segments - 1]
            confidence = expit(q_halt)
            area = auroc(q_halt, correct)
            count = int(correct.sum())
            yield {
                **{name: run[name] for name in ("cell_id", "task", "arm", "seed")},
                "split": split,
                "segments": segments,
                "trained": int(segments == trained),
                "auroc": area,
                "calibration_error": calibration_error(confidence, correct),
                "confidence": float(confidence.mean()),
                "right": count,
                "wrong": len(correct) - count,
                "reason": None if area is not None else f"all answers are {'right' if count else 'wrong'}",
            }


def _digits(texts: pd.Series) -> np.ndarray:
    """[N · M] bool from N strings of M digits 0 and 1."""
    return np.frombuffer("".join(texts).encode("ascii"), np.uint8) == ord("1")
