"""The report's table of votes over variants: pass@k by arm and puzzle ids, beside single-pass accuracy."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from harness.analysis.results import Tables
from harness.report import numbers
from harness.report.page import Cell, Row, Table, column, number
from harness.report.plots import select

IDS = {"own": "true", "blank": "blank", "shuffled": "shuffled"}


def votes_table(tables: Tables, task: str, arm_cell: Callable[[Tables, str], Cell]) -> Table:
    """Means over seeds; without rows where the task casts no votes."""
    passes = select(tables.passes, task=task)
    ks = sorted({int(k) for k in passes["k"]})
    table = Table(
        f"Votes on {task}",
        [
            *(column(title) for title in ("arm", "puzzle ids")),
            *(number(title) for title in ("votes", "single pass (%)", *(f"pass@{k} (%)" for k in ks))),
            *(number(title) for title in ("puzzles", "seeds")),
        ],
        note="Share of puzzles with every test example right, in brackets the mean share of test examples right by "
        "puzzle; means over seeds. Votes are all of one evaluation, ranked by count, then by mean halting "
        "confidence; they choose nothing. The verdict rests on exact accuracy above, not on votes.",
    )
    for (arm, ids, votes), own in passes.groupby(["arm", "puzzle_ids", "votes"], sort=False):
        shown = [_both(own, "single_all_or_nothing", "single_fractional")]
        shown += [_both(own[own["k"] == k], "all_or_nothing", "fractional") for k in ks]
        count = [Cell(numbers.count(value), value) for value in (own["puzzles"].iloc[0], own["seed"].nunique())]
        start = [arm_cell(tables, str(arm)), Cell(IDS[str(ids)]), Cell(numbers.count(votes), votes)]
        table.rows.append(Row([*start, *shown, *count]))
    return table


def _both(rows: pd.DataFrame, whole: str, share: str) -> Cell:
    """All-or-nothing credit and, in brackets, fractional credit."""
    if rows.empty:
        return Cell(numbers.NONE)
    first, second = rows[whole].mean(), rows[share].mean()
    return Cell(f"{numbers.percent(first)} ({numbers.percent(second)})", first)
