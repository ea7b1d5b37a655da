"""What the report says of one task: facts, how accurate the arms are, what it costs, how they halt, and the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from harness.analysis.results import SuiteTask, Tables
from harness.report import numbers
from harness.report.answers import NOT_RUN
from harness.report.cost_figures import COMPUTE
from harness.report.costs import TONES, arm_cell, matchings_table, pareto_table
from harness.report.figures import Figure
from harness.report.gates import gate_table
from harness.report.halting_figures import HALTING
from harness.report.halting_tables import halting_tables
from harness.report.histograms import histogram_tables
from harness.report.page import Answer, Cell, Part, Row, Table, TaskSection, column, number
from harness.report.plots import select
from harness.report.samples import samples_table
from harness.report.sources import of_task, source_cell
from harness.report.votes import votes_table


def _origin(info: SuiteTask) -> str:
    """Where the data come from, and under which licence."""
    return f"{info.source}; {info.licence}" if info.real_data else info.licence or info.source


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted keys."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def task_section(tables: Tables, answer: Answer, figures: list[Figure]) -> TaskSection:
    info = tables.suite.tasks[answer.task]
    floor = select(tables.levels, task=answer.task, split="test")["floor"].dropna()
    level = f" ({numbers.percent(floor.iloc[0])} %)" if len(floor) else ""
    facts = [
        ("Task", info.summary),
        ("Right means", info.exact_means),
        ("Floor", f"{info.floor_note}{level}" if info.floor_note or level else ""),
        ("Data", _origin(info)),
        ("Not held out", "; ".join(f"{split}: {reason}" for split, reason in info.in_sample.items())),
        ("Scaling", info.scaling),
        ("Settings", ", ".join(f"{k} = {v}" for k, v in _flat(info.settings) if k[:5] != "axes." or v)),
        ("Recipe of its own", ", ".join(f"{k} = {v}" for k, v in _flat(info.recipe))),
        ("Arms of its own", ", ".join(f"{k} = {v}" for k, v in _flat(info.overrides))),
    ]
    parts = [
        Part("How accurate", "", [_levels(tables, answer.task), _comparisons(tables, answer.task)], [], open=True),
        Part(
            "What it costs, and what is equal",
            COMPUTE,
            [matchings_table(tables, answer.task), pareto_table(tables, answer.task)],
            [],
        ),
        Part("How it halts", HALTING, halting_tables(tables, answer.task), []),
        Part("Further figures, answers and validity gates", "more", _further(tables, answer.task), []),
    ]
    every = of_task(tables, answer.task)
    for part in parts:
        part.tables = [table for table in part.tables if table.rows]
        for table in part.tables:
            if not any(cell.source for row in table.rows for cell in row.cells):
                table.source = every
        part.figures = [figure for figure in figures if figure.topic == part.anchor and answer.label != NOT_RUN]
    return TaskSection(
        name=answer.task,
        anchor=answer.anchor,
        answer=answer,
        facts=[(name, text) for name, text in facts if text],
        parts=[
            replace(part, anchor=f"{answer.anchor}-{part.anchor or 'accuracy'}")
            for part in parts
            if part.tables or part.figures
        ],
    )


def _further(tables: Tables, task: str) -> list[Table]:
    return [
        _metrics(tables, task),
        *histogram_tables(tables, task),
        votes_table(tables, task, arm_cell),
        samples_table(tables, task, arm_cell),
        gate_table(tables, task),
    ]


def _levels(tables: Tables, task: str) -> Table:
    titles = ("exact (%)", "95 % interval", "lowest to highest seed", "floor (%)", "seeds", "examples")
    table = Table(
        f"Exact accuracy on {task}",
        [column("arm"), column("split"), column("stopping"), *(number(t) for t in titles), column("runs")],
        note="Interval over seeds and examples, none for a single seed. oracle is an upper bound, not a score. "
        "floor: predictors that learn nothing of the task; the best of them is the floor of the split.",
    )
    planned = tables.suite.tasks[task].seeds
    for row in select(tables.levels, task=task, metric="exact").to_dict("records"):
        table.rows.append(
            Row([
                arm_cell(tables, row["arm"]),
                Cell(row["split"]),
                Cell(row["stopping"]),
                Cell(numbers.percent(row["mean"]), row["mean"]),
                Cell(numbers.percent_range(row["low"], row["high"]), row["low"]),
                Cell(f"{numbers.percent(row['seed_min'])} – {numbers.percent(row['seed_max'])}", row["seed_min"]),
                Cell(numbers.percent(row["floor"]), row["floor"]),
                Cell(f"{row['seeds']:.0f}" + (f" of {planned}" if row["seeds"] < planned else ""), row["seeds"]),
                Cell(numbers.count(row["examples"]), row["examples"]),
                source_cell(tables, row["cells"]),
            ])
        )  # fmt: skip
    table.rows += _reference_rows(tables, task)
    return table


PREDICTORS = {
    "constant": "most frequent answer",
    "majority-token": "most frequent token per position",
    "copy-input": "copy of the input",
    "lookup": "training looked up",
    "exact-solver": "exact solver",
}


def _reference_rows(tables: Tables, task: str) -> Iterator[Row]:
    """Floors and ceiling beside the arms, in the columns of `_levels`."""
    rows = select(tables.references, task=task, metric="exact")
    rows = rows[rows["value"].notna()]
    for (split, predictor, kind), own in rows.groupby(["split", "predictor", "kind"], sort=False):
        values, seeds = own["value"], own["seed"].nunique()
        spread = f"{numbers.percent(values.min())} – {numbers.percent(values.max())}"
        nothing = Cell(numbers.NONE)
        yield Row([
            Cell(f"{kind}: {PREDICTORS.get(str(predictor), str(predictor))}"),
            Cell(str(split)),
            nothing,
            Cell(numbers.percent(values.mean()), values.mean()),
            nothing,
            Cell(spread, values.min()),
            nothing,
            Cell(str(seeds), seeds),
            Cell(numbers.count(own["examples"].iloc[0]), own["examples"].iloc[0]),
            nothing,
        ])  # fmt: skip


def _comparisons(tables: Tables, task: str) -> Table:
    titles = ("p", "p, Holm", "p, sign flip", "design sees (points)", "seeds × examples")
    table = Table(
        f"Differences on {task}",
        [
            *(column(t) for t in ("verdict", "first − second")),
            *(number(t) for t in ("difference (points)", "95 % interval")),
            *(column(t) for t in ("split", "role")),
            *(number(t) for t in titles),
            column("runs"),
        ],
        note="Verdicts speak of the first arm. Secondary comparisons are not adjusted for their number: "
        "read them as description.",
    )
    for row in select(tables.comparisons, task=task).to_dict("records"):
        names = [tables.suite.arm_label(row[key]) for key in ("arm_a", "arm_b")]
        table.rows.append(
            Row([
                Cell(row["verdict"], tone=TONES[row["verdict"]] + " quiet" * (row["role"] != "primary")),
                Cell(" − ".join(names)),
                Cell(numbers.percent(row["difference"]), row["difference"]),
                Cell(numbers.percent_range(row["low"], row["high"]), row["low"]),
                Cell(row["split"] + _unusual(row)),
                Cell(row["role"]),
                *(Cell(numbers.p_value(row[key]), row[key]) for key in ("p", "p_adjusted", "p_sign_flip")),
                Cell(_detectable(row["smallest_detectable"]), row["smallest_detectable"]),
                Cell(f"{row['seeds']:.0f} × {row['examples']:.0f}", row["seeds"] * row["examples"]),
                source_cell(tables, row["cells"]),
            ])
        )  # fmt: skip
    return table


def _detectable(fraction: float) -> str:
    return ">100" if fraction > 1 else numbers.percent(fraction)


def _unusual(row: Mapping[str, Any]) -> str:
    usual = (row["metric"], row["stopping"]) == ("exact", "fixed")
    return "" if usual else f", {row['metric']}, {row['stopping']}"


def _metrics(tables: Tables, task: str) -> Table:
    """Token accuracy and what the task measures besides, at the trained depth: mean over seeds by arm."""
    metrics = select(tables.metrics, task=task, group="all")
    metrics = metrics[(metrics["metric"] != "exact") & (metrics["split"] != "validation")]
    arms = [arm for arm in tables.suite.tasks[task].arms if arm in set(metrics["arm"])]
    table = Table(
        f"Further figures on {task}",
        [*(column(t) for t in ("figure", "split", "stopping")), *(number(tables.suite.arm_label(arm)) for arm in arms)],
        note=" ".join(
            ["Mean over examples and seeds, in brackets the lowest and highest seed."]
            + [f"{name}: {note.rstrip('.')}." for name, note in tables.suite.tasks[task].metric_notes.items()]
        ),
    )
    for (metric, split, stopping), own in metrics.groupby(["metric", "split", "stopping"], sort=False):
        row = [Cell(str(metric)), Cell(str(split)), Cell(str(stopping))]
        for arm in arms:
            values = select(own, arm=arm)["value"]
            mean, low, high = (numbers.short(v) for v in (values.mean(), values.min(), values.max()))
            row.append(Cell(f"{mean} [{low}, {high}]", values.mean()) if len(values) else Cell(numbers.NONE))
        table.rows.append(Row(row))
    return table
