"""A run's test examples segment by segment, read once for the tables that look into the depth of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.analysis.examples import read_examples

COLUMNS = ("difficulty", "halting_step", "correct_by_segment", "q_halt_by_segment")


@dataclass(frozen=True)
class BySegment:
    """N examples of a split × M segments. One-pass arms have M = 1 and no q_halt."""

    split: str
    right: np.ndarray  # [N, M] bool
    q_halt: np.ndarray | None  # [N, M] logits
    halting_step: np.ndarray  # [N], at most the trained number of segments
    difficulty: np.ndarray  # [N], NaN where the task knows none


def read_by_segment(folder: Path) -> list[BySegment]:
    """The splits of a run's share of examples, in its order. Raises BrokenData where its rows don't agree."""
    return [
        BySegment(
            split, own["correct_by_segment"], own.get("q_halt_by_segment"), own["halting_step"], own["difficulty"]
        )
        for split, own in read_examples(folder, COLUMNS).items()
    ]


def depths(trained: int) -> list[int]:
    """The depths that tables by depth show within training: 1, 2, 4 … and the trained number."""
    return sorted({2**k for k in range(trained.bit_length())} | {trained})
