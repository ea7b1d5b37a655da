"""Settings of training, strict and torch-free: the recipe that all arms of a task share, and each arm's own loop."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, Field, PositiveInt, model_validator

from harness.errors import UserError
from harness.schema import STRICT

Share = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSettings(BaseModel):
    model_config = STRICT

    name: Literal["adamw", "adam_atan2"] = Field("adamw", description="adamw, or adam_atan2 as in the published code")
    learning_rate: float = Field(1e-4, gt=0, description="peak")
    weight_decay: float = Field(
        0.1,
        ge=0,
        description="decoupled; norm scales and biases are spared",
    )
    betas: tuple[Share, Share] = (0.9, 0.95)
    factors: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="learning-rate factors by module, such as {H_level: 0.5}; the longest name wins",
    )


class PuzzleOptimizerSettings(BaseModel):
    model_config = STRICT

    learning_rate: float = Field(1e-2, gt=0)
    weight_decay: float = Field(0.1, ge=0)


class Schedule(BaseModel):
    model_config = STRICT

    name: Literal["cosine", "constant"] = "cosine"
    warmup_updates: int = Field(0, ge=0, description="updates of linear warm-up")
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
    bootstrap_every: int = Field(
        1, ge=1, description="q_learning: updates between two bootstrap passes; in between, q_continue has no loss"
    )

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


class DifficultyRamp(BaseModel):
    """Curriculum over examples: at first only the easiest share is drawn, then ever more of them, then all.

    It goes by the number of examples drawn, so the stream stays the same for every arm.
    """

    model_config = STRICT

    start: float = Field(0.2, gt=0, le=1, description="share of the training examples, easiest first, at the start")
    until_examples: int = Field(ge=1, description="examples drawn when all of them may come")


class SegmentStage(BaseModel):
    model_config = STRICT

    until: float = Field(gt=0, lt=1, description="share of the budget at which the stage ends")
    segments: int = Field(ge=1, description="largest number of segments until then")


class Curriculum(BaseModel):
    model_config = STRICT

    difficulty: DifficultyRamp | None = None
    segments: tuple[SegmentStage, ...] = Field(
        (),
        description="stages of fewer segments (and shorter rollouts) than the loop's; after the last, the loop's own",
    )

    @model_validator(mode="after")
    def _stages_in_order(self) -> Curriculum:
        ends = [stage.until for stage in self.segments]
        if ends != sorted(set(ends)):
            raise ValueError(f"segments: stages must end one after the other, got until = {ends}")
        return self

    def stages(self, segments: int) -> list[tuple[float, int]]:
        """(share of the budget, largest number of segments) of each stage for a loop of `segments`; shares sum to 1."""
        ends = [0.0, *(stage.until for stage in self.segments), 1.0]
        most = [*(min(stage.segments, segments) for stage in self.segments), segments]
        return [(b - a, n) for a, b, n in zip(ends, ends[1:], most, strict=False)]

    def most_segments(self, segments: int, progress: float) -> int:
        """Largest number of segments with `progress` of the budget used."""
        return next((min(stage.segments, segments) for stage in self.segments if progress < stage.until), segments)


class Recipe(BaseModel):
    """Loss, optimizer, schedule, average of the weights, batch, budget, evaluation; and training options, all off."""

    model_config = STRICT

    loss: str = Field("stablemax", description="stablemax, softmax, or one that a plug-in registers")
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
    augmentation: bool = Field(True, description="draw an equivalent of each example, where the task has symmetries")
    accumulate: int = Field(1, ge=1, description="parts that a batch is run in, one after the other, to save memory")
    recompute: bool = Field(False, description="keep no activations within blocks; compute them again when needed")
    segment_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None, description="weight of the loss after each segment, the last for all that follow; scaled to a mean of 1"
    )
    halting_ramp: tuple[Share, Annotated[float, Field(gt=0, le=1)]] | None = Field(
        None,
        description="[from, to]: the halting losses' weight rises from 0 to its full size between these shares of "
        "the budget",
    )
    exploration_final: float | None = Field(
        None, ge=0, le=1, description="exploration at the end of the budget, reached in a straight line; null: constant"
    )
    curriculum: Curriculum = Curriculum()
    early_stopping: int | None = Field(
        None, ge=1, description="evaluation points without a better one on validation after which training stops"
    )
    drop_unused: bool = Field(False, description="drop fresh rows whose place is taken, as the published code does")
    precision: Literal["auto", "float32", "bfloat16", "float64"] = Field(
        "auto", description="of activations; auto: bfloat16 where the processor is quick at it"
    )
    compile: bool | Literal["auto"] = Field("auto", description="torch.compile the model; auto: on CUDA only")
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _whole_parts(self) -> Recipe:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate {self.accumulate} must divide batch_size {self.batch_size}")
        if self.halting_ramp is not None and self.halting_ramp[0] >= self.halting_ramp[1]:
            raise ValueError(f"halting_ramp: from {self.halting_ramp[0]} must lie below to {self.halting_ramp[1]}")
        if self.segment_weights is not None and not any(self.segment_weights):
            raise ValueError("segment_weights: at least one must be above 0")
        return self

    def halting_factor(self, progress: float) -> float:
        """What the halting losses' weight is multiplied by."""
        if self.halting_ramp is None:
            return 1.0
        begin, end = self.halting_ramp
        return min(max((progress - begin) / (end - begin), 0.0), 1.0)

    def exploration(self, loop: Loop, progress: float) -> float:
        """The loop's exploration, annealed where the recipe says so."""
        if self.exploration_final is None:
            return loop.exploration
        return loop.exploration + (self.exploration_final - loop.exploration) * min(max(progress, 0.0), 1.0)

    def weights_of(self, segments: int) -> list[float]:
        """The loss's weight after each of `segments` segments, with a mean of 1."""
        given = self.segment_weights or (1.0,)
        weights = [given[min(i, len(given) - 1)] for i in range(segments)]
        if not any(weights):
            raise UserError(f"recipe.segment_weights: all of the first {segments} are 0, and an arm has no more")
        return [w * segments / sum(weights) for w in weights]
