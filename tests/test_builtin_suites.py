"""small and medium are complete and true: planned, matched, and each cell whose data are here runs (slowly) on CPU;
tiny's programs are held out, and learned."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness import suite as suites
from harness.cost import parameters
from models.base import ModelShape, resolve_config
from tasks.base import DataFolder, create_task
from tasks.code import NearestPrompt
from tasks.humaneval import human_eval_items


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
    small += ["--no-controls"]
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


def tiny_code() -> Any:
    entry = suites.read_suite("tiny")[0]["tasks"]["synthetic-code"]
    return create_task("synthetic-code", entry["settings"])


def test_tinys_code_is_held_out_by_parameters_and_by_whole_families_and_humaneval_is_a_declared_few():
    task = tiny_code()
    splits = task.splits(0, DataFolder())
    assert set(splits["test"].groups) == set(splits["train"].groups) == set(task.families)
    assert set(splits["ood-families"].groups) == set(task.held_out)
    task.check(splits)
    asked = {problem.prompt for problem in task.problems(splits["ood-humaneval"])}
    assert len(asked) == task.humaneval_problems and asked < {item.problem.prompt for item in human_eval_items()}
    solved = NearestPrompt(splits["train"]).answer(splits["test"])
    assert task.verdicts(splits["test"], splits["test"].labels).all()
    assert task.verdicts(splits["test"], solved).mean() < 0.1, "copying the nearest program must not pass for writing"


@pytest.mark.slow
def test_an_arm_of_tiny_writes_programs_above_the_floor_by_the_lower_end_of_its_interval(tmp_path, capsys):
    places = ["--results", str(tmp_path / "results"), "--reports", str(tmp_path / "reports")]
    assert cli.main(["--suite", "tiny", "--tasks", "synthetic-code", "--arms", "transformer", *places]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    with Path(document["tables"]["levels"]).open() as file:
        levels = {row["split"]: row for row in csv.DictReader(file)}
    assert levels.keys() == {"test", "ood-families", "ood-humaneval"}
    assert float(levels["test"]["low"]) > float(levels["test"]["floor"])
    with Path(document["tables"]["samples"]).open() as file:
        samples = list(csv.DictReader(file))
    assert {row["split"] for row in samples} == levels.keys()
    assert all((row["judgement"] == "passed") == (row["correct"] == "1") for row in samples)
