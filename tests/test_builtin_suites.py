"""small and medium are complete and true: planned, matched, and each cell whose data are here runs (slowly) on CPU."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from harness import cli
from harness import suite as suites
from harness.cost import parameters
from models.base import ModelShape, resolve_config


@pytest.mark.parametrize(("name", "core"), [("small", 27.3e6), ("medium", 64e6)])
def test_reference_arms_have_the_stated_size(name, core):
    document, label = suites.read_suite(name)
    arm = suites.load_suite(document, label).arms["hrm"]
    groups = parameters("hrm", resolve_config(arm.model, arm.config, arm.preset), ModelShape(11, 81, 81))
    assert groups["core"] == pytest.approx(core, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arms"), [("small", ["hrm", "transformer", "looped", "modernbert"]), ("medium", ["hrm", "transformer"])]
)
def test_each_cell_whose_data_are_here_runs_on_cpu_and_the_rest_is_skipped_with_the_reason(
    name, arms, tmp_path, capsys
):
    """Two updates of two rows and two scored examples per cell. ARC keeps few variants (its table alone is 1.6 GB) and
    small grids, and Maze-Hard is left to `plan`: at 900 positions each of their cells takes minutes here. Arms that
    differ from these in the number of updates alone, and medium's that are small's at another width, are left out."""
    tasks = [task for task in suites.read_suite(name)[0]["tasks"] if task != "maze-hard"]
    places = ["--results", str(tmp_path / "results"), "--reports", str(tmp_path / "reports")]
    small = ["--max-updates", "2", "--batch-size", "2", "--max-examples", "2", "--seeds", "1", "--jobs", "1"]
    settings = ["--set", "recipe.evaluation.segments=[1,2]"]
    for arc in ("arc-agi-1", "arc-agi-2")[: 1 + (name == "medium")]:
        settings += ["--set", f"tasks.{arc}.settings.variants=2", "--set", f"tasks.{arc}.recipe.evaluation.votes=2"]
        settings += ["--set", f"tasks.{arc}.recipe.evaluation.puzzle_ids=[own]"]
        settings += ["--set", f"tasks.{arc}.settings.side=10"]
    settings += ["--set", "recipe.evaluation.points=1", "--set", "arms.hrm.loop.segments=2"]
    settings += ["--set", "arms.looped.loop.segments=2", "--arms", ",".join(arms)]
    assert cli.main(["--suite", name, "--tasks", ",".join(tasks), *small, *settings, *places]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    with Path(document["tables"]["runs"]).open() as file:
        runs = list(csv.DictReader(file))
    finished = {(run["task"], run["arm"]) for run in runs if run["status"] == "finished"}
    skipped = {run["task"]: run["reason"] for run in runs if run["status"] == "skipped"}
    assert {task for task, _ in finished} >= {"arc-agi-1", *(["arc-agi-2"] if name == "medium" else [])}
    assert {arm for _, arm in finished} == set(arms)
    assert all(run["status"] in ("finished", "skipped") for run in runs)
    assert all(task.startswith(("sudoku-extreme", "maze-hard")) and reason for task, reason in skipped.items())
    assert int(runs[0]["parameters_core"] or 0) > 0 or runs[0]["status"] == "skipped"
