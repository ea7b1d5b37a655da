"""The short cells beside a suite's runs: controls on shuffled labels, and the trials of the tuning stage.

Each is made of the run's cell that it stands beside, so that model, loop, data and recipe are the run's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cell import Cell
from harness.errors import BrokenData
from harness.files import read_json
from harness.recipe import Budget, Recipe
from harness.suite import Controls
from harness.tuning import ENDED, Point, Tuning, choose, points


@dataclass(frozen=True)
class Trial:
    number: int
    point: Point
    cell: Cell


def control_of(run: Cell, controls: Controls) -> Cell:
    """A run's control: its model trained for a few updates on shuffled labels, then scored on test."""
    updates = _capped(run, controls.updates)
    evaluation = {"points": 1, "votes": 0, "test_examples": controls.test_examples, "segments": (run.loop.segments,)}
    return _short(run, updates, evaluation).model_copy(update={"purpose": "control"})


def trials_of(run: Cell, tuning: Tuning, data_hash: str) -> Iterator[Trial]:
    """An arm's trials on a task, on data and initial weights of their own seed."""
    short = _short(run, _capped(run, tuning.updates), {"votes": 0})
    own = Point(run.recipe.optimizer.learning_rate, run.recipe.optimizer.weight_decay)
    for number, point in enumerate(points(tuning, own)):
        changes = {"purpose": "trial", "seed": tuning.seed, "data_hash": data_hash}
        yield Trial(number, point, short.model_copy(update={"recipe": tuned(short.recipe, point), **changes}))


def tuned(recipe: Recipe, point: Point) -> Recipe:
    """The recipe with another learning rate and weight decay."""
    return recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update=point._asdict())})


def chosen(trials: Sequence[Trial], results: Path) -> Point | None:
    """What the trials on disk say; None while they do not say it."""
    by_number = {trial.number: trial.point for trial in trials}
    best = choose([{"trial": trial.number} | outcome(results / trial.cell.run_folder) for trial in trials])
    return None if best is None else by_number[best["trial"]]


def outcome(folder: Path) -> dict[str, Any]:
    """Status, reason and validation figures of a trial's folder."""
    row: dict[str, Any] = {"status": "planned"}
    path = folder / "record.json"
    if path.is_file():
        try:
            row = read_json(path)
            row["status"]
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenData(f"{path}: {error}; delete the folder and run the suite again") from None
    return {name: row.get(name) for name in ("status", "reason", "validation_exact", "validation_token")}


def ended(folder: Path) -> bool:
    """Whether a trial was made, well or not; a failed one is to be made again."""
    return outcome(folder)["status"] in ENDED


def _capped(run: Cell, updates: int) -> int:
    """--max-updates holds for these runs, too."""
    return updates if run.recipe.max_updates is None else min(updates, run.recipe.max_updates)


def _short(run: Cell, updates: int, evaluation: dict[str, Any]) -> Cell:
    """The run's cell with fewer updates; warm-up keeps its share of them, and nothing ends it early."""
    recipe = run.recipe
    warmup = recipe.schedule.warmup_updates
    if run.updates is not None:
        warmup = round(warmup * updates / run.updates)
    changes = {
        "budget": Budget(updates=updates),
        "max_updates": None,
        "early_stopping": None,
        "schedule": recipe.schedule.model_copy(update={"warmup_updates": min(warmup, updates // 2)}),
        "evaluation": recipe.evaluation.model_copy(update=evaluation),
    }
    return run.model_copy(update={"updates": updates, "recipe": recipe.model_copy(update=changes)})
