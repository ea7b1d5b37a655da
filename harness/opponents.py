"""The opponents that fairness asks for every HRM, solved for whether or not the suite trains them.

Each HRM meets at least: the same parameters in one pass; those and the same FLOPs per answer, looped; those and the
same training FLOPs, by more updates; and, not parameter-matched, the same FLOPs per answer in one pass of more layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.cost import flops_per_segment, measure
from harness.errors import UserError
from harness.matching import Matched, Reference, match_arm
from harness.plan import ResolvedArm, TaskPlan
from harness.recipe import ONE_PASS
from models.base import MODELS, ModelShape, resolve_config

RULES = (
    ("params", "transformer"),
    ("inference_flops", "looped"),
    ("train_flops", "transformer"),
    ("inference_flops_only", "transformer-prenorm"),
)
BASELINES = {"transformer", "transformer-prenorm", "transformer-act", "looped", "modernbert", "llama"}
"""Families without hierarchy: they are opponents, and need none."""


@dataclass(frozen=True)
class Opponent:
    """One opponent of an HRM: what the solver found, or why it refused."""

    rule: str
    model: str
    matched: Matched | None
    updates: int | None = None
    flops_per_answer: float | None = None
    refusal: str = ""

    @property
    def size(self) -> str:
        """Width, layers and loops in a few words."""
        if self.matched is None:
            return self.refusal
        config = self.matched.config.model_dump()
        loops = f" × {config['loops']} loops" if "loops" in config else ""
        return f"{config['layers']} layers{loops}, {config['hidden']} wide"


def hrms(task: TaskPlan, arms: Iterable[str]) -> list[ResolvedArm]:
    """The HRMs among `arms` that set a size; of several of one size (ablations), the first."""
    found: dict[tuple[object, ...], ResolvedArm] = {}
    for arm in map(task.arms.__getitem__, arms):
        if arm.matched is None and arm.model not in BASELINES and MODELS.get(arm.model).recurrent:
            found.setdefault((arm.model, arm.cost.core, arm.cost.total), arm)
    return list(found.values())


def opponents(task: TaskPlan, arm: ResolvedArm) -> list[Opponent]:
    """One per rule of RULES, in that order."""
    shape = ModelShape.of(task.task)
    reference = Reference(arm.config, arm.cost)
    hidden, heads, _ = arm.config.typical_block
    layers = sum(value for name, value in arm.config.model_dump().items() if name.endswith("layers")) or 2
    found = []
    for rule, model in RULES:
        loop = arm.loop if MODELS.get(model).recurrent else ONE_PASS
        own = arm.config.model_dump()
        shared: dict[str, Any] = {name: own[name] for name in ("puzzle_embedding", "dropout") if name in own}
        if own.get("slots") == 0:  # no place before the sequence, as under a causal mask
            shared["slots"] = 0
        start = resolve_config(model, {**shared, "hidden": hidden, "heads": heads, "layers": layers})
        try:
            matched = match_arm(rule, model, start, reference, shape, loop.segments, f"{arm.name}'s {rule}")
        except UserError as error:
            found.append(Opponent(rule, model, None, refusal=f"refused: {error}"))
            continue
        per_update = measure(model, matched.config, shape, loop, task.recipe).flops_per_update
        updates = arm.updates
        if updates is not None and (rule == "train_flops" or task.recipe.budget.train_flops is not None):
            updates = max(1, round(updates * arm.cost.flops_per_update / per_update))
        per_answer = flops_per_segment(model, matched.config, shape) * loop.segments
        found.append(Opponent(rule, model, matched, updates, per_answer))
    return found
