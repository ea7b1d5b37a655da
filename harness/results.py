"""The results folder of a suite: suite.json and cells.json describe it, run folders fill it, collect reads it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import tables
from harness.cell import Cell
from harness.errors import UserError
from harness.files import read_json, write_json
from harness.plan import Plan
from harness.record import provenance
from models.base import MODELS


def open_results(folder: Path) -> None:
    """Make the folder, or refuse: unwritable, or written by another schema version."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write-test"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(f"results folder {folder}: {error.strerror or error}; choose another with --results") from None
    description = folder / "suite.json"
    if description.is_file():
        found = read_json(description).get("schema_version")
        if found != tables.SCHEMA_VERSION:
            raise UserError(
                f"results folder {folder} has schema version {found}, this program writes {tables.SCHEMA_VERSION}; "
                "choose another with --results"
            )


def describe(plan: Plan, folder: Path, command: str) -> None:
    """Write suite.json and cells.json: what was asked for, before anything runs."""
    write_json(folder / "suite.json", suite_document(plan, command))
    reasons = {task.name: f"{task.skipped.reason}; {task.skipped.remedy}" for task in plan.skipped() if task.skipped}
    write_json(
        folder / "cells.json",
        [
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
        ],
    )


def suite_document(plan: Plan, command: str) -> dict[str, Any]:
    """What the report needs to know about the suite, without importing tasks or models."""
    suite = plan.suite
    asked = {(cell.task, cell.arm) for cell in plan.cells}
    arms = {}
    for name, arm in suite.arms.items():
        arms[name] = {
            "model": arm.model,
            "summary": arm.summary or MODELS.get(arm.model).summary,
            "match": arm.match.model_dump() if arm.match else None,
        }
    tasks = {}
    for name, planned in plan.tasks.items():
        entry, task = suite.tasks[name], planned.task
        tasks[name] = {
            "summary": task.summary,
            "exact_means": task.exact_means,
            "difficulty_unit": task.difficulty_unit,
            "floor_note": task.floor_note,
            "real_data": task.real_data,
            "source": task.source,
            "licence": task.licence,
            "scaling": entry.scaling,
            "settings": task.model_dump(mode="json"),
            "metric_notes": task.metric_notes(),
            "in_sample": task.in_sample,
            "arms": [arm for arm in suite.arms_of(name) if (name, arm) in asked],
            "seeds": len(planned.data),
            "primary": entry.primary.model_dump(mode="json") if entry.primary else None,
            "recipe": entry.recipe,
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
        "arms": {name: arm for name, arm in arms.items() if any(a == name for _, a in asked)},
        "tasks": tasks,
        "machine": provenance(),
    }


def status(folder: Path, cell: Cell) -> str:
    """finished, failed, diverged, or open (nothing there, or an unfinished run with or without a checkpoint)."""
    record = folder / cell.run_folder / "record.json"
    return str(read_json(record)["status"]) if record.is_file() else "open"
