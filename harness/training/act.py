"""Segments, carry and halting: how a recurrent arm's rows move through training.

Adaptive computation time as in HRM (arXiv 2506.21734) and its public code: a row stays in the batch, its state
detached between segments, until the halting rule releases it; its place is then refilled from the stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.recipe import Loop
from harness.training.losses import binary_cross_entropy, cross_entropy
from models.base import Prediction, ReasoningModel, State
from tasks.base import Batch, Task


@dataclass
class Carry:
    """What lives between updates: each row's state, data, segment count, and whether it is to be refilled."""

    state: State
    batch: Batch
    steps: Tensor  # [B] int32
    halted: Tensor  # [B] bool


@dataclass
class Losses:
    """Sums over rows of one segment: total is what is differentiated, the rest is for the record."""

    total: Tensor
    language: Tensor
    correct: Tensor  # [B] bool
    target_continue: Tensor | None = None  # [B]


def wants_to_halt(loop: Loop, prediction: Prediction) -> Tensor | None:
    """[B] bool: the model's own halting decision after a segment; None for arms without one."""
    if loop.halting == "none" or prediction.q_halt is None:
        return None
    if loop.halting == "q_halt":
        return prediction.q_halt > 0
    assert prediction.q_continue is not None, "q_learning needs a q_continue head"
    return prediction.q_halt > prediction.q_continue


def halted_after(loop: Loop, prediction: Prediction, steps: Tensor, minimum_steps: Tensor) -> Tensor:
    """[B] bool: which rows are released after a training segment.

    steps [B] counts this segment; minimum_steps [B] is what exploration drew, 0 where it did not strike. The last
    segment always halts, since no minimum exceeds it.
    """
    halted = steps >= loop.segments
    wish = wants_to_halt(loop, prediction)
    if wish is not None and loop.segments > 1:
        halted = halted | wish
    return halted & (steps >= minimum_steps)


def exploration_minimum(loop: Loop, uniform: Tensor) -> Tensor:
    """[B] int32: with probability `exploration` a minimum drawn from {2 … segments}, else 0.

    uniform [B, 2] in [0, 1): the first decides whether, the second which.
    """
    if loop.segments < 2 or loop.exploration == 0:
        return torch.zeros(len(uniform), dtype=torch.int32, device=uniform.device)
    drawn = 2 + (uniform[:, 1] * (loop.segments - 1)).to(torch.int32)
    return torch.where(uniform[:, 0] < loop.exploration, drawn, torch.zeros_like(drawn))


@torch.no_grad()
def bootstrap_target(loop: Loop, model: ReasoningModel, state: State, batch: Batch, steps: Tensor) -> Tensor:
    """[B]: σ(max(q_halt, q_continue)) of one segment more from the new state; σ(q_halt) at the last segment."""
    _, following = model(state, batch)
    assert following.q_halt is not None and following.q_continue is not None
    best = torch.maximum(following.q_halt, following.q_continue)
    return torch.sigmoid(torch.where(steps >= loop.segments, following.q_halt, best))


def segment_losses(
    loop: Loop, task: Task, batch: Batch, prediction: Prediction, loss: str, target_continue: Tensor | None
) -> Losses:
    """Losses of one segment, summed over rows: answer + halting_weight · (halt + continue)."""
    language = cross_entropy(prediction.logits, batch.labels, loss).sum()
    correct = task.correct(batch, prediction.logits.detach().argmax(-1))
    total = language
    if loop.halting != "none" and prediction.q_halt is not None:
        halting = binary_cross_entropy(prediction.q_halt, correct).sum()
        if target_continue is not None and prediction.q_continue is not None:
            halting = halting + binary_cross_entropy(prediction.q_continue, target_continue).sum()
        total = total + loop.halting_weight * halting
    for name, value in prediction.extra.items():
        if name.endswith("_loss"):
            total = total + value.sum()
    return Losses(total, language.detach(), correct, target_continue)


def run_segment(
    loop: Loop, task: Task, model: ReasoningModel, state: State, batch: Batch, steps: Tensor, loss: str
) -> tuple[State, Prediction, Losses]:
    """One training segment: forward, bootstrap pass where the loop has one, losses. The state comes back attached."""
    state, prediction = model(state, batch)
    target = None
    if loop.halting == "q_learning" and loop.segments > 1 and prediction.q_continue is not None:
        target = bootstrap_target(loop, model, detached(state), batch, steps)
    return state, prediction, segment_losses(loop, task, batch, prediction, loss, target)


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
