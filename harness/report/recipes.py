"""Tables of the recipe that all arms share, and of what differs between them."""

from __future__ import annotations

import json
from typing import Any

from harness.analysis.results import Suite, Tables
from harness.report import numbers
from harness.report.page import Cell, Row, Table, column


def flatten(document: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings as `optimizer.learning_rate` → text."""
    if not isinstance(document, dict):
        return {prefix: document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)}
    flat: dict[str, str] = {}
    for key, value in document.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def recipe_table(suite: Suite) -> Table:
    table = Table("Recipe shared by all arms", [column("setting"), column("value")])
    table.rows = [Row([Cell(key), Cell(value)]) for key, value in flatten(suite.recipe).items()]
    return table


def configuration_tables(tables: Tables) -> list[Table]:
    """What differs between arms, in recipe and in model, as resolved for the first task that they all finished."""
    finished = tables.runs[tables.runs["status"] == "finished"]
    for task, info in tables.suite.tasks.items():
        own = finished[finished["task"] == task]
        arms = [arm for arm in info.arms if arm in set(own["arm"])]
        if len(arms) == len(info.arms):
            break
    else:
        return []
    first = {arm: own[own["arm"] == arm].iloc[0] for arm in arms}
    found = []
    for name, title in (
        ("recipe", "Recipe: what differs between arms"),
        ("config", "Model: what differs between arms"),
    ):
        flat = {arm: flatten(json.loads(first[arm][name] or "{}")) for arm in arms}
        keys = dict.fromkeys(key for arm in arms for key in flat[arm])
        table = Table(
            f"{title} (on {task})",
            [column("setting"), *(column(tables.suite.arm_label(arm)) for arm in arms)],
            note="" if name == "recipe" else "Every run's resolved configuration is in runs.csv.",
        )
        for key in keys:
            values = [flat[arm].get(key, numbers.NONE) for arm in arms]
            if len(set(values)) > 1:
                table.rows.append(Row([Cell(key), *(Cell(value) for value in values)]))
        if table.rows:
            found.append(table)
    return found
