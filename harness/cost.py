"""What an arm costs: parameters by group, layer applications, and FLOPs counted on the passes that really run.

FLOPs come from `torch.utils.flop_counter` (2 per multiply-add of matrix products; element-wise work is not counted)
over a throw-away copy on the meta device with the MATH attention kernel: other kernels count as 0 on CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.recipe import Loop, Recipe
from harness.training.act import Phase, detached, run_segment
from models.base import ModelConfig, ModelShape, ReasoningModel, create_model
from models.layers import recompute_layers
from tasks.base import Batch, Task


@dataclass(frozen=True)
class Cost:
    """Per arm and task. Segments are the trained ones; an update is one optimizer step on the whole batch."""

    core: int
    embeddings: int
    heads: int
    puzzle_table: int
    never_trained: int
    layers_per_segment: int
    segments: int
    flops_per_segment: float  # one answer, one segment
    flops_per_update: float
    activation_bytes: float  # kept for a backward pass, of the whole batch or of one of the recipe's `accumulate` parts

    @property
    def total(self) -> int:
        """All trained numbers."""
        return self.core + self.embeddings + self.heads + self.puzzle_table

    @property
    def layers_per_answer(self) -> int:
        return self.layers_per_segment * self.segments

    @property
    def flops_per_answer(self) -> float:
        return self.flops_per_segment * self.segments


def parameters(model: str, config: ModelConfig, shape: ModelShape) -> dict[str, int]:
    """Numbers per group, counted on the meta device."""
    return create_model(model, config, shape).parameter_groups()


def flops_per_segment(model: str, config: ModelConfig, shape: ModelShape) -> float:
    """FLOPs of one segment of one answer."""
    return _segment_flops(create_model(model, config, shape), shape)


def _segment_flops(copy: ReasoningModel, shape: ModelShape) -> float:
    rows = 2
    batch = _meta_batch(shape, rows)

    def answer_once() -> None:
        with torch.no_grad():
            copy(copy.initial_state(batch), batch)

    return _count(answer_once) / rows


def measure(
    model: str,
    config: ModelConfig,
    shape: ModelShape,
    loop: Loop,
    recipe: Recipe,
    dtype: torch.dtype = torch.float32,
) -> Cost:
    """Count one arm. Rows are independent, so FLOPs are counted at 2 rows and scaled to the batch.

    Where updates differ (a bootstrap pass every few, shorter rollouts in a curriculum's stages), FLOPs per update are
    the mean over the run. dtype, that of the activations, decides activation_bytes alone.
    """
    copy, per_row = _copy(model, config, shape, recipe, dtype), 1 / ROWS
    flops = _phase_flops(copy, shape, loop, recipe)
    stages, often = recipe.curriculum.stages(loop.segments), 1 / loop.bootstrap_every
    groups = copy.parameter_groups()
    return Cost(
        core=groups["core"],
        embeddings=groups["embeddings"],
        heads=groups["heads"],
        puzzle_table=groups["puzzle_table"],
        never_trained=groups["never_trained"],
        layers_per_segment=copy.layers_per_segment,
        segments=loop.segments if copy.recurrent else 1,
        flops_per_segment=_segment_flops(copy, shape),
        flops_per_update=sum(
            share * (often * flops[most, True] + (1 - often) * flops.get((most, False), 0)) for share, most in stages
        ),
        activation_bytes=_activation_bytes(copy, shape, loop) * per_row * recipe.batch_size / recipe.accumulate,
    )


def phase_flops(
    model: str, config: ModelConfig, shape: ModelShape, loop: Loop, recipe: Recipe
) -> dict[tuple[int, bool], float]:
    """FLOPs of an update of the whole batch by (largest number of segments then, whether it has a bootstrap pass)."""
    return _phase_flops(_copy(model, config, shape, recipe), shape, loop, recipe)


ROWS = 2
"""Rows that are counted: they are independent, so the rest is a multiple."""


def _copy(
    model: str, config: ModelConfig, shape: ModelShape, recipe: Recipe, dtype: torch.dtype = torch.float32
) -> ReasoningModel:
    copy = create_model(model, config, shape, dtype=dtype)
    if recipe.recompute:
        recompute_layers(copy)
    return copy


def _phase_flops(copy: ReasoningModel, shape: ModelShape, loop: Loop, recipe: Recipe) -> dict[tuple[int, bool], float]:
    counted = {}
    for _, most in recipe.curriculum.stages(loop.segments):
        for bootstraps in (True, False)[: 1 + (loop.bootstrap_every > 1)]:
            flops = _count(partial(_update, copy, shape, loop, most, bootstraps))
            counted[most, bootstraps] = flops / ROWS * recipe.batch_size
    return counted


def _update(copy: ReasoningModel, shape: ModelShape, loop: Loop, most: int, bootstraps: bool = True) -> None:
    """One update as the trainer runs it, on the meta device."""
    batch = _meta_batch(shape, ROWS)
    # `correct` decides only the halting target's value, never what is computed: label equality stands in
    steps = torch.zeros(ROWS, dtype=torch.int32, device="meta")
    state, attached = copy.initial_state(batch), torch.zeros((), device="meta")
    phase = Phase(most, loop.exploration, bootstraps=bootstraps)
    for _ in range(min(loop.rollout, most)):
        state, _, losses = run_segment(loop, LabelEquality(), copy, state, batch, steps, "softmax", phase)
        if loop.detach:
            losses.total.backward()
            state = detached(state)
        else:
            attached = attached + losses.total
    if not loop.detach:
        attached.backward()


def _activation_bytes(copy: ReasoningModel, shape: ModelShape, loop: Loop) -> float:
    """Kept for one backward pass of ROWS rows: of one segment where segments are detached, else of a whole rollout."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        # the kernels that train never keep the S × S attention matrix, which the MATH kernel counted here does
        attention = tensor.dim() >= 3 and tensor.shape[-1] == tensor.shape[-2] >= shape.sequence_length
        if not isinstance(tensor, torch.nn.Parameter) and not attention:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    one = loop.model_copy(update={"rollout": 1}) if loop.detach else loop
    with (
        sdpa_kernel(SDPBackend.MATH),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        _update(copy, shape, one, loop.segments)
    return sum(kept.values())


class LabelEquality(Task):
    """The default verifier, for counting: it works on tensors without values."""

    name = "label-equality"


def _meta_batch(shape: ModelShape, rows: int) -> Batch:
    def tokens(length: int) -> torch.Tensor:
        return torch.zeros((rows, length), dtype=torch.int32, device="meta")

    ids = torch.zeros(rows, dtype=torch.int32, device="meta")
    inputs = tokens(shape.sequence_length)
    return Batch(inputs.float() if shape.features else inputs, tokens(shape.answer_length), ids, {"prompt_length": ids})


def _count(run: Callable[[], None]) -> float:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())
