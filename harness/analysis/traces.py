"""How answers form, side by side: one run's traces per arm of a task, for the report's example browser. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BrokenData
from harness.files import read_json, write_text
from harness.tables import TRACE_FILE

FOLDER = "traces"
SHARED = ("id", "group", "difficulty", "input", "label")


def collect_traces(results: Path, task: str, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write traces/TASK.json from the finished `runs` of a task: of each arm the run of the lowest seed.

    What is the same for all arms stands once; `arms` maps an arm to its run and, per example, to its answers. A task
    without traces loses the file that an earlier collection left.
    """
    path = results / FOLDER / f"{task}.json"
    arms: dict[str, Any] = {}
    head: dict[str, Any] = {}
    for run in sorted(runs, key=lambda run: int(run["seed"])):
        source = results / run["run_folder"] / TRACE_FILE
        if run["arm"] in arms or not source.is_file():
            continue
        try:
            found = read_json(source)
            examples = found["examples"]
            if not head:
                head = {name: found[name] for name in ("columns", "symbols")}
                head["examples"] = [{name: example[name] for name in SHARED} for example in examples]
            own = {example["id"]: example for example in examples}
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenData(f"{source}: {error}; delete the run's folder and run the suite again") from None
        arms[run["arm"]] = {
            "seed": int(run["seed"]),
            "cell_id": run["cell_id"],
            "trained": found["trained"],
            "examples": [
                {name: value for name, value in own[example["id"]].items() if name not in SHARED}
                if example["id"] in own
                else None
                for example in head["examples"]
            ],
        }
    if arms:
        write_text(path, json.dumps({**head, "arms": arms}, separators=(",", ":"), ensure_ascii=False))
    else:
        path.unlink(missing_ok=True)


def read_traces(results: Path, tasks: Sequence[str]) -> dict[str, Any]:
    """What `collect_traces` wrote, by task; tasks without traces are left out."""
    paths = {task: results / FOLDER / f"{task}.json" for task in tasks}
    try:
        return {task: read_json(path) for task, path in paths.items() if path.is_file()}
    except ValueError as error:
        raise BrokenData(f"{results / FOLDER}: {error}; collect the suite again (report --suite)") from None
