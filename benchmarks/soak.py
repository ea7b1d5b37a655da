"""Kill a small suite with SIGKILL again and again, at random moments, and compare its tables with an unharmed run's.

    python benchmarks/soak.py --kills 20 --folder soak

Workers and the command itself are killed: in training, in a checkpoint, in evaluation, in writing and in collecting
tables. Every process notes in FOLDER/phases.log where it is, so that the log proves where each kill fell. After a kill
the same command goes on (with --retry-failed, since a killed worker's cell is recorded as failed). Once all cells are
finished the tables are compared, byte by byte but for the columns of time and memory, and so are the weights; while
kills are left, the suite then starts again in an empty folder. Exit code 1 if anything differs.
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
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

SUITE: dict[str, Any] = {
    "name": "soak",
    "recipe": {
        "batch_size": 8,
        "precision": "float32",
        "ema": 0.99,
        "budget": {"updates": 80},
        "evaluation": {"points": 4, "validation_examples": 64, "test_examples": 128, "segments": [1, 2, 4]},
    },
    "device": "cpu",
    "arms": {
        "hrm": {
            "model": "hrm",
            "config": {"hidden": 16, "heads": 2, "inner": 24, "H_layers": 1, "L_layers": 1},
            "loop": {"segments": 4},
        },
        "transformer": {"model": "transformer", "config": {"layers": 2}, "match": {"to": "hrm", "rule": "params"}},
    },
    "tasks": {
        "parity": {
            "settings": {"max_length": 8, "ood_lengths": [10]},
            "seeds": 2,
            "primary": {"arms": ["hrm", "transformer"]},
        }
    },
}

TIMES = {"seconds_train", "seconds_evaluation", "peak_memory_mib", "started", "seconds"}

NOTES = '''
"""Loaded into every process of the soaked command: notes each change of phase, and slows the phases that take
milliseconds, so that kills can fall into them. Changes no number."""

import functools
import os
import threading
import time

from harness.analysis import collect
from harness.training import checkpoint, runner, trainer

LOG = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
PARENT = {parent!r}


def note(phase):
    role = "parent" if os.getppid() == int(os.environ[PARENT]) else "worker"
    os.write(LOG, f"{{time.time():.3f}} {{os.getpid()}} {{role}} {{phase}}\\n".encode())


def noted(module, name, phase):
    function = getattr(module, name)

    @functools.wraps(function)
    def wrapped(*given, **named):
        note(phase)
        try:
            return function(*given, **named)
        finally:
            note("between")

    setattr(module, name, wrapped)


def slowed(module, name, seconds):
    function = getattr(module, name)

    @functools.wraps(function)
    def wrapped(*given, **named):
        time.sleep(seconds)
        return function(*given, **named)

    setattr(module, name, wrapped)


noted(trainer.Trainer, "advance", "training")
noted(checkpoint, "save_state", "checkpoint")
noted(runner, "evaluate", "evaluation")
noted(runner, "write_run_tables", "tables")
noted(collect, "collect", "collecting")
slowed(checkpoint._Hashed, "write", 0.001)
slowed(collect, "write_table", 0.1)
note("started")
'''


class Soak:
    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.log, self.chance = folder, folder / "phases.log", random.Random(seed)
        (folder / "soak.yaml").write_text(json.dumps(SUITE))
        (folder / "noted.py").write_text(NOTES.format(log=str(self.log), parent="SOAK_PARENT"))
        self.kills: list[dict[str, Any]] = []
        self.resumed: list[float] = []

    def command(self, place: str, *extra: str) -> list[str]:
        where = self.folder / place
        return [
            *(sys.executable, str(ROOT / "run_benchmarks.py"), "--suite", str(self.folder / "soak.yaml")),
            *("--results", str(where / "results"), "--reports", str(where / "reports"), "--jobs", "2", *extra),
        ]

    def start(self, place: str) -> subprocess.Popen[bytes]:
        extra = ("--plugin", str(self.folder / "noted.py"), "--retry-failed", "--checkpoint-seconds", "0.1")
        with (self.folder / "commands.log").open("ab") as output:
            return subprocess.Popen(
                self.command(place, *extra),
                stdout=output,
                stderr=output,
                env=os.environ | {"SOAK_PARENT": str(os.getpid())},
                start_new_session=True,
            )

    def phases(self) -> dict[int, tuple[str, str]]:
        """Process → (role, phase) at its last note."""
        found: dict[int, tuple[str, str]] = {}
        for line in self.log.read_text().splitlines() if self.log.is_file() else ():
            _, process, role, phase = line.split()
            found[int(process)] = role, phase
        return found

    def kill_one(self, command: subprocess.Popen[bytes]) -> bool:
        """Wait until a process of the running command is in a phase drawn at random, and kill it there. False: the
        command ended first."""
        role = self.chance.choice(["worker", "worker", "parent"])
        aims = ["training", "checkpoint", "evaluation", "tables"] if role == "worker" else ["collecting", "started"]
        aim = self.chance.choice(aims)
        time.sleep(self.chance.uniform(0, 1))
        while command.poll() is None:
            alive = {command.pid, *children(command.pid)}
            there = [p for p, (r, phase) in self.phases().items() if p in alive and (r, phase) == (role, aim)]
            if there:
                time.sleep(self.chance.uniform(0, 0.05))
                victim = self.chance.choice(there)
                os.kill(victim, signal.SIGKILL)
                time.sleep(0.1)
                _, fell = self.phases()[victim]
                kill = {"kill": len(self.kills) + 1, "process": victim, "role": role, "aimed": aim, "fell_in": fell}
                self.kills.append(kill)
                print(json.dumps(kill), flush=True)
                return True
            time.sleep(0.005)
        return False

    def round(self, place: str, kills: int) -> None:
        """One suite from an empty folder to its end, killed on the way until there were so many kills."""
        for _ in range(200):
            command = self.start(place)
            while len(self.kills) < kills and self.kill_one(command) and self.kills[-1]["role"] == "worker":
                pass
            if self.kills and self.kills[-1]["role"] == "parent" and command.poll() in (None, -signal.SIGKILL):
                command.wait()
                continue
            if command.wait() == 0:
                return
        raise SystemExit(f"{place}: not finished after 200 commands; see commands.log")


def children(process: int) -> set[int]:
    """Direct children of a process (Linux)."""
    found = set()
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found |= {int(child) for child in task.read_text().split()}
        except OSError:
            continue
    return found


def tables(place: Path) -> dict[str, Any]:
    """Every table of the results without its columns of time and memory, and every run's weights."""
    found: dict[str, Any] = {}
    for path in sorted((place / "results/soak").glob("*.csv*")):
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            found[path.name] = [[v for k, v in row.items() if k not in TIMES] for row in csv.DictReader(file)]
    for path in sorted((place / "results/soak").rglob("weights.safetensors")):
        found[str(path.relative_to(place))] = path.read_bytes()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, default=Path("soak"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    soak = Soak(folder, options.seed)
    print("a run without kills", flush=True)
    subprocess.run(soak.command("whole"), check=True, stdout=subprocess.DEVNULL)
    expected, different, rounds = tables(folder / "whole"), [], 0
    while len(soak.kills) < options.kills:
        rounds += 1
        before = len(soak.kills)
        soak.round(f"round{rounds}", options.kills)
        found = tables(folder / f"round{rounds}")
        differs = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
        different += [f"round {rounds}: {name}" for name in differs]
        left = [str(p) for p in (folder / f"round{rounds}/results").rglob("*") if p.suffix in (".tmp", ".pt")]
        different += [f"round {rounds}: {name} left behind" for name in left]
        print(f"round {rounds}: {len(soak.kills) - before} kills, {len(differs)} files differ", flush=True)
    fell = Counter((kill["role"], kill["fell_in"]) for kill in soak.kills)
    document = {
        "kills": len(soak.kills),
        "rounds": rounds,
        "fell_in": {f"{role} in {phase}": count for (role, phase), count in sorted(fell.items())},
        "files_compared": rounds * len(expected),
        "different": different,
    }
    (folder / "soak.json").write_text(json.dumps(document | {"each": soak.kills}, indent=1))
    print(json.dumps(document))
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
