"""Training and evaluation speed of the paper's HRM and the transformer matched to it, on one CUDA device.

    python benchmarks/cuda_speed.py                 some minutes on one large GPU, a batch of 768 as the suites have
    python benchmarks/cuda_speed.py --batches 384,768 --rounds 3 --seconds 2 --arms hrm --modes "eager bfloat16"
    python benchmarks/cuda_speed.py --device cpu    its own smoke test: tiny models and boards, figures of no interest

Everything is generated (9×9 Sudoku), so nothing is read or fetched; 40 blanks, since 54 take minutes to find. Each
variant (arm × eager float32, eager bfloat16, compiled bfloat16, and the last with strict deterministic algorithms) is
built and warmed up, then all are timed in turn, round by round, so that a clock or a neighbour that changes hits all
alike; medians are printed. Peak memory is a variant's own: what it allocates from before it is built to the end of
its first updates. A training step synchronises if one of five updates between two looks of the host raises in CUDA's
sync debug mode. The last line is JSON. Where a variant fails, its error stands in its row and the others go on; the
exit code is then 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import models
import tasks
from harness.cell import Cell
from harness.data import DataSet
from harness.evaluation.evaluate import evaluate
from harness.plan import make_plan
from harness.suite import load_suite
from harness.training.device import DETERMINISTIC_VARIABLE, machine, set_deterministic
from harness.training.trainer import Trainer
from tasks.base import DataFolder, create_task

RECIPE = {
    "loss": "stablemax",
    "optimizer": {"name": "adam_atan2", "learning_rate": 1e-4, "weight_decay": 1.0, "betas": [0.9, 0.95]},
    "puzzle_optimizer": {"learning_rate": 1e-4, "weight_decay": 1.0},
    "schedule": {"name": "constant", "warmup_updates": 2000},
    "clip": None,
    "budget": {"updates": 10_000_000},
    "precision": "float32",
    "compile": False,
}
FULL = {
    "task": "sudoku-9",
    "settings": {"train_examples": 1000, "validation_examples": 100, "test_examples": 1536, "min_blanks": 40,
                 "max_blanks": 40},
    "hrm": {"model": "hrm", "preset": "paper", "loop": {"segments": 16}},
    "layers": 8,
}  # fmt: skip
TINY = {
    "task": "sudoku-4",
    "settings": {"train_examples": 64, "validation_examples": 20, "test_examples": 30},
    "hrm": {"model": "hrm", "config": {"hidden": 32, "heads": 2, "inner": 64, "H_layers": 1, "L_layers": 1},
            "loop": {"segments": 2}},
    "layers": 2,
}  # fmt: skip
MODES: dict[str, dict[str, Any]] = {
    "eager float32": {"precision": "float32"},
    "eager bfloat16": {"precision": "bfloat16"},
    "compiled bfloat16": {"precision": "bfloat16", "engine": "compiled"},
    "compiled bfloat16, deterministic": {"precision": "bfloat16", "engine": "compiled", "deterministic": True},
}


def cells_of(scale: dict[str, Any], batch: int, device: str, place: Path) -> tuple[list[Cell], DataSet]:
    """The HRM's and the matched transformer's cell, and their data, built under `place`."""
    suite = {
        "name": "cuda-benchmark",
        "recipe": {**RECIPE, "batch_size": batch},
        "device": device,
        "arms": {
            "hrm": scale["hrm"],
            "transformer": {"model": "transformer", "config": {"layers": scale["layers"]},
                            "match": {"to": "hrm", "rule": "params"}},
        },
        "tasks": {scale["task"]: {"settings": scale["settings"], "seeds": 1}},
    }  # fmt: skip
    plan = make_plan(load_suite(suite, "benchmarks/cuda_speed.py"), DataFolder(), place / "results")
    (task_plan,) = plan.tasks.values()
    return plan.cells, task_plan.data[0]


class Variant:
    """A cell's trainer in one mode, and the figures found."""

    def __init__(self, cell: Cell, mode: str, data: DataSet, evaluation_batch: int) -> None:
        self.cell = cell.model_copy(update=MODES[mode])
        self.row: dict[str, Any] = {"arm": cell.arm, "batch": cell.recipe.batch_size, "mode": mode}
        self.cuda = cell.device == "cuda"
        self.evaluation_batch = evaluation_batch
        self.updates: list[float] = []  # a second, per round
        self.rows: list[float] = []
        set_deterministic(self.cell.deterministic)
        gc.collect()
        before = torch.cuda.memory_allocated() if self.cuda else 0
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        task = create_task(cell.registered_task, cell.settings)
        splits = data.load()
        self.trainer = Trainer(self.cell, task, splits, torch.device(cell.device))
        self.row["parameters"] = sum(p.numel() for p in self.trainer.model.parameters())
        self.test = splits["test"]
        self.row["first_3_updates_seconds"] = round(self.train(3), 1)  # compiling included
        if self.cuda:
            self.row["training_peak_mib"] = round((torch.cuda.max_memory_allocated() - before) / 2**20)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def train(self, updates: int) -> float:
        """Run updates; seconds that they took, queue emptied before and after."""
        set_deterministic(self.cell.deterministic)
        self.wait()
        began = time.perf_counter()
        for _ in range(updates):
            self.trainer._update()
        self.wait()
        return time.perf_counter() - began

    def score(self) -> float:
        """Score the test split at the trained depth; seconds."""
        set_deterministic(self.cell.deterministic)
        self.wait()
        began = time.perf_counter()
        loop = self.cell.loop
        evaluate(self.trainer.model, self.trainer.task, loop, self.test, segments=loop.segments,
                 batch_size=self.evaluation_batch)  # fmt: skip
        self.wait()
        return time.perf_counter() - began

    def warm_up(self, seconds: float) -> None:
        """Compile what is not compiled yet, and find how many updates fill a round."""
        self.train(3)
        self.score()
        took = self.train(5) / 5
        self.count = max(5, min(500, round(seconds / took)))

    def round(self) -> None:
        self.updates.append(self.count / self.train(self.count))
        self.rows.append(len(self.test) / self.score())

    def synchronises(self) -> str:
        """Whether updates between two looks of the host wait for the device: "no", or what CUDA said."""
        if not self.cuda:
            return "not on CUDA"
        set_deterministic(self.cell.deterministic)
        self.trainer.feeder._left = 0
        self.train(1)  # reads the cursor and takes the next window of the stream, as once in 50 updates
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                self.trainer._update()
        except RuntimeError as error:
            return str(error).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return "no"

    def figures(self) -> dict[str, Any]:
        median = statistics.median
        return {
            **self.row,
            "updates_per_second": round(median(self.updates), 3),
            "updates_range": [round(min(self.updates), 3), round(max(self.updates), 3)],
            "examples_per_second": round(median(self.updates) * self.cell.recipe.batch_size, 1),
            "evaluation_rows_per_second": round(median(self.rows), 1),
            "updates_per_round": self.count,
            "synchronises": self.synchronises(),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--batches", default=None, help="such as 384,768 (default: 768)")
    parser.add_argument("--modes", default=None, help="of " + "; ".join(MODES) + " (separated by ;)")
    parser.add_argument("--arms", default="hrm,transformer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of training per variant and round")
    parser.add_argument("--evaluation-batch", type=int, default=512)
    options = parser.parse_args()
    os.environ.setdefault(*DETERMINISTIC_VARIABLE)  # for all variants: a process has one
    cuda = options.device == "cuda"
    if cuda and not torch.cuda.is_available():
        parser.error("no CUDA device answers; --device cpu runs the smoke test")
    torch.set_num_threads(1 if not cuda else max(1, (os.cpu_count() or 2) // 2))
    torch.set_float32_matmul_precision("highest")  # as run_cell does in float32
    tasks.load_all()
    models.load_all()
    batches = [int(n) for n in (options.batches or ("768" if cuda else "8")).split(",")]
    # compiling takes a minute on CPU, where strictness changes nothing
    modes = [m.strip() for m in options.modes.split(";")] if options.modes else list(MODES)[: 4 if cuda else 2]
    rounds, seconds = (options.rounds, options.seconds) if cuda else (2, 0.2)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        for batch in batches:
            cells, data = cells_of(FULL if cuda else TINY, batch, options.device, Path(place))
            found += measured(
                [(cell, mode) for mode in modes for cell in cells if cell.arm in options.arms.split(",")],
                data, options.evaluation_batch, rounds, seconds,
            )  # fmt: skip
    where = torch.cuda.get_device_name() if cuda else machine()
    print(json.dumps({"device": where, "torch": torch.__version__, "cuda": torch.version.cuda, "variants": found}))
    return 1 if any("error" in row for row in found) else 0


def measured(
    wanted: list[tuple[Cell, str]], data: DataSet, evaluation_batch: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Figures of each variant, all timed in turn."""
    variants: list[Variant] = []
    failed: list[dict[str, Any]] = []

    def attempt(cell: Cell, mode: str, work: Any) -> Any:
        try:
            return work()
        except Exception as error:  # one variant must not cost a lease of the machine
            text = f"{type(error).__name__}: {error}".splitlines()[0][:500]
            failed.append({"arm": cell.arm, "batch": cell.recipe.batch_size, "mode": mode, "error": text})
            print(failed[-1], flush=True)
            return None

    for cell, mode in wanted:
        built = attempt(cell, mode, lambda cell=cell, mode=mode: Variant(cell, mode, data, evaluation_batch))
        if built is not None:
            variants.append(built)
            print("built:", built.row, flush=True)

    def each(work: Any) -> None:
        for v in list(variants):
            if attempt(v.cell, v.row["mode"], lambda v=v: (work(v), True)) is None:
                variants.remove(v)

    each(lambda v: v.warm_up(seconds))  # now that all are built: building one makes torch forget what it compiled
    for i in range(rounds):
        each(lambda v: v.round())
        print(f"round {i + 1}:", [round(v.updates[-1], 2) for v in variants], "updates per second", flush=True)
    figures: list[dict[str, Any]] = []
    each(lambda v: figures.append(v.figures()))
    for row in figures:
        print(*(f"{name} {value}" for name, value in row.items()), sep="  ", flush=True)
    return figures + failed


if __name__ == "__main__":
    sys.exit(main())
