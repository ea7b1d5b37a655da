"""The figures over all tasks: the primary differences, and accuracy beside what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.analysis.compare import NO_VERDICT
from harness.analysis.results import Tables
from harness.report.figures import GREY, Figure, Look
from harness.report.plots import percent_axis, select, si_axis, suite_looks, task_figures, tick

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#2b333b"


def all_figures(tables: Tables) -> Iterator[tuple[str, list[Figure]]]:
    """Figures by task, the overview first under the empty name."""
    yield "", [_differences(tables), _costs(tables)]
    for task in tables.suite.tasks:
        yield task, task_figures(tables, task)


def _differences(tables: Tables) -> Figure:
    figure = Figure("overview-differences", "Primary differences")
    rows = tables.comparisons[(tables.comparisons["role"] == "primary") & tables.comparisons["difference"].notna()]
    if rows.empty:
        figure.missing = "no primary comparison has a seed that both arms finished"
        return figure
    rows = rows.iloc[::-1]
    label = tables.suite.arm_label
    pairs = [f"{label(row.arm_a)} − {label(row.arm_b)}" for row in rows.itertuples()]
    one_pair = len(set(pairs)) == 1
    names = [task if one_pair else f"{task}\n{pair}" for task, pair in zip(rows["task"], pairs, strict=True)]
    band = 100 * tables.suite.equivalence_band
    figure.caption = (
        "First arm minus second in percentage points of accuracy; right of zero the first is better. "
        "Bar: 95 % interval over seeds and examples. Hollow: too few seeds for a verdict. "
        f"Shaded: ±{band:g} points, which counts as no difference."
    )
    figure.alt = "Differences: " + "; ".join(
        f"{row.task} {100 * row.difference:.1f} points, {row.verdict}" for row in rows.iloc[::-1].itertuples()
    )  # fmt: skip
    figure.height = 0.75 + 0.36 * len(rows)

    def panel(axes: Axes) -> None:
        axes.axvspan(-band, band, color=GREY, alpha=0.15, linewidth=0)
        axes.axvline(0, color=GREY, linewidth=0.9)
        shown = [0.0]
        for y, row in enumerate(rows.itertuples()):
            middle, low, high = 100 * row.difference, 100 * row.low, 100 * row.high
            decided = row.verdict != NO_VERDICT
            shown.append(middle)
            if not np.isnan(low):
                axes.plot([low, high], [y, y], color=INK, linewidth=1.6 if decided else 0.8, solid_capstyle="butt")
                shown += [low, high]
            axes.plot([middle], [y], marker="o", color=INK, markerfacecolor=INK if decided else "white")
        room = 0.06 * max(max(shown) - min(shown), 4)
        axes.set_xlim(min(shown) - room, max(shown) + room)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_yticks(range(len(rows)), names)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{pairs[0] if one_pair else 'difference'} (points)")
        _make_room_for_names(axes, max(len(line) for name in names for line in name.split("\n")))

    figure.panels = [panel]
    return figure


def _make_room_for_names(axes: Axes, characters: int) -> None:
    box, inches = axes.get_position(), axes.figure.get_figwidth()  # type: ignore[union-attr]
    left = min(0.45 * inches, 0.25 + 0.075 * characters) / inches
    axes.set_position((left, box.y0, box.x1 - left, box.height))


def _costs(tables: Tables) -> Figure:
    figure = Figure("overview-cost", "Accuracy and its cost")
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
