"""Settings of optimizers and schedules. Apart from optim.py, since suites are read without torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class OptimizerSettings(BaseModel):
    model_config = STRICT

    name: Literal["adamw", "adam_atan2"] = "adamw"
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="decoupled, on every dense parameter, as published")
    betas: tuple[float, float] = (0.9, 0.95)


class PuzzleOptimizerSettings(BaseModel):
    model_config = STRICT

    learning_rate: float = Field(1e-2, gt=0)
    weight_decay: float = Field(0.1, ge=0)


class Schedule(BaseModel):
    model_config = STRICT

    name: Literal["cosine", "constant"] = "cosine"
    warmup_updates: int = Field(0, ge=0)
    final_ratio: float = Field(0.1, ge=0, le=1, description="learning rate at the end of a cosine, over the peak")

    def factor(self, update: int, progress: float) -> float:
        """The learning rate over its peak at an update (counted from 1) with `progress` of the budget used, 0 to 1.

        Linear warm-up reaches the peak at update `warmup_updates`; the cosine runs over the whole budget.
        """
        if update < self.warmup_updates:
            return update / self.warmup_updates
        if self.name == "constant":
            return 1.0
        return self.final_ratio + (1 - self.final_ratio) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
