"""The report's tables of halting: what each stopping rule costs, whether heads know, flips, effort, states."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from harness.analysis.evidence import student
from harness.analysis.results import Tables
from harness.report import numbers
from harness.report.costs import arm_cell
from harness.report.page import Cell, Row, Table, column, number, prose
from harness.report.plots import select
from harness.report.sources import source_cell

RULES = ("fixed", "model", "oracle")


def halting_tables(tables: Tables, task: str) -> list[Table]:
    """All of them; without rows where the task has no arm of several segments."""
    return [make(tables, task) for make in (_stopping, _heads, _effort, _flips, _states)]


def _runs(tables: Tables, own: pd.DataFrame) -> Cell:
    return source_cell(tables, " ".join(dict.fromkeys(own["cell_id"])))


def _spread(values: pd.Series, digits: bool = False) -> list[Cell]:
    """Mean over seeds, and the lowest and highest seed: as percentages, or as numbers."""
    write = numbers.short if digits else numbers.percent
    known = values.dropna()
    if known.empty:
        return [Cell(numbers.NONE), Cell(numbers.NONE)]
    ends = f"{write(known.min())} – {write(known.max())}"
    return [Cell(write(known.mean()), known.mean()), Cell(ends, known.min())]


def _stopping(tables: Tables, task: str) -> Table:
    """At the trained depth: accuracy, segments and FLOPs under each rule."""
    table = Table(
        f"Three stopping rules on {task}",
        [
            *(column(t) for t in ("arm", "split", "stopping")),
            *(number(t) for t in ("exact (%)", "lowest to highest seed", "segments used", "FLOPs per answer")),
            number("compute against fixed (%)"),
            column("runs"),
        ],
        note="fixed: the trained number of segments. model: where the arm halts by its own rule. oracle: at the first "
        "right answer, an upper bound that no model can reach by itself. stopping.csv has fewer segments, too.",
    )
    rows = select(tables.stopping, task=task)
    rows = rows[rows["segments"] == rows.groupby(["arm", "split"])["segments"].transform("max")]
    for (arm, split), own in rows.groupby(["arm", "split"], sort=False):
        full = select(own, stopping="fixed")["flops_per_answer"].mean()
        for rule in RULES:
            at = select(own, stopping=rule)
            used, flops = at["segments_used"].mean(), at["flops_per_answer"].mean()
            table.rows.append(
                Row([
                    *(arm_cell(tables, str(arm)), Cell(str(split)), Cell(rule)),
                    *_spread(at["exact"]),
                    Cell(numbers.short(used), used),
                    Cell(numbers.si(flops, "FLOP"), flops),
                    Cell(numbers.percent(flops / full), flops / full),
                    _runs(tables, at),
                ])
            )  # fmt: skip
    return table


def _heads(tables: Tables, task: str) -> Table:
    """Whether the halting logit knows right answers from wrong ones, at the trained depth: by arm and split."""
    titles = ("AUROC", "lowest to highest seed", "calibration error", "mean σ(q)", "right (%)", "seeds")
    table = Table(
        f"Halting heads on {task}",
        [column("arm"), column("split"), *(number(title) for title in titles), prose("no AUROC where"), column("runs")],
        note="AUROC of the halting logit against right or wrong after the trained number of segments: 0.5 knows "
        "nothing, 1 knows all. Means over seeds. calibration.csv has every depth.",
    )
    for (arm, split), own in select(tables.calibration, task=task, trained=1).groupby(["arm", "split"], sort=False):
        area = own["auroc"].dropna()
        right = own["right"].sum() / (own["right"] + own["wrong"]).sum()
        spread = f"{numbers.short(area.min())} – {numbers.short(area.max())}" if len(area) else numbers.NONE
        lost = own[own["auroc"].isna()]
        reasons = "; ".join(f"seed {seed:.0f}: {why}" for seed, why in zip(lost["seed"], lost["reason"], strict=True))
        figures = [
            Cell(numbers.short(area.mean()), area.mean()),
            Cell(spread, area.min()),
            *(Cell(numbers.short(own[name].mean()), own[name].mean()) for name in ("calibration_error", "confidence")),
            Cell(numbers.percent(right), right),
        ]
        seeds = Cell(str(len(own)), len(own))
        start = [arm_cell(tables, str(arm)), Cell(str(split))]
        table.rows.append(Row([*start, *figures, seeds, Cell(reasons), _runs(tables, own)]))
    return table


def _effort(tables: Tables, task: str) -> Table:
    """Spearman's correlation of halting step and difficulty."""
    table = Table(
        f"Do harder examples take more segments on {task}?",
        [
            *(column(t) for t in ("arm", "split")),
            *(number(t) for t in ("Spearman, mean", "95 % interval over seeds", "by seed, interval over examples")),
            *(number("examples"), prose("none where"), column("runs")),
        ],
        note="Rank correlation of the step at which the arm halts and the example's difficulty: 1, harder always takes "
        "longer; 0, no relation. Interval over seeds: Student's, for new seeds.",
    )
    for (arm, split), own in select(tables.effort, task=task).groupby(["arm", "split"], sort=False):
        known, lost = own[own["spearman"].notna()], own[own["spearman"].isna()]
        values = known["spearman"].to_numpy()
        low, high = student(values) if len(values) else (np.nan, np.nan)
        mean = float(values.mean()) if len(values) else np.nan
        ends = numbers.NONE if np.isnan(low) else f"[{max(low, -1):.2f}, {min(high, 1):.2f}]"
        single = "; ".join(f"{r.spearman:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in known.itertuples())
        reasons = "; ".join(f"seed {row.seed:.0f}: {row.reason}" for row in lost.itertuples())
        table.rows.append(
            Row([
                *(arm_cell(tables, str(arm)), Cell(str(split))),
                Cell(numbers.NONE if np.isnan(mean) else f"{mean:.2f}", mean),
                Cell(ends, low),
                Cell(single or numbers.NONE, mean),
                Cell(numbers.count(own["examples"].max()), own["examples"].max()),
                Cell(reasons),
                _runs(tables, own),
            ])
        )  # fmt: skip
    return table


def _flips(tables: Tables, task: str) -> Table:
    """Within training: answers gained and lost after the first segment, and what was right once and is not at the
    end."""
    titles = ("right after segment 1 (%)", "wrong → right (%)", "right → wrong (%)", "right at the end (%)")
    table = Table(
        f"Answers that change on {task}",
        [
            *(column(t) for t in ("arm", "split")),
            *(number(t) for t in titles),
            *(number(t) for t in ("right once, wrong at the end (%)", "most lost in segment")),
            column("runs"),
        ],
        note="Up to the trained depth, in percent of the examples, mean over seeds; an example may change more than "
        "once. Right once, wrong at the end: overthinking. flips.csv has every segment, beyond training, too.",
    )
    rows = select(tables.flips, task=task, beyond_training=0)
    for (arm, split), own in rows.groupby(["arm", "split"], sort=False):
        total = own.groupby("seed")[["gained", "lost"]].sum()
        examples = own.groupby("seed")["examples"].first()
        last = own.loc[own.groupby("seed")["segments"].idxmax()].set_index("seed")["right"] / examples
        gained, lost = (total[name] / examples for name in ("gained", "lost"))
        first = last - gained + lost
        ever = select(tables.stopping, task=task, arm=arm, split=split, stopping="oracle")
        ever = ever.loc[ever.groupby("seed")["segments"].idxmax()].set_index("seed")["exact"]
        worst = own.groupby("segments")["lost"].sum()
        at = f"{worst.idxmax():.0f}" if worst.max() else numbers.NONE
        shares = [float(values.mean()) for values in (first, gained, lost, last, ever - last)]
        table.rows.append(
            Row([
                *(arm_cell(tables, str(arm)), Cell(str(split))),
                *(Cell(numbers.percent(share), share) for share in shares),
                Cell(at, float(worst.idxmax()) if worst.max() else None),
                _runs(tables, own),
            ])
        )  # fmt: skip
    return table


def _states(tables: Tables, task: str) -> Table:
    """How far states still move and how many dimensions they fill: after the first, the last trained and the last
    segment."""
    table = Table(
        f"What the states do on {task}",
        [
            *(column(t) for t in ("arm", "state", "after segment")),
            *(number(t) for t in ("movement", "lowest to highest seed", "participation ratio", "lowest to highest")),
            *(number("of dimensions"), column("runs")),
        ],
        note="Movement: ‖z_k − z_(k−1)‖ / ‖z_k‖, 0 for a state at rest. Participation ratio: (Σλ)² / Σλ² of the "
        "covariance of the state's vectors, how many dimensions they fill. On the first test examples; states.csv has "
        "every segment.",
    )
    for (arm, state), own in select(tables.states, task=task).groupby(["arm", "state"], sort=False):
        for when, at in _moments(own):
            width = own["width"].max()
            table.rows.append(
                Row([
                    *(arm_cell(tables, str(arm)), Cell(str(state)), Cell(when, at["segments"].max())),
                    *_spread(at["residual"], digits=True),
                    *_spread(at["participation_ratio"], digits=True),
                    Cell(numbers.count(width), width),
                    _runs(tables, at),
                ])
            )  # fmt: skip
    return table


def _moments(own: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    trained = own[own["beyond_training"] == 0]["segments"].max()
    names = {own["segments"].min(): "", trained: " (trained)", own["segments"].max(): " (deepest)"}
    for segment in sorted(names):
        mark = " (trained)" if segment == trained else names[segment]
        yield f"{segment:.0f}{mark}", select(own, segments=segment)
