"""Memory that a long evaluation takes by its number of examples: `python benchmarks/long_evaluation.py`, some minutes.

Rows of Sudoku's kind (81 tokens, or fewer by --tokens, which saves time; 16 segments) are made up, written to disk, and
scored by a tiny model with all tables written, as a run does; each size in a process of its own. What is shown is the
peak of the process's own memory, looked at every 20 ms, and apart from it that of pages of files, which the system
takes back when it needs them. The difference between sizes, per row, is what an evaluation keeps of each example. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

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


def memory() -> tuple[int, int]:
    """KiB of this process's own memory, and of pages of files."""
    own = dict.fromkeys(("RssAnon", "RssFile"), 0)
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in own:
            own[name] = int(value.split()[0])
    return own["RssAnon"], own["RssFile"]


def measure(count: int, tokens: int, out: Any) -> None:
    torch.set_num_threads(1)
    task = Rows(tokens=tokens)
    config = {"hidden": 4, "heads": 2, "inner": 4, "H_layers": 1, "L_layers": 1, "H_cycles": 1, "L_cycles": 1}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        examples = made_up(folder, count, tokens)
        generator = torch.Generator().manual_seed(0)
        model = create_model("hrm", config, ModelShape.of(task), generator=generator)
        peak, over = [0, 0], threading.Event()

        def watch() -> None:
            while not over.wait(0.02):
                peak[:] = [max(a, b) for a, b in zip(peak, memory(), strict=True)]

        watcher = threading.Thread(target=watch)
        watcher.start()
        began = time.perf_counter()
        loop = Loop(segments=SEGMENTS)
        result = evaluate(model, task, loop, examples, segments=SEGMENTS, batch_size=512, write=True, folder=folder)
        scored = time.perf_counter()
        key = {"cell_id": "0" * 12, "task": "rows", "arm": "hrm", "seed": 0}
        write_score_tables(folder, key, task, (1, 4, SEGMENTS), 1.0, {"test": examples}, {"test": result})
        written = time.perf_counter()
        over.set()
        watcher.join()
        own, file = (round(kib / 1024, 1) for kib in peak)
        seconds = {"seconds_scoring": round(scored - began, 1), "seconds_writing": round(written - scored, 1)}
        out.put({"rows": count, "own_mib": own, "file_mib": file, **seconds})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="40000,120000", help="sizes, such as 40000,422786")
    parser.add_argument("--tokens", type=int, default=81)
    options = parser.parse_args()
    sizes = sorted(int(n) for n in options.rows.split(","))
    context = multiprocessing.get_context("spawn")
    found = []
    for count in sizes:
        out = context.Queue()
        process = context.Process(target=measure, args=(count, options.tokens, out))
        process.start()
        found.append(out.get())
        process.join()
        print(*(f"{name} {value}" for name, value in found[-1].items()), sep="  ", flush=True)
    first, last = found[0], found[-1]
    more = last["rows"] - first["rows"]
    per_row = (
        {name: round((last[name] - first[name]) * 2**20 / more, 1) for name in ("own_mib", "file_mib")} if more else {}
    )
    print(json.dumps({"sizes": found, "bytes_per_row": per_row}))


if __name__ == "__main__":
    main()
