"""Settings of training, strict and torch-free: the recipe that all arms of a task share, and each arm's own loop."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, Field, PositiveInt, model_validator

from harness.schema import STRICT

Share = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSettings(BaseModel):
    model_config = STRICT

    name: Literal["adamw", "adam_atan2"] = "adamw"
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="decoupled, on every dense parameter, as published")
    betas: tuple[Share, Share] = (0.9, 0.95)


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

    @model_validator(mode="after")
    def _whole_rollouts(self) -> Loop:
        if self.segments % self.rollout:
            # rows are refilled between rollouts only, so one could run past its last segment
            raise ValueError(f"segments {self.segments} must be a multiple of rollout {self.rollout}")
        return self


ONE_PASS = Loop(segments=1, halting="none", exploration=0.0)


class Budget(BaseModel):
    """Exactly one of four; which one is held equal decides who wins, so learning curves are drawn on all four axes."""

    model_config = STRICT

    updates: int | None = Field(None, ge=1, description="optimizer updates")
    examples: int | None = Field(None, ge=1, description="examples drawn from the stream")
    train_flops: float | None = Field(None, gt=0, description="FLOPs of the whole training run")
    seconds: float | None = Field(None, gt=0, description="seconds of training, evaluation excluded; not reproducible")

    @model_validator(mode="after")
    def _exactly_one(self) -> Budget:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of updates, examples, train_flops, seconds; got {given or 'none'}")
        return self

    @property
    def kind(self) -> str:
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def amount(self) -> float:
        return float(getattr(self, self.kind))


class EvaluationSettings(BaseModel):
    model_config = STRICT

    points: int = Field(8, ge=1, description="evaluation points on validation, evenly spaced over the budget")
    validation_examples: int | None = Field(512, ge=1, description="null: all")
    test_examples: int | None = Field(None, ge=1, description="null: all")
    segments: tuple[PositiveInt, ...] = Field(
        (1, 2, 4, 8, 16), min_length=1, description="depths of depth.csv; may exceed the trained one"
    )
    batch_size: int = Field(256, ge=1)
    votes: int = Field(0, ge=0, description="variants of each test example that vote, itself included; 0: no votes")
    puzzle_ids: tuple[Literal["own", "blank", "shuffled"], ...] = Field(
        ("own",), min_length=1, description="puzzle ids to vote under: the true ones, none, those of another puzzle"
    )

    @model_validator(mode="after")
    def _each_once(self) -> EvaluationSettings:
        if len(set(self.puzzle_ids)) < len(self.puzzle_ids):
            raise ValueError("puzzle_ids: one is named twice")
        return self


class Recipe(BaseModel):
    """Loss, optimizer, schedule, average of the weights, batch, budget, evaluation."""

    model_config = STRICT

    loss: Literal["stablemax", "softmax"] = "stablemax"
    optimizer: OptimizerSettings = OptimizerSettings()
    puzzle_optimizer: PuzzleOptimizerSettings = PuzzleOptimizerSettings()
    schedule: Schedule = Schedule()
    clip: float | None = Field(1.0, gt=0, description="largest norm of the dense gradient; null: no clipping")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of the average of the weights that is evaluated and saved; null: none"
    )
    batch_size: int = Field(64, ge=1)
    budget: Budget = Budget(updates=1000)
    max_updates: int | None = Field(None, ge=1, description="a cap on top of the budget, for trials")
    augmentation: bool = True
    drop_unused: bool = Field(False, description="drop fresh rows whose place is taken, as the published code does")
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    compile: bool | Literal["auto"] = Field("auto", description="torch.compile the model; auto: on CUDA only")
    evaluation: EvaluationSettings = EvaluationSettings()
