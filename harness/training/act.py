"""Segments, carry and halting: how a recurrent arm's rows move through training.

Adaptive computation time as in HRM (arXiv 2506.21734) and its public code: a row stays in the batch, its state
detached between segments, until the halting rule releases it; its place is then refilled from the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.recipe import Loop, Recipe
from harness.training.losses import LOSSES, binary_cross_entropy
from models.base import Prediction, ReasoningModel, State
from tasks.base import Batch, Task


@dataclass
class Carry:
    """What lives between updates: each row's state, data, segment count, and whether it is to be refilled."""

    state: State
    batch: Batch
    steps: Tensor  # [B] int32
    halted: Tensor  # [B] bool

    def map(self, change: Callable[[Tensor], Tensor]) -> Carry:
        """The same carry with `change` applied to every tensor."""
        state = {name: change(value) for name, value in self.state.items()}
        return Carry(state, self.batch.map(change), change(self.steps), change(self.halted))

    def parts(self, count: int) -> list[Carry]:
        """The rows in `count` equal parts, in order."""
        if count == 1:
            return [self]
        size = len(self.steps) // count

        def part(i: int) -> Carry:
            return self.map(lambda tensor: tensor[i * size : (i + 1) * size])

        return [part(i) for i in range(count)]

    @staticmethod
    def joined(parts: list[Carry]) -> Carry:
        """What `parts` took apart."""
        if len(parts) == 1:
            return parts[0]
        of = [_tensors(part) for part in parts]
        whole = iter([torch.cat(tensors) for tensors in zip(*of, strict=True)])
        return parts[0].map(lambda _: next(whole))


def _tensors(carry: Carry) -> list[Tensor]:
    seen: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor

    carry.map(note)
    return seen


@dataclass
class Losses:
    """Sums over rows of one segment: total is what is differentiated, the rest is for the record."""

    total: Tensor
    language: Tensor
    correct: Tensor  # [B] bool
    target_continue: Tensor | None = None  # [B]


@dataclass(frozen=True)
class Phase:
    """Where in training an update stands: what schedules make of the loop. Host values, known without looking at the
    device."""

    most: int  # segments
    exploration: float
    halting_factor: float = 1.0
    bootstraps: bool = True

    @classmethod
    def of(cls, recipe: Recipe, loop: Loop, progress: float, update: int) -> Phase:
        """update counts from 0."""
        return cls(
            most=recipe.curriculum.most_segments(loop.segments, progress),
            exploration=recipe.exploration(loop, progress),
            halting_factor=recipe.halting_factor(progress),
            bootstraps=update % loop.bootstrap_every == 0,
        )


def wants_to_halt(loop: Loop, prediction: Prediction) -> Tensor | None:
    """[B] bool: the model's own halting decision after a segment; None for arms without one."""
    if loop.halting == "none" or prediction.q_halt is None:
        return None
    if loop.halting == "q_halt":
        return prediction.q_halt > 0
    assert prediction.q_continue is not None, "q_learning needs a q_continue head"
    return prediction.q_halt > prediction.q_continue


def halted_after(
    loop: Loop, prediction: Prediction, steps: Tensor, minimum_steps: Tensor, most: int | None = None
) -> Tensor:
    """[B] bool: which rows are released after a training segment.

    steps [B] counts this segment; minimum_steps [B] is what exploration drew, 0 where it did not strike; most: the
    largest number of segments now, the loop's own by default. The last segment always halts, since no minimum
    exceeds it.
    """
    most = most or loop.segments
    halted = steps >= most
    wish = wants_to_halt(loop, prediction)
    if wish is not None and most > 1:
        halted = halted | wish
    return halted & (steps >= minimum_steps)


def exploration_minimum(most: int, exploration: float, uniform: Tensor) -> Tensor:
    """[B] int32: with probability `exploration` a minimum drawn from {2 … most}, else 0.

    uniform [B, 2] in [0, 1): the first decides whether, the second which.
    """
    if most < 2 or exploration == 0:
        return torch.zeros(len(uniform), dtype=torch.int32, device=uniform.device)
    drawn = 2 + (uniform[:, 1] * (most - 1)).to(torch.int32)
    return torch.where(uniform[:, 0] < exploration, drawn, torch.zeros_like(drawn))


@torch.no_grad()
def bootstrap_target(model: ReasoningModel, state: State, batch: Batch, steps: Tensor, most: int) -> Tensor:
    """[B]: σ(max(q_halt, q_continue)) of one segment more from the new state; σ(q_halt) at the last, `most`."""
    _, following = model(state, batch)
    assert following.q_halt is not None and following.q_continue is not None
    best = torch.maximum(following.q_halt, following.q_continue)
    return torch.sigmoid(torch.where(steps >= most, following.q_halt, best))


def segment_losses(
    loop: Loop,
    task: Task,
    batch: Batch,
    prediction: Prediction,
    loss: str,
    target_continue: Tensor | None,
    *,
    weights: Tensor | None = None,
    halting_factor: float = 1.0,
) -> Losses:
    """Losses of one segment, summed over rows: answer + halting_weight · (halt + continue) + the model's own.

    weights [B] multiply a row's whole loss, halting_factor the halting losses.
    """
    language = LOSSES.get(loss)(prediction, batch)
    correct = task.correct(batch, prediction.logits.detach().argmax(-1))
    total = language
    if loop.halting != "none" and prediction.q_halt is not None:
        halting = binary_cross_entropy(prediction.q_halt, correct)
        if target_continue is not None and prediction.q_continue is not None:
            halting = halting + binary_cross_entropy(prediction.q_continue, target_continue)
        total = total + loop.halting_weight * halting_factor * halting
    for name, value in prediction.extra.items():
        if name.endswith("_loss"):
            total = total + value
    if weights is not None:
        total = total * weights
    return Losses(total.sum(), language.detach().sum(), correct, target_continue)


def run_segment(
    loop: Loop,
    task: Task,
    model: ReasoningModel,
    state: State,
    batch: Batch,
    steps: Tensor,
    loss: str,
    phase: Phase | None = None,
    weights: Tensor | None = None,
) -> tuple[State, Prediction, Losses]:
    """One training segment: forward, bootstrap pass where the loop has one, losses. The state comes back attached.

    weights [segments]: the loss's weight after each segment; None: 1 each.
    """
    phase = phase or Phase(loop.segments, loop.exploration)
    state, prediction = model(state, batch)
    target = None
    if loop.halting == "q_learning" and phase.most > 1 and phase.bootstraps and prediction.q_continue is not None:
        target = bootstrap_target(model, detached(state), batch, steps, phase.most)
    row_weights = None if weights is None else weights[(steps - 1).clamp(0, len(weights) - 1)]
    losses = segment_losses(
        loop, task, batch, prediction, loss, target, weights=row_weights, halting_factor=phase.halting_factor
    )
    return state, prediction, losses


def detached(state: State) -> State:
    return {name: value.detach() for name, value in state.items()}


def replace_rows(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` where rows [B] is true, else `old`; both [B, …]."""
    return torch.where(rows.view(-1, *([1] * (new.dim() - 1))), new, old)


def refill(model: ReasoningModel, carry: Carry, fresh: Batch, keys: Tensor | None = None) -> Carry:
    """Give halted rows their fresh example and the initial state, drawn by their keys [B]; leave the others alone."""
    rows = carry.halted
    batch = Batch(
        replace_rows(rows, fresh.inputs, carry.batch.inputs),
        replace_rows(rows, fresh.labels, carry.batch.labels),
        replace_rows(rows, fresh.puzzle_ids, carry.batch.puzzle_ids),
        {name: replace_rows(rows, value, carry.batch.facts[name]) for name, value in fresh.facts.items()},
    )
    initial = model.initial_state(batch, keys)
    return Carry(
        state={name: replace_rows(rows, initial[name], value) for name, value in carry.state.items()},
        batch=batch,
        steps=carry.steps.masked_fill(rows, 0),
        halted=rows,
    )


def first_carry(model: ReasoningModel, fresh: Batch) -> Carry:
    """A carry whose every row is to be refilled."""
    B, device = len(fresh.inputs), fresh.inputs.device
    state = {name: value.contiguous() for name, value in model.initial_state(fresh).items()}
    return Carry(
        state=state,
        batch=fresh,
        steps=torch.zeros(B, dtype=torch.int32, device=device),
        halted=torch.ones(B, dtype=torch.bool, device=device),
    )
