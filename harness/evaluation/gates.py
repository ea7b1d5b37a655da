"""Validity gates on data and on untrained models: cheap checks that stand between figures and verdicts.

Each finds a fault that one of the field's public projects had. They are part of every run, on a few training rows with
weights of their own, so they change none of its numbers; what they found is gates.json of the run's folder. The gates
on what the runs did (budget, selection, depth, halting, missing data) need no model: harness/analysis/audit.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness import seeds
from harness.axes import CORRUPTED
from harness.cell import Cell
from harness.data import DataSet
from harness.evaluation.evaluate import limited
from harness.recipe import Loop, Recipe
from harness.training.act import detached, run_segment, wants_to_halt
from harness.training.batches import DeviceData
from harness.training.optim import Optimizers
from models.base import ModelShape, Prediction, ReasoningModel, create_model
from tasks.base import PAD, Batch, Splits, Task

ROWS, FEWEST_ROWS, MOST_TOKENS = 8, 3, 400
DEPTH = 2  # segments that the gates on predictions look through
EQUAL = 1e-4
"""Outputs closer than this share of their largest value are equal: rounding moves them by 1e-6 in float32."""
LARGEST_MOVED = 50_000_000
FROZEN = 1e-6
"""A learning-rate factor below this trains nothing."""
DEAD = 0.01
"""Largest share of parameters without gradient: as close as arms are matched."""

OF_MODELS = ("G-leak", "G-pos", "G-batch", "G-grad")

PASSED, FAILED, NOT_RUN, INAPPLICABLE = "passed", "failed", "not run", "does not apply"


class Finding(NamedTuple):
    result: str
    figure: str


def check(cell: Cell, task: Task, splits: Splits, data: DataSet, device: torch.device) -> list[dict[str, str]]:
    """What a run folder's gates.json holds: a finding per gate. A gate that raises has failed, with what it raised;
    where the machine is at fault (memory, disk) it did not run."""
    of_data = _DATA_GATES.get(data.path)
    if of_data is None:
        _DATA_GATES.clear()
        of_data = _DATA_GATES[data.path] = data_gates(task, splits, data.references)
    gates: dict[str, Callable[[], Finding]] = {}
    try:
        model, rows = _untrained(cell, task, splits, device)
    except Exception as error:
        raised = _raised(error)
        gates |= dict.fromkeys(OF_MODELS, lambda: raised)
    else:
        gates |= {
            "G-leak": lambda: leak(task, model, rows),
            "G-pos": lambda: positions(model, rows),
            "G-batch": lambda: mates(cell.loop, model, rows),
            "G-grad": lambda: gradients(cell.loop, cell.recipe, task, model, rows),
        }
    found = of_data | {gate: _found(find) for gate, find in gates.items()}
    return [{"gate": gate, **finding._asdict()} for gate, finding in found.items()]


_DATA_GATES: dict[Path, dict[str, Finding]] = {}
"""What the last data set of this process gave: the arms of a task follow one another."""


def _found(find: Callable[[], Finding]) -> Finding:
    try:
        return find()
    except Exception as error:
        return _raised(error)


def _raised(error: Exception) -> Finding:
    machine = isinstance(error, (MemoryError, torch.OutOfMemoryError, OSError))
    return Finding(NOT_RUN if machine else FAILED, f"{type(error).__name__}: {error}".splitlines()[0])


def _untrained(cell: Cell, task: Task, splits: Splits, device: torch.device) -> tuple[ReasoningModel, Batch]:
    """A model of the cell's with weights of its own, and a few training rows, fewer where they are long."""
    generator = torch.Generator().manual_seed(seeds.key(cell.task, cell.arm, "gates"))
    model = create_model(cell.model, cell.config, ModelShape.of(task), generator=generator)
    unsettle(model, generator)
    examples = limited(splits["train"], max(FEWEST_ROWS, min(ROWS, MOST_TOKENS // task.sequence_length)))
    rows = DeviceData(examples, device).rows(torch.arange(len(examples), device=device))
    return model.to(device), rows


# -- data ----------------------------------------------------------------------------------------------------------


def data_gates(task: Task, splits: Splits, references: Sequence[Mapping[str, Any]]) -> dict[str, Finding]:
    """The gates that depend on data alone."""
    solved = {row["split"]: row["value"] for row in references if row["kind"] == "ceiling" and row["metric"] == "exact"}
    return {
        "G-dup": _found(lambda: duplicates(task, splits)),
        "G-data": _found(lambda: labels(task, splits, solved)),
    }


def duplicates(task: Task, splits: Splits) -> Finding:
    """No scored input stands in training as it is; up to symmetry the data are refused before anything is trained."""
    train = np.unique(_inputs(splits, "train"))
    shared = {}
    for name in splits:
        if name == "train" or name.startswith(CORRUPTED):  # a changed input may well be one of training
            continue
        if name not in task.in_sample and "train" not in task.in_sample:
            shared[name] = int(np.isin(_inputs(splits, name), train).sum())
    figure = f"{len(train):,} of {len(splits['train']):,} training inputs are distinct"
    figure += "".join(f"; {count} of {len(splits[name]):,} of {name} in training" for name, count in shared.items())
    figure += "".join(f"; {name} in sample by design: {why}" for name, why in task.in_sample.items())
    return Finding(FAILED if any(shared.values()) else PASSED, figure)


def _inputs(splits: Splits, name: str) -> np.ndarray:
    """[N] bytes: each example's input and puzzle, as one string. All are of one length but for longer splits."""
    part = splits[name]
    ids = np.zeros(len(part), np.int32) if part.puzzle_ids is None else np.asarray(part.puzzle_ids, np.int32)
    inputs = np.ascontiguousarray(part.inputs).view(np.uint8).reshape(len(part), -1)
    rows = np.hstack([ids[:, None].view(np.uint8).reshape(len(part), -1), inputs])
    return rows.view(f"S{rows.shape[1]}").ravel()


def labels(task: Task, splits: Splits, solved: dict[str, float | None]) -> Finding:
    """The task's `correct` and, where there is one, its solver accept every label; labels are not all alike."""
    wrong = sum(int((~np.asarray(task.correct(part.batch(), part.labels))).sum()) for part in splits.values())
    distinct = len(np.unique(np.asarray(splits["train"].labels), axis=0))
    figure = f"{wrong} of {sum(map(len, splits.values())):,} labels wrong; {distinct:,} different ones in training"
    unsolved = {name: value for name, value in solved.items() if value is not None}
    if unsolved:
        figure += f"; the exact solver is right on {100 * min(unsolved.values()):.1f} %"
    sound = not wrong and distinct > 1 and min(unsolved.values(), default=1.0) == 1
    return Finding(PASSED if sound else FAILED, figure)


# -- models --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def unsettle(model: ReasoningModel, generator: torch.Generator) -> None:
    """Move every parameter away from where it starts: what begins at zero hides what lies before it from the gradient,
    and attention that begins weak hides positions. Huge puzzle tables stay as they are."""
    for parameter in model.parameters():
        if parameter.numel() <= LARGEST_MOVED:
            size = 0.5 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 0.1
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def outputs(model: ReasoningModel, batch: Batch) -> list[Prediction]:
    """Predictions after each of DEPTH segments; every row draws by the same key, wherever it stands."""
    was_training = model.training
    model.eval()
    keys = torch.ones(len(batch.inputs), dtype=torch.int64, device=batch.inputs.device)
    state, found = model.initial_state(batch, keys), []
    for _ in range(DEPTH if model.recurrent else 1):
        state, prediction = model(state, batch)
        found.append(prediction)
    model.train(was_training)
    return found


def _apart(one: Tensor, other: Tensor) -> float:
    """Largest difference as a share of the largest value."""
    if one.numel() == 0:
        return 0.0
    scale = max(float(one.abs().max()), float(other.abs().max()), 1e-12)
    return float((one - other).abs().max()) / scale


def leak(task: Task, model: ReasoningModel, batch: Batch) -> Finding:
    """Where text is written from left to right, a token changes no output before it."""
    if not task.causal:
        if _next_in_view(batch):
            return Finding(FAILED, "the label of a position is the input of the next, which the model sees")
        return Finding(INAPPLICABLE, "every position is asked at once and may see all inputs, none of them an answer")
    length = batch.inputs.shape[1]
    moved, before = 0.0, outputs(model, batch)
    for place in sorted({1, length // 3, length // 2, length - 1} - {0}):
        changed = batch.inputs.clone()
        other = changed[:, place] % (len(task.vocabulary) - 1) + 1  # another token, never padding
        changed[:, place] = torch.where(batch.inputs[:, place] == PAD, batch.inputs[:, place], other)
        new = Batch(changed, batch.labels, batch.puzzle_ids, batch.facts)
        for one, two in zip(before, outputs(model, new), strict=True):
            moved = max(moved, _apart(one.logits[:, :place], two.logits[:, :place]))
    return Finding(PASSED if moved <= EQUAL else FAILED, f"a later token moves earlier outputs by {moved:.1e}")


def _next_in_view(batch: Batch) -> bool:
    """Whether the labels are the inputs, moved by one place: then the answers stand in the inputs."""
    if batch.labels.shape != batch.inputs.shape or batch.inputs.is_floating_point():
        return False
    scored = (batch.labels[:, :-1] != PAD) & (batch.inputs[:, 1:] != PAD)
    return bool(scored.any()) and bool((batch.labels[:, :-1] == batch.inputs[:, 1:])[scored].all())


def positions(model: ReasoningModel, batch: Batch) -> Finding:
    """A model that knows positions does not merely permute its outputs when its inputs are permuted."""
    flipped = Batch(batch.inputs.flip(1), batch.labels, batch.puzzle_ids, batch.facts)
    moved = 0.0
    for one, two in zip(outputs(model, batch), outputs(model, flipped), strict=True):
        same_places = one.logits.shape[1] == batch.inputs.shape[1]
        moved = max(moved, _apart(one.logits.flip(1) if same_places else one.logits, two.logits))
    return Finding(PASSED if moved > EQUAL else FAILED, f"reversed inputs: {moved:.1e} from reversed outputs")


def mates(loop: Loop, model: ReasoningModel, batch: Batch) -> Finding:
    """A row's outputs and halting decisions do not depend on the rows beside it."""
    count = len(batch.inputs)
    first = torch.arange(0, max(1, count // 2), device=batch.inputs.device)
    second = torch.cat([first[:1], torch.arange(len(first), count, device=first.device)])
    if len(second) < 2:
        return Finding(NOT_RUN, f"{count} training row(s) are too few")
    before, after = (outputs(model, _rows(batch, index)) for index in (first, second))
    moved, same = 0.0, True
    for one, two in zip(before, after, strict=True):
        moved = max(moved, _apart(one.logits[0], two.logits[0]))
        if one.q_halt is not None and two.q_halt is not None:
            moved = max(moved, abs(float(one.q_halt[0] - two.q_halt[0])) / max(1.0, abs(float(one.q_halt[0]))))
        same &= _halts(loop, one) == _halts(loop, two)
    return Finding(PASSED if moved <= EQUAL and same else FAILED, f"other mates move a row's outputs by {moved:.1e}")


def _rows(batch: Batch, index: Tensor) -> Batch:
    return batch.map(lambda tensor: tensor[index])


def _halts(loop: Loop, prediction: Prediction) -> bool:
    """Whether the first row wants to halt."""
    halt = wants_to_halt(loop, prediction)
    return halt is not None and bool(halt[0])


def _moves(gradient: Tensor | None) -> bool:
    """Whether a gradient, dense or of a puzzle table's few rows, is anything but zeros."""
    if gradient is None:
        return False
    return bool((gradient._values() if gradient.is_sparse else gradient).any())


def gradients(loop: Loop, recipe: Recipe, task: Task, model: ReasoningModel, batch: Batch) -> Finding:
    """Every counted parameter is in an optimizer and gets a gradient over an example's first segments."""
    optimizers = Optimizers(model, recipe.optimizer, recipe.puzzle_optimizer, recipe.schedule, recipe.clip)
    groups = [group for optimizer, _ in optimizers.optimizers for group in optimizer.param_groups]
    stepped = {id(p) for group in groups if group.get("factor", 1.0) >= FROZEN for p in group["params"]}
    model.zero_grad(set_to_none=True)
    weighted = recipe.segment_weights is not None
    weights = torch.tensor(recipe.weights_of(loop.segments), device=batch.inputs.device) if weighted else None
    rows = len(batch.inputs)
    state = model.initial_state(batch, torch.arange(rows, device=batch.inputs.device))
    steps = torch.zeros(rows, dtype=torch.int32, device=batch.inputs.device)
    attached = torch.zeros((), device=batch.inputs.device)
    last = min(loop.segments, max(DEPTH, loop.rollout, model.config.segment_heads))
    for segment in range(1, last + 1):
        steps = steps + 1
        state, _, losses = run_segment(loop, task, model, state, batch, steps, recipe.loss, weights=weights)
        attached = attached + losses.total
        if loop.detach or segment % loop.rollout == 0 or segment == last:
            attached.backward()
            state, attached = detached(state), torch.zeros((), device=batch.inputs.device)
    left = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if id(parameter) not in stepped or not _moves(parameter.grad)
    }
    model.zero_grad(set_to_none=True)
    total, dead = sum(p.numel() for p in model.parameters()), sum(left.values())
    figure = f"{dead:,} of {total:,} parameters without gradient or optimizer"
    figure += f" ({', '.join(sorted(left)[:6])}{', …' * (len(left) > 6)})" if left else ""
    return Finding(PASSED if dead <= DEAD * total else FAILED, figure)
