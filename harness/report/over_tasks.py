"""The report's tables over all tasks: interquartile mean by arm, and how often one arm's run beats another's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report import numbers
from harness.report.page import Cell, Row, Table, column, number
from harness.report.sources import source_cell

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.analysis.results import Tables

MEASURES = (
    (
        "iqm",
        "Over all tasks: interquartile mean",
        "Mean of the middle half of an arm's runs on test; 0 is a task's floor, 100 is everything right. "
        "Tasks are chosen, not drawn: no interval over them, but what is left without any one of them.",
    ),
    (
        "improvement",
        "Over all tasks: chance that a run of the first arm beats one of the second",
        "Mean over the tasks that both arms have; ties count half. 50 % is no difference.",
    ),
)


def overall_tables(tables: Tables, arm_cell: Callable[[Tables, str], Cell]) -> list[Table]:
    """Both measures; none for a suite of one task, whose own section says more."""
    made, finished = [], tables.runs[tables.runs["status"] == "finished"]
    for measure, caption, note in MEASURES:
        rows = tables.overall[(tables.overall["measure"] == measure) & (tables.overall["tasks"] > 1)]
        names = ("arm", "against") if measure == "improvement" else ("arm",)
        titles = ("value (%)", "without any one task", "tasks")
        table = Table(
            caption,
            [*(column(name) for name in names), *(number(title) for title in titles), column("runs")],
            note=note,
        )
        for row in rows.to_dict("records"):
            both = [name for name in (row["arm"], row["other"]) if name]
            own = finished[finished["arm"].isin(both)]
            shared = own.groupby("task")["arm"].nunique() == len(both)
            own = own[own["task"].isin(shared[shared].index)]
            arms = [arm_cell(tables, row[key]) for key in ("arm", "other")[: len(names)]]
            table.rows.append(
                Row([
                    *arms,
                    Cell(numbers.percent(row["value"]), row["value"]),
                    Cell(numbers.percent_range(row["low"], row["high"]), row["low"]),
                    Cell(numbers.count(row["tasks"]), row["tasks"]),
                    source_cell(tables, " ".join(own["cell_id"])),
                ])
            )  # fmt: skip
        made += [table] if table.rows else []
    return made
