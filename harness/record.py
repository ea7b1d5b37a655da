"""The row of runs.csv that one cell writes as record.json: identity, costs, provenance."""

from __future__ import annotations

import json
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import harness
from harness import tables
from harness.cell import Cell
from harness.cost import Cost
from harness.errors import BrokenData
from harness.files import read_json, write_json
from harness.training.device import machine
from tasks.base import Task

RECORD = "record.json"

LOCK = ".lock"
"""Beside the record: held by the process that runs the cell, so that the system frees it when that process dies."""


def write_unfinished(folder: Path, cell: Cell, status: str, reason: str, updates: int | None = None) -> None:
    """record.json of a cell that has no results: failed, or diverged after so many updates, with the reason."""
    row: dict[str, Any] = dict.fromkeys(tables.names("runs"))
    own = {"status": status, "reason": reason, "updates": updates}
    write_json(folder / RECORD, row | identity(cell) | provenance() | own)


class Recorded(NamedTuple):
    """What a run folder says of its cell. `stamp` tells one record from the next; None without a record."""

    status: str  # finished, failed, diverged, or open: nothing there, or an unfinished run
    reason: str = ""
    stamp: int | None = None


def recorded(folder: Path) -> Recorded:
    path = folder / RECORD
    try:
        row, stamp = read_json(path), path.stat().st_mtime_ns
        return Recorded(str(row["status"]), row["reason"] or "", stamp)
    except FileNotFoundError:
        return Recorded("open")
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenData(f"{path}: {error}; delete the folder and run the suite again") from None


def identity(cell: Cell) -> dict[str, Any]:
    """The columns of runs.csv that the cell alone decides."""
    core, total = cell.match_error or (None, None)
    return {
        "cell_id": cell.id,
        "suite": cell.suite,
        "task": cell.task,
        "arm": cell.arm,
        "seed": cell.seed,
        "model": cell.model,
        "match_reference": cell.match_to,
        "match_rule": cell.match_rule,
        "match_error_core": core,
        "match_error_total": total,
        "match_error_flops": cell.match_error_flops,
        "budget_kind": cell.recipe.budget.kind,
        "budget": cell.recipe.budget.amount,
        "batch_size": cell.recipe.batch_size,
        "data_hash": cell.data_hash,
        "data_sources": None,
        "task_version": cell.task_version,
        "device": torch.cuda.get_device_name() if cell.device == "cuda" else cell.device,
        "precision": cell.precision,
        "threads": cell.threads,
        "engine": cell.engine,
        "numerics_version": cell.numerics_version,
        "config": json.dumps(cell.config),
        "recipe": json.dumps({**cell.recipe.model_dump(mode="json"), "loop": cell.loop.model_dump(mode="json")}),
        "settings": json.dumps(cell.settings),
        "run_folder": cell.run_folder,
    }


def costs(cost: Cost) -> dict[str, Any]:
    return {
        "parameters_core": cost.core,
        "parameters_embeddings": cost.embeddings,
        "parameters_heads": cost.heads,
        "parameters_puzzle_table": cost.puzzle_table,
        "parameters_never_trained": cost.never_trained,
        "parameters_total": cost.total,
        "layers_per_segment": cost.layers_per_segment,
        "layers_per_answer": cost.layers_per_answer,
        "segments": cost.segments,
        "flops_per_update": cost.flops_per_update,
        "flops_per_answer": cost.flops_per_answer,
    }


def sandbox_provenance(task: Task) -> dict[str, Any]:
    """Where the task's written programs were run; empty where it runs none."""
    from harness.sandbox import shared

    return {**dict.fromkeys(tables.SANDBOX), **(shared.provenance() if task.executes else {})}


@cache
def provenance() -> dict[str, str]:
    """Versions, commit and machine."""
    return {
        "harness_version": harness.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": machine(),
    }


def _commit() -> str:
    """Short hash of the checked-out commit, + where tracked files differ; empty outside git."""
    root = Path(__file__).parents[1]
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "") if commit.returncode == 0 else ""
