"""What an arm costs: parameters by group, layer applications, and FLOPs counted on the passes that really run.

FLOPs come from `torch.utils.flop_counter` (2 per multiply-add of matrix products; element-wise work is not counted)
over a throw-away copy on the meta device with the MATH attention kernel: other kernels count as 0 on CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    rows = 2
    copy = create_model(model, config, shape, dtype=dtype)
    if recipe.recompute:
        recompute_layers(copy)
    batch = _meta_batch(shape, rows)

    def update_once(most: int, bootstraps: bool) -> None:
        # `correct` decides only the halting target's value, never what is computed: label equality stands in
        steps = torch.zeros(rows, dtype=torch.int32, device="meta")
        state = copy.initial_state(batch)
        total = torch.zeros((), device="meta")
        phase = Phase(most, loop.exploration, bootstraps=bootstraps)
        for _ in range(min(loop.rollout, most)):
            state, _, losses = run_segment(loop, LabelEquality(), copy, state, batch, steps, "softmax", phase)
            total = total + losses.total
            if loop.detach:
                state = detached(state)
        total.backward()

    groups = copy.parameter_groups()
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        # the kernels that train never keep the S × S attention matrix, which the MATH kernel counted here does
        attention = tensor.dim() >= 3 and tensor.shape[-1] == tensor.shape[-2] >= shape.sequence_length
        if not isinstance(tensor, torch.nn.Parameter) and not attention:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        flops_per_update = _count(lambda: update_once(loop.segments, True))
    often = 1 / loop.bootstrap_every
    if loop.bootstrap_every > 1 or len(recipe.curriculum.stages(loop.segments)) > 1:
        counted = {
            (most, bootstraps): _count(lambda most=most, bootstraps=bootstraps: update_once(most, bootstraps))  # type: ignore[misc]
            for _, most in recipe.curriculum.stages(loop.segments)
            for bootstraps in (True, False)
        }
        flops_per_update = sum(
            share * (often * counted[most, True] + (1 - often) * counted[most, False])
            for share, most in recipe.curriculum.stages(loop.segments)
        )
    return Cost(
        core=groups["core"],
        embeddings=groups["embeddings"],
        heads=groups["heads"],
        puzzle_table=groups["puzzle_table"],
        never_trained=groups["never_trained"],
        layers_per_segment=copy.layers_per_segment,
        segments=loop.segments if copy.recurrent else 1,
        flops_per_segment=_segment_flops(copy, shape),
        flops_per_update=flops_per_update / rows * recipe.batch_size,
        activation_bytes=sum(kept.values()) / rows * recipe.batch_size / recipe.accumulate,
    )


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
