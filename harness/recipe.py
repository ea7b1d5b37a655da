"""The arm-independent part of training: what every arm of a task shares, as strict settings."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, model_validator

from harness.training.optim_settings import STRICT, OptimizerSettings, PuzzleOptimizerSettings, Schedule


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
    segments: tuple[int, ...] = Field((1, 2, 4, 8, 16), description="depths of depth.csv; may exceed the trained one")
    batch_size: int = Field(256, ge=1)


class Recipe(BaseModel):
    """Loss, optimizer, schedule, batch, budget, evaluation."""

    model_config = STRICT

    loss: Literal["stablemax", "softmax"] = "stablemax"
    optimizer: OptimizerSettings = OptimizerSettings()
    puzzle_optimizer: PuzzleOptimizerSettings = PuzzleOptimizerSettings()
    schedule: Schedule = Schedule()
    clip: float | None = Field(1.0, gt=0, description="largest norm of the dense gradient; null: no clipping")
    batch_size: int = Field(64, ge=1)
    budget: Budget = Budget(updates=1000)
    max_updates: int | None = Field(None, ge=1, description="a cap on top of the budget, for trials")
    augmentation: bool = True
    drop_unused: bool = Field(False, description="drop fresh rows whose place is taken, as the published code does")
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    compile: bool = Field(False, description="torch.compile the model")
    evaluation: EvaluationSettings = EvaluationSettings()
