"""What accuracy costs, task by task: a figure with one panel per kind of cost, and the arms that no other arm beats."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.analysis.frontier import COSTS
from harness.analysis.results import Tables
from harness.report.figures import GREY, Figure, Look
from harness.report.plots import percent_axis, select, si_axis, task_looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMPUTE = "compute"

DRAWN = ("parameters_core", "flops_train", "flops_per_answer", "seconds_train", "seconds_per_answer")


def cost_figures(tables: Tables, task: str) -> list[Figure]:
    figure = Figure(f"{task}-pareto", f"What accuracy costs on {task}", topic=COMPUTE)
    rows = select(tables.pareto, task=task)
    if rows.empty:
        figure.missing = "no run has finished"
        return [figure]
    arms = {arm: look for arm, look in task_looks(tables, task).items() if arm in set(rows["arm"])}
    figure.arms = list(arms.values())
    figure.caption = (
        "Exact accuracy on test (%, mean over seeds) against each cost: up and left is better. Filled, joined by the "
        "grey line: the Pareto front, which no other arm beats at that cost. Hollow: some arm costs no more and is "
        "at least as accurate. Costs within 5 % count as equal; whether a difference is settled stands above."
    )
    fronts = rows[(rows["on_front"] == 1) & rows["cost"].isin(DRAWN)].groupby("cost", sort=False)["arm"]
    figure.alt = f"Pareto fronts on {task}. " + "; ".join(
        f"{COSTS[str(cost)]}: {', '.join(arms[arm].label for arm in own)}" for cost, own in fronts
    )
    figure.height = 2.3
    figure.panels = [
        _panel(own, arms, COSTS[cost])
        for cost in DRAWN
        if (own := select(rows, cost=cost)).size and (own["value"] > 0).all()
    ]
    return [figure]


def _panel(rows: pd.DataFrame, arms: dict[str, Look], label: str) -> Callable[[Axes], None]:
    def panel(axes: Axes) -> None:
        low, high = rows["value"].min(), rows["value"].max()
        room = max(high / low, 2.0) ** 0.12
        axes.set_xlim(low / room, high * room)
        si_axis(axes, logarithmic=True)
        percent_axis(axes, "test exact (%)", 100 * rows["exact"].max())
        front = rows[rows["on_front"] == 1].sort_values(["value", "exact"])
        x = np.append(front["value"], high * room)
        y = 100 * np.append(front["exact"], front["exact"].iloc[-1])
        axes.plot(x, y, color=GREY, linewidth=1, drawstyle="steps-post", zorder=1)
        for row in rows.itertuples():
            look = arms[str(row.arm)]
            face = look.colour if row.on_front else "white"
            axes.plot([row.value], [100 * row.exact], color=look.colour, marker=look.marker, markerfacecolor=face,
                      clip_on=False)  # fmt: skip
        axes.set_xlabel(f"{label} (log scale)")

    return panel
