"""What the figures of a report show: learning, depth, halting, groups, and the overview over all tasks.

A band or a bar is always the smallest to the largest seed unless the caption says that it is the 95 % interval.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.analysis.results import Tables
from harness.report.figures import GREY, Figure, Look, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAND = "Line: mean over seeds; band: smallest to largest seed."


def suite_looks(tables: Tables) -> dict[str, Look]:
    return looks({arm: tables.suite.arm_label(arm) for arm in tables.suite.arms})


def task_figures(tables: Tables, task: str) -> list[Figure]:
    """All figures of a task; one without data carries the reason instead."""
    every = suite_looks(tables)
    arms = {arm: every[arm] for arm in every if arm in tables.suite.tasks[task].arms}
    return [
        _learning(tables, task, arms),
        _depth(tables, task, arms),
        _halting(tables, task, arms),
        _halting_by_difficulty(tables, task, arms),
        *_groups(tables, task, arms),
    ]


def overview_figures(tables: Tables) -> list[Figure]:
    """Primary differences, and accuracy against what it costs, over all tasks."""
    return [_differences(tables), _costs(tables)]


def _of(frame: pd.DataFrame, **where: object) -> pd.DataFrame:
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def _spread(frame: pd.DataFrame, by: str | list[str], value: str) -> pd.DataFrame:
    """mean, min and max over seeds of a column, by another."""
    return frame.groupby(by, sort=True)[value].agg(["mean", "min", "max"]).reset_index()


def _percent_axis(axes: Axes, label: str, highest: float) -> None:
    """From zero, to 100 % unless everything lies so low that nothing would be seen."""
    axes.set_ylabel(label)
    axes.set_ylim(0, 102 if highest > 45 else max(5.0, 1.25 * highest))


def _line(axes: Axes, look: Look, x: np.ndarray, spread: pd.DataFrame, **style: object) -> None:
    axes.plot(x, 100 * spread["mean"], color=look.colour, marker=look.marker, **style)  # type: ignore[arg-type]
    axes.fill_between(x, 100 * spread["min"], 100 * spread["max"], color=look.colour, alpha=0.15, linewidth=0)


def _floor_line(axes: Axes, floor: float | None) -> None:
    if floor is not None and not np.isnan(floor):
        axes.axhline(100 * floor, color=GREY, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate("floor", (1, 100 * floor), xycoords=("axes fraction", "data"), xytext=(-2, 3),
                      textcoords="offset points", ha="right", color=GREY, fontsize=8)  # fmt: skip


def _floor(tables: Tables, task: str) -> float | None:
    floors = _of(tables.runs, task=task)["floor"].dropna()
    return float(floors.iloc[0]) if len(floors) else None


# -- learning --------------------------------------------------------------------------------------------------


def _learning(tables: Tables, task: str, arms: dict[str, Look]) -> Figure:
    figure = Figure(f"{task}-learning", f"Learning on {task}")
    curves = _of(tables.curves, task=task)
    if curves.empty:
        figure.missing = "no run was evaluated during training"
        return figure
    curves = curves.sort_values(["arm", "seed", "updates"], kind="stable")
    curves = curves.assign(point=curves.groupby(["arm", "seed"]).cumcount())
    figure.arms = [arms[arm] for arm in arms if arm in set(curves["arm"])]
    figure.caption = (
        "Exact accuracy on validation (%) against updates, examples, training FLOPs and training seconds: which of them "
        f"is held equal decides which arm leads. {BAND} A point stands at the seeds' mean on the horizontal axis."
    )
    last = curves.groupby("arm", sort=False).last()["validation_exact"]
    figure.alt = f"Learning curves on {task}, four axes of cost. At the last point: {_listed(last, arms)}."
    axes_of = (("updates", "updates"), ("examples", "examples"), ("flops", "training FLOPs"), ("seconds", "seconds"))
    figure.panels = [_learning_panel(curves, arms, column, label) for column, label in axes_of]
    return figure


def _learning_panel(curves: pd.DataFrame, arms: dict[str, Look], column: str, label: str) -> Callable[[Axes], None]:
    ends = curves.groupby("arm")[column].max()
    logarithmic = column in ("flops", "seconds") and ends.max() > 5 * ends.min() > 0

    def panel(axes: Axes) -> None:
        for arm, look in arms.items():
            own = _of(curves, arm=arm)
            if own.empty:
                continue
            reached = own.groupby("seed")["point"].max().min()  # beyond it the mean would be over fewer seeds
            own = own[(own["point"] <= reached) & ((own[column] > 0) | (not logarithmic))]
            spread = _spread(own, "point", "validation_exact")
            x = own.groupby("point")[column].mean().to_numpy()
            _line(axes, look, x, spread, markevery=max(1, len(x) // 8), markersize=4)
        if logarithmic:
            axes.set_xscale("log")
        elif column != "seconds":
            axes.xaxis.set_major_formatter(_thousands)
        axes.set_xlabel(f"{label} (log scale)" if logarithmic else label)
        _percent_axis(axes, "validation exact (%)", 100 * curves["validation_exact"].max())

    return panel


def _thousands(value: float, _: object = None) -> str:
    return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k" if abs(value) >= 1e4 else f"{value:g}"


# -- depth -----------------------------------------------------------------------------------------------------


def _depth(tables: Tables, task: str, arms: dict[str, Look]) -> Figure:
    figure = Figure(f"{task}-depth", f"More or less thinking on {task}")
    depth = _of(tables.depth, task=task, split="test")
    if depth.empty:
        figure.missing = "no finished run was evaluated by depth"
        return figure
    if depth["segments"].max() <= 1:
        figure.missing = "every arm answers in one pass"
        return figure
    figure.arms = [arms[arm] for arm in arms if arm in set(depth["arm"])]
    trained = _of(tables.runs, task=task, status="finished").groupby("arm")["segments"].max()
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
            own = _of(depth, arm=arm)
            if own.empty:
                continue
            spread = _spread(own, "segments", "exact")
            x = spread["segments"].to_numpy()
            if len(x) == 1:
                mean, low, high = (100 * float(spread[c].iloc[0]) for c in ("mean", "min", "max"))
                axes.errorbar(x, [mean], [[mean - low], [high - mean]], color=look.colour, marker=look.marker, capsize=2)
                axes.axhline(mean, color=look.colour, linewidth=0.8, alpha=0.6, zorder=1)
                continue
            inside = x <= many.get(arm, x.max())
            _line(axes, look, x[inside], spread[inside])
            beyond = x >= x[inside].max() if inside.any() else ~inside
            _line(axes, look, x[beyond], spread[beyond], linestyle=(0, (3, 2)), markerfacecolor="white")
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
        _percent_axis(axes, "test exact (%)", 100 * depth["exact"].max())
        _floor_line(axes, _floor(tables, task))

    figure.panels = [panel]
    return figure


# -- halting ---------------------------------------------------------------------------------------------------


def _halting_arms(tables: Tables, task: str, arms: dict[str, Look]) -> dict[str, Look]:
    trained = _of(tables.runs, task=task, status="finished").groupby("arm")["segments"].max()
    return {arm: look for arm, look in arms.items() if trained.get(arm, 1) > 1}


def _no_halting(tables: Tables, task: str, frame: pd.DataFrame, able: dict[str, Look]) -> str:
    if not able:
        return "no finished run of an arm with several segments"
    return "" if frame["arm"].isin(list(able)).any() else "no halting steps were recorded"


def _halting(tables: Tables, task: str, arms: dict[str, Look]) -> Figure:
    figure = Figure(f"{task}-halting", f"When arms halt on {task}")
    able = _halting_arms(tables, task, arms)
    halting = _of(tables.halting, task=task, split="test")
    figure.missing = _no_halting(tables, task, halting, able)
    if figure.missing:
        return figure
    total = halting.groupby(["arm", "seed"])["count"].transform("sum")
    halting = halting.assign(share=halting["count"] / total)
    steps = np.arange(int(halting["halting_step"].min()), int(halting["halting_step"].max()) + 1)
    able = {arm: look for arm, look in able.items() if arm in set(halting["arm"])}
    figure.arms = list(able.values())
    figure.caption = (
        "Share of test examples (%) by the segment at which the arm halts by its own rule. "
        "Bar: mean over seeds; whisker: smallest to largest seed. One-pass arms do not halt."
    )
    means = _weighted(halting, ["arm"], "halting_step", "count")
    figure.alt = f"Halting steps on {task}; mean step: " + ", ".join(
        f"{look.label} {means[arm]:.1f}" for arm, look in able.items()
    )  # fmt: skip

    def panel(axes: Axes) -> None:
        width = 0.8 / len(able)
        for i, (arm, look) in enumerate(able.items()):
            table = _of(halting, arm=arm).pivot_table(index="seed", columns="halting_step", values="share", fill_value=0)
            table = 100 * table.reindex(columns=steps.astype(float), fill_value=0)
            mean = table.mean().to_numpy()
            x = steps + (i - (len(able) - 1) / 2) * width
            axes.bar(x, mean, width * 0.92, color=look.colour)
            if len(table) > 1:
                whisker = [mean - table.min().to_numpy(), table.max().to_numpy() - mean]
                axes.errorbar(x, mean, whisker, fmt="none", ecolor="#2b333b", elinewidth=0.8, capsize=1.5)
        axes.set_xticks(steps if len(steps) <= 16 else steps[:: -(-len(steps) // 16)])
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("halting step (segment)")
        _percent_axis(axes, "test examples (%)", 100 * halting["share"].max())

    figure.panels = [panel]
    return figure


def _weighted(frame: pd.DataFrame, by: list[str], value: str, weight: str) -> pd.Series:
    product = (frame[value] * frame[weight]).groupby([frame[c] for c in by]).sum()
    return product / frame.groupby(by)[weight].sum()


def _halting_by_difficulty(tables: Tables, task: str, arms: dict[str, Look]) -> Figure:
    figure = Figure(f"{task}-halting-difficulty", f"Do arms think longer on harder examples of {task}?")
    able = _halting_arms(tables, task, arms)
    steps = _of(tables.steps, task=task)
    figure.missing = _no_halting(tables, task, steps, able)
    if not figure.missing and steps["difficulty"].nunique() < 2:
        figure.missing = "all test examples are equally difficult"
    if figure.missing:
        return figure
    unit = tables.suite.tasks[task].difficulty_unit
    steps = steps.assign(bin=_bins(steps["difficulty"].to_numpy(), steps["count"].to_numpy()))
    able = {arm: look for arm, look in able.items() if arm in set(steps["arm"])}
    figure.arms = list(able.values())
    figure.caption = (
        f"Mean halting step on test against difficulty ({unit}). "
        "A flat line means that the halting rule does not see how hard an example is. " + BAND
    )
    figure.alt = f"Mean halting step against difficulty in {unit}, on {task}."
    top = 0.0
    lines = {}
    for arm in able:
        own = _of(steps, arm=arm)
        by_seed = pd.DataFrame({
            "x": _weighted(own, ["seed", "bin"], "difficulty", "count"),
            "step": _weighted(own, ["seed", "bin"], "halting_step", "count"),
        }).reset_index()  # fmt: skip
        lines[arm] = _spread(by_seed, "bin", "step").assign(x=by_seed.groupby("bin")["x"].mean().to_numpy())
        top = max(top, float(by_seed["step"].max()))

    def panel(axes: Axes) -> None:
        for arm, look in able.items():
            line = lines[arm]
            axes.plot(line["x"], line["mean"], color=look.colour, marker=look.marker)
            axes.fill_between(line["x"], line["min"], line["max"], color=look.colour, alpha=0.15, linewidth=0)
        axes.set_ylim(0, 1.1 * top)
        axes.set_xlabel(f"difficulty ({unit})")
        axes.set_ylabel("mean halting step")

    figure.panels = [panel]
    return figure


def _bins(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Each value a bin of its own where there are at most 12, otherwise eight bins of equal numbers of examples."""
    order = np.argsort(values, kind="stable")
    distinct = np.unique(values)
    if len(distinct) <= 12:
        return np.searchsorted(distinct, values)
    share = np.cumsum(weights[order]) / weights.sum()
    edges = np.unique([values[order][np.searchsorted(share, q)] for q in np.arange(1, 8) / 8])
    return np.searchsorted(edges, values, side="left")


# -- groups ----------------------------------------------------------------------------------------------------


def _groups(tables: Tables, task: str, arms: dict[str, Look]) -> list[Figure]:
    """Accuracy by group: on one axis where groups are numbers that the splits do not share, else a figure per split."""
    metrics = _of(tables.metrics, task=task, metric="exact", stopping="fixed")
    metrics = metrics[(metrics["group"] != "all") & (metrics["group"] != "") & (metrics["split"] != "validation")]
    splits = sorted(set(metrics["split"]), key=lambda name: (name != "test", name))
    if metrics["group"].nunique() < 2:
        return []
    parsed = {group: re.fullmatch(r"(\D*?)\s*(-?\d+(?:\.\d+)?)\s*(\D*)", group) for group in set(metrics["group"])}
    words = {(m[1] + " " + m[3]).strip() for m in parsed.values() if m}
    own = [set(_of(metrics, split=split)["group"]) for split in splits]
    if all(parsed.values()) and len(words) == 1 and sum(map(len, own)) == len(parsed):
        metrics = metrics.assign(x=metrics["group"].map({g: float(m[2]) for g, m in parsed.items() if m}))
        return [_by_number(metrics, task, arms, splits, words.pop() or "group")]
    return [
        _by_name(_of(metrics, split=split), task, arms, split)
        for split, groups in zip(splits, own, strict=True)
        if len(groups) > 1
    ]


def _by_number(
    metrics: pd.DataFrame, task: str, arms: dict[str, Look], splits: Sequence[str], unit: str
) -> Figure:
    arms = {arm: look for arm, look in arms.items() if arm in set(metrics["arm"])}
    ood = [split for split in splits if split != "test"]
    note = f" Solid: test; dashed and shaded: {', '.join(ood)}, not seen in training." if ood else ""
    figure = Figure(f"{task}-groups", f"Accuracy by {unit} on {task}", arms=list(arms.values()))
    figure.caption = f"Exact accuracy (%) by {unit}.{note} {BAND}"
    figure.alt = f"Exact accuracy on {task} by {unit}, {len(set(metrics['x']))} groups in {', '.join(splits)}."

    def panel(axes: Axes) -> None:
        for split in splits:
            part = _of(metrics, split=split)
            style = {} if split == "test" else {"linestyle": (0, (3, 2)), "markerfacecolor": "white"}
            for arm, look in arms.items():
                spread = _spread(_of(part, arm=arm), "x", "value")
                _line(axes, look, spread["x"].to_numpy(), spread, **style)
            if split != "test":
                xs = part["x"]
                pad = 0.5 if xs.max() - xs.min() < 2 else 0.04 * (xs.max() - xs.min())
                axes.axvspan(xs.min() - pad, xs.max() + pad, color=GREY, alpha=0.08, linewidth=0, zorder=0)
        axes.set_xlabel(unit)
        _percent_axis(axes, "exact (%)", 100 * metrics["value"].max())

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
            spread = _spread(_of(metrics, arm=arm), "group", "value").set_index("group").reindex(names)
            x = np.arange(len(names)) + (i - (len(arms) - 1) / 2) * 0.12
            mean = 100 * spread["mean"].to_numpy()
            bars = [mean - 100 * spread["min"].to_numpy(), 100 * spread["max"].to_numpy() - mean]
            axes.errorbar(x, mean, bars, color=look.colour, marker=look.marker, linestyle="none", capsize=2)
        axes.set_xticks(range(len(names)), names, rotation=0 if sum(map(len, names)) < 45 else 30)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.grid(axis="x", visible=False)
        _percent_axis(axes, "exact (%)", 100 * metrics["value"].max())

    figure.panels = [panel]
    return figure


def _natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key that puts "length 9" before "length 10"."""
    return [(0, float(part), "") if part.isdigit() else (1, 0.0, part) for part in re.split(r"(\d+)", text) if part]


# -- overview --------------------------------------------------------------------------------------------------


def _differences(tables: Tables) -> Figure:
    figure = Figure("overview-differences", "Primary differences")
    rows = tables.comparisons[(tables.comparisons["role"] == "primary") & tables.comparisons["difference"].notna()]
    if rows.empty:
        figure.missing = "no primary comparison has a seed that both arms finished"
        return figure
    rows = rows.iloc[::-1]
    figure.caption = (
        "First arm minus second, in percentage points of accuracy, as fixed in the suite for each task. Bar: 95 % interval "
        "over seeds and examples; hollow, without bar where seeds are too few for one. "
        f"Shaded: within ±{100 * tables.suite.equivalence_band:g} points, which counts as no difference."
    )
    figure.alt = "Differences: " + "; ".join(
        f"{row.task} {100 * row.difference:.1f} points, {row.verdict}" for row in rows.iloc[::-1].itertuples()
    )  # fmt: skip
    figure.height = 0.75 + 0.34 * len(rows)

    def panel(axes: Axes) -> None:
        band = 100 * tables.suite.equivalence_band
        axes.axvspan(-band, band, color=GREY, alpha=0.15, linewidth=0)
        axes.axvline(0, color=GREY, linewidth=0.9)
        shown = [0.0]
        for y, row in enumerate(rows.itertuples()):
            middle, low, high = 100 * row.difference, 100 * row.low, 100 * row.high
            decided = row.verdict != "shown, no verdict"
            shown.append(middle)
            if decided and not np.isnan(low):
                axes.plot([low, high], [y, y], color="#2b333b", linewidth=1.6, solid_capstyle="butt")
                shown += [low, high]
            axes.plot([middle], [y], marker="o", color="#2b333b", markerfacecolor="#2b333b" if decided else "white")
        room = 0.06 * max(max(shown) - min(shown), 4)
        axes.set_xlim(min(shown) - room, max(shown) + room)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_yticks(range(len(rows)), list(rows["task"]))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("difference (points)")
        _make_room_for_names(axes, max(map(len, rows["task"])))

    figure.panels = [panel]
    return figure


def _make_room_for_names(axes: Axes, characters: int) -> None:
    box, inches = axes.get_position(), axes.figure.get_figwidth()  # type: ignore[union-attr]
    left = min(0.45 * inches, 0.25 + 0.075 * characters) / inches
    axes.set_position((left, box.y0, box.x1 - left, box.height))


def _costs(tables: Tables) -> Figure:
    figure = Figure("overview-cost", "Accuracy and its cost")
    levels = _of(tables.levels, split="test", metric="exact", stopping="fixed")
    runs = tables.runs[tables.runs["status"] == "finished"]
    cost = runs.groupby(["task", "arm"])[["flops_per_answer", "parameters_core"]].first().reset_index()
    points = levels.merge(cost, on=["task", "arm"])
    if points.empty:
        figure.missing = "no run has finished"
        return figure
    every = suite_looks(tables)
    figure.arms = [look for arm, look in every.items() if arm in set(points["arm"])]
    figure.caption = (
        "Exact accuracy on test (%) against FLOPs of one answer and against core parameters. Points of one task are joined. "
        "Bar: 95 % interval over seeds and examples; none where there is one seed."
    )
    figure.alt = "Accuracy against FLOPs per answer and core parameters, for " + ", ".join(dict.fromkeys(points["task"]))
    figure.height = 3.3
    axes_of = (("flops_per_answer", "FLOPs per answer (log scale)"), ("parameters_core", "core parameters (log scale)"))
    figure.panels = [_cost_panel(points, every, column, label) for column, label in axes_of]
    return figure


def _cost_panel(points: pd.DataFrame, arms: dict[str, Look], column: str, label: str) -> Callable[[Axes], None]:
    points = points[points[column] > 0]

    def panel(axes: Axes) -> None:
        names = []
        for task, own in points.groupby("task", sort=False):
            own = own.sort_values([column, "mean"])
            axes.plot(own[column], 100 * own["mean"], color=GREY, linewidth=0.7, alpha=0.6, zorder=1)
            names.append((str(task), float(own[column].iloc[-1]), 100 * float(own["mean"].iloc[-1])))
            for row in own.itertuples():
                look, mean = arms[str(row.arm)], 100 * row.mean
                bars = None if np.isnan(row.low) else [[mean - 100 * row.low], [100 * row.high - mean]]
                axes.errorbar([getattr(row, column)], [mean], bars, color=look.colour, marker=look.marker, capsize=2,
                              elinewidth=1)  # fmt: skip
        axes.set_xscale("log")
        low, high = points[column].min(), points[column].max()
        room = max(high / low, 4.0)
        axes.set_xlim(low / room**0.08, high * room**0.45)  # names stand right of the points
        _percent_axis(axes, "test exact (%)", 100 * points["mean"].max())
        axes.set_xlabel(label)
        for (name, x, y), at in zip(names, _apart([y for _, _, y in names], 0.07 * axes.get_ylim()[1]), strict=True):
            axes.annotate(name, (x, y), xytext=(x * room**0.04, at), fontsize=8, color="#2b333b", va="center")

    return panel


def _apart(heights: Sequence[float], distance: float) -> list[float]:
    """The heights, pushed up just enough that no two labels are closer than `distance`."""
    placed: dict[int, float] = {}
    last = -np.inf
    for i in sorted(range(len(heights)), key=lambda k: heights[k]):
        last = max(heights[i], last + distance)
        placed[i] = last
    return [placed[i] for i in range(len(heights))]


def _listed(values: pd.Series, arms: dict[str, Look]) -> str:
    return ", ".join(f"{look.label} {100 * values[arm]:.0f} %" for arm, look in arms.items() if arm in values)


def all_figures(tables: Tables) -> Iterator[tuple[str, list[Figure]]]:
    """Figures by task, the overview first under the empty name."""
    yield "", overview_figures(tables)
    for task in tables.suite.tasks:
        yield task, task_figures(tables, task)
