"""What checkpoints cost: bytes, seconds to write and to go on from, and their share of a run's time, by arm of a suite.

    python benchmarks/checkpoints.py --suite tiny

Each arm of each task is set up as a run would, takes two updates, and saves and loads its state three times; the median
is shown. A run saves at most once in 60 s, and waits fifty times as long as the last one took where that is longer; so
the share is seconds / max(60, 50 · seconds). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import models
import tasks
from harness.plan import Selection, make_plan
from harness.suite import load_suite, read_suite
from harness.training import checkpoint, runner
from harness.training.trainer import Trainer
from tasks.base import DataFolder, create_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="tiny")
    parser.add_argument("--tasks", default="parity")
    options = parser.parse_args()
    tasks.load_all()
    models.load_all()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as place:
        suite = load_suite(*read_suite(options.suite))
        plan = make_plan(suite, DataFolder(), Path(place) / "results", Selection(options.tasks.split(","), seeds=1))
        for cell in plan.cells:
            task = create_task(cell.registered_task, cell.settings)
            device = torch.device(cell.device)
            began = time.perf_counter()
            trainer = Trainer(cell, task, plan.tasks[cell.task].data[cell.seed].load(), device)
            built = time.perf_counter() - began
            for _ in range(2):
                trainer.advance()
            best = {name: tensor.detach().clone() for name, tensor in trainer.evaluated.state_dict().items()}
            progress = runner.Progress(best=best)
            folder, saves, loads = Path(place) / cell.id, [], []
            for _ in range(3):
                began = time.perf_counter()
                runner._save(trainer, progress, folder, print)
                saves.append(time.perf_counter() - began)
                began = time.perf_counter()
                state, _ = checkpoint.load_state(folder, device)
                assert state is not None
                trainer.load_state_dict(state["trainer"])
                loads.append(time.perf_counter() - began)
            save = statistics.median(saves)
            rows.append(
                {
                    "task": cell.task,
                    "arm": cell.arm,
                    "mib": round(checkpoint.state_files(folder)[0].stat().st_size / 2**20, 2),
                    "save_seconds": round(save, 4),
                    "load_seconds": round(statistics.median(loads), 4),
                    "build_seconds": round(built, 3),
                    "share": round(save / max(runner.CHECKPOINT_SECONDS, save / runner.CHECKPOINT_SHARE), 5),
                }
            )
            print(*(f"{name} {value}" for name, value in rows[-1].items()), sep="  ", flush=True)
    print(json.dumps({"load_average": round(os.getloadavg()[0], 1), "arms": rows}))


if __name__ == "__main__":
    main()
