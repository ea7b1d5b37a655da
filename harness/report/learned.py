"""Which arms learned anything: how far each rose above the floor on its best task; if not, what its training says."""

from __future__ import annotations

from collections.abc import Callable

from harness.analysis.results import Tables
from harness.report import numbers
from harness.report.page import Cell, Row, Table, column, number, prose
from harness.report.plots import select
from harness.report.sources import source_cell

MARGIN = 0.10
"""What counts as learned: so far above the floor, in exact accuracy on test."""

STOPPING = ("fixed", "model")  # the model's own score; the oracle's is not


def learned_table(tables: Tables, arm_cell: Callable[[Tables, str], Cell]) -> Table:
    """One row per arm, on the task where it rose highest above the floor."""
    texts = [column(title) for title in ("arm", "best task", "stopping")]
    amounts = [number(f"{title} (%)") for title in ("exact", "floor", "above floor")]
    table = Table(
        "Did every arm learn?",
        [*texts, *amounts, prose("what it says"), column("runs")],
        note="Test exact accuracy, mean over seeds, where an arm rose highest above the floor of trivial predictors; "
        f"at least {100 * MARGIN:.0f} points count as learned.",
    )
    levels = select(tables.levels, split="test", metric="exact")
    levels = levels[levels["stopping"].isin(STOPPING) & levels["mean"].notna() & levels["floor"].notna()]
    for arm in tables.suite.arms:
        own = levels[levels["arm"] == arm]
        if own.empty:
            table.rows.append(
                Row([arm_cell(tables, arm), *[Cell(numbers.NONE)] * 5, Cell("no finished run"), Cell(numbers.NONE)])
            )
            continue
        best = own.loc[(own["mean"] - own["floor"]).idxmax()]
        above = best["mean"] - best["floor"]
        says = "learned" if round(above, 9) >= MARGIN else _why_not(tables, arm, best["task"])
        figures = [Cell(f"{100 * value:.1f}", float(value)) for value in (best["mean"], best["floor"], above)]
        start = [arm_cell(tables, arm), Cell(best["task"]), Cell(best["stopping"])]
        table.rows.append(Row([*start, *figures, Cell(says), source_cell(tables, best["cells"])]))
    return table


def _why_not(tables: Tables, arm: str, task: str) -> str:
    """What the last evaluation point says of an arm that stayed near the floor: unlearned, or learned by heart."""
    points = select(tables.curves, arm=arm, task=task)
    last = points.loc[points.groupby("seed")["updates"].idxmax()]
    train, token = last["train_exact"].mean(), last["validation_token"].mean()
    figures = f"{100 * train:.0f} % of training answers right at the end, {100 * token:.0f} % of validation tokens"
    if train >= last["validation_exact"].mean() + MARGIN:
        return f"learned by heart, not the rule: {figures}"
    return f"not fitted within this budget: {figures}"
