"""The report's page of claims: what the field says, what was stated, what was measured here, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.analysis import claims
from harness.report import numbers
from harness.report.page import Cell, Row, Table, column, prose
from harness.report.sources import source_cell

if TYPE_CHECKING:
    import pandas as pd

    from harness.analysis.results import Tables

TONES = {
    claims.SUPPORTED: "better",
    claims.REFUTED: "worse",
    claims.CANNOT_TELL: "open",
    claims.NOT_TESTABLE: "shown",
}
NOTE = (
    "Stated figures are the sources', by their own protocols. proxy: measured at another size, on other data or with "
    "another budget; a proxy says which of two is better here, and nothing of a published level. A claim is open where "
    "a gate that it needs failed or did not run. Comparisons in this table are not adjusted for their number."
)


def claim_tables(tables: Tables) -> list[Table]:
    """What this suite measured and what is computed first; then what it does not touch."""
    rows = tables.claims
    touched = (rows["measured"] != "") | (rows["verdict"] == claims.NOT_TESTABLE)
    made = [
        _table(tables, "Claims that this suite or a computation bears on", rows[touched], NOTE, measured=True),
        _table(tables, "Claims that it does not touch", rows[~touched], "", measured=False),
    ]
    return [table for table in made if table.rows]


def _table(tables: Tables, caption: str, rows: pd.DataFrame, note: str, *, measured: bool) -> Table:
    middle = [prose("measured here"), column("fidelity")] if measured else []
    ends = [column("runs")] if measured else []
    table = Table(
        caption,
        [
            *(column("verdict"), column("claim"), prose("what it says"), prose("stated"), *middle),
            *(prose("why"), *ends, column("again"), prose("source")),
        ],
        note=note,
    )
    for row in rows.to_dict("records"):
        table.rows.append(Row(_cells(tables, row, measured), anchor=f"claim-{row['claim']}"))
    return table


def _cells(tables: Tables, row: dict[str, Any], measured: bool) -> list[Cell]:
    runs = source_cell(tables, row["cells"])
    middle = [Cell(row["measured"] or numbers.NONE), Cell(row["fidelity"] or numbers.NONE)] if measured else []
    return [
        Cell(row["verdict"], tone=TONES[row["verdict"]]),
        Cell(row["claim"]),
        Cell(row["says"]),
        Cell(row["stated"]),
        *middle,
        Cell(row["reason"]),
        *([runs] if measured else []),
        Cell(row["command"], code=True) if row["command"] else Cell(numbers.NONE),
        Cell(row["source"]),
    ]
