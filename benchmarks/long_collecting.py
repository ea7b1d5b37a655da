"""Memory that `collect` takes by the size of a test set: `python benchmarks/long_collecting.py`, a few minutes.

A results folder of two arms is made up, each run with so many examples of 16 segments, ids in no order, as hashes are.
Two seeds are the fewest that have intervals; --seeds 1 leaves the statistics out. Collected in a process that made
nothing of it. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from peak_memory import Peak, by_rows  # noqa: E402
from synthetic import FakeTask, build  # noqa: E402

from harness.analysis.collect import collect  # noqa: E402
from harness.analysis.results import read_cells, read_suite  # noqa: E402
from harness.tables import names  # noqa: E402

SEGMENTS, TRAINED = 16, 8
ARMS = {"hrm": 0.6, "transformer-flops": 0.5}


def made_up(root: Path, count: int, seeds: int) -> Path:
    """A results folder whose runs have so many examples each."""
    results = build(root, {"sudoku": FakeTask(ARMS, seeds=seeds, examples=20)})
    for cell in read_cells(results, read_suite(results)):
        path = results / str(cell.run_folder) / "examples.csv.gz"
        with gzip.open(path, "wt", compresslevel=1, newline="") as file:
            file.write(",".join(names("examples")) + "\n")
            key = f"{cell.cell_id},{cell.task},{cell.arm},{cell.seed},test"
            file.writelines(f"{key},{row}\n" for row in rows(count, cell.seed, ARMS[cell.arm]))
    return results


def rows(count: int, seed: int, level: float) -> Iterator[str]:
    """Rows of examples.csv.gz after the split."""
    random, shared = np.random.default_rng([seed, round(100 * level)]), np.random.default_rng(0)
    for start in range(0, count, 10_000):
        n = min(10_000, count - start)
        ids, difficulty = shared.integers(2**48, size=n), shared.integers(1, 40, n)
        right = random.random((n, SEGMENTS)) < level
        q_halt, step = random.normal(size=right.shape), random.integers(1, TRAINED + 1, n)
        halted, oracle = right[np.arange(n), step - 1], right[:, :TRAINED].any(1)
        token = (40 + 41 * right[:, TRAINED - 1]) / 81
        for i in range(n):
            digits = "".join("01"[r] for r in right[i].tolist())
            logits = ";".join(f"{q:.7g}" for q in q_halt[i].tolist())
            yield (
                f"{ids[i]:012x},easy,{difficulty[i]},{digits[TRAINED - 1]},{halted[i]:d},{oracle[i]:d},"
                f"{token[i]:.9g},{step[i]},{digits},{logits}"
            )


def measure(count: int, seeds: int, out: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        process = multiprocessing.get_context("spawn").Process(target=made_up, args=(Path(place), count, seeds))
        process.start()
        process.join()
        began = time.perf_counter()
        with Peak() as peak:
            collect(Path(place) / "tiny")
        out.put({"rows": count, **peak.mib(), "seconds": round(time.perf_counter() - began, 1)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="20000,422786", help="examples of each run, by size")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    by_rows(measure, [int(n) for n in options.rows.split(",")], options.seeds)


if __name__ == "__main__":
    main()
