"""What a README shows of a suite: main.md, the main figure and one table, made from the same tables as the report."""

from __future__ import annotations

from harness.analysis.results import Tables
from harness.report import numbers
from harness.report.figures import Figure
from harness.report.page import Answer, Cell, Row, Table, column, number
from harness.report.plots import select

MOST_ARMS = 8
"""Columns of arms that a page of text has room for."""


def main_table(tables: Tables, answers: list[Answer]) -> Table:
    """By task: every arm's exact accuracy on test, under its own halting rule, too, the floor, the primary difference,
    and the verdict. Of many arms those of the primary comparisons alone."""
    arms = [arm for arm in tables.suite.arms if arm in set(tables.levels["arm"])]
    if len(arms) > MOST_ARMS:
        asked = {arm for task in tables.suite.tasks.values() if task.primary for arm in task.primary.arms}
        arms = [arm for arm in arms if arm in asked]
    halting = set(select(tables.levels, stopping="model")["arm"])
    rules = [(arm, rule) for arm in arms for rule in ("fixed", "model") if rule == "fixed" or arm in halting]
    label = tables.suite.arm_label
    table = Table(
        "Exact accuracy on test (%), and the primary difference",
        [
            column("task"),
            *(number(label(arm) + ", own halting" * (rule == "model")) for arm, rule in rules),
            number("floor"),
            number("difference (points)"),
            column("verdict"),
        ],
    )
    for answer in answers:
        levels = select(tables.levels, task=answer.task, split="test", metric="exact")
        mean = {(level["arm"], level["stopping"]): level["mean"] for level in levels.to_dict("records")}
        floor = levels["floor"].max() if len(levels) else None
        row = [Cell(numbers.percent(value)) for value in (*map(mean.get, rules), floor)]
        found = select(tables.comparisons, task=answer.task, role="primary").to_dict("records")
        gap = numbers.NONE
        if found and not numbers.absent(found[0]["difference"]):
            gap = (
                f"{numbers.percent(found[0]['difference'])} {numbers.percent_range(found[0]['low'], found[0]['high'])}"
            )
        verdict = Cell(f"{answer.label}: {answer.why}" if answer.why else answer.label, tone=answer.tone)
        table.rows.append(Row([Cell(answer.task), *row, Cell(gap.replace(" –", "")), verdict]))
    return table


def main_markdown(figure: Figure, table: str, headline: str, command: str, warning: str) -> str:
    """The file; `table` is already Markdown. The figure's path is relative to the file."""
    picture = "" if figure.missing else f"![{figure.alt}](figures/{figure.name}.svg)\n\n*{figure.caption}*\n\n"
    headline = f"{warning}\n\n**{headline}" if warning else f"**{headline}"
    return f"{headline}**\n\n{picture}{table}\n\nMade by `{command}`.\n"
