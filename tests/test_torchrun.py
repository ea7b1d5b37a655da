"""`torchrun … run_benchmarks.py`: one cell at a time by all processes, the tables of one run, through any fault."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import ROOT, TOY, suite_file
from test_running import rows

from harness import cli

PLUGIN = """
import os, signal
from models import register_model
from models.transformer import Transformer

class Faulty(Transformer):
    calls = 0
    def forward(self, state, batch):
        state, prediction = super().forward(state, batch)
        if batch.inputs.device.type != "meta" and self.training:
            self.calls += 1
            self.fault(prediction)
        return state, prediction

@register_model("nan")
class Nan(Faulty):
    def fault(self, prediction):
        if self.calls == 2 and os.environ["RANK"] == "1":
            prediction.logits = prediction.logits * float("nan")

@register_model("dies")
class Dies(Faulty):
    def fault(self, prediction):
        if self.calls == 6 and os.environ["RANK"] == os.environ.get("DIES"):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def torchrun(folder: Path, suite: Path, *extra: str, limit: float = 900, **variables: str):
    """Two processes on 127.0.0.1; killed with all their children when they take too long."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = ["--results", str(folder / "results"), "--reports", str(folder / "reports")]
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
        "--master-port", str(port),
    ]  # fmt: skip
    command = [*launcher, str(ROOT / "run_benchmarks.py"), "--suite", str(suite), *places, *extra]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **variables}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def suite_of(folder: Path, **arms) -> Path:
    return suite_file(folder, arms={**TOY["arms"], **arms}, recipe={**TOY["recipe"], "budget": {"updates": 8}})


@pytest.mark.slow
def test_a_suite_of_two_processes_survives_a_death_and_ends_with_tables_and_report(tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    faulty = {"dies": {"model": "dies", "config": {"hidden": 16, "heads": 2, "inner": 24, "layers": 1}},
              "nan": {"model": "nan", "config": {"hidden": 16, "heads": 2, "inner": 24, "layers": 1}}}  # fmt: skip
    suite, plugin = suite_of(tmp_path, **faulty), ["--plugin", str(tmp_path / "plugin.py"), "--checkpoint-seconds", "0"]
    code, out, err = torchrun(tmp_path, suite, *plugin, DIES="1")
    assert code != 0 and "another rank is gone" in err and out == ""
    code, out, err = torchrun(tmp_path, suite, *plugin)
    assert code != 0, err  # the cell that diverges
    assert "torchrun: 2 processes, all at one cell at a time" in err and "resumed at update" in err
    document = json.loads(out)
    seeds = TOY["tasks"]["parity"]["seeds"]
    assert document["cells"] == {"finished": 3 * seeds, "failed": seeds, "skipped": 0, "left": 0}
    found = rows(Path(document["tables"]["runs"]))
    assert {row["status"] for row in found if row["arm"] == "nan"} == {"diverged"}
    assert all("2 processes together" in row["notes"] for row in found if row["arm"] != "nan")
    assert Path(document["report"]).is_file()


@pytest.mark.slow
def test_two_processes_tune_run_controls_and_agree_on_what_the_trials_chose(tmp_path):
    suite = suite_file(
        tmp_path,
        recipe={**TOY["recipe"], "budget": {"updates": 4}},
        tuning={"trials": 2, "updates": 4},
        controls={"updates": 4, "test_examples": 20},
    )
    code, out, err = torchrun(tmp_path, suite)
    assert code == 0, err
    document = json.loads(out)
    trials = rows(Path(document["tables"]["tuning"]))
    assert len(trials) == 2 * len(TOY["arms"]) and {row["status"] for row in trials} == {"finished"}
    assert {row["status"] for row in rows(Path(document["tables"]["runs"]))} == {"finished"}
    negative = [row for row in rows(Path(document["tables"]["gates"])) if row["gate"] == "G-neg"]
    assert negative and all(row["result"] == "passed" for row in negative), negative


@pytest.fixture
def under_torchrun(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)


def test_jobs_and_batches_that_cannot_be_shared_out_are_refused_before_anything_runs(tmp_path, capsys, under_torchrun):
    places = ["--results", str(tmp_path / "results"), "--reports", str(tmp_path / "reports")]
    suite = ["--suite", str(suite_file(tmp_path)), *places]
    assert cli.main([*suite, "--jobs", "2"]) == 2
    assert "--jobs: under torchrun cells run one at a time" in capsys.readouterr().err
    assert cli.main([*suite, "--batch-size", "8"]) == 2
    assert "batch_size 8" in (said := capsys.readouterr().err) and "3 ranks" in said
