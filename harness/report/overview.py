"""The figures over all tasks: the primary differences, and accuracy beside what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.analysis import compare
from harness.analysis.results import Tables
from harness.report.cost_figures import cost_figures
from harness.report.figures import GREY, LEFT, PANEL, Figure, Look
from harness.report.halting_figures import halting_figures
from harness.report.plots import accuracy_figures, percent_axis, select, si_axis, suite_looks, tick

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#2b333b"

MAIN = "main"
"""The figure that a README shows."""

DECIDED = (compare.BETTER, compare.WORSE, compare.NO_DIFFERENCE)


def all_figures(tables: Tables) -> Iterator[tuple[str, list[Figure]]]:
    """Figures by task, the overview first under the empty name."""
    yield "", [_main(tables), _costs(tables)]
    for task in tables.suite.tasks:
        makers = (accuracy_figures, cost_figures, halting_figures)
        yield task, [figure for make in makers for figure in make(tables, task)]


def _main(tables: Tables) -> Figure:
    """The figure that says most, small enough for a README: accuracy of all arms beside the primary differences."""
    figure = Figure(MAIN, "Accuracy and primary differences", png=True)
    rows = tables.comparisons[(tables.comparisons["role"] == "primary") & tables.comparisons["difference"].notna()]
    if rows.empty:
        figure.missing = "no primary comparison has a seed that both arms finished"
        return figure
    rows = rows.iloc[::-1]
    label = tables.suite.arm_label
    pairs = [f"{label(row.arm_a)} − {label(row.arm_b)}" for row in rows.itertuples()]
    one_pair = len(set(pairs)) == 1
    tasks = list(rows["task"])
    levels = select(tables.levels, split="test", metric="exact", stopping="fixed")
    levels = levels[levels["task"].isin(tasks)]
    arms = {arm: look for arm, look in suite_looks(tables).items() if arm in set(levels["arm"])}
    band = 100 * tables.suite.equivalence_band
    figure.arms = list(arms.values())
    figure.caption = (
        f"Left: exact accuracy on test (%). Right: {pairs[0] if one_pair else 'first arm minus second'}, in percentage "
        "points; right of zero the first is better. Bars: 95 % intervals over seeds and examples. Black: decided; "
        f"grey: cannot tell; hollow: too few seeds for a verdict. Shaded: ±{band:g} points, no difference."
    )
    figure.alt = "Differences: " + "; ".join(
        f"{row.task} {100 * row.difference:.1f} points, {row.verdict}" for row in rows.iloc[::-1].itertuples()
    )  # fmt: skip
    figure.height = 0.75 + max(0.3, 0.11 * len(arms) + 0.08) * len(rows)
    names = [task if one_pair else f"{task}, {pair}" for task, pair in zip(tasks, pairs, strict=True)]
    names = [f"{name}\n{verdict.partition(',')[0]}" for name, verdict in zip(names, rows["verdict"], strict=True)]
    figure.panels = [
        _level_panel(levels, tasks, arms),
        _difference_panel(rows, names, pairs[0] if one_pair else "", band),
    ]
    return figure


def _level_panel(levels: pd.DataFrame, tasks: Sequence[str], arms: dict[str, Look]) -> Callable[[Axes], None]:
    def panel(axes: Axes) -> None:
        for i, (arm, look) in enumerate(arms.items()):
            own = select(levels, arm=arm).set_index("task").reindex(tasks)
            y = np.arange(len(tasks)) + ((len(arms) - 1) / 2 - i) * 0.7 / len(arms)
            axes.hlines(y, 100 * own["low"], 100 * own["high"], color=look.colour, linewidth=1.2, alpha=0.7)
            axes.plot(100 * own["mean"], y, color=look.colour, marker=look.marker, linestyle="none", clip_on=False)
        axes.set_xlim(-4, 104)
        _task_axis(axes, tasks)
        axes.set_xlabel("test exact (%)")

    return panel


def _difference_panel(rows: pd.DataFrame, names: Sequence[str], pair: str, band: float) -> Callable[[Axes], None]:
    def panel(axes: Axes) -> None:
        axes.axvspan(-band, band, color=GREY, alpha=0.15, linewidth=0)
        axes.axvline(0, color=GREY, linewidth=0.9)
        shown = [0.0]
        for y, row in enumerate(rows.itertuples()):
            middle, low, high = 100 * row.difference, 100 * row.low, 100 * row.high
            judged = row.verdict != compare.NO_VERDICT
            colour = "black" if row.verdict in DECIDED else "#7f8a94"
            shown.append(middle)
            if not np.isnan(low):
                axes.plot([low, high], [y, y], color=colour, linewidth=1.8 if judged else 0.9, solid_capstyle="butt")
                shown += [low, high]
            axes.plot([middle], [y], marker="o", color=colour, markerfacecolor=colour if judged else "white")
        room = 0.06 * max(max(shown) - min(shown), 4)
        axes.set_xlim(min(shown) - room, max(shown) + room)
        _task_axis(axes, names)
        axes.set_xlabel(f"{pair or 'difference'} (points)")

    return panel


def _task_axis(axes: Axes, names: Sequence[str]) -> None:
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    for y in np.arange(len(names) - 1) + 0.5:
        axes.axhline(y, color="#e6e9ec", linewidth=0.7, zorder=0)
    _make_room_for_names(axes, max(len(part) for name in names for part in name.split("\n")))


def _make_room_for_names(axes: Axes, characters: int) -> None:
    """Move the axes' left edge, within their own panel, so that names of so many characters fit."""
    box, inches = axes.get_position(), axes.figure.get_figwidth()  # type: ignore[union-attr]
    panel_left = box.x0 - LEFT / inches
    left = panel_left + min(0.45 * PANEL[0], 0.25 + 0.075 * characters) / inches
    axes.set_position((left, box.y0, box.x1 - left, box.height))


def _costs(tables: Tables) -> Figure:
    figure = Figure("overview-cost", "Accuracy and its cost", png=True)
    levels = select(tables.levels, split="test", metric="exact", stopping="fixed")
    runs = tables.runs[tables.runs["status"] == "finished"]
    cost = runs.groupby(["task", "arm"])[["flops_per_answer", "parameters_core"]].first().reset_index()
    points = levels.merge(cost, on=["task", "arm"])
    if points.empty:
        figure.missing = "no run has finished"
        return figure
    every = suite_looks(tables)
    figure.arms = [look for arm, look in every.items() if arm in set(points["arm"])]
    figure.caption = (
        "Exact accuracy on test (%) against the FLOPs of one answer, task by task; beside each point, the arm's core "
        "parameters. Bar: 95 % interval over seeds and examples; none where there is one seed."
    )
    named = ", ".join(dict.fromkeys(points["task"]))
    figure.alt = f"Accuracy against FLOPs per answer, with core parameters, for {named}."
    figure.height = 2.9
    figure.panels = [_cost_panel(str(task), own, every) for task, own in points.groupby("task", sort=False)]
    return figure


def _cost_panel(task: str, points: pd.DataFrame, arms: dict[str, Look]) -> Callable[[Axes], None]:
    def panel(axes: Axes) -> None:
        low, high = points["flops_per_answer"].min(), points["flops_per_answer"].max()
        room = max(high / low, 4.0)
        axes.set_xlim(low / room**0.15, high * room**0.3)  # parameters stand right of the points
        si_axis(axes, logarithmic=True)
        highest = points["high"].fillna(points["mean"]).max()
        percent_axis(axes, "test exact (%)", 100 * highest)
        for row in points.itertuples():
            look, mean = arms[str(row.arm)], 100 * row.mean
            bars = None if np.isnan(row.low) else [[mean - 100 * row.low], [100 * row.high - mean]]
            axes.errorbar([row.flops_per_answer], [mean], bars, color=look.colour, marker=look.marker, capsize=2,
                          elinewidth=1, clip_on=False)  # fmt: skip
        apart = _apart([100 * value for value in points["mean"]], 0.07 * axes.get_ylim()[1])
        for row, at in zip(points.itertuples(), apart, strict=True):
            place = (row.flops_per_answer * room**0.04, at)
            axes.annotate(tick(row.parameters_core), place, fontsize=8, color=arms[str(row.arm)].colour, va="center")
        axes.set_title(task, fontsize=9, loc="left", color=INK)
        axes.set_xlabel("FLOPs per answer (log scale)")

    return panel


def _apart(heights: Sequence[float], distance: float) -> list[float]:
    """The heights, pushed up just enough that no two labels are closer than `distance`."""
    placed: dict[int, float] = {}
    last = -np.inf
    for i in sorted(range(len(heights)), key=lambda k: heights[k]):
        last = max(heights[i], last + distance)
        placed[i] = last
    return [placed[i] for i in range(len(heights))]
