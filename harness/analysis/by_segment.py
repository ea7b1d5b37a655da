"""A run's test examples segment by segment, read once for the tables that look into the depth of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.analysis.results import read_table
from harness.errors import BrokenData

COLUMNS = ["split", "difficulty", "halting_step", "correct_by_segment", "q_halt_by_segment"]


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
    path = folder / "examples.csv.gz"
    found = []
    for split, part in read_table(path, "examples", COLUMNS).groupby("split", sort=False):
        try:
            right = np.frombuffer("".join(part["correct_by_segment"]).encode("ascii"), np.uint8) == ord("1")
            right = right.reshape(len(part), len(part["correct_by_segment"].iloc[0]))
            texts = part["q_halt_by_segment"]
            logits = None
            if (texts != "").any():
                logits = np.array(";".join(texts).split(";"), np.float64).reshape(right.shape)
        except ValueError as error:
            raise BrokenData(f"{path}: split {split}: segments don't agree between rows ({error})") from None
        steps, difficulty = (part[name].to_numpy(dtype=np.float64) for name in ("halting_step", "difficulty"))
        found.append(BySegment(str(split), right, logits, steps, difficulty))
    return found


def depths(trained: int) -> list[int]:
    """The depths that tables by depth show within training: 1, 2, 4 … and the trained number."""
    return sorted({2**k for k in range(trained.bit_length())} | {trained})
