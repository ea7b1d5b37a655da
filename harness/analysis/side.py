"""What a suite's controls and tuning trials left: side_cells.json lists them, each has a record in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from harness.analysis.results import Suite
from harness.errors import BrokenData
from harness.files import read_json
from harness.tables import SIDE_CELLS_FILE
from harness.tuning import choose

Row = dict[str, Any]

NOT_RUN_YET = "not run yet; run the suite again"


class SideCell(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    cell_id: str
    purpose: str
    task: str
    arm: str
    seed: int
    updates: int
    run_folder: str
    trial: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None


def read_side_cells(results: Path) -> list[SideCell]:
    """What belongs to the folder; nothing in one of a version without controls and trials."""
    path = results / SIDE_CELLS_FILE
    try:
        return TypeAdapter(list[SideCell]).validate_python(read_json(path)) if path.is_file() else []
    except (ValueError, ValidationError) as error:
        raise BrokenData(f"{path}: {error}; run the suite again") from None


def controls(results: Path, cells: Sequence[SideCell]) -> dict[tuple[str, str], Row]:
    """(task, arm) → the record of its control, or its place in the plan."""
    return {(cell.task, cell.arm): _record(results, cell) for cell in cells if cell.purpose == "control"}


def tuning(results: Path, suite: Suite, cells: Sequence[SideCell]) -> list[Row]:
    """Rows of tuning.csv, in the suite's order."""
    trials: dict[tuple[str, str], list[Row]] = {}
    for cell in cells:
        if cell.purpose == "trial":
            record = _record(results, cell)
            row: Row = cell.model_dump(exclude={"purpose"})
            row |= {name: record.get(name) for name in ("status", "reason", "validation_exact", "validation_token")}
            trials.setdefault((cell.task, cell.arm), []).append(row)
    rows = []
    for task, info in suite.tasks.items():
        for arm in info.arms:
            own = sorted(trials.get((task, arm), []), key=lambda row: int(row["trial"]))
            best = choose(own)
            rows += [row | {"selected": row is best} for row in own]
    return rows


def _record(results: Path, cell: SideCell) -> Row:
    path = results / cell.run_folder / "record.json"
    if not path.is_file():
        return {"status": "planned", "reason": NOT_RUN_YET}
    try:
        row = read_json(path)
        if row["cell_id"] != cell.cell_id:
            raise BrokenData(f"{path}: cell {row['cell_id']}, but the plan expects {cell.cell_id}")
        return {"status": row["status"]} | dict(row)
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenData(f"{path}: {error}; delete the folder and run the suite again") from None


def tuned(rows: Sequence[Mapping[str, Any]], task: str, arm: str) -> tuple[int, int]:
    """Trials that an arm had on a task, and the updates of each."""
    own = [row for row in rows if (row["task"], row["arm"]) == (task, arm)]
    return len(own), int(own[0]["updates"]) if own else 0
