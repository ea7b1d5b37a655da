"""What a task's figures of halting show: when arms stop, what it costs, whether they know, what their states do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.analysis.results import Tables
from harness.report.figures import GREY, Figure, Look
from harness.report.plots import BAND, draw_line, over_seeds, percent_axis, select, si_axis, task_looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HALTING = "halting"
"""The topic of these figures: the part of a task's section in which they stand."""

DASHES: dict[str, object] = {"z_L": (0, (4, 2)), "z_H": "-", "z": "-"}
"""Line styles of states, solid the one that is read out; dotted: any other."""


def halting_figures(tables: Tables, task: str) -> list[Figure]:
    """All of them; one without data carries the reason instead."""
    arms = task_looks(tables, task)
    makers = (_stopping, _halting, _halting_by_difficulty, _reliability, _flips, _states)
    return [make(tables, task, arms) for make in makers]


def _halting_arms(tables: Tables, task: str, arms: dict[str, Look]) -> dict[str, Look]:
    trained = select(tables.runs, task=task, status="finished").groupby("arm")["segments"].max()
    return {arm: look for arm, look in arms.items() if trained.get(arm, 1) > 1}


def _no_halting(tables: Tables, task: str, frame: pd.DataFrame, able: dict[str, Look]) -> str:
    if not able:
        return "no finished run of an arm with several segments"
    return "" if frame["arm"].isin(list(able)).any() else "no halting steps were recorded"


def _halting(tables: Tables, task: str, arms: dict[str, Look]) -> Figure:
    figure = Figure(f"{task}-halting", f"When arms halt on {task}", topic=HALTING)
    able = _halting_arms(tables, task, arms)
    halting = select(tables.halting, task=task, split="test")
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
            table = select(halting, arm=arm).pivot_table(index="seed", columns="halting_step", values="share")
            table = 100 * table.reindex(columns=steps.astype(float)).fillna(0)
            mean = table.mean().to_numpy()
            x = steps + (i - (len(able) - 1) / 2) * width
            axes.bar(x, mean, width * 0.92, color=look.colour)
            if len(table) > 1:
                whisker = [mean - table.min().to_numpy(), table.max().to_numpy() - mean]
                axes.errorbar(x, mean, whisker, fmt="none", ecolor="#2b333b", elinewidth=0.8, capsize=1.5)
        axes.set_xticks(steps if len(steps) <= 16 else steps[:: -(-len(steps) // 16)])
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("halting step (segment)")
        percent_axis(axes, "test examples (%)", 100 * halting["share"].max())

    figure.panels = [panel]
    return figure


def _weighted(frame: pd.DataFrame, by: list[str], value: str, weight: str) -> pd.Series:
    product = (frame[value] * frame[weight]).groupby([frame[c] for c in by]).sum()
    return product / frame.groupby(by)[weight].sum()


def _halting_by_difficulty(tables: Tables, task: str, arms: dict[str, Look]) -> Figure:
    figure = Figure(f"{task}-halting-difficulty", f"Halting against difficulty on {task}", topic=HALTING)
    able = _halting_arms(tables, task, arms)
    steps = select(tables.steps, task=task)
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
        own = select(steps, arm=arm)
        by_seed = pd.DataFrame({
            "x": _weighted(own, ["seed", "bin"], "difficulty", "count"),
            "step": _weighted(own, ["seed", "bin"], "halting_step", "count"),
        }).reset_index()  # fmt: skip
        lines[arm] = over_seeds(by_seed, "bin", "step").assign(x=by_seed.groupby("bin")["x"].mean().to_numpy())
        top = max(top, float(by_seed["step"].max()))

    def panel(axes: Axes) -> None:
        for arm, look in able.items():
            own = lines[arm]
            axes.plot(own["x"], own["mean"], color=look.colour, marker=look.marker)
            axes.fill_between(own["x"], own["min"], own["max"], color=look.colour, alpha=0.15, linewidth=0)
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


def _stopping(tables: Tables, task: str, arms: dict[str, Look]) -> Figure:
    figure = Figure(f"{task}-stopping", f"Accuracy against compute on {task}, by stopping rule", topic=HALTING)
    able = _halting_arms(tables, task, arms)
    rows = select(tables.stopping, task=task, split="test")
    figure.missing = _no_halting(tables, task, rows, able)
    if figure.missing:
        return figure
    runs = select(tables.runs, task=task, status="finished")
    figure.arms = [look for arm, look in arms.items() if arm in set(runs["arm"])]
    figure.caption = (
        "Exact accuracy on test (%) against the FLOPs of the mean answer, as more segments are allowed, up to the "
        "trained number. Solid: all segments allowed (fixed). Dashed, hollow: the arm halts by its own rule (model); "
        "left of the solid line it saves compute. Dotted: stopped at the first right answer (oracle), an upper bound. "
        "One-pass arms are single points. Mean over seeds."
    )
    deepest = rows[rows["segments"] == rows.groupby("arm")["segments"].transform("max")]
    told = deepest.groupby(["arm", "stopping"])["exact"].mean()
    figure.alt = f"Accuracy against FLOPs per answer on {task}. With all segments: " + "; ".join(
        f"{look.label} " + ", ".join(f"{rule} {100 * told[arm, rule]:.0f} %" for rule in ("fixed", "model", "oracle"))
        for arm, look in able.items() if (arm, "fixed") in told.index
    )  # fmt: skip
    styles: dict[str, dict[str, object]] = {
        "fixed": {"linestyle": "-"},
        "model": {"linestyle": (0, (4, 2)), "markerfacecolor": "white"},
        "oracle": {"linestyle": (0, (1, 2)), "marker": ""},
    }

    def panel(axes: Axes) -> None:
        highest = max(rows["exact"].max(), runs["test_exact"].max())
        for arm, look in arms.items():
            own = select(rows, arm=arm)
            if arm not in able:
                point = select(runs, arm=arm)
                x, y = point["flops_per_answer"].mean(), 100 * point["test_exact"].mean()
                axes.plot([x], [y], color=look.colour, marker=look.marker, linestyle="none")
                continue
            for rule, style in styles.items():
                mean = select(own, stopping=rule).groupby("segments")[["flops_per_answer", "exact"]].mean()
                plain: dict[str, object] = {"marker": look.marker} | style
                axes.plot(mean["flops_per_answer"], 100 * mean["exact"], color=look.colour, **plain)  # type: ignore[arg-type]
        si_axis(axes, logarithmic=True)
        axes.set_xlabel("FLOPs per answer (log scale)")
        percent_axis(axes, "test exact (%)", 100 * highest)

    figure.panels = [panel]
    return figure


def _flips(tables: Tables, task: str, arms: dict[str, Look]) -> Figure:
    figure = Figure(f"{task}-flips", f"Answers that change on {task}", topic=HALTING)
    able = _halting_arms(tables, task, arms)
    rows = select(tables.flips, task=task, split="test")
    figure.missing = _no_halting(tables, task, rows, able)
    if figure.missing:
        return figure
    able = {arm: look for arm, look in able.items() if arm in set(rows["arm"])}
    rows = rows.assign(gain=rows["gained"] / rows["examples"], loss=rows["lost"] / rows["examples"])
    figure.arms = list(able.values())
    figure.caption = (
        "Share of test examples (%) whose answer became right (solid) or stopped being right (dashed, hollow: "
        "overthinking) in each segment; the curves fall together where another segment changes nothing. Shaded: beyond "
        f"training. {BAND}"
    )
    lost = rows[rows["beyond_training"] == 0].groupby(["arm", "seed"])["loss"].sum().groupby("arm").mean()
    figure.alt = f"Flips between segments on {task}; right to wrong within training, all segments: " + ", ".join(
        f"{look.label} {100 * lost.get(arm, 0):.1f} %" for arm, look in able.items()
    )  # fmt: skip

    def panel(axes: Axes) -> None:
        for arm, look in able.items():
            own = select(rows, arm=arm)
            for name, style in (("gain", {}), ("loss", {"linestyle": (0, (4, 2)), "markerfacecolor": "white"})):
                found = over_seeds(own, "segments", name)
                draw_line(axes, look, found["segments"].to_numpy(), found, markersize=4, **style)
        ticks = _segment_axis(axes, rows)
        axes.set_xlim(ticks[0] - 0.3, ticks[-1] + 0.3)
        percent_axis(axes, "test examples (%)", 100 * max(rows["gain"].max(), rows["loss"].max()))

    figure.panels = [panel]
    return figure


def _segment_axis(axes: Axes, rows: pd.DataFrame) -> list[int]:
    """Whole segments on the horizontal axis, shaded where no arm was trained. Returns the segments."""
    ticks = sorted(set(rows["segments"].astype(int)))
    axes.set_xticks(ticks if len(ticks) <= 16 else ticks[:: -(-len(ticks) // 16)])
    axes.set_xlabel("segment")
    inside = rows[rows["beyond_training"] == 0]["segments"]
    if len(inside) and inside.max() < ticks[-1]:
        axes.axvspan(inside.max() + 0.5, ticks[-1] + 0.5, color=GREY, alpha=0.08, linewidth=0, zorder=0)
    return ticks


def _reliability(tables: Tables, task: str, arms: dict[str, Look]) -> Figure:
    figure = Figure(f"{task}-reliability", f"Does the halting head know? {task}", topic=HALTING)
    rows = select(tables.reliability, task=task, split="test")
    able = {arm: look for arm, look in arms.items() if arm in set(rows["arm"])}
    if not able:
        figure.missing = "no finished run of an arm with a halting head"
        return figure
    figure.arms = list(able.values())
    heads = select(tables.calibration, task=task, split="test", trained=1).groupby("arm")
    error, area = heads["calibration_error"].mean(), heads["auroc"].mean()
    figure.caption = (
        "Share of test answers that are right (%) against the chance σ(q_halt) that the halting head gave them, at the "
        "trained depth, in 15 bins over all seeds; larger marks hold more examples. On the grey line the head means "
        "what it says; above, it is too modest; below, too sure."
    )
    figure.alt = f"Reliability diagram on {task}: " + ", ".join(
        f"{look.label} calibration error {error[arm]:.2f}"
        + (f", AUROC {area[arm]:.2f}" if not np.isnan(area[arm]) else "")
        for arm, look in able.items()
    )

    def panel(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, zorder=1)
        for arm, look in able.items():
            own = select(rows, arm=arm)
            own = own.assign(mass=own["confidence"] * own["examples"])
            bins = own.groupby("low")[["mass", "right", "examples"]].sum()
            x, y = 100 * bins["mass"] / bins["examples"], 100 * bins["right"] / bins["examples"]
            axes.plot(x, y, color=look.colour, linewidth=0.8, alpha=0.6)
            size = 10 + 90 * bins["examples"] / bins["examples"].sum()
            axes.scatter(x, y, s=size, color=look.colour, marker=look.marker, clip_on=False, zorder=3)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("σ(q_halt) (%)")
        percent_axis(axes, "right (%)", 100)

    figure.panels = [panel]
    return figure


def _states(tables: Tables, task: str, arms: dict[str, Look]) -> Figure:
    figure = Figure(f"{task}-states", f"What the states do on {task}", topic=HALTING)
    rows = select(tables.states, task=task)
    able = {arm: look for arm, look in arms.items() if arm in set(rows["arm"])}
    if not able:
        figure.missing = "no finished run recorded states (one-pass arms carry none)"
        return figure
    figure.arms = list(able.values())
    named = sorted(set(rows["state"]))
    told = [f"{'dashed' if name == 'z_L' else 'solid' if name in DASHES else 'dotted'}: {name}" for name in named]
    figure.caption = (
        "Left: how far a state moves in a segment, ‖z_k − z_(k−1)‖ / ‖z_k‖; a state at rest is at 0. Right: "
        "participation ratio, how many dimensions the state's vectors fill. "
        f"{'; '.join(told)}. Shaded: beyond training. {BAND}"
    )
    last = rows[rows["beyond_training"] == 0]
    last = last[last["segments"] == last["segments"].max()].groupby(["arm", "state"])
    figure.alt = f"States on {task} at the trained depth: " + "; ".join(
        f"{arms[str(arm)].label} {state} moves {own['residual'].mean():.2f}, fills "
        f"{own['participation_ratio'].mean():.1f} of {own['width'].max():.0f} dimensions"
        for (arm, state), own in last if arm in able
    )  # fmt: skip
    figure.panels = [_state_panel(rows, able, *what) for what in (
        ("residual", "movement, relative"), ("participation_ratio", "participation ratio"),
    )]  # fmt: skip
    return figure


def _state_panel(rows: pd.DataFrame, arms: dict[str, Look], column: str, label: str) -> Callable[[Axes], None]:
    def panel(axes: Axes) -> None:
        for arm, look in arms.items():
            for state, own in select(rows, arm=arm).groupby("state"):
                found = over_seeds(own.dropna(subset=[column]), "segments", column)
                style = DASHES.get(str(state), (0, (1, 2)))
                hollow = "white" if state == "z_L" else look.colour
                axes.plot(found["segments"], found["mean"], color=look.colour, marker=look.marker, markersize=4,
                          linestyle=style, markerfacecolor=hollow)  # fmt: skip
                axes.fill_between(found["segments"], found["min"], found["max"], color=look.colour, alpha=0.15,
                                  linewidth=0)  # fmt: skip
        _segment_axis(axes, rows)
        if rows[column].max() > 30 * rows[column].min() > 0:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_ylabel(label)

    return panel
