"""Which runs are behind a figure, and the command that makes them again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from harness.analysis.results import Suite, Tables
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
    return Source(" ".join(ids), tuple(links), command(again(tables.suite), tasks, arms))


def source_cell(tables: Tables, cells: str) -> Cell:
    """`5 runs`, with the runs behind it."""
    count = len(cells.split())
    return Cell(numbers.plural(count, "run"), count, source=source(tables, cells)) if count else Cell(numbers.NONE)


def of_task(tables: Tables, task: str) -> Source | None:
    """All finished runs of a task."""
    runs = tables.runs
    return source(tables, runs[(runs["task"] == task) & (runs["status"] == "finished")]["cell_id"])


def again(suite: Suite) -> str:
    """The command that makes the whole suite again: not a share of it, not until a time is up, and what a claim asked
    for as what it is, a part of a suite."""
    words = _without(shlex.split(suite.command), "--shard", "--max-minutes")
    if "reproduce" in words:
        at = words.index("reproduce")
        words[at : at + 2] = ["--suite", suite.name.removesuffix("-smoke")]
        arms = dict.fromkeys(arm for task in suite.tasks.values() for arm in task.arms)
        words = [*_without(words, "--seeds"), "--tasks", ",".join(suite.tasks), "--arms", ",".join(arms)]
        words += ["--seeds", str(max(int(task.seeds) for task in suite.tasks.values()))]
    return shlex.join(words)


def command(suite_command: str, tasks: Sequence[str], arms: Sequence[str]) -> str:
    """The suite's command, narrowed to some tasks and arms."""
    kept = _without(shlex.split(suite_command), "--tasks", "--arms")
    return shlex.join([*kept, "--tasks", ",".join(tasks), "--arms", ",".join(arms)])


def _without(words: list[str], *options: str) -> list[str]:
    """A command's words without some options and their values."""
    rest, kept = list(words), []
    while rest:
        word = rest.pop(0)
        if word in options:
            while rest and not rest[0].startswith("-"):
                rest.pop(0)
        elif not word.startswith(tuple(f"{option}=" for option in options)):
            kept.append(word)
    return kept
