"""The report's tables of what arms cost: parameters, compute, the matchings side by side, and what accuracy costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.analysis import compare
from harness.analysis.frontier import COSTS
from harness.report import numbers
from harness.report.page import Cell, Row, Table, column, number, prose
from harness.report.plots import select, suite_looks
from harness.report.sources import source_cell

if TYPE_CHECKING:
    from harness.analysis.results import Suite, Tables


def arm_cell(tables: Tables, arm: str) -> Cell:
    """An arm's name with its colour and marker."""
    look = suite_looks(tables).get(arm)
    return Cell(look.label, arm, chip=look.colour, glyph=look.glyph) if look else Cell(arm, arm)


PARAMETERS = (
    ("core", "parameters_core"),
    ("embeddings", "parameters_embeddings"),
    ("heads", "parameters_heads"),
    ("puzzle table", "parameters_puzzle_table"),
    ("total trained", "parameters_total"),
    ("never trained", "parameters_never_trained"),
)
MATCHES = (("core against reference (%)", "match_error_core"), ("total against reference (%)", "match_error_total"))
FLOPS = (("per answer", "flops_per_answer"), ("per update", "flops_per_update"), ("per run", "flops_train"))


def cost_tables(tables: Tables) -> list[Table]:
    """Parameters by group, and the work behind an answer, an update and a run; one row per task and arm."""
    runs = select(tables.runs, status="finished")
    groups = [(title, name) for title, name in PARAMETERS if name != "parameters_puzzle_table" or runs[name].any()]
    sizes = Table(
        "Parameters by group",
        [column("task"), column("arm"), *(number(title) for title, _ in groups + list(MATCHES)), column("runs")],
        note="Core parameters are without embeddings, heads and puzzle table; they are what is matched.",
    )
    work = Table(
        "Compute",
        [
            *(column("task"), column("arm"), number("segments")),
            *(number(t) for t in ("layers per segment", "layers per answer")),
            *(number(f"FLOPs {title}") for title, _ in FLOPS),
            number("per answer against reference (%)"),
            *(number(t) for t in ("updates", "examples seen", "of them distinct", "seconds")),
        ],
        note="Layers are layer applications: each use of a layer counts. Updates, examples and seconds are means over "
        "the runs, which are those of the table above. Seconds are training without evaluation, and comparable only on "
        "one machine.",
    )
    for (task, arm), own in runs.groupby(["task", "arm"], sort=False):
        first = own.iloc[0]
        start = [Cell(str(task)), arm_cell(tables, str(arm))]
        matched = [Cell(_plus(first[name]), first[name]) for _, name in MATCHES]
        counts = [Cell(numbers.count(first[n]), first[n]) for _, n in groups]
        sizes.rows.append(Row([*start, *counts, *matched, source_cell(tables, " ".join(own["cell_id"]))]))
        layers = ("segments", "layers_per_segment", "layers_per_answer")
        flops = [Cell(numbers.si(first[n], "FLOP"), first[n]) for _, n in FLOPS]
        flops.append(Cell(_plus(first["match_error_flops"]), first["match_error_flops"]))
        means = [own[name].mean() for name in ("updates", "examples_seen", "examples_distinct")]
        seconds = own["seconds_train"].mean()
        ending = [*(Cell(numbers.count(mean), mean) for mean in means), Cell(numbers.short(seconds), seconds)]
        work.rows.append(Row([*start, *(Cell(numbers.count(first[n]), first[n]) for n in layers), *flops, *ending]))
    return [sizes, work]


def _plus(share: float) -> str:
    text = numbers.NONE if numbers.absent(share) else numbers.signed(100 * share, 2)
    return f"+{text}" if not numbers.absent(share) and share > 0 and float(text) else text


def arms_table(suite: Suite, tables: Tables) -> Table:
    """What each arm is, and what it has in common with its reference."""
    table = Table("Arms", [*(column(t) for t in ("arm", "model", "matched to", "what is equal")), prose("what it is")])
    for name, arm in suite.arms.items():
        to, rule = (arm.match.to, compare.rule_in_words(arm.match.rule)) if arm.match else (numbers.NONE, "reference")
        words = [Cell(text) for text in (arm.model, to, rule, arm.summary)]
        table.rows.append(Row([arm_cell(tables, name), *words]))
    return table


BRIEF = (0, 1, 2, 6, 7, 9, 10, 3)
"""Columns of the matchings that answer "at equal compute?" on a small screen."""


def matchings_table(tables: Tables, task: str, *, brief: bool = False) -> Table:
    """Absolute and relative gain under each matching rule; one row per matched pair, exact accuracy on test.

    brief: only what was matched to a reference, and fewer columns.
    """
    titles = ("first (%)", "second (%)", "gain (points)", "95 % interval", "relative gain (%)")
    columns = [
        *(column(t) for t in ("what is equal", "first", "second", "verdict")),
        *(number(t) for t in titles),
        *(number(t) for t in ("ratio of FLOPs per answer", "ratio of training FLOPs")),
        column("runs"),
    ]
    table = Table(
        f"The matchings side by side on {task}",
        [columns[i] for i in BRIEF] if brief else columns,
        note=("" if brief else "Relative gain: the difference over the second arm's accuracy. ")
        + "Exact accuracy on test, trained depth. Ratios: first over second. A verdict on a pair that is not the "
        "primary one is not adjusted for their number.",
    )
    rows = select(tables.comparisons, task=task, split="test", metric="exact", stopping="fixed")
    runs = select(tables.runs, task=task, status="finished").groupby("arm")[["flops_per_answer", "flops_train"]].mean()
    matched = {name: arm.match.to for name, arm in tables.suite.arms.items() if arm.match}
    for row in rows.to_dict("records"):
        first, second = row["arm_a"], row["arm_b"]
        rule = compare.rule_in_words(row["matching_rule"])
        direct = matched.get(first) == second or matched.get(second) == first
        if not rule or numbers.absent(row["difference"]) or (brief and not direct):
            continue
        relative = row["difference"] / row["mean_b"] if row["mean_b"] else None
        ratios = [runs[name].get(first, float("nan")) / runs[name].get(second, float("nan")) for name in runs]
        quiet = " quiet" * (row["role"] != "primary")
        cells = [
            Cell(rule),
            arm_cell(tables, first),
            arm_cell(tables, second),
            Cell(row["verdict"], tone=TONES[row["verdict"]] + quiet),
            Cell(numbers.percent(row["mean_a"]), row["mean_a"]),
            Cell(numbers.percent(row["mean_b"]), row["mean_b"]),
            Cell(numbers.percent(row["difference"]), row["difference"]),
            Cell(numbers.percent_range(row["low"], row["high"]), row["low"]),
            Cell(numbers.NONE if relative is None else numbers.percent(relative), relative),
            *(Cell(f"{numbers.short(ratio)} ×" if ratio == ratio else numbers.NONE, ratio) for ratio in ratios),
            source_cell(tables, row["cells"]),
        ]
        table.rows.append(Row([cells[i] for i in BRIEF] if brief else cells))
    return table


def pareto_table(tables: Tables, task: str) -> Table:
    """Each arm's accuracy and costs; a cost is marked where the arm is on the Pareto front of it and accuracy."""
    rows = select(tables.pareto, task=task)
    costs = [cost for cost in COSTS if (rows["cost"] == cost).any()]
    table = Table(
        f"What accuracy costs on {task}",
        [column("arm"), number("exact (%)"), *(number(COSTS[cost]) for cost in costs), column("runs")],
        note="◆: on the Pareto front of accuracy and this cost: no other arm costs no more (within 5 %) and is at "
        "least as accurate. Means over seeds. Seconds are comparable only on one machine.",
    )
    for arm, own in rows.groupby("arm", sort=False):
        fields = []
        for cost in costs:
            found = select(own, cost=cost)
            if found.empty:
                fields.append(Cell(numbers.NONE))
                continue
            value, front = float(found["value"].iloc[0]), bool(found["on_front"].iloc[0])
            fields.append(Cell(("◆ " if front else "") + _cost(cost, value), value, mark=front))
        exact = float(own["exact"].iloc[0])
        start = [arm_cell(tables, str(arm)), Cell(numbers.percent(exact), exact)]
        table.rows.append(Row([*start, *fields, source_cell(tables, own["cells"].iloc[0])]))
    return table


def _cost(name: str, value: float) -> str:
    if name.startswith("flops"):
        return numbers.si(value, "FLOP")
    if name == "seconds_per_answer" and value < 1:
        return f"{numbers.short(1000 * value)} ms"
    return f"{numbers.short(value)} s" if name.startswith("seconds") else numbers.count(value)


TONES = {
    compare.BETTER: "better",
    compare.WORSE: "worse",
    compare.NO_DIFFERENCE: "same",
    compare.CANNOT_TELL: "open",
    compare.NO_VERDICT: "shown",
}
"""Verdict → class of its colour."""
