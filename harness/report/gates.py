"""The report's tables of validity gates: which passed, and in the limits the figures of those that did not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from harness.analysis import audit
from harness.report.page import Cell, Row, Table, column, prose

if TYPE_CHECKING:
    from harness.analysis.results import Tables

TONES = {audit.PASSED: "", audit.INAPPLICABLE: "", audit.FAILED: "worse", audit.NOT_RUN: "open"}


def gate_table(tables: Tables, task: str) -> Table:
    """One row per gate, one column per arm."""
    rows = tables.gates[tables.gates["task"] == task]
    arms = tables.suite.tasks[task].arms
    table = Table(
        f"Validity gates on {task}",
        [column("gate"), *(column(tables.suite.arm_label(arm)) for arm in arms), prose("what it asks for")],
        note=f"Comparisons need {', '.join(audit.COMPARISON)} of both arms: one that failed or did not run leaves them "
        f"without a verdict. {', '.join(audit.VETO)} takes it where it failed. gates.csv has what each found.",
    )
    for gate, own in rows.groupby("gate", sort=False):
        results = own.set_index("arm")["result"]
        cells = [Cell(results[arm], tone=TONES[results[arm]]) for arm in arms]
        table.rows.append(Row([Cell(str(gate)), *cells, Cell(audit.MEANING[str(gate)])]))
    return table


def failures(tables: Tables, arm_label: Callable[[str], str]) -> Iterator[str]:
    """A sentence on each gate that failed."""
    for row in tables.gates[tables.gates["result"] == audit.FAILED].itertuples():
        yield f"On {row.task}, gate {row.gate} failed for {arm_label(str(row.arm))}: {row.figure}."
