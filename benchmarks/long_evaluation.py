"""Memory that a long evaluation takes by its number of examples: `python benchmarks/long_evaluation.py`, some minutes.

Rows of Sudoku's kind (81 tokens, or fewer by --tokens, which saves time; 16 segments) are made up, written to disk, and
scored by a tiny model with all tables written, as a run does; each size in a process of its own. What is shown is the
peak of the process's own memory, looked at every 20 ms, and apart from it that of pages of files, which the system
takes back when it needs them. The difference between sizes, per row, is what an evaluation keeps of each example. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from peak_memory import Peak, by_rows

from harness.evaluation.evaluate import evaluate
from harness.evaluation.records import write_score_tables
from harness.recipe import Loop
from models.base import ModelShape, create_model
from models.hrm import HRM  # noqa: F401 (registers it)
from tasks.base import Examples, Task

SEGMENTS = 16
BANDS = ("easy", "medium", "hard")


class Rows(Task):
    """Tokens of 11 kinds in three groups."""

    tokens: int = 81

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("_", ".", *"123456789")

    @property
    def sequence_length(self) -> int:
        return self.tokens


def made_up(folder: Path, count: int, tokens: int) -> Examples:
    """Examples memory-mapped, as those of a run are."""
    random = np.random.default_rng(0)
    groups = np.array(BANDS)
    parts: dict[str, Any] = {
        "inputs": lambda n: random.integers(1, 11, (n, tokens), dtype=np.uint8),
        "labels": lambda n: random.integers(2, 11, (n, tokens), dtype=np.uint8),
        "difficulty": lambda n: random.integers(0, 100, n).astype(np.float32),
        "groups": lambda n: groups[random.integers(0, 3, n)],
    }
    found = {}
    for name, make in parts.items():
        one = make(1)
        file = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", one.dtype, (count, *one.shape[1:]))
        for start in range(0, count, 10_000):
            file[start : start + 10_000] = make(min(10_000, count - start))
        file.flush()
        del file
        found[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return Examples(**found)


def measure(count: int, tokens: int, out: Any) -> None:
    torch.set_num_threads(1)
    task = Rows(tokens=tokens)
    config = {"hidden": 4, "heads": 2, "inner": 4, "H_layers": 1, "L_layers": 1, "H_cycles": 1, "L_cycles": 1}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        examples = made_up(folder, count, tokens)
        generator = torch.Generator().manual_seed(0)
        model = create_model("hrm", config, ModelShape.of(task), generator=generator)
        began = time.perf_counter()
        with Peak() as peak:
            loop = Loop(segments=SEGMENTS)
            result = evaluate(model, task, loop, examples, segments=SEGMENTS, batch_size=512, write=True, folder=folder)
            scored = time.perf_counter()
            key = {"cell_id": "0" * 12, "task": "rows", "arm": "hrm", "seed": 0}
            write_score_tables(folder, key, task, (1, 4, SEGMENTS), 1.0, {"test": examples}, {"test": result})
        seconds = {"scoring": scored - began, "writing": time.perf_counter() - scored}
        out.put({"rows": count, **peak.mib(), **{f"seconds_{name}": round(s, 1) for name, s in seconds.items()}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="40000,120000", help="sizes, such as 40000,422786")
    parser.add_argument("--tokens", type=int, default=81)
    options = parser.parse_args()
    by_rows(measure, [int(n) for n in options.rows.split(",")], options.tokens)


if __name__ == "__main__":
    main()
