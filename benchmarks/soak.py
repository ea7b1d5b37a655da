"""Kill a small suite with SIGKILL again and again, at random moments, and compare its tables with an unharmed run's.

    python benchmarks/soak.py --kills 20 --folder /tmp/soak
    python benchmarks/soak.py --executor ray --kills 6 --folder /tmp/soak-ray

Killed are workers, the command itself (while its workers train, save, score, and while it collects), and both at once
as by a power cut. Every process notes in FOLDER/phases.log where it is (soak_notes.py), so kills.jsonl proves where
each one fell. Then the same command goes on (with --retry-failed, since a killed worker's cell is recorded as failed).
Once a suite is finished its tables are compared, byte by byte but for the columns of time and memory, and so are the
weights; while kills are left it starts again in an empty folder. With --executor ray it runs on two nodes on
127.0.0.1, and the first kill is that of a whole node. Exit code 1 if anything differs. The last line is JSON.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.tables import TIME_COLUMNS  # noqa: E402

SUITE: dict[str, Any] = {
    "name": "soak",
    "recipe": {
        "batch_size": 8,
        "precision": "float32",
        "ema": 0.99,
        "budget": {"updates": 120},
        "evaluation": {"points": 4, "validation_examples": 128, "test_examples": 256, "segments": [1, 2, 4]},
    },
    "device": "cpu",
    "arms": {
        "hrm": {
            "model": "hrm",
            "config": {"hidden": 32, "heads": 2, "inner": 48, "H_layers": 1, "L_layers": 1},
            "loop": {"segments": 4},
        },
        "transformer": {"model": "transformer", "config": {"layers": 2}, "match": {"to": "hrm", "rule": "params"}},
    },
    "tasks": {
        "parity": {
            "settings": {"max_length": 12, "ood_lengths": [14]},
            "seeds": 2,
            "primary": {"arms": ["hrm", "transformer"]},
        }
    },
}

AIMS = [
    *(("worker", phase) for phase in ("training", "checkpoint", "evaluation", "tables")),
    *(("parent", phase) for phase in ("training", "checkpoint", "evaluation", "collecting")),
    ("both", "training"),
    ("parent", "collecting"),
]
"""Who is killed, and in which phase; `parent` is killed while a worker is in the phase, where it is not its own."""

PATIENCE_SECONDS = 60.0  # for a phase to come up; then another one is aimed at
COMMANDS = 100  # per suite, at most


class At(NamedTuple):
    """A process's last note."""

    role: str
    phase: str


class Notes:
    """phases.log, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path, self.read, self.rest = path, 0, b""
        self.last: dict[int, At] = {}
        self.first_work: float | None = None  # since `begin`
        self.known: set[int] = set()

    def begin(self) -> None:
        self.look()
        self.first_work, self.known = None, set(self.last)

    def look(self) -> dict[int, At]:
        """Living process → its last note."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                file.seek(self.read)
                new = file.read()
            self.read += len(new)
            *lines, self.rest = (self.rest + new).split(b"\n")
            for line in lines:
                moment, process, role, phase = line.decode().split()
                self.last[int(process)] = At(role, phase)
                if phase in ("training", "evaluation", "tables") and int(process) not in self.known:
                    self.first_work = self.first_work or float(moment)
        return {process: at for process, at in self.last.items() if alive(process)}


class Soak:
    def __init__(self, folder: Path, seed: int, executor: str) -> None:
        self.folder, self.chance, self.executor = folder, random.Random(seed), executor
        self.notes = Notes(folder / "phases.log")
        (folder / "soak.yaml").write_text(json.dumps(SUITE))
        self.kills: list[dict[str, Any]] = []
        self.resumes: list[float] = []
        self.nodes: Nodes | None = None
        self.aims: list[tuple[str, str]] = []

    def command(self, place: str, *extra: str) -> list[str]:
        where = self.folder / place
        return [
            *(sys.executable, str(ROOT / "run_benchmarks.py"), "--suite", str(self.folder / "soak.yaml")),
            *("--results", str(where / "results"), "--reports", str(where / "reports"), "--jobs", "2", *extra),
        ]

    def environment(self) -> dict[str, str]:
        own = {"SOAK_PARENT": str(os.getpid()), "SOAK_LOG": str(self.notes.path)}
        return os.environ | own | ({"RAY_ADDRESS": self.nodes.address} if self.nodes else {})

    def start(self, place: str) -> subprocess.Popen[bytes]:
        extra = ("--plugin", str(ROOT / "benchmarks/soak_notes.py"), "--retry-failed", "--checkpoint-seconds", "0.1")
        with (self.folder / "commands.log").open("ab") as output:
            return subprocess.Popen(
                self.command(place, *extra, "--executor", self.executor),
                stdout=output,
                stderr=output,
                env=self.environment(),
                start_new_session=True,
            )

    def aim(self) -> tuple[str, str]:
        """The next of all aims in a random order, again and again; collecting comes last, as it does in a suite."""
        if not self.aims:
            self.aims = sorted(self.chance.sample(AIMS, len(AIMS)), key=lambda aim: aim[1] == "collecting")
            if self.nodes and not self.kills:
                self.aims.insert(0, ("node", "training"))
        return self.aims[0]

    def kill_one(self, command: subprocess.Popen[bytes]) -> bool:
        """Wait for the phase that is aimed at, and kill in it. False: the command ended first."""
        role, phase = self.aim()
        time.sleep(self.chance.uniform(0, 0.5))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while command.poll() is None:
            there = self.notes.look()
            owner = "parent" if phase == "collecting" else "worker"
            targets = [process for process, at in there.items() if at == At(owner, phase)]
            if role == "node" and self.nodes:
                targets = [process for process in targets if process in self.nodes.second()]
            if targets:
                time.sleep(self.chance.uniform(0, 0.05))
                self.kill(role, phase, self.chance.choice(targets), command)
                return True
            if role != "node" and time.monotonic() > deadline:
                self.aims.append(self.aims.pop(0))
                return self.kill_one(command)
            time.sleep(0.003)
        return False

    def kill(self, role: str, phase: str, target: int, command: subprocess.Popen[bytes]) -> None:
        there = self.notes.look()
        victim = command.pid if role in ("parent", "both") else target
        moment = time.time()
        if role == "node" and self.nodes:
            self.nodes.lose_second()
            self.nodes.add_second()
        else:
            os.kill(victim, signal.SIGKILL)
        if role == "both":
            for process in [p for p, at in there.items() if at.role == "worker"]:
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
        self.notes.look()
        fell = self.notes.last[target].phase if role != "parent" else there[target].phase
        self.aims.pop(0)
        kill = {"kill": len(self.kills) + 1, "at": round(moment, 3), "killed": role, "process": victim}
        self.kills.append(kill | {"aimed": phase, "fell_in": fell, "workers": workers(there)})
        with (self.folder / "kills.jsonl").open("a") as log:
            log.write(json.dumps(self.kills[-1]) + "\n")
        print(json.dumps(self.kills[-1]), flush=True)

    def suite(self, place: str, kills: int) -> None:
        """One suite from an empty folder to its end, killed on the way until there were so many kills."""
        for number in range(COMMANDS):
            self.notes.begin()
            began = time.time()
            command = self.start(place)
            while len(self.kills) < kills and self.kill_one(command):
                if self.kills[-1]["killed"] in ("parent", "both"):
                    break
            code = command.wait()
            self.notes.look()
            if number and self.notes.first_work is not None:
                self.resumes.append(self.notes.first_work - began)
            if code == 0:
                return
        raise SystemExit(f"{place}: not finished after {COMMANDS} commands; see commands.log")


class Nodes:
    """A Ray cluster of two nodes on 127.0.0.1, of a processor each. The second can be lost, and is then replaced."""

    ARGUMENTS: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}  # noqa: RUF012

    def __init__(self, environment: dict[str, str]) -> None:
        os.environ.update(environment | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"})
        from ray.cluster_utils import Cluster

        self.files = tempfile.mkdtemp(prefix="hrm-nodes-")
        os.environ["RAY_TMPDIR"] = self.files  # the cluster notes its address in its folder `ray`, unmade
        (Path(self.files) / "ray").mkdir()
        self.cluster = Cluster(initialize_head=True, head_node_args=self.ARGUMENTS | {"temp_dir": self.files})
        self.address = self.cluster.address
        self.add_second()

    def close(self) -> None:
        self.cluster.shutdown()
        shutil.rmtree(self.files, ignore_errors=True)

    def add_second(self) -> None:
        self.node = self.cluster.add_node(**self.ARGUMENTS)

    def second(self) -> set[int]:
        """Every process of the second node."""
        found: set[int] = set()
        open_ = [info.process.pid for infos in self.node.all_processes.values() for info in infos]
        while open_:
            process = open_.pop()
            found.add(process)
            open_ += children(process)
        return found

    def lose_second(self) -> None:
        """All its processes at once, as by a power cut."""
        for process in self.second():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.cluster.remove_node(self.node, allow_graceful=False)


def alive(process: int) -> bool:
    """Whether it runs (a zombie doesn't)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def children(process: int) -> list[int]:
    """Direct children of a process (Linux)."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found


def workers(there: dict[int, At]) -> dict[str, int]:
    return dict(sorted(Counter(at.phase for at in there.values() if at.role == "worker").items()))


def tables(place: Path, suite: str = "soak") -> dict[str, Any]:
    """Every table of the results without its columns of time and memory, and every run's weights."""
    found: dict[str, Any] = {}
    for path in sorted((place / "results").glob(f"{suite}/*.csv*")):
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            head, *rows = csv.reader(file)
            keep = [i for i, name in enumerate(head) if name not in TIME_COLUMNS]
            rows = [row for row in rows if not TIME_COLUMNS.intersection(row)]  # pareto.csv has a row per cost
            found[path.name] = [[row[i] for i in keep] for row in [head, *rows]]
    for path in sorted((place / "results").rglob("weights.safetensors")):
        found[str(path.relative_to(place))] = path.read_bytes()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--executor", choices=("local", "ray"), default="local")
    parser.add_argument("--folder", type=Path, default=Path("soak"), help="emptied first")
    options = parser.parse_args()
    folder = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    soak = Soak(folder, options.seed, options.executor)
    subprocess.run(soak.command("whole"), check=True, capture_output=True)
    expected, different, suites = tables(folder / "whole"), [], 0
    print(f"a run without kills took {time.monotonic() - began:.0f} s", flush=True)
    if options.executor == "ray":
        soak.nodes = Nodes(soak.environment())
    try:
        while len(soak.kills) < options.kills:
            suites += 1
            before, place = len(soak.kills), folder / f"suite{suites}"
            soak.suite(place.name, options.kills)
            found = tables(place)
            differs = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
            different += [f"suite {suites}: {name}" for name in differs]
            left = [str(p) for p in (place / "results").rglob("*") if p.suffix in (".tmp", ".pt")]
            different += [f"suite {suites}: {name} left behind" for name in left]
            print(f"suite {suites}: {len(soak.kills) - before} kills, {len(differs)} files differ", flush=True)
    finally:
        if soak.nodes:
            soak.nodes.close()
    fell = Counter(f"{kill['killed']} in {kill['fell_in']}" for kill in soak.kills)
    document = {
        "executor": options.executor,
        "kills": len(soak.kills),
        "suites": suites,
        "fell_in": dict(sorted(fell.items())),
        "files_compared": suites * len(expected),
        "different": different,
        "median_seconds_to_resume": round(statistics.median(soak.resumes), 1) if soak.resumes else None,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "load_average": round(os.getloadavg()[0], 1),
    }
    (folder / "soak.json").write_text(json.dumps(document | {"each": soak.kills}, indent=1))
    print(json.dumps(document))
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
