"""What a report says: a suite's tables turned into the parts of a page. How they look is the templates' business."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from harness.analysis.results import Tables
from harness.analysis.unsafe import unsafe_runs, warning
from harness.report import numbers
from harness.report.answers import answer, headline
from harness.report.claims import claim_tables
from harness.report.costs import arm_cell, arms_table, cost_tables
from harness.report.figures import Figure
from harness.report.gates import failures
from harness.report.learned import learned_table
from harness.report.method import configuration_tables, how_measured, recipe_table
from harness.report.over_tasks import overall_tables
from harness.report.page import Cell, Page, Row, Table, column, number, prose
from harness.report.plots import select
from harness.report.section import task_section
from harness.report.sources import again, command


def page(tables: Tables, figures: Mapping[str, list[Figure]], results_href: str) -> Page:
    """The whole report. `figures` by task, the overview under ""; `results_href` leads from the page to the results."""
    suite = tables.suite
    answers = [answer(tables, task) for task in suite.tasks]
    status = Counter(tables.runs["status"])
    total = f"{status['finished']} of {len(tables.runs)} runs finished"
    rest = [f"{n} {_status(name)}" for name, n in sorted(status.items()) if name != "finished"]
    return Page(
        title=suite.title,
        suite=suite.name,
        summary=suite.summary,
        meta=" · ".join([f"Suite {suite.name}", suite.created.replace("T", " ")[:16], ", ".join([total, *rest])]),
        headline=headline(tables, answers),
        answers=answers,
        overview=figures.get("", []),
        compared=[
            arms_table(suite, tables),
            learned_table(tables, arm_cell),
            *overall_tables(tables, arm_cell),
        ],
        tasks=[task_section(tables, found, figures.get(found.task, [])) for found in answers],
        claims=claim_tables(tables),
        how=how_measured(tables),
        how_tables=[*cost_tables(tables), recipe_table(suite), *configuration_tables(tables)],
        proxy=PROXY if suite.proxy else "",
        limits=_limits(tables),
        limit_tables=_unfinished(tables),
        runs=_runs(tables, results_href),
        command=again(suite),
        warning=warning(run["task"] for run in unsafe_runs(tables.runs.to_dict("records"))),
    )


PROXY = (
    "This is a proxy suite: models, data and budgets are smaller than in the publications. A figure here neither "
    "confirms nor refutes a published figure; it says what happens at this size."
)


def _status(name: str) -> str:
    return "not run yet" if name == "planned" else name


# -- limits, runs -----------------------------------------------------------------------------------------------


def _limits(tables: Tables) -> list[str]:
    suite, limits = tables.suite, list(tables.suite.limits)
    few = [
        f"{name} ({task.seeds})" for name, task in suite.tasks.items()
        if task.seeds < suite.minimum_seeds and (select(tables.runs, task=name)["status"] == "finished").any()
    ]  # fmt: skip
    if few:
        limits.append(f"Too few seeds for a verdict, which needs {suite.minimum_seeds}: {', '.join(few)}.")
    limits += [
        f"On {name}, {suite.arm_label(arm)} is not scored on {split}: {why}."
        for name, task in suite.tasks.items()
        for arm, splits in task.not_scored.items()
        if arm in task.arms
        for split, why in splits.items()
    ]
    limits += failures(tables, suite.arm_label)
    lost = tables.runs["status"].isin(["failed", "diverged"]).sum()
    if lost:
        limits.append(
            f"{numbers.plural(lost, 'run')} failed or diverged: in no mean, which flatters the arm that lost them."
        )
    return limits


def _unfinished(tables: Tables) -> list[Table]:
    runs = tables.runs[tables.runs["status"] != "finished"]
    if runs.empty:
        return []
    table = Table("Cells without a result", [*(column(t) for t in ("status", "task", "arm", "seeds")), prose("reason")])
    for (status, task, reason), own in runs.groupby(["status", "task", "reason"], sort=False):
        arms = dict.fromkeys(own["arm"])
        everything = len(arms) == len(tables.suite.tasks[str(task)].arms) and len(arms) > 1
        names = "all" if everything else ", ".join(tables.suite.arm_label(arm) for arm in arms)
        seeds = ", ".join(str(int(seed)) for seed in sorted(set(own["seed"])))
        table.rows.append(
            Row([Cell(_status(str(status))), Cell(str(task)), Cell(names), Cell(seeds), Cell(str(reason))])
        )
    return [table]


def _runs(tables: Tables, results_href: str) -> Table:
    figures = ("test exact (%)", "update chosen", "updates", "examples seen", "distinct", "seconds")
    table = Table(
        "Every planned run",
        [
            *(column("task"), column("arm"), number("seed"), column("status")),
            *(number(title) for title in figures),
            *(column(title) for title in ("device", "precision", "commit", "folder", "command")),
        ],
        note="The command remakes the runs of a task and arm whose folders are gone.",
    )
    for row in tables.runs.to_dict("records"):
        counts = [row[name] for name in ("selected_update", "updates", "examples_seen", "examples_distinct")]
        table.rows.append(
            Row(
                [
                    Cell(row["task"]),
                    arm_cell(tables, row["arm"]),
                    Cell(numbers.count(row["seed"]), row["seed"]),
                    Cell(_status(row["status"])),
                    Cell(numbers.percent(row["test_exact"]), row["test_exact"]),
                    *(Cell(numbers.count(value), value) for value in counts),
                    Cell(numbers.short(row["seconds_train"]), row["seconds_train"]),
                    *(Cell(row[name] or numbers.NONE) for name in ("device", "precision", "commit")),
                    Cell("open", row["run_folder"], f"{results_href}/{row['run_folder']}")
                    if row["run_folder"] and row["status"] not in ("planned", "skipped")
                    else Cell(numbers.NONE),
                    Cell(command(again(tables.suite), [row["task"]], [row["arm"]]), code=True),
                ],
                anchor=f"run-{row['cell_id']}",
            )
        )
    return table
