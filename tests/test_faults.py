"""Each fault that a long run meets: recorded with its reason, others unharmed, and the same command goes on."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_cli import ROOT, TOY, suite_file
from test_running import every_table, finished, rows, run  # noqa: F401 (finished is a fixture)
from toys import cell

from harness import cli, tables
from harness.execution import local, worker
from harness.execution.local import shard
from harness.execution.progress import LiveMonitor, work
from harness.files import held, hold
from harness.record import recorded
from harness.training import runner

PLUGIN = """
import os, signal, time, torch
from models import register_model
from models.transformer import Transformer

class Faulty(Transformer):
    calls = 0
    def forward(self, state, batch):
        state, prediction = super().forward(state, batch)
        if batch.inputs.device.type != "meta" and self.training:
            self.calls += 1
            if self.calls == 2:
                prediction = self.fault(prediction)
        return state, prediction

@register_model("nan")
class Nan(Faulty):
    def fault(self, prediction):
        prediction.logits = prediction.logits * float("nan")
        return prediction

@register_model("greedy")
class Greedy(Faulty):
    def fault(self, prediction):
        torch.empty(2**50)

@register_model("raises")
class Raises(Faulty):
    def fault(self, prediction):
        raise ValueError("it broke")

@register_model("hangs")
class Hangs(Faulty):
    def fault(self, prediction):
        time.sleep(3600)

@register_model("killed")
class Killed(Faulty):
    def fault(self, prediction):
        os.kill(os.getpid(), signal.SIGKILL)

@register_model("fills")
class Fills(Faulty):
    def fault(self, prediction):
        path = os.environ.get("FILL")
        if path:
            with open(path, "wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass
        return prediction
"""

FAULTS = {"nan": "diverged", "greedy": "failed", "raises": "failed", "hangs": "failed", "killed": "failed"}


@pytest.fixture
def plugin(tmp_path) -> Iterator[Path]:
    from models.base import MODELS

    known = set(MODELS)
    path = tmp_path / "faulty_models.py"
    path.write_text(PLUGIN)
    yield path
    for name in set(MODELS) - known:
        MODELS._items.pop(name)


def faulty_suite(folder: Path, *faults: str) -> Path:
    """The toy suite's hrm, and a transformer per fault, that meets it at its second update."""
    arms = {"hrm": TOY["arms"]["hrm"]} | {
        name: {"model": name, "config": {"hidden": 16, "heads": 2, "inner": 24, "layers": 1}} for name in faults
    }
    task = {"settings": {"max_length": 8, "ood_lengths": [10]}, "seeds": 1}
    return suite_file(folder, arms=arms, tasks={"parity": task})


def command(folder: Path, *extra: str) -> list[str]:
    places = ["--results", str(folder / "results"), "--reports", str(folder / "reports")]
    return [sys.executable, "run_benchmarks.py", "--suite", str(folder / "toy.yaml"), *places, *extra]


def started(folder: Path, *extra: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(folder, *extra),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def below(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder in which others write; none where a folder vanishes under the search."""
    try:
        return list(folder.rglob(pattern))
    except FileNotFoundError:
        return []


def wait_for(folder: Path, pattern: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not below(folder, pattern):
        assert time.monotonic() < deadline, f"no {pattern}"
        time.sleep(0.02)


@pytest.mark.slow
def test_every_fault_is_recorded_with_its_reason_and_the_others_go_on(tmp_path, plugin, capsys):
    """NaN, out of memory, an exception, a hang and a kill, in one run. Then --retry-failed, without the faults."""
    faulty_suite(tmp_path, *FAULTS)
    arguments = command(tmp_path, "--plugin", str(plugin), "--jobs", "2")[2:]
    assert cli.main([*arguments, "--hang-minutes", "0.2"]) == 1
    captured = capsys.readouterr()
    found = {row["arm"]: row for row in rows(tmp_path / "results/toy/runs.csv")}
    assert {arm: row["status"] for arm, row in found.items()} == {"hrm": "finished", **FAULTS}
    reasons = {arm: row["reason"] for arm, row in found.items()}
    assert reasons["nan"] == "the loss was not finite between updates 2 and 2" and found["nan"]["updates"] == "2"
    assert reasons["greedy"].startswith("out of memory: RuntimeError")
    assert reasons["raises"].startswith("ValueError: it broke; see log.txt")
    assert reasons["hangs"].startswith("hung: no sign of life for 0.")
    assert "SIGKILL" in reasons["killed"]
    for arm, row in found.items():
        log = (tmp_path / "results/toy" / row["run_folder"] / "log.txt").read_text()
        assert f"parity · {arm} · seed 0, process " in log
    assert "5 FAILED" in captured.err
    assert json.loads(captured.out.splitlines()[-1])["cells"] == {"finished": 1, "failed": 5, "skipped": 0, "left": 0}

    assert cli.main(arguments) == 1, "failed cells stay failed until they are asked for again"
    assert capsys.readouterr().err.count("--retry-failed runs it again") == 5
    plugin.write_text(PLUGIN.replace("self.calls == 2", "False"))  # read by the workers
    assert cli.main([*arguments, "--retry-failed"]) == 0
    assert {row["status"] for row in rows(tmp_path / "results/toy/runs.csv")} == {"finished"}


class Silent:
    """The parent's end of a connection that says nothing."""

    def send(self, message: object) -> None: ...

    def poll(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (MemoryError(), "failed", "out of memory: MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory"), "failed", "out of memory: OutOfMemoryError: CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "failed", "out of memory: RuntimeError"),
        (RuntimeError("it broke"), "failed", "RuntimeError: it broke; see log.txt"),
        (
            runner.Diverged("the loss was not finite between updates 7 and 9", 9),
            "diverged",
            "not finite between updates 7 and 9",
        ),
        (runner.Interrupted("stopped at update 3"), "interrupted", "stopped at update 3"),
        (OSError(28, "No space left on device"), "unrecorded", "make room and run the same command"),
        (OSError(30, "Read-only file system"), "unrecorded", "make the folder writable"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_a_cell_raises_is_recorded_as_what_it_is(tmp_path, monkeypatch, error, status, reason):
    """Faults of the machine, and a stop, leave no record: the cell is still to be run."""

    def raises(*_: object) -> None:
        raise error

    monkeypatch.setattr(runner, "run_cell", raises)
    job = worker.Job(cell().model_dump_json(), tmp_path, None, runner.Options(), None)
    ending = worker._run(Silent(), job)
    found = recorded(tmp_path)
    assert reason in ending.reason and ending.stop == (status == "unrecorded")
    assert found.status == (status if status in ("failed", "diverged") else "open")
    assert found.reason == (ending.reason if found.status != "open" else "")
    if status == "diverged":
        assert json.loads((tmp_path / "record.json").read_text())["updates"] == 9


@pytest.mark.parametrize("verb", ["run", "report"])
@pytest.mark.parametrize("step", [-1, 1], ids=["older", "newer"])
def test_a_results_folder_of_another_schema_is_refused_and_left_alone(finished, tmp_path, capsys, verb, step):  # noqa: F811
    shutil.copytree(finished / "results", tmp_path / "results")
    description = tmp_path / "results/toy/suite.json"
    document = json.loads(description.read_text()) | {"schema_version": tables.SCHEMA_VERSION + step}
    description.write_text(json.dumps(document))
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}
    if verb == "run":
        assert run(tmp_path) == 2
    else:
        places = ["--results", str(tmp_path / "results"), "--reports", str(tmp_path / "reports")]
        assert cli.main(["report", "--suite", "toy", *places]) == 2
    err = capsys.readouterr().err
    assert f"{tables.SCHEMA_VERSION + step}" in err and f"{tables.SCHEMA_VERSION}" in err and str(tmp_path) in err
    after = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path in before} == before


def test_runs_that_nothing_describes_are_not_taken_for_this_suites(finished, tmp_path, capsys):  # noqa: F811
    shutil.copytree(finished / "results", tmp_path / "results")
    (tmp_path / "results/toy/suite.json").unlink()
    assert run(tmp_path) == 2
    assert "no suite.json" in (err := capsys.readouterr().err) and str(tmp_path / "results/toy") in err


def test_a_record_that_is_not_readable_is_said_to_be_so(finished, tmp_path, capsys):  # noqa: F811
    shutil.copytree(finished / "results", tmp_path / "results")
    record = next((tmp_path / "results").rglob("record.json"))
    record.write_text(record.read_text()[:50])
    assert run(tmp_path) == 2
    assert f"{record}: " in (err := capsys.readouterr().err) and "delete the folder" in err


def test_collecting_waits_for_the_command_that_holds_the_folder(finished, tmp_path):  # noqa: F811
    shutil.copytree(finished / "results", tmp_path / "results")
    suite_file(tmp_path)
    arguments = ["--suite", "toy", "--results", str(tmp_path / "results"), "--reports", str(tmp_path / "reports")]
    with held(tmp_path / "results/toy"):
        process = subprocess.Popen(
            [sys.executable, "run_benchmarks.py", "report", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert "waiting for another command" in process.stderr.readline()
        assert not (tmp_path / "reports").exists()
    assert process.wait(timeout=120) == 0
    process.communicate()


def logs(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.rglob("log.txt")]


@pytest.mark.slow
def test_two_commands_on_one_folder_share_the_work_and_nothing_runs_twice(finished, tmp_path):  # noqa: F811
    suite_file(tmp_path)
    both = [started(tmp_path, "--jobs", "1") for _ in range(2)]
    ends = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert all(log.count("finished") == 1 for log in logs(tmp_path)) and len(logs(tmp_path)) == 4
    assert every_table(tmp_path) == every_table(finished)
    assert any("by another command" in err for _, err in ends)


@pytest.mark.slow
def test_when_one_of_two_commands_is_killed_the_other_takes_its_cells(tmp_path):
    """SIGKILL of a whole process group: its locks go with it, and its cells are run from their checkpoints."""
    suite_file(tmp_path)
    longer = ("--set", "recipe.budget.updates=200", "--checkpoint-seconds", "0.2", "--jobs", "1")
    doomed = started(tmp_path, *longer)
    wait_for(tmp_path / "results", "checkpoint-*.pt")
    other = started(tmp_path, *longer)
    time.sleep(2)
    os.killpg(doomed.pid, signal.SIGKILL)
    doomed.communicate()
    _, err = other.communicate(timeout=300)
    assert other.returncode == 0, err
    assert sum("resumed at update" in log for log in logs(tmp_path)) >= 1
    assert {row["status"] for row in rows(tmp_path / "results/toy/runs.csv")} == {"finished"}


@pytest.mark.slow
def test_a_cell_that_another_process_holds_is_waited_for(tmp_path, capsys):
    """Its lock alone decides; when it is free again the cell is run."""
    import threading

    suite_file(tmp_path)
    arguments = ("--arms", "transformer", "--seeds", "1")
    assert run(tmp_path, *arguments) == 0
    folder = next((tmp_path / "results").rglob("record.json")).parent
    (folder / "record.json").unlink()
    held_until: list[float] = []

    def holder() -> None:
        with hold(folder / ".lock"):
            ready.set()
            time.sleep(3)
            held_until.append(time.time())

    ready = threading.Event()
    thread = threading.Thread(target=holder)
    thread.start()
    ready.wait()
    assert run(tmp_path, *arguments) == 0
    thread.join()
    assert (folder / "record.json").stat().st_mtime > held_until[0]


@pytest.mark.slow
def test_ctrl_c_twice_stops_at_once_and_the_same_command_goes_on(tmp_path):
    suite_file(tmp_path)
    extra = ("--arms", "hrm", "--seeds", "1", "--set", "recipe.budget.updates=400")
    process = started(tmp_path, *extra, "--checkpoint-seconds", "0.2")
    wait_for(tmp_path / "results", "checkpoint-*.pt")
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert time.monotonic() - begun < 30
    assert run(tmp_path, *extra) == 0
    (tmp_path / "whole").mkdir()
    assert run(tmp_path / "whole", *extra) == 0
    assert every_table(tmp_path) == every_table(tmp_path / "whole")


def in_a_small_file_system(script: str, folder: Path, size: str) -> subprocess.CompletedProcess:
    """Run a shell script with `$PLACE`, a file system of its own of that size."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    mount = f'mount -t tmpfs -o size={size} tmpfs "$PLACE"'
    environment = os.environ | {"PLACE": str(folder)}
    allowed = subprocess.run(["unshare", "-Urm", "sh", "-c", mount], env=environment, capture_output=True, text=True)
    if allowed.returncode:
        pytest.skip(f"no file system can be mounted here: {allowed.stderr.strip()}")
    return subprocess.run(
        ["unshare", "-Urm", "sh", "-c", f"{mount} && {script}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_full_disk_stops_the_run_with_one_clear_line_and_the_same_command_goes_on(tmp_path, plugin):
    """A model fills the file system in its second update; so neither checkpoint nor tables can be written."""
    import shlex

    place = tmp_path / "place"
    place.mkdir()
    faulty_suite(place, "fills")
    arguments = ["--plugin", str(plugin), "--jobs", "1", "--arms", "fills", "--checkpoint-seconds", "0"]
    one = shlex.join(command(place, *arguments))
    script = (
        f'cp {plugin.parent}/toy.yaml "$PLACE" && FILL="$PLACE/filler" {one}; echo "first $?"; '
        f'rm "$PLACE/filler"; {one}; echo "second $?"; find "$PLACE" -name "*.tmp"'
    )
    shutil.copy(place / "toy.yaml", tmp_path)
    done = in_a_small_file_system(script, place, "8m")
    assert "first 1" in done.stdout and "second 0" in done.stdout, done.stdout + done.stderr
    first, second = done.stderr.split("1 cells finished", 1)[0], done.stdout.split("first 1", 1)[1]
    assert "Traceback" not in done.stderr and "No space left on device" in first
    assert "make room and run the same command to go on" in first
    assert ".tmp" not in second


@pytest.mark.slow
def test_a_read_only_results_folder_is_one_line(finished, tmp_path):  # noqa: F811
    import shlex

    place = tmp_path / "place"
    place.mkdir()
    suite_file(tmp_path)
    report = [*command(place)[:2], "report", "--suite", "toy", "--results", str(place / "results")]
    script = (
        f'cp {tmp_path}/toy.yaml "$PLACE" && cp -r {finished}/results "$PLACE" && mount -o remount,ro "$PLACE" && '
        f'{shlex.join(command(place))}; echo "run $?"; {shlex.join(report)}; echo "report $?"'
    )
    done = in_a_small_file_system(script, place, "32m")
    assert "run 2" in done.stdout and "report 1" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "choose another with --results" in done.stderr and "Read-only file system" in done.stderr


@pytest.mark.parametrize(("cores", "threads", "jobs"), [(8, 1, 8), (8, 3, 2), (8, 8, 1), (2, 4, 1)])
def test_jobs_auto_fills_the_cores_at_the_suites_threads_per_cell(monkeypatch, cores, threads, jobs):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    plan = SimpleNamespace(device=SimpleNamespace(value="cpu"), suite=SimpleNamespace(threads=threads))
    assert local.default_jobs(plan) == jobs


def test_one_view_shows_the_whole_and_each_running_cell_once():
    """A cell that is started again (its node was lost, another command had it) takes its own bar's place."""
    view, cells = LiveMonitor(), [cell(seed=seed) for seed in range(3)]
    view.bars.console.file = io.StringIO()
    view.start(cells)
    for one in (cells[0], cells[1], cells[0]):
        view.started(one)
    view.progress(cells[0], 0.5, "update 7")
    assert [task.fields["text"] for task in view.bars.tasks] == ["", "starting", "update 7"]
    view.ended(cells[0], "finished", "")
    view.refresh()
    assert [task.description.strip() for task in view.bars.tasks] == ["3 cells", cells[1].name]
    assert view.bars.tasks[0].percentage == pytest.approx(100 / 3)
    view.stop()


def test_shards_are_disjoint_whole_and_alike_in_work():
    """In a suite the cells of an arm come at a fixed distance, so that every n-th cell would be no fair share."""
    costs = {"small": 1.0, "large": 48.0, "middle": 7.0, "one": 3.0}
    cells = [cell(arm, seed=seed, flops_per_update=cost) for seed in range(5) for arm, cost in costs.items()]
    for parts in (1, 3, 4, 30):
        shares = [shard(cells, part + 1, parts) for part in range(parts)]
        assert sorted(c.id for share in shares for c in share) == sorted(c.id for c in cells)
        loads = [sum(work(c) for c in share) for share in shares]
        assert max(loads) - min(loads) <= max(work(c) for c in cells)
    assert shard(cells, 2, 3) == [c for c in cells if c in shard(cells[::-1], 2, 3)]


@pytest.mark.slow
def test_two_shards_make_the_tables_of_the_whole(finished, tmp_path):  # noqa: F811
    assert run(tmp_path, "--shard", "1/2") == 0
    assert 0 < sum(row["status"] == "finished" for row in rows(tmp_path / "results/toy/runs.csv")) < 4
    assert run(tmp_path, "--shard", "2/2") == 0
    assert every_table(tmp_path) == every_table(finished)


JOB = re.search(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", (ROOT / "docs/reliability.md").read_text(), re.S)[1]


def as_slurm(folder: Path, part: int, srun: str, script: str = JOB) -> subprocess.CompletedProcess:
    """Run the documented job as an element of an array would be run, with srun and scontrol of our own."""
    ours = {"srun": srun, "scontrol": 'echo "scontrol $@"', "python": f'exec {sys.executable} "$@"'}
    for name, text in ours.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    own = {"SLURM_ARRAY_TASK_ID": str(part), "SLURM_ARRAY_JOB_ID": "77", "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", script], cwd=ROOT, env=os.environ | own, capture_output=True, text=True)


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 1), (2, 2), (130, 0)])
def test_the_documented_slurm_job_asks_for_its_share_and_queues_again_only_when_stopped(tmp_path, code, ends):
    done = as_slurm(tmp_path, 3, f'echo "$@"; exit {code}')
    assert done.returncode == ends, done.stderr
    first, *more = done.stdout.splitlines()
    shared = "--results /shared/results --reports /shared/reports"
    assert first == f"python run_benchmarks.py --suite medium --shard 3/8 {shared}"
    assert more == (["scontrol requeue 77_3"] if code == 130 else [])


@pytest.mark.slow
def test_the_documented_slurm_array_makes_the_tables_of_the_whole(finished, tmp_path):  # noqa: F811
    suite = str(suite_file(tmp_path))
    script = JOB.replace("medium", suite).replace("/shared", str(tmp_path)).replace('ID/8"', 'ID/2"')
    for part in (2, 1):
        done = as_slurm(tmp_path, part, 'exec "$@"', script)
        assert done.returncode == 0, done.stderr
    assert every_table(tmp_path) == every_table(finished)


@pytest.mark.parametrize("text", ["3", "0/2", "3/2", "a/b", "1/"])
def test_a_share_that_is_none_is_bad_input(text, tmp_path, capsys):
    assert run(tmp_path, "--shard", text) == 2
    assert "--shard" in capsys.readouterr().err
