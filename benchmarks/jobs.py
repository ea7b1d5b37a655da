"""How much faster two jobs are than one on this machine, that they change no number, and what a cell leaves on disk.

    python benchmarks/jobs.py --suite tiny --tasks parity --jobs 1,2

The cells of the tasks are run from empty folders once for each number of jobs, in turn, --repeats times; the seconds
are those from the first cell's start to the last one's end (start-up and report are left out), the least of the
repeats. Tables must be the same but for the columns of time and memory. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from soak import ROOT, tables


def run(options: argparse.Namespace, jobs: str, place: Path) -> float:
    """Seconds from the first cell's beginning to the last one's end."""
    places = ["--results", str(place / "results"), "--reports", str(place / "reports")]
    extra = [part for pair in options.set for part in ("--set", pair)]
    command = [sys.executable, str(ROOT / "run_benchmarks.py"), "--suite", options.suite, "--tasks", options.tasks]
    done = subprocess.run([*command, "--jobs", jobs, *places, *extra], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    moments = [moment for log in place.rglob("log.txt") for moment in stamps(log)]
    return max(moments) - min(moments)


def stamps(log: Path) -> list[float]:
    """The times at which a cell's log has a line."""
    found = re.findall(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ", log.read_text(), re.M)
    return [time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S")) for text in found]


def disk(place: Path) -> dict[str, Any]:
    """Bytes that a finished cell leaves, by arm, and what the suite's tables take."""
    cells: dict[str, list[int]] = {}
    for record in place.rglob("record.json"):
        size = sum(path.stat().st_size for path in record.parent.rglob("*") if path.is_file())
        cells.setdefault(record.parents[1].name, []).append(size)
    whole = sum(path.stat().st_size for path in place.glob("results/*/*.*") if path.is_file())
    return {"bytes_per_cell": {arm: round(statistics.mean(sizes)) for arm, sizes in cells.items()}, "tables": whole}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="tiny")
    parser.add_argument("--tasks", default="parity")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as the command's")
    parser.add_argument("--jobs", default="1,2", help="numbers of jobs; the first is compared with")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {jobs: [] for jobs in options.jobs.split(",")}
    load, different, kept = os.getloadavg()[0], set(), None
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.repeats):
            for jobs, found in seconds.items():
                place = Path(folder) / f"{jobs}-{turn}"
                found.append(run(options, jobs, place))
                print(f"{jobs} jobs: {found[-1]:.0f} s", flush=True)
                mine = tables(place, "*")
                kept = kept or mine
                different |= {name for name in {**kept, **mine} if kept.get(name) != mine.get(name)}
        used = disk(place)
    best = {jobs: min(found) for jobs, found in seconds.items()}
    first = next(iter(best.values()))
    document = {
        "cores": len(os.sched_getaffinity(0)),
        "load_average_before": round(load, 1),
        "seconds": best,
        "speed_up": {jobs: round(first / best[jobs], 2) for jobs in best},
        "different": sorted(different),
        "disk": used,
    }
    print(json.dumps(document))
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
