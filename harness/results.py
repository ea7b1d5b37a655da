"""The results folder of a suite: suite.json, cells.json, side_cells.json and references.json describe it, run folders
fill it.

`collect` makes tables of both.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import tables
from harness.cell import NUMERICS_VERSION, Cell
from harness.errors import UserError
from harness.files import read_json, write_json
from harness.plan import Plan, TaskPlan, engine
from harness.record import provenance
from harness.suite import Suite
from harness.training.device import choose_precision
from models.base import MODELS
from tasks.base import TASKS


def check_writable(folder: Path, option: str) -> None:
    """Make the folder that an option names, or refuse it when nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(f"folder {folder}: {error.strerror or error}; choose another with {option}") from None


def check_schema(folder: Path) -> None:
    """Refuse a results folder that another schema version wrote, or whose description can't be read."""
    description = folder / "suite.json"
    if not description.is_file():
        if (folder / "runs").is_dir():  # a run writes its description first
            raise UserError(
                f"results folder {folder} has runs and no suite.json that says what they are; "
                "move it away or choose another with --results"
            )
        return
    try:
        found = read_json(description).get("schema_version")
    except (ValueError, AttributeError):
        raise UserError(f"{description}: not readable as JSON; move the folder away or choose --results") from None
    if found != tables.SCHEMA_VERSION:
        raise UserError(
            f"results folder {folder} has schema version {found}, this program writes {tables.SCHEMA_VERSION}; "
            "choose another with --results"
        )


def describe(plan: Plan, folder: Path, command: str) -> None:
    """Write suite.json, cells.json and references.json: what was asked for, before anything runs.

    Runs of an earlier command stay listed where the suite still asks for their task in the same way, so that
    `--tasks`, `--arms` and `--seeds` add to the tables instead of replacing them.
    """
    document = suite_document(plan, command)
    cells = _planned_cells(plan)
    known = _earlier(folder)
    marks = {task: _fingerprint_in(plan, task) for task in plan.suite.tasks}
    mine = {(cell["task"], cell["arm"], cell["seed"]) for cell in cells}
    kept = [
        cell
        for cell in known["cells"]
        if (cell["task"], cell["arm"], cell["seed"]) not in mine
        and known["tasks"].get(cell["task"], {}).get("fingerprint") == marks.get(cell["task"], "")
        and (folder / cell["run_folder"] / "record.json").is_file()
        and _same_data(plan, cell, read_json(folder / cell["run_folder"] / "record.json"))
    ]
    for cell in kept:
        task, arm = cell["task"], cell["arm"]
        described = document["tasks"].setdefault(task, known["tasks"][task] | {"arms": [], "seeds": 0})
        described["primary"] = known["tasks"][task]["primary"] or described["primary"]
        described["seeds"] = max(described["seeds"], cell["seed"] + 1)
        described["arms"] = [a for a in plan.suite.arms_of(task) if a in {*described["arms"], arm}]
        document["arms"].setdefault(arm, known["arms"][arm])
    for described in document["tasks"].values():
        if described["primary"] and not set(described["primary"]["arms"]) <= set(described["arms"]):
            described["primary"] = None  # an arm was left out by --arms
    document["tasks"] = {name: document["tasks"][name] for name in plan.suite.tasks if name in document["tasks"]}
    document["arms"] = {name: document["arms"][name] for name in plan.suite.arms if name in document["arms"]}
    write_json(folder / "suite.json", document)
    write_json(folder / "cells.json", cells + kept)
    write_json(folder / tables.SIDE_CELLS_FILE, _side_cells(plan, known["side"], document["tasks"], marks))
    write_json(folder / "references.json", _references(plan, folder, kept))


def _earlier(folder: Path) -> dict[str, Any]:
    """Tasks, arms and cells that the folder describes already."""
    if not ((folder / "suite.json").is_file() and (folder / "cells.json").is_file()):
        return {"tasks": {}, "arms": {}, "cells": [], "side": []}
    document, side = read_json(folder / "suite.json"), folder / tables.SIDE_CELLS_FILE
    return {
        "tasks": document["tasks"],
        "arms": document["arms"],
        "cells": read_json(folder / "cells.json"),
        "side": [
            row | {"fingerprint": document["tasks"].get(row["task"], {}).get("fingerprint")}
            for row in (read_json(side) if side.is_file() else [])
        ],
    }


def _side_cells(
    plan: Plan, earlier: list[dict[str, Any]], tasks: dict[str, Any], marks: dict[str, str]
) -> list[dict[str, Any]]:
    """Controls and trials of the plan, and those of earlier commands on arms and tasks that stay listed."""
    rows: list[dict[str, Any]] = []
    for task in plan.tasks.values():
        rows += [_side_cell(cell) for cell in task.controls.values()]
        for own in task.trials.values():
            rows += [_side_cell(trial.cell) | {"trial": trial.number, **trial.point._asdict()} for trial in own]
    mine = {(row["purpose"], row["task"], row["arm"]) for row in rows}
    return rows + [
        {key: value for key, value in row.items() if key != "fingerprint"}
        for row in earlier
        if (row["purpose"], row["task"], row["arm"]) not in mine
        and row["arm"] in tasks.get(row["task"], {}).get("arms", ())
        and row["fingerprint"] == marks.get(row["task"])
    ]


def _side_cell(cell: Cell) -> dict[str, Any]:
    wanted = ("purpose", "task", "arm", "seed", "updates", "run_folder")
    return {"cell_id": cell.id} | {name: getattr(cell, name) for name in wanted}


def _references(plan: Plan, folder: Path, kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Floors and ceilings of the planned data, and those of earlier runs that stay listed."""
    rows = [
        {"task": name, "seed": seed, **row}
        for name, planned in plan.tasks.items()
        for seed, data in planned.data.items()
        for row in data.references
    ]
    old, path = {(cell["task"], cell["seed"]) for cell in kept}, folder / "references.json"
    old -= {(row["task"], row["seed"]) for row in rows}
    return rows + [row for row in (read_json(path) if path.is_file() else []) if (row["task"], row["seed"]) in old]


def _fingerprint_in(plan: Plan, task: str) -> str:
    return fingerprint(plan.suite, task, plan.device.value, plan.deterministic, plan.ranks)


def fingerprint(suite: Suite, name: str, device: str, deterministic: bool = False, ranks: int = 1) -> str:
    """Hash of all that decides how a suite runs a task here, but for which arms and seeds, and for the data."""
    entry = suite.tasks[name]
    recipe = suite.recipe_of(name)
    parts = [
        entry.model_dump(mode="json", include={"task", "settings", "overrides"}),
        recipe.model_dump(mode="json"),
        {arm: suite.arms[arm].model_dump(mode="json", exclude={"summary"}) for arm in suite.arms_of(name)},
        TASKS.get(entry.task or name).version,
        [device, choose_precision(recipe.precision, device).value, engine(recipe, device), suite.threads],
        NUMERICS_VERSION,
        *(["deterministic"] if deterministic else []),
        *([f"{ranks} ranks"] if ranks > 1 else []),
        *([suite.tuning.model_dump(mode="json")] if suite.tuning else []),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _same_data(plan: Plan, cell: dict[str, Any], record: dict[str, Any]) -> bool:
    """Whether an earlier run saw the data that this plan has for its task and seed, as far as the plan has any."""
    planned = plan.tasks[cell["task"]].data.get(cell["seed"]) if cell["task"] in plan.tasks else None
    return planned is None or record["data_hash"] == planned.digest


def _planned_cells(plan: Plan) -> list[dict[str, Any]]:
    reasons = {task.name: f"{task.skipped.reason}; {task.skipped.remedy}" for task in plan.skipped() if task.skipped}
    return [
        {
            "cell_id": cell.id,
            "task": cell.task,
            "arm": cell.arm,
            "seed": cell.seed,
            "status": "skipped" if cell.task in reasons else "planned",
            "reason": reasons.get(cell.task),
            "run_folder": cell.run_folder,
        }
        for cell in plan.cells
    ]


def suite_document(plan: Plan, command: str) -> dict[str, Any]:
    """What the report needs to know about the suite, without importing tasks or models."""
    suite = plan.suite
    asked = {(cell.task, cell.arm) for cell in plan.cells}
    arms = {
        name: {
            "model": arm.model,
            "summary": arm.summary or MODELS.get(arm.model).summary,
            "match": arm.match.model_dump() if arm.match else None,
        }
        for name, arm in suite.arms.items()
        if any(used == name for _, used in asked)
    }
    tasks = {
        name: {
            **task_document(planned),
            "scaling": suite.tasks[name].scaling,
            "arms": [arm for arm in suite.arms_of(name) if (name, arm) in asked],
            "seeds": len(planned.data),
            "primary": primary.model_dump(mode="json") if (primary := suite.tasks[name].primary) else None,
            "recipe": suite.tasks[name].recipe,
            "not_scored": planned.not_scored,
            "overrides": {arm: own.model_dump() for arm, own in suite.tasks[name].overrides.items()},
            "fingerprint": _fingerprint_in(plan, name),
        }
        for name, planned in plan.tasks.items()
    }
    return {
        "schema_version": tables.SCHEMA_VERSION,
        "name": suite.name,
        "title": suite.title or suite.name,
        "summary": suite.summary,
        "proxy": suite.proxy,
        "limits": list(suite.limits),
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": suite.recipe.model_dump(mode="json"),
        "device": {"value": plan.device.value, "reason": plan.device.reason},
        "precision": {name: choice._asdict() for name, choice in plan.precision.items()},
        "threads": suite.threads,
        "minimum_seeds": suite.minimum_seeds,
        "equivalence_band": suite.equivalence_band,
        "tuning": suite.tuning.model_dump(mode="json") if suite.tuning else None,
        "arms": arms,
        "tasks": tasks,
        "machine": provenance(),
    }


def task_document(planned: TaskPlan) -> dict[str, Any]:
    """What a task says of itself."""
    task = planned.task
    return {
        "summary": task.summary,
        "exact_means": task.exact_means,
        "difficulty_unit": task.difficulty_unit,
        "floor_note": task.floor_note,
        "real_data": task.real_data,
        "source": task.source,
        "licence": task.licence,
        "settings": task.model_dump(mode="json"),
        "metric_notes": task.metric_notes(),
        "in_sample": task.in_sample,
    }
