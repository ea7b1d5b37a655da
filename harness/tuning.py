"""The tuning stage: the same trials for every arm, learning rate × weight decay, chosen on validation. Torch-free.

Bergstra & Bengio 2012 (JMLR 13:281-305) show that random points beat a grid of as many; here they come from a scrambled
Sobol sequence, which fills the plane more evenly than independent draws. The first trial is the suite's own recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, model_validator

from harness.schema import STRICT

Row = Mapping[str, Any]


class Tuning(BaseModel):
    """What a suite says of its tuning stage: equal for all arms and tasks."""

    model_config = STRICT

    trials: int = Field(8, ge=2, le=256, description="per task and arm, the suite's own recipe among them")
    updates: int = Field(200, ge=1, description="of each trial, the same for every arm; the schedule runs over them")
    learning_rate: tuple[float, float] = Field((1e-4, 1e-2), description="ends of the space, searched on a log scale")
    weight_decay: tuple[float, float] = Field((1e-3, 1.0), description="ends of the space, searched on a log scale")
    seed: int = Field(
        1000, ge=100, description="of the points, and of the trials' data and weights: none of the runs' own"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Tuning:
        for name in ("learning_rate", "weight_decay"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ValueError(f"{name}: give two ends above 0, the lower one first, not [{low:g}, {high:g}]")
        return self


class Point(NamedTuple):
    learning_rate: float
    weight_decay: float


def points(tuning: Tuning, own: Point) -> list[Point]:
    """The trials' values, the suite's `own` first; the others depend on the tuning settings alone."""
    import warnings

    from scipy.stats import qmc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a number of points is no power of two
        plane = qmc.Sobol(2, seed=tuning.seed).random(tuning.trials - 1)
    ends = (tuning.learning_rate, tuning.weight_decay)
    return [own] + [Point(*(_between(*pair, share) for pair, share in zip(ends, row, strict=True))) for row in plane]


def _between(low: float, high: float, share: float) -> float:
    """On a log scale, to three digits, so that what is read is what was run."""
    return float(f"{math.exp(math.log(low) + share * (math.log(high) - math.log(low))):.3g}")


ENDED = ("finished", "diverged")
"""A trial that diverged is one that was made, and is never chosen."""


def choose(trials: Sequence[Row]) -> Row | None:
    """The finished trial that is best on validation: exact accuracy, then token accuracy, then the first. None while
    one is open or failed, since then arms would have had different numbers of trials, and where all diverged."""
    if not trials or any(row["status"] not in ENDED for row in trials):
        return None
    finished = [row for row in trials if row["status"] == "finished"]
    return max(finished, key=lambda r: (r["validation_exact"], r["validation_token"], -r["trial"]), default=None)
