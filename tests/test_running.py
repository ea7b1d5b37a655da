"""A suite from start to report: resumable, repeatable, and a failed cell loses nothing else."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import ROOT, suite_file

from harness import cli, tables

TIMES = tables.TIME_COLUMNS


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A toy suite run once: 1 task, 2 arms, 2 seeds."""
    folder = tmp_path_factory.mktemp("finished")
    assert run(folder) == 0
    return folder


def run(folder: Path, *extra: str) -> int:
    places = ["--results", str(folder / "results"), "--reports", str(folder / "reports")]
    return cli.main(["--suite", str(suite_file(folder)), *places, *extra])


def rows(path: Path) -> list[dict[str, str]]:
    import gzip

    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        read = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    return [row for row in read if row.get("cost") not in TIMES]


def every_table(folder: Path) -> dict[str, list[dict[str, str]]]:
    return {path.name: rows(path) for path in sorted((folder / "results/toy").glob("*.csv*"))}


def test_all_tables_and_the_report_are_there_with_the_columns_of_the_schema(finished):
    results = finished / "results/toy"
    for table in tables.TABLES:
        path = results / (f"{table}.csv.gz" if table == "examples" else f"{table}.csv")
        found = rows(path)
        # the toy task counts no kinds of answers, casts no votes, writes no text and is not tuned; others have tests
        if table in ("histograms", "votes", "passes", "samples", "tuning"):
            assert path.read_text() == ",".join(tables.names(table)) + "\n"
            continue
        assert found, f"{table} is empty"
        assert set(found[0]) == set(tables.names(table)) - TIMES
    assert (finished / "reports/toy/index.html").stat().st_size > 10_000
    assert (finished / "reports/toy/report.md").is_file()


def test_every_number_in_runs_is_finite_and_costs_are_those_of_the_plan(finished):
    for row in rows(finished / "results/toy/runs.csv"):
        assert row["status"] == "finished"
        assert float(row["flops_train"]) == 3 * float(row["flops_per_update"]) > 0
        assert math.isfinite(float(row["test_exact"]))
        assert int(row["examples_seen"]) >= int(row["examples_distinct"]) > 0
    assert len({row["cell_id"] for row in rows(finished / "results/toy/runs.csv")}) == 4


def test_the_same_command_again_starts_nothing_and_changes_nothing(finished, monkeypatch):
    from harness.execution import local

    before = every_table(finished)
    monkeypatch.setattr(local, "Pool", None)  # would fail if any cell were started
    assert run(finished) == 0
    assert every_table(finished) == before


def test_another_run_with_other_jobs_gives_the_same_tables(finished, tmp_path):
    assert run(tmp_path, "--jobs", "3") == 0
    ours, theirs = every_table(tmp_path), every_table(finished)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == theirs[name], name


def test_more_seeds_run_only_the_new_cells(finished, tmp_path, capsys):
    import shutil

    shutil.copytree(finished / "results", tmp_path / "results")
    assert run(tmp_path, "--seeds", "3", "--arms", "transformer") == 0
    assert "1 cells finished; 2 were finished before" in capsys.readouterr().err


def test_a_part_of_a_suite_adds_to_its_tables_and_an_edited_suite_starts_anew(finished, tmp_path):
    import shutil

    shutil.copytree(finished / "results", tmp_path / "results")
    assert run(tmp_path, "--seeds", "1", "--arms", "hrm") == 0
    assert len(every_table(tmp_path)["runs.csv"]) == 4  # one asked for, three from before
    assert run(tmp_path, "--seeds", "1", "--arms", "hrm", "--set", "recipe.loss=softmax") == 0
    assert len(every_table(tmp_path)["runs.csv"]) == 1  # runs of another recipe are no longer this suite's
    assert run(tmp_path) == 0
    assert every_table(tmp_path) == every_table(finished)


def test_a_failing_cell_is_recorded_and_the_others_go_on(tmp_path, capsys):
    plugin = tmp_path / "broken_model.py"
    plugin.write_text(
        "from models import register_model\n"
        "from models.transformer import Transformer\n"
        "@register_model('broken')\n"
        "class Broken(Transformer):\n"
        "    def forward(self, state, batch):\n"
        "        if batch.inputs.device.type != 'meta' and self.training: raise RuntimeError('it broke')\n"
        "        return super().forward(state, batch)\n"
    )
    arguments = ["--plugin", str(plugin), "--set", "arms.transformer.model=broken", "--seeds", "1"]
    try:
        assert run(tmp_path, *arguments) == 1
    finally:
        from models.base import MODELS

        MODELS._items.pop("broken", None)
    captured = capsys.readouterr()
    assert "it broke" in captured.err
    by_arm = {row["arm"]: row for row in rows(tmp_path / "results/toy/runs.csv")}
    assert by_arm["hrm"]["status"] == "finished"
    assert by_arm["transformer"]["status"] == "failed" and "it broke" in by_arm["transformer"]["reason"]
    log = next((tmp_path / "results/toy/runs/parity/transformer").glob("*/log.txt"))
    assert "Traceback" in log.read_text()
    assert json.loads(captured.out.splitlines()[-1])["cells"] == {"finished": 1, "failed": 1, "skipped": 0, "left": 0}


def test_a_worker_that_is_killed_is_recorded_and_replaced(tmp_path, capsys):
    plugin = tmp_path / "deadly_model.py"
    plugin.write_text(
        "import os, signal\n"
        "from models import register_model\n"
        "from models.transformer import Transformer\n"
        "@register_model('deadly')\n"
        "class Deadly(Transformer):\n"
        "    def forward(self, state, batch):\n"
        "        if batch.inputs.device.type != 'meta' and self.training: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().forward(state, batch)\n"
    )
    try:
        arguments = ["--plugin", str(plugin), "--set", "arms.transformer.model=deadly", "--seeds", "1", "--jobs", "1"]
        assert run(tmp_path, *arguments) == 1
    finally:
        from models.base import MODELS

        MODELS._items.pop("deadly", None)
    assert "SIGKILL" in capsys.readouterr().err
    assert {row["arm"]: row["status"] for row in rows(tmp_path / "results/toy/runs.csv")} == {
        "hrm": "finished",
        "transformer": "failed",
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_a_checkpoint_and_the_same_command_goes_on_to_the_same_tables(tmp_path, number):
    """Ctrl-C, or a scheduler's SIGTERM, reaches the whole process group in the middle of a cell; then the run goes on.

    Its tables equal those of a run that was never stopped.
    """
    (tmp_path / "stopped").mkdir()
    (tmp_path / "whole").mkdir()
    extra = [
        "--arms",
        "hrm",
        "--seeds",
        "1",
        "--set",
        "recipe.budget.updates=150",
        "--set",
        "recipe.evaluation.points=3",
    ]
    command = [
        *(sys.executable, "run_benchmarks.py", "--suite", str(suite_file(tmp_path / "stopped"))),
        *("--results", str(tmp_path / "stopped/results"), "--reports", str(tmp_path / "stopped/reports"), *extra),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "stopped/results").rglob("log.txt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert list((tmp_path / "stopped/results").rglob("checkpoint-*.pt")), err
    assert not list((tmp_path / "stopped/results").rglob("record.json"))
    assert run(tmp_path / "stopped", *extra) == 0
    assert not list((tmp_path / "stopped/results").rglob("checkpoint-*.pt"))
    assert run(tmp_path / "whole", *extra) == 0
    assert every_table(tmp_path / "stopped") == every_table(tmp_path / "whole")
