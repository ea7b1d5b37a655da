"""Cells on a Ray cluster: the same numbers as here, a lost node loses nothing, and everything stops by itself.

The cluster is a real one: two nodes on 127.0.0.1, started by the tests.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import ROOT, suite_file
from test_faults import below, command, faulty_suite, plugin, started, wait_for  # noqa: F401 (plugin is a fixture)
from test_running import every_table, rows, run

from benchmarks.soak import Nodes, Notes
from harness.execution import parcel
from harness.record import RECORD

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed (requirements-ray.txt)"
)
LONGER = ("--arms", "hrm", "--seeds", "3", "--set", "recipe.budget.updates=100")

OWN_FOLDERS = '''
"""Makes every node one that does not have the results folder."""
from harness.execution import ray
kept = ray.Setup
ray.Setup = lambda **given: kept(**given | {"token": ("/no/such/file", "")})
'''


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Two nodes of a processor each, whose processes note their phases."""
    kept, log = dict(os.environ), tmp_path_factory.mktemp("nodes") / "phases.log"
    made = Nodes({"SOAK_PARENT": str(os.getpid()), "SOAK_LOG": str(log)})
    yield made
    made.close()
    os.environ.clear()
    os.environ.update(kept)


@pytest.fixture
def plugins(tmp_path) -> dict[str, list[str]]:
    (tmp_path / "own_folders.py").write_text(OWN_FOLDERS)
    return {"shared": [], "by value": ["--plugin", str(tmp_path / "own_folders.py")]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The longer suite, run here."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, *LONGER) == 0
    return folder


@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize("way", ["shared", "by value"])
def test_a_node_lost_in_the_middle_of_a_suite_loses_nothing(nodes, whole, plugins, tmp_path, way, monkeypatch):
    """Both nodes train, and have left checkpoints, when all processes of one are killed. The other does the rest."""
    if not nodes.second():
        nodes.add_second()
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    suite_file(tmp_path)
    extra = (*plugins[way], "--plugin", str(ROOT / "benchmarks/soak_notes.py"), "--checkpoint-seconds", "0.1")
    process = started(tmp_path, "--executor", "ray", *LONGER, *extra)
    notes, deadline = Notes(Path(os.environ["SOAK_LOG"])), time.monotonic() + 600
    while True:
        training = {number for number, at in notes.look().items() if at.phase == "training"}
        saved = {path.parent for path in below(tmp_path / "results", "checkpoint-*.pt")}
        if training & nodes.second() and len(saved) == 2:
            break
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    nodes.lose_second()
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "lost with its node; started again from its last checkpoint (1 of 3)" in err
    assert ("return their results by value" if way == "by value" else "share the results folder") in err
    logs = [path.read_text() for path in (tmp_path / "results").rglob("log.txt")]
    assert sum("resumed at update" in log for log in logs) == 1, logs
    assert [log.count("finished") for log in logs] == [1, 1, 1]
    found = rows(tmp_path / "results/toy/runs.csv")
    assert len({row["cell_id"] for row in found}) == len(found) == 3
    assert every_table(tmp_path) == every_table(whole)
    for path in (whole / "results/toy").rglob("weights.safetensors"):
        assert (tmp_path / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert not [path for path in (tmp_path / "results").rglob("*") if path.suffix in (".tmp", ".pt")]
    assert not list((tmp_path / "results/toy").glob(".share-*"))


@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize("way", ["shared", "by value"])
def test_faults_on_a_node_are_recorded_with_reason_and_log(nodes, plugin, plugins, tmp_path, way, monkeypatch):  # noqa: F811
    """A dead worker is no lost node: its cell has failed, and the others go on."""
    faults = {"nan": "diverged", "raises": "failed", "killed": "failed"}
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    faulty_suite(tmp_path, *faults)
    arguments = ["--executor", "ray", "--plugin", str(plugin), *plugins[way]]
    done = subprocess.run(command(tmp_path, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stderr
    found = {row["arm"]: row for row in rows(tmp_path / "results/toy/runs.csv")}
    assert {arm: row["status"] for arm, row in found.items()} == {"hrm": "finished", **faults}
    assert found["raises"]["reason"].startswith("ValueError: it broke") and "SIGKILL" in found["killed"]["reason"]
    for arm, row in found.items():
        log = (tmp_path / "results/toy" / row["run_folder"] / "log.txt").read_text()
        assert f"parity · {arm} · seed 0, process " in log


@pytest.mark.slow
@needs_ray
def test_ctrl_c_stops_a_run_on_its_own_cluster_which_ends_with_it(tmp_path, whole):
    """Ctrl-C reaches every process of the terminal, Ray's too; the cells leave checkpoints; locally it goes on."""
    suite_file(tmp_path)
    process = started(tmp_path, "--executor", "ray", *LONGER, "--checkpoint-seconds", "0.2")
    wait_for(tmp_path / "results", "checkpoint-*.pt", seconds=600)
    assert open_to_the_network(process.pid) == []
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "left for the next time" in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nothing of the session is left
    assert run(tmp_path, *LONGER) == 0
    assert every_table(tmp_path) == every_table(whole)


def open_to_the_network(group: int) -> list[str]:
    """Listening sockets of a process group whose address is not the machine's own (Linux)."""
    inodes = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                inodes |= {str(handle.readlink()) for handle in (folder / "fd").iterdir()}
        except OSError:
            continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in inodes and not local.split(":")[0].endswith("0100007F"):
                found.append(local)
    return found


@needs_ray
def test_an_address_without_a_cluster_is_bad_input(tmp_path, capsys, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert run(tmp_path, "--executor", "ray") == 2
    err = capsys.readouterr().err
    assert f"RAY_ADDRESS={address}: no Ray cluster answers there" in err and "unset the variable" in err
    assert not list((tmp_path / "results/toy").glob(".share-*"))


def test_without_ray_the_executor_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run(tmp_path, "--executor", "ray") == 2
    assert "pip install -r requirements-ray.txt" in capsys.readouterr().err
    assert (ROOT / "requirements-ray.txt").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--executor", "rey"], 'unknown executor "rey" (did you mean "ray"?)'),
        (["--executor", "ray", "--gpus-per-cell", "0"], "--gpus-per-cell 0: must be above 0 and at most 1"),
        (["--executor", "ray", "--gpus-per-cell", "2"], "--gpus-per-cell 2: must be above 0 and at most 1"),
        (["--gpus-per-cell", "0.5"], "only --executor ray divides GPUs"),
    ],
)
def test_settings_that_no_cluster_has_are_bad_input(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert run(tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err


@needs_ray
def test_a_cluster_has_room_for_as_many_cells_as_its_nodes_have_gpus_and_processors(monkeypatch):
    from types import SimpleNamespace

    import ray

    from harness.execution.ray import RayPool

    def node(cpus: float, gpus: float, alive: bool = True) -> dict:
        return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}}

    pool = RayPool.__new__(RayPool)
    pool.plan = SimpleNamespace(suite=SimpleNamespace(threads=2))
    monkeypatch.setattr(ray, "nodes", lambda: [node(8, 1), node(5, 0), node(3, 4), node(64, 8, alive=False)])
    for share, room in ((0, 4 + 2 + 1), (1.0, 1 + 1), (0.5, 2 + 1), (0.25, 4 + 1)):
        pool.gpus_each = share
        assert pool._room() == room


def run_folder(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_run_folder_comes_back_as_it_is_without_locks_and_half_written_files(tmp_path):
    there = run_folder(tmp_path / "there", record_json="{}", curves="1", events__a="2")
    (there / ".lock").write_text("")
    (there / ".curves.77.tmp").write_text("half")
    parcel.unpack(parcel.pack(there), tmp_path / "here")
    assert contents(tmp_path / "here") == {"record.json": "{}", "curves": "1", "events/a": "2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "there"]


def test_a_run_folder_comes_back_whole_or_not_at_all(tmp_path, monkeypatch):
    """A full disk while it is written leaves what was there; a kill while files get their names leaves no record."""
    there = run_folder(tmp_path / "there", record_json="new", a="new", z="new")
    here = run_folder(tmp_path / "here", a="old")
    parcelled = parcel.pack(there)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError):
            parcel.unpack(parcelled, here, last=RECORD)
    assert contents(here) == {"a": "old"} and sorted(p.name for p in tmp_path.iterdir()) == ["here", "there"]

    replace, calls = Path.replace, 0

    def killed_at_the_third(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            parcel.unpack(parcelled, here, last=RECORD)
    assert contents(here) == {"a": "new", "z": "new"}
    parcel.unpack(parcelled, here, last=RECORD)
    assert contents(here) == contents(there)
