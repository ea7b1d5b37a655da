"""Tables of what kinds of answers the arms give, beside how often each is the label."""

from __future__ import annotations

import pandas as pd

from harness.analysis.results import Tables
from harness.report import numbers
from harness.report.page import Cell, Row, Table, column, number
from harness.report.plots import select

SHOWN = 12
"""Kinds of answers per table: the most frequent, over labels and predictions. histograms.csv has each run's 100."""


def histogram_tables(tables: Tables, task: str) -> list[Table]:
    """One table per histogram of the task, on test: share of the labels and of each arm's answers, mean over seeds."""
    rows = select(tables.histograms, task=task, split="test")
    return [_table(tables, task, str(name), own) for name, own in rows.groupby("histogram", sort=False)]


def _table(tables: Tables, task: str, name: str, rows: pd.DataFrame) -> Table:
    arms = [arm for arm in tables.suite.tasks[task].arms if arm in set(rows["arm"])]
    labels = _shares(select(rows, arm=arms[0]), "labels")
    answers = {arm: _shares(select(rows, arm=arm), "predictions") for arm in arms}
    every = pd.DataFrame({"": labels, **answers}).fillna(0.0)
    largest = every.max(axis=1).sort_values(ascending=False, kind="stable").index
    table = Table(
        f"{name} on {task}",
        [column(name), number("labels (%)"), *(number(f"{tables.suite.arm_label(arm)} (%)") for arm in arms)],
        note=f"Share of test answers at the trained depth, mean over seeds; {len(every)} kinds in all"
        + (f", the {SHOWN} most frequent shown." if len(every) > SHOWN else "."),
    )
    for value in largest[:SHOWN]:
        shares = every.loc[value]
        table.rows.append(Row([Cell(str(value)), *(Cell(numbers.percent(share), share) for share in shares)]))
    return table


def _shares(rows: pd.DataFrame, what: str) -> pd.Series:
    """Kind of answer → its share, all seeds together (each counts the same examples)."""
    counts = rows.groupby("value", sort=False)[what].sum()
    return counts[counts > 0] / max(counts.sum(), 1)
