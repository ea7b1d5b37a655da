"""Figures over all tasks: definitions by hand, and no false precision."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import FakeTask, build

from harness.analysis.collect import collect
from harness.analysis.overall import improvement, iqm, normalised, overall
from harness.analysis.results import read_tables
from harness.report.html import build as build_report


def run(task: str, arm: str, score: float) -> dict[str, object]:
    return {"task": task, "arm": arm, "test_exact": score}


def test_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    assert iqm([0, 1, 2, 100]) == 1.5
    assert iqm([0, 0.4, 1]) == pytest.approx((0.25 * 0 + 0.4 + 0.25 * 1) / 1.5)
    assert iqm([0.3]) == 0.3
    assert math.isnan(iqm([]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_interquartile_mean_lies_among_the_runs_and_ignores_order(values: list[float]) -> None:
    assert min(values) - 1e-12 <= iqm(values) <= max(values) + 1e-12
    assert iqm(values) == pytest.approx(iqm(values[::-1]))


def test_a_score_is_the_way_from_the_floor_to_one() -> None:
    assert [normalised(x, 0.5) for x in (0.5, 0.75, 1.0, 0.25)] == [0, 0.5, 1, -0.5]
    assert normalised(1.0, 1.0) == 0


def test_improvement_is_a_share_of_pairs_with_ties_half_and_tasks_equal() -> None:
    runs = [run("a", "x", 0.9), run("a", "x", 0.5), run("a", "y", 0.5), run("b", "x", 0.1), run("b", "y", 0.2)]
    rows = list(overall({"a": ["x", "y"], "b": ["x", "y"]}, runs, {}))
    pair = next(row for row in rows if row["measure"] == "improvement")
    assert pair["value"] == pytest.approx((0.75 + 0) / 2) and (pair["low"], pair["high"]) == (0, 0.75)
    assert math.isnan(improvement({}))


def test_one_task_has_no_range() -> None:
    rows = list(overall({"a": ["x", "y"]}, [run("a", "x", 0.9)], {"a": 0.1}))
    assert [(row["measure"], row["low"], row["tasks"]) for row in rows] == [("iqm", None, 1)]


def test_the_report_shows_both_measures(tmp_path: Path) -> None:
    spec = {"hrm": 0.9, "transformer": 0.5}
    results = build(tmp_path / "results", {name: FakeTask(spec, seeds=2, examples=40) for name in ("one", "two")})
    collect(results)
    table = read_tables(results).overall
    assert float(table[table["measure"] == "improvement"]["value"].iloc[0]) == 1
    html = build_report(results, tmp_path / "reports").read_text(encoding="utf-8")
    assert "Over all tasks: interquartile mean" in html and "beats one of the second" in html
