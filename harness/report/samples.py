"""The report's table of written answers: a few prompts, what each arm wrote behind them, and what became of it."""

from __future__ import annotations

from collections.abc import Callable

from harness.analysis.results import Tables
from harness.report.page import Cell, Row, Table, column
from harness.report.plots import select

SHOWN = 3
"""Samples of an arm and split, evenly spaced among those that samples.csv keeps."""


def samples_table(tables: Tables, task: str, arm_cell: Callable[[Tables, str], Cell]) -> Table:
    """Of each arm's first seed; without rows where the task's answers are not written token by token."""
    table = Table(
        f"What was written on {task}",
        [column(title) for title in ("arm", "split", "group", "prompt", "written", "label", "judgement")],
        note="Written greedily, token by token, at the trained number of segments; samples.csv holds more.",
    )
    for (arm, split), own in select(tables.samples, task=task).groupby(["arm", "split"], sort=False):
        own = own[own["seed"] == own["seed"].min()]
        for row in own.iloc[:: max(1, -(-len(own) // SHOWN))].to_dict("records"):
            judged = row["judgement"] or ("right" if row["correct"] else "wrong")
            texts = [Cell(row[name], code=True) for name in ("prompt", "answer", "label")]
            table.rows.append(
                Row([arm_cell(tables, str(arm)), Cell(str(split)), Cell(row["group"]), *texts, Cell(judged)])
            )
    return table
