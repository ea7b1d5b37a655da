"""Tables of what kinds of answers the arms give, beside how often each is the label."""

from __future__ import annotations

import re
from typing import NamedTuple

import pandas as pd

from harness.analysis.results import Tables
from harness.report import numbers
from harness.report.page import Cell, Row, Table, column, number
from harness.report.plots import select

SHOWN = 12
"""Kinds of answers per table: the most frequent, over labels and predictions. histograms.csv has each run's 100."""

OTHERS = re.compile(r"\d+ others")
"""The kinds of a run that have no row of their own are one, its last (harness/evaluation/records.py)."""


class Share(NamedTuple):
    """Of the answers of some runs; low < high where a run counted the kind among its others."""

    low: float
    high: float


def histogram_tables(tables: Tables, task: str) -> list[Table]:
    """One table per histogram of the task, on test: share of the labels and of each arm's answers, mean over seeds."""
    rows = select(tables.histograms, task=task, split="test")
    return [_table(tables, task, str(name), own) for name, own in rows.groupby("histogram", sort=False)]


def _table(tables: Tables, task: str, name: str, rows: pd.DataFrame) -> Table:
    arms = [arm for arm in tables.suite.tasks[task].arms if arm in set(rows["arm"])]
    of_arm = {arm: select(rows, arm=arm) for arm in arms}
    rows = rows[rows["arm"].isin(arms)]
    kinds = [value for value in dict.fromkeys(rows["value"]) if not OTHERS.fullmatch(str(value))]
    # a run counts the labels of its task's test: the same in all runs, so that any that lists a kind will do
    answers = int(rows.groupby("cell_id")["labels"].sum().max())
    labels = rows.groupby("value")["labels"].max() / max(answers, 1)
    shares = {kind: [Share(labels[kind], labels[kind]), *(_share(of_arm[arm], kind) for arm in arms)] for kind in kinds}
    kinds = sorted((k for k in kinds if any(s.high for s in shares[k])), key=lambda k: -max(s.low for s in shares[k]))
    table = Table(
        f"{name} on {task}",
        [column(name), number("labels (%)"), *(number(f"{tables.suite.arm_label(arm)} (%)") for arm in arms)],
        note=f"Share of the {answers:,} test answers counted here, at the trained depth, mean over seeds, from "
        "histograms.csv.",
    )
    for kind in kinds[:SHOWN]:
        table.rows.append(Row([Cell(str(kind)), *map(_cell, shares[kind])]))
    lumped = any(OTHERS.fullmatch(str(value)) for value in rows["value"])
    if len(kinds) > SHOWN or lumped:
        table.note += f" The {len(table.rows)} most frequent kinds, and the rest together."
        table.note += " ≤: a run counted the kind among its rarest, which have one row together." if lumped else ""
        shown = [[shares[kind][i] for kind in kinds[:SHOWN]] for i in range(len(arms) + 1)]
        rest = [Share(1 - sum(s.high for s in column), 1 - sum(s.low for s in column)) for column in shown]
        table.rows.append(Row([Cell("all others"), *map(_cell, rest)]))
    return table


def _share(rows: pd.DataFrame, kind: str) -> Share:
    """Of all answers of the arm's runs, each of which counts the same examples."""
    total = max(int(rows["predictions"].sum()), 1)
    known = int(rows.loc[rows["value"] == kind, "predictions"].sum())
    unknown = 0
    for _, run in rows[~rows["cell_id"].isin(rows.loc[rows["value"] == kind, "cell_id"])].groupby("cell_id"):
        rest = run["value"].astype(str).str.fullmatch(OTHERS)
        if rest.any():  # listed kinds are the most frequent
            unknown += int(min(run.loc[rest, "predictions"].sum(), run.loc[~rest, "predictions"].min()))
    return Share(known / total, (known + unknown) / total)


def _cell(share: Share) -> Cell:
    low, high = max(share.low, 0.0), max(share.high, 0.0)
    sign = "" if numbers.percent(low) == numbers.percent(high) else "≤ "
    return Cell(sign + numbers.percent(high), high)
