"""What a command says to whoever typed it: on standard error for people, one line of JSON on standard output."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.execution.local import Outcome
    from harness.plan import Plan


def announce(plan: Plan) -> None:
    """Device, precision and what is skipped, before anything runs."""
    counts = {"cells": len(plan.cells), "controls": len(plan.controls()), "tuning trials": len(plan.trials())}
    said = [f"{count} {what}" for what, count in counts.items() if count or what == "cells"]
    say(f"HRM-Bench: suite {plan.suite.name}, {', '.join(said)}")
    say(f"device {plan.device.value}: {plan.device.reason}")
    for value, reason in sorted({(choice.value, choice.reason) for choice in plan.precision.values()}):
        say(f"precision {value}: {reason}")
    if plan.deterministic:
        say("deterministic: strict algorithms; an operation without one fails its cell")
    for line in skipped_lines(plan):
        say(line)


def skipped_lines(plan: Plan) -> list[str]:
    """Each skipped task with its reason and remedy, once more where a long run's last lines are read."""
    return [
        f"skipped: {task.name}: {task.skipped.reason}; remedy: {task.skipped.remedy}"
        for task in plan.skipped()
        if task.skipped is not None
    ]


def summarise(plan: Plan, outcome: Outcome, seconds: float) -> None:
    parts = [f"{outcome.finished} cells finished"]
    if outcome.before:
        parts.append(f"{outcome.before} were finished before")
    if outcome.elsewhere:
        parts.append(f"{outcome.elsewhere} were finished by another command meanwhile")
    if outcome.left:
        parts.append(f"{outcome.left} left for the next time")
    if outcome.skipped:
        parts.append(f"{outcome.skipped} skipped ({', '.join(task.name for task in plan.skipped())}: data absent)")
    if outcome.failed:
        parts.append(f"{len(outcome.failed)} FAILED")
    say(f"{'; '.join(parts)}; {seconds / 60:.1f} minutes")
    for line in skipped_lines(plan):
        say(line)
    for cell, reason in outcome.failed:
        say(f"failed: {cell.name} ({cell.run_folder}): {reason}")


def finish(results: Path, page: Path, outcome: Outcome | None, more: dict[str, Any] | None = None) -> None:
    """The last line on standard output: one JSON document naming tables and report, and what `more` says."""
    tables = {path.name.split(".")[0]: str(path) for path in sorted(results.glob("*.csv*"))}
    document: dict[str, Any] = {"results": str(results), "tables": tables, "report": str(page)}
    if outcome is not None:
        document["cells"] = {
            "finished": outcome.finished + outcome.before + outcome.elsewhere,
            "failed": len(outcome.failed),
            "skipped": outcome.skipped,
            "left": outcome.left,
        }
    from harness.analysis.results import read_table
    from harness.analysis.unsafe import unsafe_runs, warning

    runs = read_table(results / "runs.csv", "runs", ["task", "sandbox"]).to_dict("records")
    if banner := warning(run["task"] for run in unsafe_runs(runs)):
        say(banner)
        document["warning"] = banner
    say(f"report: {page}")
    print_json(document | (more or {}))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_json(document: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # whoever read the output has seen enough
        print(json.dumps(document, ensure_ascii=False), flush=True)


def command_line() -> str:
    import shlex

    return shlex.join(["python", "run_benchmarks.py", *sys.argv[1:]])
