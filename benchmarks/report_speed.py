"""How long tables and report of a large suite take: a made-up results folder of 500 cells, collected and reported.

    python benchmarks/report_speed.py [--cells 500] [--profile]

Prints JSON: seconds of wall clock and of processor for `collect` (tables from run folders) and `report` (figures and
page from tables), and the size of the page.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from synthetic import FakeTask, build  # noqa: E402

from harness.analysis.collect import collect  # noqa: E402
from harness.report import html  # noqa: E402

ARMS = {"hrm": 0.8, "transformer": 0.6, "transformer-flops": 0.75, "looped": 0.8, "trm": 0.8}
SEEDS = 10


def made_up(root: Path, cells: int) -> Path:
    """As many tasks of 5 arms and 10 seeds, 200 test examples each, as make that many cells."""
    tasks = {
        f"task-{i}": FakeTask(dict(ARMS), seeds=SEEDS, examples=200, traced=12, scale=1 + i)
        for i in range(-(-cells // (len(ARMS) * SEEDS)))
    }
    return build(root / "results", tasks, name="large")


def timed(work: Callable[[], Any], profile: bool) -> dict[str, float]:
    """Seconds of the clock and of this process."""
    profiler = cProfile.Profile()
    clock, own = time.perf_counter(), time.process_time()
    profiler.runcall(work) if profile else work()
    found = {"seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - own}
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumulative").print_stats(40)
    return {name: round(value, 1) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--profile", action="store_true", help="the functions that take longest, on standard error")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = made_up(Path(folder), asked.cells)
        found: dict[str, Any] = {"cells": asked.cells}
        found["collect"] = timed(lambda: collect(results), asked.profile)
        found["report"] = timed(lambda: html.build(results, Path(folder) / "reports"), asked.profile)
        found["page_bytes"] = (Path(folder) / "reports" / "large" / "index.html").stat().st_size
        found["torch"] = "torch" in sys.modules
    print(json.dumps(found))


if __name__ == "__main__":
    main()
