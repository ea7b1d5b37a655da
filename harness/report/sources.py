"""Which runs are behind a figure, and the command that makes them again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from harness.analysis.results import Tables
from harness.report import numbers
from harness.report.page import Cell, Source


def source(tables: Tables, cells: str | Iterable[str]) -> Source | None:
    """Of the runs with these ids (space between, or one by one); None without any."""
    ids = cells.split() if isinstance(cells, str) else list(cells)
    if not ids:
        return None
    known = [tables.identity[cell] for cell in ids]
    tasks, arms = (list(dict.fromkeys(names)) for names in ([t for t, _, _ in known], [a for _, a, _ in known]))
    links = []
    for cell, (task, arm, seed) in zip(ids, known, strict=True):
        name = f"{tables.suite.arm_label(arm)} seed {seed}"
        links.append((name if len(tasks) == 1 else f"{task}, {name}", f"#run-{cell}"))
    return Source(" ".join(ids), tuple(links), command(tables.suite.command, tasks, arms))


def source_cell(tables: Tables, cells: str) -> Cell:
    """`5 runs`, with the runs behind it."""
    count = len(cells.split())
    return Cell(numbers.plural(count, "run"), count, source=source(tables, cells)) if count else Cell(numbers.NONE)


def of_task(tables: Tables, task: str) -> Source | None:
    """All finished runs of a task."""
    runs = tables.runs
    return source(tables, runs[(runs["task"] == task) & (runs["status"] == "finished")]["cell_id"])


def command(suite_command: str, tasks: Sequence[str], arms: Sequence[str]) -> str:
    """The suite's command, narrowed to some tasks and arms."""
    words, kept = shlex.split(suite_command), []
    while words:
        word = words.pop(0)
        if word in ("--tasks", "--arms"):
            while words and not words[0].startswith("-"):
                words.pop(0)
        elif not word.startswith(("--tasks=", "--arms=")):
            kept.append(word)
    return shlex.join([*kept, "--tasks", ",".join(tasks), "--arms", ",".join(arms)])
