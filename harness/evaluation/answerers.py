"""Answerers without training, and what they score: the floors and the ceiling that stand beside a task's arms.

An answerer is anything with `answer(examples) → answers`. Torch-free: scored once per data set, when it is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from harness.axes import CORRUPTED, NO_CEILING
from harness.spacing import evenly
from tasks.base import PAD, Examples, Splits, Task
from tasks.predictors import Predictor

Row = dict[str, Any]

FLOOR, CEILING = "floor", "ceiling"

AT_ONCE = 8192
"""Rows judged together, so that a verifier's intermediate arrays stay small."""

SOLVED_EXAMPLES = 1000
"""The exact solver answers at most so many of a split, evenly spaced: hard 9x9 Sudokus take it milliseconds each."""


class ExactSolver:
    """A task's own solver as an answerer."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def answer(self, examples: Examples) -> np.ndarray | None:
        return self.task.solve(examples)


def references(task: Task, splits: Splits) -> list[Row]:
    """Rows of references.csv, without task and seed: each trivial predictor and the exact solver on each scored split.

    A predictor that can't answer a split has one row without a figure there, with the reason.
    """
    predictors = task.predictors(splits["train"])
    rows: list[Row] = []
    for split, part in splits.items():
        if split in ("train", "validation"):
            continue
        for name, predictor in predictors.items():
            no_answer = "inputs are numbers, answers are tokens"
            rows += _rows(split, name, FLOOR, part, score(task, part, predictor), no_answer)
        if split.startswith(CORRUPTED):
            rows += _rows(split, "exact-solver", CEILING, part, None, NO_CEILING)
        else:
            rows += _ceiling(task, split, part)
    return rows


def floors(rows: list[Row]) -> dict[str, float]:
    """Split → exact accuracy of the best trivial predictor, of `references`."""
    best: dict[str, float] = {}
    for row in rows:
        if row["kind"] == FLOOR and row["metric"] == "exact" and row["value"] is not None:
            best[row["split"]] = max(best.get(row["split"], 0.0), row["value"])
    return best


def score(task: Task, examples: Examples, answerer: Predictor) -> dict[str, float] | None:
    """Mean exact and token accuracy and the task's further metrics of an answerer; None where it has no answers."""
    answers = answerer.answer(examples)
    if answers is None:
        return None
    sums: dict[str, float] = {}
    for start in range(0, len(examples), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        for name, value in _judged(task, examples[rows], answers[rows]):
            sums[name] = sums.get(name, 0.0) + value
    return {name: total / len(examples) for name, total in sums.items()}


def _judged(task: Task, part: Examples, answers: np.ndarray) -> Iterator[tuple[str, float]]:
    """Sums over the rows, by metric. Token accuracy of a row is the share of its scored positions that are right."""
    batch = part.batch()
    yield "exact", float(task.verdicts(part, answers).sum())
    scored = part.labels != PAD
    share = ((answers == part.labels) & scored).sum(1) / scored.sum(1).clip(min=1)
    yield "token", float(share.sum())
    for name, values in task.metrics(batch, answers).items():
        yield name, float(np.asarray(values, np.float64).sum())


_SOLVED: dict[str, list[Row]] = {}


def _ceiling(task: Task, split: str, part: Examples) -> list[Row]:
    """The solver's rows, found once per process: test is the same for every seed."""
    key = f"{task.name} {task.model_dump_json()} {split} {part.digest()}"
    if key not in _SOLVED:
        few = part[evenly(len(part), SOLVED_EXAMPLES)]
        figures = score(task, few, ExactSolver(task))
        _SOLVED[key] = _rows(split, "exact-solver", CEILING, few, figures, "this task has no exact solver")
    return _SOLVED[key]


def _rows(
    split: str, predictor: str, kind: str, part: Examples, figures: Mapping[str, float] | None, no_answer: str
) -> list[Row]:
    row = {"split": split, "predictor": predictor, "kind": kind}
    if figures is None:
        return [row | {"metric": "exact", "value": None, "examples": 0, "reason": no_answer}]
    return [
        row | {"metric": metric, "value": value, "examples": len(part), "reason": None}
        for metric, value in figures.items()
    ]
