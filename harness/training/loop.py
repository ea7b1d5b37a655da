"""An arm's loop: how its segments become updates, and when a row halts. Settings only; act.py carries them out."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from harness.training.optim_settings import STRICT


class Loop(BaseModel):
    """How an arm's segments become updates and when a row halts. One-pass arms are the loop of one segment."""

    model_config = STRICT

    segments: int = Field(16, ge=1, description="largest number of segments in training (halt_max_steps)")
    rollout: int = Field(1, ge=1, description="segments per optimizer step")
    detach: bool = Field(True, description="cut the gradient between the segments of a rollout")
    halting: Literal["q_learning", "q_halt", "none"] = Field(
        "q_learning",
        description="q_learning: halt when q_halt > q_continue, bootstrap target (HRM); "
        "q_halt: halt when q_halt > 0, no q_continue (TRM); none: always all segments",
    )
    exploration: float = Field(0.1, ge=0, le=1, description="probability of a random minimum number of segments")
    halting_weight: float = Field(0.5, ge=0, description="weight of the halting losses")


ONE_PASS = Loop(segments=1, halting="none", exploration=0.0)
