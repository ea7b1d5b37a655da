"""What a README shows of a suite: main.md, the main figure and one table, made from the same tables as the report."""

from __future__ import annotations

from harness.analysis.results import Tables
from harness.report import numbers
from harness.report.figures import Figure
from harness.report.page import Answer, Cell, Row, Table, column, number
from harness.report.plots import select


def main_table(tables: Tables, answers: list[Answer]) -> Table:
    """By task: every arm's exact accuracy on test, the primary difference, and the verdict."""
    arms = [arm for arm in tables.suite.arms if arm in set(tables.levels["arm"])]
    label = tables.suite.arm_label
    table = Table(
        "Exact accuracy on test (%), and the primary difference",
        [column("task"), *(number(label(arm)) for arm in arms), number("difference (points)"), column("verdict")],
    )
    for answer in answers:
        levels = select(tables.levels, task=answer.task, split="test", metric="exact", stopping="fixed")
        mean = levels.set_index("arm")["mean"]
        row = [Cell(numbers.percent(mean[arm]) if arm in mean.index else numbers.NONE) for arm in arms]
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
    return f"{headline}**\n\n{picture}{table}\n\nMade by `{command}`; the whole report is `index.html` beside this.\n"
