"""What a task's figures of accuracy show: learning, depth, groups. Those of halting are in halting_figures.py.

A band or a bar is always the smallest to the largest seed unless the caption says that it is the 95 % interval.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.analysis.results import Tables
from harness.report.figures import GREY, Figure, Look, looks
from harness.report.numbers import PREFIXES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAND = "Line: mean over seeds; band: smallest to largest seed."


def suite_looks(tables: Tables) -> dict[str, Look]:
    return looks({arm: tables.suite.arm_label(arm) for arm in tables.suite.arms})


def task_looks(tables: Tables, task: str) -> dict[str, Look]:
    """Of the task's arms, in the suite's order."""
    return {arm: look for arm, look in suite_looks(tables).items() if arm in tables.suite.tasks[task].arms}


def accuracy_figures(tables: Tables, task: str) -> list[Figure]:
    """How accurate the arms are and became; one without data carries the reason instead."""
    arms = task_looks(tables, task)
    return [_learning(tables, task, arms), _depth(tables, task, arms), *_groups(tables, task, arms)]


def select(frame: pd.DataFrame, **where: object) -> pd.DataFrame:
    """The rows whose columns have these values."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def over_seeds(frame: pd.DataFrame, by: str | list[str], value: str) -> pd.DataFrame:
    """mean, min and max over seeds of a column, by another."""
    return frame.groupby(by, sort=True)[value].agg(["mean", "min", "max"]).reset_index()


def percent_axis(axes: Axes, label: str, highest: float) -> None:
    """From zero, to 100 % unless everything lies so low that nothing would be seen."""
    axes.set_ylabel(label)
    axes.set_ylim(0, 102 if highest > 45 else max(5.0, 1.25 * highest))


def si_axis(axes: Axes, *, logarithmic: bool) -> None:
    """Ticks on the horizontal axis as 500, 20k, 3M, 1.5G; at most one per decade where it is long and logarithmic."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    if logarithmic:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        subs = (1.0,) if high > 30 * low else (1.0, 2.0, 5.0) if high > 5 * low else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: tick(value))


def tick(value: float) -> str:
    """1,500,000 → `1.5M`, 1,500 → `1,500`."""
    if 100 <= abs(value) < 10_000:
        return f"{value:,.0f}"
    power = max(0, min(len(PREFIXES) - 1, int(np.floor(np.log10(abs(value)) / 3 + 1e-9)))) if value else 0
    power = 0 if abs(value) < 10_000 else power
    return f"{value / 1000**power:.3g}{PREFIXES[power]}"


def draw_line(axes: Axes, look: Look, x: np.ndarray, spread: pd.DataFrame, **style: object) -> None:
    axes.plot(x, 100 * spread["mean"], color=look.colour, marker=look.marker, **style)  # type: ignore[arg-type]
    axes.fill_between(x, 100 * spread["min"], 100 * spread["max"], color=look.colour, alpha=0.15, linewidth=0)


def _reference_line(axes: Axes, level: float | None, word: str) -> None:
    """A dotted line with its name, unless it lies above everything that is shown."""
    if level is not None and not np.isnan(level) and 100 * level < axes.get_ylim()[1]:
        axes.axhline(100 * level, color=GREY, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        above = 3 if level < 0.9 else -10  # points
        axes.annotate(word, (1, 100 * level), xycoords=("axes fraction", "data"), xytext=(-2, above),
                      textcoords="offset points", ha="right", color=GREY, fontsize=8)  # fmt: skip


def _floor(tables: Tables, task: str) -> float | None:
    floors = select(tables.runs, task=task)["floor"].dropna()
    return float(floors.mean()) if len(floors) else None


def _ceiling(tables: Tables, task: str) -> float | None:
    rows = select(tables.references, task=task, split="test", kind="ceiling", metric="exact")["value"].dropna()
    return float(rows.mean()) if len(rows) else None


# -- learning --------------------------------------------------------------------------------------------------


def _learning(tables: Tables, task: str, arms: dict[str, Look]) -> Figure:
    figure = Figure(f"{task}-learning", f"Learning on {task}")
    curves = select(tables.curves, task=task)
    if curves.empty:
        figure.missing = "no run was evaluated during training"
        return figure
    curves = curves.sort_values(["arm", "seed", "updates"], kind="stable")
    curves = curves.assign(point=curves.groupby(["arm", "seed"]).cumcount())
    figure.arms = [arms[arm] for arm in arms if arm in set(curves["arm"])]
    figure.caption = (
        "Exact accuracy on validation (%) against updates, examples, training FLOPs and training seconds: "
        f"which of them is held equal decides which arm leads. {BAND}"
    )
    ends = curves.groupby(["arm", "seed"], sort=False)["validation_exact"].last()
    last = ends.groupby("arm", sort=False).mean()
    figure.alt = (
        f"Learning curves on {task}, four axes of cost. At the last point, mean over seeds: {_listed(last, arms)}."
    )
    axes_of = (("updates", "updates"), ("examples", "examples"), ("flops", "training FLOPs"), ("seconds", "seconds"))
    figure.panels = [_learning_panel(curves, arms, column, label) for column, label in axes_of]
    return figure


def _learning_panel(curves: pd.DataFrame, arms: dict[str, Look], column: str, label: str) -> Callable[[Axes], None]:
    ends = curves.groupby("arm")[column].max()
    logarithmic = column in ("flops", "seconds") and ends.max() > 5 * ends.min() > 0

    def panel(axes: Axes) -> None:
        for arm, look in arms.items():
            own = select(curves, arm=arm)
            if own.empty:
                continue
            reached = own.groupby("seed")["point"].max().min()  # beyond it the mean would be over fewer seeds
            own = own[(own["point"] <= reached) & ((own[column] > 0) | (not logarithmic))]
            spread = over_seeds(own, "point", "validation_exact")
            x = own.groupby("point")[column].mean().to_numpy()
            draw_line(axes, look, x, spread, markevery=max(1, len(x) // 8), markersize=4)
        si_axis(axes, logarithmic=logarithmic)
        axes.set_xlabel(f"{label} (log scale)" if logarithmic else label)
        percent_axis(axes, "validation exact (%)", 100 * curves["validation_exact"].max())

    return panel


# -- depth -----------------------------------------------------------------------------------------------------


def _depth(tables: Tables, task: str, arms: dict[str, Look]) -> Figure:
    figure = Figure(f"{task}-depth", f"More or less thinking on {task}")
    depth = select(tables.depth, task=task, split="test")
    if depth.empty:
        figure.missing = "no finished run was evaluated by depth"
        return figure
    if depth["segments"].max() <= 1:
        figure.missing = "every arm answers in one pass"
        return figure
    figure.arms = [arms[arm] for arm in arms if arm in set(depth["arm"])]
    trained = select(tables.runs, task=task, status="finished").groupby("arm")["segments"].max()
    many = {arm: int(trained[arm]) for arm in arms if trained.get(arm, 1) > 1}
    figure.caption = (
        "Exact accuracy on test (%) after each number of segments. "
        "Vertical line: segments in training; beyond it (shaded, dashed) no arm was trained. "
        f"A one-pass arm is a single point, carried on as a thin line. {BAND}"
    )
    told = ", ".join(f"{arms[arm].label} trained with {n} segments" for arm, n in many.items())
    figure.alt = f"Exact accuracy on {task} by segments allowed; {told}."

    def panel(axes: Axes) -> None:
        ticks = sorted(set(depth["segments"].astype(int)))
        for arm, look in arms.items():
            own = select(depth, arm=arm)
            if own.empty:
                continue
            spread = over_seeds(own, "segments", "exact")
            x = spread["segments"].to_numpy()
            if len(x) == 1:
                mean, low, high = (100 * float(spread[c].iloc[0]) for c in ("mean", "min", "max"))
                whisker = [[mean - low], [high - mean]]
                axes.errorbar(x, [mean], whisker, color=look.colour, marker=look.marker, capsize=2)
                axes.axhline(mean, color=look.colour, linewidth=0.8, alpha=0.6, zorder=1)
                continue
            inside = x <= many.get(arm, x.max())
            draw_line(axes, look, x[inside], spread[inside])
            beyond = x >= x[inside].max() if inside.any() else ~inside
            draw_line(axes, look, x[beyond], spread[beyond], linestyle=(0, (3, 2)), markerfacecolor="white")
            axes.plot(x[inside][-1:], 100 * spread["mean"][inside][-1:], color=look.colour, marker=look.marker)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
        for n in sorted(set(many.values())):
            axes.axvline(n, color=GREY, linewidth=0.9, zorder=1)
        if len(set(many.values())) == 1 and ticks[-1] > next(iter(many.values())):
            axes.axvspan(next(iter(many.values())), ticks[-1] * 1.15, color=GREY, alpha=0.08, linewidth=0, zorder=0)
        axes.set_xlabel("segments allowed")
        percent_axis(axes, "test exact (%)", 100 * depth["exact"].max())
        _reference_line(axes, _floor(tables, task), "floor")
        _reference_line(axes, _ceiling(tables, task), "exact solver")

    figure.panels = [panel]
    return figure


# -- groups ----------------------------------------------------------------------------------------------------


def _groups(tables: Tables, task: str, arms: dict[str, Look]) -> list[Figure]:
    """Accuracy by group: on one axis where groups are numbers that the splits do not share, else a figure per split."""
    metrics = select(tables.metrics, task=task, metric="exact", stopping="fixed")
    metrics = metrics[(metrics["group"] != "all") & (metrics["group"] != "") & (metrics["split"] != "validation")]
    splits = sorted(set(metrics["split"]), key=lambda name: (name != "test", name))
    if metrics["group"].nunique() < 2:
        return []
    parsed = {group: re.fullmatch(r"(\D*?)\s*(-?\d+(?:\.\d+)?)\s*(\D*)", group) for group in set(metrics["group"])}
    words = {(m[1] + " " + m[3]).strip() for m in parsed.values() if m}
    own = [set(select(metrics, split=split)["group"]) for split in splits]
    if all(parsed.values()) and len(words) == 1 and sum(map(len, own)) == len(parsed):
        metrics = metrics.assign(x=metrics["group"].map({g: float(m[2]) for g, m in parsed.items() if m}))
        return [_by_number(metrics, task, arms, splits, words.pop() or "group")]
    return [
        _by_name(select(metrics, split=split), task, arms, split)
        for split, groups in zip(splits, own, strict=True)
        if len(groups) > 1
    ]


def _by_number(metrics: pd.DataFrame, task: str, arms: dict[str, Look], splits: Sequence[str], unit: str) -> Figure:
    arms = {arm: look for arm, look in arms.items() if arm in set(metrics["arm"])}
    ood = [split for split in splits if split != "test"]
    note = f" Solid: test; dashed and shaded: {', '.join(ood)}, not seen in training." if ood else ""
    figure = Figure(f"{task}-groups", f"Accuracy by {unit} on {task}", arms=list(arms.values()))
    figure.caption = f"Exact accuracy (%) by {unit}.{note} {BAND}"
    figure.alt = f"Exact accuracy on {task} by {unit}, {len(set(metrics['x']))} groups in {', '.join(splits)}."

    def panel(axes: Axes) -> None:
        for split in splits:
            part = select(metrics, split=split)
            style = {} if split == "test" else {"linestyle": (0, (3, 2)), "markerfacecolor": "white"}
            for arm, look in arms.items():
                spread = over_seeds(select(part, arm=arm), "x", "value")
                draw_line(axes, look, spread["x"].to_numpy(), spread, **style)
            if split != "test":
                xs = part["x"]
                pad = 0.5 if xs.max() - xs.min() < 2 else 0.04 * (xs.max() - xs.min())
                axes.axvspan(xs.min() - pad, xs.max() + pad, color=GREY, alpha=0.08, linewidth=0, zorder=0)
        axes.set_xlabel(unit)
        percent_axis(axes, "exact (%)", 100 * metrics["value"].max())

    figure.panels = [panel]
    return figure


def _by_name(metrics: pd.DataFrame, task: str, arms: dict[str, Look], split: str) -> Figure:
    arms = {arm: look for arm, look in arms.items() if arm in set(metrics["arm"])}
    names = sorted(set(metrics["group"]), key=_natural)
    name = f"{task}-groups" if split == "test" else f"{task}-groups-{split}"
    figure = Figure(name, f"Accuracy by group on {task}, {split}", arms=list(arms.values()))
    figure.caption = f"Exact accuracy (%) by group, {split}. Point: mean over seeds; bar: smallest to largest seed."
    figure.alt = f"Exact accuracy on {task} ({split}) for the groups {', '.join(names)}."

    def panel(axes: Axes) -> None:
        for i, (arm, look) in enumerate(arms.items()):
            spread = over_seeds(select(metrics, arm=arm), "group", "value").set_index("group").reindex(names)
            x = np.arange(len(names)) + (i - (len(arms) - 1) / 2) * 0.12
            mean = 100 * spread["mean"].to_numpy()
            bars = [mean - 100 * spread["min"].to_numpy(), 100 * spread["max"].to_numpy() - mean]
            axes.errorbar(x, mean, bars, color=look.colour, marker=look.marker, linestyle="none", capsize=2)
        axes.set_xticks(range(len(names)), names, rotation=0 if sum(map(len, names)) < 45 else 30)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.grid(axis="x", visible=False)
        percent_axis(axes, "exact (%)", 100 * metrics["value"].max())

    figure.panels = [panel]
    return figure


def _natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key that puts "length 9" before "length 10"."""
    return [(0, float(part), "") if part.isdigit() else (1, 0.0, part) for part in re.split(r"(\d+)", text) if part]


def _listed(values: pd.Series, arms: dict[str, Look]) -> str:
    return ", ".join(f"{look.label} {100 * values[arm]:.0f} %" for arm, look in arms.items() if arm in values)
