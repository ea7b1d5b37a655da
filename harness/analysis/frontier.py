"""pareto.csv: accuracy on test against what an arm costs, and which arms no other arm of the task beats there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = dict[str, Any]

COSTS = {
    "parameters_core": "core parameters",
    "parameters_total": "trained parameters",
    "flops_train": "training FLOPs",
    "flops_per_answer": "FLOPs per answer",
    "seconds_train": "training seconds",
    "seconds_per_answer": "seconds per answer",
}
"""Column of runs.csv → its name in figures."""

EQUAL = 0.05
"""Costs within 5 % count as equal: so close do FLOPs have to be matched (parameters are matched closer)."""


def pareto(tasks: Mapping[str, Sequence[str]], runs: Sequence[Row]) -> Iterator[Row]:
    """Rows by task, cost and arm, from the finished rows of runs.csv; an arm without a measured cost has none."""
    for task, arms in tasks.items():
        for cost in COSTS:
            points: dict[str, tuple[float, float, list[Row]]] = {}
            for arm in arms:
                own = [run for run in runs if (run["task"], run["arm"]) == (task, arm)]
                values = [float(run[cost]) for run in own if run[cost] is not None and not math.isnan(run[cost])]
                if values:
                    exact = sum(float(run["test_exact"]) for run in own) / len(own)
                    points[arm] = sum(values) / len(values), exact, own
            for arm, (value, exact, own) in points.items():
                above = [other for other, point in points.items() if dominates(point[:2], (value, exact))]
                yield {
                    "task": task,
                    "arm": arm,
                    "cost": cost,
                    "value": value,
                    "exact": exact,
                    "on_front": int(not above),
                    "beaten_by": " ".join(above) or None,
                    "cells": " ".join(run["cell_id"] for run in own),
                }


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether (cost, accuracy) `one` costs no more, is no less accurate, and is better in one of the two."""
    (cost, exact), (other_cost, other_exact) = one, other
    cheaper, dearer = cost < other_cost * (1 - EQUAL), cost > other_cost * (1 + EQUAL)
    return not dearer and exact >= other_exact and (exact > other_exact or cheaper)
