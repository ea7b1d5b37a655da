"""How controls and tuning trials end: no tables, no weights, one record each. runner.py trains them like any cell."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from harness import seeds
from harness.cell import Cell
from harness.evaluation.evaluate import Evaluation, limited
from harness.record import identity, provenance, sandbox_provenance
from harness.tables import names
from tasks.base import Examples, Splits, Task


def shuffled(splits: Splits, cell: Cell) -> Splits:
    """The splits with training labels dealt out to other inputs: what each input asks for is no longer learnable, how
    often each answer comes still is. Held-out splits stay as they are."""
    train = splits["train"]
    order = seeds.generator(cell.task, "control", cell.seed).permutation(len(train))
    return splits | {"train": replace(train, labels=train.labels[order])}


def held_out(splits: Splits, cell: Cell) -> Examples:
    """The test examples that a control is scored on."""
    return limited(splits["test"], cell.recipe.evaluation.test_examples)


def chance(task: Task, train: Examples, held: Examples) -> float:
    """The best that nothing but the frequencies of answers can give: the best trivial predictor fitted on the shuffled
    training data, or the held-out examples' own most frequent answer, if that is right more often. (Of two classes a
    model that learned nothing may well settle on the one that training has less of.)"""
    most_frequent = np.unique(np.asarray(held.labels), axis=0, return_counts=True)[1].max() / len(held)
    return max(task.floor({"train": train, "test": held}), float(most_frequent))


def record(
    cell: Cell,
    task: Task,
    splits: Splits,
    started: datetime,
    curves: list[dict[str, Any]],
    selected: int,
    seconds: float,
    test: Evaluation | None,
) -> dict[str, Any]:
    """record.json of a control or a trial: columns of runs.csv as far as they apply, and the token accuracy on
    validation by which equal trials are told apart. A control's floor is `chance`."""
    best = curves[selected]
    row: dict[str, Any] = dict.fromkeys(names("runs")) | identity(cell) | provenance()
    row |= {
        "status": "finished",
        "updates": curves[-1]["updates"],
        "examples_seen": curves[-1]["examples"],
        "seconds_train": seconds,
        "selected_update": best["updates"],
        "validation_exact": best["validation_exact"],
        "validation_token": best["validation_token"],
        "train_examples": len(splits["train"]),
        "started": started.isoformat(timespec="seconds"),
    }
    if test is not None:
        row |= sandbox_provenance(task)
        row["floor"] = chance(task, splits["train"], held_out(splits, cell))
        row["test_exact"], row["test_examples"] = float(test.fixed().mean()), len(test)
    return row
