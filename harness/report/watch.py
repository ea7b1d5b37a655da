"""The example browser: how two arms' answers to the same test example form, segment by segment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.analysis.results import Tables
from harness.report.plots import suite_looks


def browser_data(tables: Tables, traces: Mapping[str, Any]) -> str:
    """JSON for the page's script, safe inside a script element; "" where no run has traces.

    The two arms shown first are those of a task's primary comparison.
    """
    if not traces:
        return ""
    looks = suite_looks(tables)
    tasks = []
    for name, found in traces.items():
        primary = tables.suite.tasks[name].primary
        arms = [arm for arm in tables.suite.tasks[name].arms if arm in found["arms"]]
        first = [arm for arm in primary.arms if arm in arms] if primary else []
        tasks.append(
            {
                **found,
                "name": name,
                "unit": tables.suite.tasks[name].difficulty_unit,
                "arms": [
                    {
                        **found["arms"][arm],
                        "name": arm,
                        "label": looks[arm].label,
                        "colour": looks[arm].colour,
                        "glyph": looks[arm].glyph,
                    }
                    for arm in [*first, *(arm for arm in arms if arm not in first)]
                ],
            }
        )
    text = json.dumps(tasks, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
