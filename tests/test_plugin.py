"""A task in one new file appears everywhere, with no other file touched; the documentation's example is that file."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.registry import Registry, load_plugin

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    """The first Python block of docs/adding-a-task.md as a file."""
    text = (ROOT / "docs/adding-a-task.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    path = tmp_path_factory.mktemp("plugin") / "reverse.py"
    path.write_text(code)
    return path


def test_the_documented_task_has_at_most_60_lines_of_code(example):
    lines = [line for line in example.read_text().splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(lines) <= 60


def test_the_documented_task_keeps_the_contract(example):
    """The contract tests that every built-in task passes, over the plug-in: splits, labels, augmentation."""
    import numpy as np
    import torch

    from harness.random import CounterRandom
    from tasks.base import TASKS, DataFolder, create_task

    load_plugin(example)
    try:
        task = create_task("reverse")
        splits = task.splits(0, DataFolder())
        task.check(splits)
        assert {"train", "validation", "test", "ood-longer"} == set(splits)
        assert 0 < task.floor(splits) < 0.3  # a copy is right where first and last letter are the same
        batch = splits["train"].batch().map(lambda array: torch.from_numpy(np.asarray(array)).int())
        changed = task.augment(batch, CounterRandom(1, torch.arange(len(batch.inputs))))
        assert not torch.equal(changed.inputs, batch.inputs)
        assert task.correct(changed, changed.labels).all()
    finally:
        TASKS._items.pop("reverse")


def test_a_task_given_by_plugin_appears_in_list_suite_tables_and_report(example, tmp_path):
    listed = run("list", "tasks", "--quick", "--plugin", str(example))
    assert "reverse" in listed.stdout
    ran = run(
        *("--suite", "tiny", "--smoke", "--plugin", str(example), "--tasks", "reverse", "--arms", "hrm,transformer"),
        *("--results", str(tmp_path / "results"), "--reports", str(tmp_path / "reports")),
    )
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout.splitlines()[-1])
    with Path(document["tables"]["runs"]).open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["task"], row["arm"], row["status"]) for row in rows} == {
        ("reverse", "hrm", "finished"),
        ("reverse", "transformer", "finished"),
    }
    assert "reverse" in Path(document["report"]).read_text()
    with Path(document["tables"]["depth"]).open() as file:
        assert {row["split"] for row in csv.DictReader(file)} == {"test", "ood-longer"}


def test_a_file_dropped_into_tasks_appears_too(example, tmp_path):
    """In a copy of the project whose only difference is that one file."""
    for name in ("harness", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "run_benchmarks.py", tmp_path)  # a link would put its target's folder on the path
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(example, tmp_path / "tasks/reverse.py")
    assert "reverse" in run("list", "tasks", "--quick", folder=tmp_path).stdout
    planned = run("plan", "--suite", "tiny", "--tasks", "reverse", "--arms", "transformer", folder=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout.splitlines()[-1])["tasks"]["reverse"]["arms"]["transformer"]["parameters_core"]


def test_a_broken_plugin_is_one_clear_line(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("import nothing_of_that_name\n")
    result = run("list", "tasks", "--quick", "--plugin", str(bad))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "bad.py: ModuleNotFoundError" in result.stderr
    assert run("list", "tasks", "--plugin", str(tmp_path / "none.py")).returncode == 2


def test_a_name_taken_by_something_else_is_refused():
    registry: Registry[type] = Registry("task")
    registry.add("x", int)
    registry.add("x", int)
    with pytest.raises(ValueError, match="already registered"):
        registry.add("x", str)


def run(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    program = str(folder / "run_benchmarks.py")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, program, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, env=environment
    )
