"""What a suite can vary on any task: number of base examples, difficulty, corrupted test inputs.

`settings: {axes: {base_examples: 100}}` in a suite; being settings, axes stand in runs.csv and in the cell's id. They
are applied here to the splits that a task gives, so no task has to know about them. (Augmentation on or off is the
recipe's `augmentation`.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, Field, field_validator

from harness import seeds
from harness.errors import BrokenData, UserError
from harness.schema import STRICT

if TYPE_CHECKING:
    from tasks.base import Examples, Splits, Task

Range = tuple[float | None, float | None]
"""Lowest and highest difficulty, both included, in the task's unit; null: no bound."""

Share = Annotated[float, Field(gt=0, le=1)]


class Axes(BaseModel):
    """Common settings of every task."""

    model_config = STRICT

    base_examples: int | None = Field(None, ge=1, description="training rows kept, drawn by seed; smaller draws nest")
    difficulty: Range | None = Field(None, description="[lowest, highest] of every split")
    train_difficulty: Range | None = Field(None, description="[lowest, highest] of train and validation alone")
    corruption: tuple[Share, ...] = Field(
        (), description="shares of input places changed; each gives an ood split, right as before the change"
    )

    @field_validator("difficulty", "train_difficulty")
    @classmethod
    def _in_order(cls, value: Range | None) -> Range | None:
        if value is not None and None not in value and value[0] > value[1]:  # type: ignore[operator]
            raise ValueError(f"{value[0]:g} is above {value[1]:g}")
        return value


def selected(task: Task, splits: Splits, seed: int) -> Splits:
    """The rows that base_examples and the difficulties leave. Raises UserError where too few are there."""
    axes = task.axes
    kept = dict(splits)
    for name, part in splits.items():
        ranges = [axes.difficulty, axes.train_difficulty if name in ("train", "validation") else None]
        for low, high in filter(None, ranges):
            part = part[within(part.difficulty, low, high)]
        kept[name] = part
    if axes.base_examples is not None:
        n = len(kept["train"])
        if axes.base_examples > n:
            raise UserError(
                f"task {task.name}: settings.axes.base_examples: {axes.base_examples:,} asked for, train holds {n:,}"
            )
        order = seeds.generator(task.name, "base-examples", seed).permutation(n)  # a prefix, so smaller draws nest
        kept["train"] = kept["train"][np.sort(order[: axes.base_examples])]
    # an out-of-distribution split that a range leaves nothing of is no longer there
    return {name: part for name, part in kept.items() if len(part) or not name.startswith("ood-")}


def within(difficulty: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    """[N] bool."""
    inside = np.ones(len(difficulty), bool)
    if low is not None:
        inside &= difficulty >= low
    if high is not None:
        inside &= difficulty <= high
    return inside


CORRUPTED = "ood-corrupted-"


def corrupted(task: Task, test: Examples) -> Splits:
    """`ood-corrupted-SHARE` for each share: test with that share of its input places changed.

    For every task the label, and so what counts as right, is the answer to the input before the change. The figure is
    stability: how many answers survive so much noise in what is read. It is not accuracy on the changed questions,
    which may have another answer (parity: every flipped bit flips it) or none (a Sudoku with a wrong given); so there
    is no ceiling, which references.csv says, while floors are those of the same labels.

    A token becomes another one that test has at its place, a feature changes its sign. Padding, places where all rows
    agree, and a causal task's answer stay. The same change for every seed and arm.
    """
    return {f"{CORRUPTED}{share:g}": _corrupted(task, test, share) for share in task.axes.corruption}


def notes(splits: Splits) -> list[str]:
    """Sentences for the report about what `corrupted` made: how much was changed, and what is right there."""
    return [
        f"{name}: test with {(part.inputs != splits['test'].inputs).mean():.1%} of its input places changed in fact; "
        "right is the answer to the input before the change, so its figures are stability, not accuracy"
        for name, part in splits.items()
        if name.startswith(CORRUPTED)
    ]


NO_CEILING = "the exact solver reads the changed input, the label is the answer to the one before the change"


def _corrupted(task: Task, test: Examples, share: float) -> Examples:
    random = seeds.generator(task.name, "corruption", str(share))
    inputs = test.inputs.copy()
    free = np.ones(inputs.shape, bool)
    if "prompt_length" in test.facts:
        free = np.arange(inputs.shape[1]) < test.facts["prompt_length"][:, None]
    hit = free & (inputs != 0) & (random.random(inputs.shape) < share)
    if task.features:
        inputs[hit] = -inputs[hit]
    else:
        for place in range(inputs.shape[1]):
            known = np.setdiff1d(inputs[free[:, place], place], [0])
            rows = np.flatnonzero(hit[:, place])
            if len(known) > 1 and len(rows):
                at = np.searchsorted(known, inputs[rows, place])
                step = random.integers(1, len(known), len(rows))  # never itself
                inputs[rows, place] = known[(at + step) % len(known)]
    part = replace(test, inputs=inputs)
    if not np.asarray(task.correct(part.batch(), part.labels)).all():
        raise BrokenData(
            f"task {task.name}: settings.axes.corruption: its verifier judges an answer by the inputs, and so refuses "
            "the right answer to a corrupted one; leave the key out"
        )
    return part
