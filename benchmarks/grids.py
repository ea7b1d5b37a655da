"""Speed and difficulty of the grid tasks' own code: `python benchmarks/grids.py [--data DIR]`, about 2 minutes.

Prints puzzles or mazes per second on one core for generators, solver, class keys and augmentation, and, where real rows
are at hand, how our difficulty goes with their rating. Figures are those of the machine that it runs on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tasks
from harness.random import CounterRandom
from tasks.base import Batch, DataFolder, create_task
from tasks.maze import turn
from tasks.maze_generator import random_mazes
from tasks.maze_rule import answers
from tasks.sudoku import GUESSES_OF_EXTREME
from tasks.sudoku_generator import harder_puzzles, random_puzzles
from tasks.sudoku_solver import solve
from tasks.sudoku_symmetry import class_keys


def timed(what: str, work: Callable[[], Any], *, unit: str = "") -> Any:
    """Run once, print seconds of processor time and, for results with a length, how many a second."""
    started = time.process_time()
    result = work()
    seconds = time.process_time() - started
    count = len(result[0] if isinstance(result, tuple) else result) if unit else 0
    print(f"  {what}: {seconds:.3g} s" + (f", {count / seconds:,.0f} {unit} a second" if unit else ""))
    return result


def sudoku(data: DataFolder) -> None:
    random = np.random.default_rng(0)
    print("Sudoku, generated")
    for side, blanks in ((6, (14, 22)), (9, (40, 50)), (9, (54, 54))):

        def make(side: int = side, blanks: tuple[int, int] = blanks) -> Any:
            return random_puzzles(side, 1000, blanks, random)

        made = timed(f"side {side}, {blanks[0]} to {blanks[1]} blanks", make, unit="puzzles")
        timed("  solved", lambda made=made: solve(made[0]).guesses, unit="puzzles")
    hard = timed("side 9, at least 10 guesses", lambda: harder_puzzles(1000, (48, 52), 10, random), unit="puzzles")
    print(f"  mean guesses of these {hard[2].mean():.1f}; of Sudoku-Extreme's test rows {GUESSES_OF_EXTREME}")
    if data.root is None:
        print("  no data folder: real rows left out")
        return
    task = create_task("sudoku-extreme", {"train_rows": None, "one_blank_examples": 0})
    print("Sudoku-Extreme")
    parts = timed("read and checked", lambda: task.splits(0, data))
    rows = [np.concatenate([getattr(part, name) - 1 for part in parts.values()]) for name in ("inputs", "labels")]
    rating = np.concatenate([part.difficulty for part in parts.values()])
    timed("class keys of train, validation and test", lambda: class_keys(*rows), unit="rows")
    found = timed("solved", lambda: solve(rows[0]))
    print(f"  {len(rating):,} rows; mean guesses {found.guesses.mean():.1f}, mean rating {rating.mean():.1f}, "
          f"Spearman's correlation {spearmanr(found.guesses, rating).statistic:.3f}")  # fmt: skip


def mazes(data: DataFolder) -> None:
    random = np.random.default_rng(0)
    print("Mazes, generated, drawn and labelled")
    for side, steps in ((6, (4, 9)), (20, (30, 55)), (30, (60, 108)), (30, (109, None))):
        high = "any" if steps[1] is None else steps[1]
        draws = 20_000 if steps[1] is None else 3000

        def make(side: int = side, steps: Any = steps, draws: int = draws) -> np.ndarray:
            found = [random_mazes(side, 1000, 0.37, steps, random) for _ in range(draws // 1000)]
            return answers(np.concatenate(found))[0]

        timed(f"side {side}, {steps[0]} to {high} steps", make, unit="mazes")
    task = create_task("maze", {"side": 30, "min_steps": 60, "max_steps": 108, "train_examples": 768, "ood_examples": 0,
                                "validation_examples": 1, "test_examples": 1})  # fmt: skip
    host = task.splits(0, data)["train"]
    print("One batch of 30x30 mazes augmented")
    for rows in (64, 768):
        tensors = host.batch(slice(rows)).map(torch.from_numpy)
        batch = Batch(tensors.inputs.int(), tensors.labels.int(), tensors.puzzle_ids, tensors.facts)
        draws = CounterRandom(1, torch.arange(rows))
        turn(batch, draws.integers(8), 30)  # the first call is slower
        timed(f"{rows} rows turned, labels picked", lambda batch=batch, draws=draws: turn(batch, draws.integers(8), 30))
        timed(f"{rows} rows labelled anew, on the host", lambda rows=rows: answers(host.inputs[:rows]))
    if data.root is not None:
        real = create_task("maze-hard")
        timed("Maze-Hard read, every label found anew, eight turns of each labelled", lambda: real.splits(0, data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="data folder; default: HRM_BENCH_DATA")
    folder = parser.parse_args().data or os.environ.get("HRM_BENCH_DATA")
    torch.set_num_threads(1)
    tasks.load_all()
    data = DataFolder(Path(folder) if folder else None)
    sudoku(data)
    mazes(data)


if __name__ == "__main__":
    main()
