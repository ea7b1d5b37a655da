"""`collect`: join what the cells wrote into the tables of a suite, then levels, comparisons and calibration.

Everything is derived from the cells that the last plan lists, in the plan's order, so collecting twice gives the same
bytes; runs that an earlier plan left in the folder stay on disk and out of the tables.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from harness.analysis import audit, claims, compare, side
from harness.analysis.by_segment import read_by_segment
from harness.analysis.calibration import calibration, reliability
from harness.analysis.evidence import Evidence
from harness.analysis.frontier import pareto
from harness.analysis.halting import effort, flips, stopping
from harness.analysis.overall import overall
from harness.analysis.results import (
    PlannedCell,
    Suite,
    forget_tables,
    read_cells,
    read_references,
    read_suite,
    read_table,
    table_file,
)
from harness.analysis.traces import collect_traces
from harness.analysis.unsafe import mark, unsafe_runs
from harness.errors import BrokenData
from harness.files import read_json, write_atomically
from harness.tables import LATER, RUN_TABLES, SAMPLES, STATES, VOTE_TABLES, check_rows, names

Row = dict[str, Any]


def collect(results: Path) -> None:
    """Write every table of `results/<suite>/`.

    Raises UserError when the folder is absent or of another version, BrokenData when a run's files are not readable.
    """
    suite = read_suite(results)
    runs = run_rows(results, suite)
    finished = [run for run in runs if run["status"] == "finished"]
    write_table(results, "runs", runs)
    for table in RUN_TABLES:
        shares = [results / run["run_folder"] / table_file(table) for run in finished]
        write_atomically(results / table_file(table), partial(_join, shares, table))
    heads = _by_segment(results, finished)
    references = read_references(results, suite)
    write_table(results, "references", references)
    for table in VOTE_TABLES:
        shares = [results / run["run_folder"] / table_file(table) for run in finished if _votes(run)]
        write_atomically(results / table_file(table), partial(_join, shares, table))
    for table in (SAMPLES, STATES):
        found = [results / run["run_folder"] / table_file(table) for run in finished]
        shares = [share for share in found if share.is_file()]
        write_atomically(results / table_file(table), partial(_join, shares, table))
    level_rows: list[Row] = []
    comparison_rows: list[Row] = []
    test_floors: dict[str, float] = {}
    for task in suite.tasks:
        of_task = [run for run in runs if run["task"] == task]
        done = [run for run in of_task if run["status"] == "finished"]
        if done:
            answers = compare.read_answers(results, done)
            floors = compare.floors(task, of_task, references)
            test_floors[task] = floors.get("test", 0.0)
            level_rows += compare.levels(suite, task, of_task, answers, floors)
            comparison_rows += compare.comparisons(suite, task, of_task, answers, floors)
        collect_traces(results, task, done)
    write_table(results, "levels", level_rows)
    beside = side.read_side_cells(results)
    trials = side.tuning(results, suite, beside)
    write_table(results, "tuning", trials)
    gates = audit.gates(suite, results, runs, references, side.controls(results, beside), trials)
    write_table(results, "gates", gates)
    decided = compare.decide(suite, comparison_rows, gates)
    write_table(results, "comparisons", decided)
    arms = {name: task.arms for name, task in suite.tasks.items()}
    write_table(results, "overall", list(overall(arms, finished, test_floors)))
    write_table(results, "pareto", list(pareto(arms, finished)))

    votes = read_table(results / table_file("passes"), "passes").to_dict("records")
    moving = read_table(results / table_file(STATES), STATES).to_dict("records")
    evidence = Evidence(results, suite, runs, level_rows, decided, heads, gates, votes, moving)
    write_table(results, "claims", claims.judged(evidence))
    if unsafe := unsafe_runs(finished):
        mark(results, {run["cell_id"] for run in unsafe}, {run["task"] for run in unsafe})
    forget_tables()


def _by_segment(results: Path, finished: Sequence[Row]) -> list[Row]:
    """Write the tables that look into the depth of answers; return the rows of calibration."""
    makers = {
        "calibration": calibration,
        "reliability": reliability,
        "flips": flips,
        "stopping": stopping,
        "effort": effort,
    }
    rows: dict[str, list[Row]] = {table: [] for table in makers}
    for run in finished:
        splits = read_by_segment(results / run["run_folder"])
        for table, make in makers.items():
            rows[table] += make(run, splits)
    for table in makers:
        write_table(results, table, rows[table])
    return rows["calibration"]


def run_rows(results: Path, suite: Suite) -> list[Row]:
    """Rows of runs.csv: every planned cell, in the order of every table."""
    return [_run_row(results, suite, cell) for cell in read_cells(results, suite)]


def _run_row(results: Path, suite: Suite, cell: PlannedCell) -> Row:
    """The cell's record; for a cell without one, a row that says why there is none."""
    if cell.status == "skipped" or cell.run_folder is None:
        return _empty_row(suite, cell, "skipped", cell.reason or "skipped, no reason given")
    folder = results / cell.run_folder
    record = folder / "record.json"
    if not record.is_file():
        if (folder / "cell.json").is_file():
            return _empty_row(suite, cell, "interrupted", "started, not finished; run the suite again to go on")
        return _empty_row(suite, cell, "planned", "not started yet; run the suite again")
    try:
        row = {**dict.fromkeys(LATER), **read_json(record)}
        check_rows("runs", [row])
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise BrokenData(f"{record}: {error}; delete the folder and run the suite again") from None
    if row["cell_id"] != cell.cell_id:
        raise BrokenData(f"{record}: cell {row['cell_id']}, but the plan expects {cell.cell_id}")
    return cast(Row, row) | {"run_folder": cell.run_folder}


def _votes(run: Row) -> bool:
    """Whether the run's recipe asks for votes."""
    return bool(json.loads(run["recipe"]).get("evaluation", {}).get("votes"))


def _empty_row(suite: Suite, cell: PlannedCell, status: str, reason: str) -> Row:
    arm = suite.arms[cell.arm]
    return dict.fromkeys(names("runs")) | {
        "cell_id": cell.cell_id,
        "task": cell.task,
        "arm": cell.arm,
        "seed": cell.seed,
        "status": status,
        "reason": reason,
        "suite": suite.name,
        "model": arm.model,
        "match_reference": arm.match.to if arm.match else None,
        "match_rule": arm.match.rule if arm.match else None,
        "run_folder": cell.run_folder,
    }


def write_table(results: Path, table: str, rows: Sequence[Row]) -> None:
    """A table whole or not at all; None and NaN become empty fields."""
    check_rows(table, rows)

    def write(out: BinaryIO) -> None:
        text = io.TextIOWrapper(out, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names(table))
        writer.writerows([_field(row[name]) for name in names(table)] for row in rows)
        text.flush()
        text.detach()

    write_atomically(results / table_file(table), write)


def _field(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _join(shares: Iterable[Path], table: str, out: BinaryIO) -> None:
    """Header once, then every share's rows as they stand, a block at a time: tables may exceed the memory."""
    if table != "examples":
        _copy(shares, table, out)
        return
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=out, mtime=0) as packed:
        _copy(shares, table, cast(BinaryIO, packed))


def _copy(shares: Iterable[Path], table: str, out: BinaryIO) -> None:
    header = ",".join(names(table)).encode()
    out.write(header + b"\n")
    for path in shares:
        try:
            with _opened(path) as share:
                if share.readline().rstrip(b"\r\n") != header:
                    raise BrokenData(f"{path}: its columns are not those of table {table}")
                last = b"\n"
                while block := share.read(1 << 20):
                    out.write(block)
                    last = block[-1:]
                if last != b"\n":  # a share may end without a line's end; the next one must not run into it
                    out.write(b"\n")
        except (OSError, EOFError, zlib.error) as error:
            raise BrokenData(f"{path}: {error}; delete the run's folder and run the suite again") from None


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))
