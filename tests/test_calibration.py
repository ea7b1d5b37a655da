"""calibration.csv: AUROC and calibration error of halting heads, and why there is none where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import FakeTask, build

from harness.analysis.calibration import auroc, calibration_error
from harness.analysis.collect import collect
from harness.analysis.results import read_table
from harness.report.html import build as build_report

scored = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30)


@given(scored)
def test_auroc_is_the_share_of_pairs_in_the_right_order(pairs):
    scores, right = np.array([s for s, _ in pairs], float), np.array([r for _, r in pairs])
    wins = [float(a > b) + (a == b) / 2 for a in scores[right] for b in scores[~right]]
    found = auroc(scores, right)
    assert found is None if not wins else found == pytest.approx(np.mean(wins))


def test_a_head_that_knows_nothing_has_one_half_and_one_that_knows_all_has_one():
    right = np.array([True, False] * 8)
    assert auroc(np.zeros(16), right) == 0.5
    assert auroc(np.where(right, 1.0, -1.0), right) == 1
    assert auroc(np.where(right, -1.0, 1.0), right) == 0
    assert auroc(np.zeros(3), np.ones(3, bool)) is None


def test_the_calibration_error_is_the_gap_between_promise_and_share_right():
    right = np.array([True, True, True, False])
    assert calibration_error(np.full(4, 0.75), right) == pytest.approx(0)
    assert calibration_error(np.full(4, 0.95), right) == pytest.approx(0.2)
    assert calibration_error(np.array([1.0, 1.0, 0.0, 0.0]), right) == pytest.approx(0.25)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    ood = {"hrm": 0.0, "transformer": 0.2}
    tasks = {"toy": FakeTask({"hrm": 0.6, "transformer": 0.5}, seeds=2, examples=40, ood=ood, ood_floor=0.25)}
    folder = build(tmp_path_factory.mktemp("project") / "results", tasks)
    collect(folder)
    return folder


def test_every_halting_head_has_rows_by_split_and_depth_and_one_pass_arms_have_none(results):
    table = read_table(results / "calibration.csv", "calibration")
    assert set(table["arm"]) == {"hrm"}
    for _, own in table.groupby(["seed", "split"]):
        assert own["segments"].tolist() == [1, 2, 4, 8] and own["trained"].tolist() == [0, 0, 0, 1]
    test = table[(table["split"] == "test") & (table["trained"] == 1)]
    assert (test["auroc"] > 0.9).all(), "the synthetic head sees right and wrong"
    assert (test["right"] + test["wrong"] == 40).all() and (test["reason"] == "").all()


def test_where_all_answers_are_wrong_there_is_a_reason_instead_of_an_auroc(results):
    table = read_table(results / "calibration.csv", "calibration")
    lost = table[table["split"] == "ood-length"]
    assert lost["auroc"].isna().all() and set(lost["reason"]) == {"all answers are wrong"}
    assert (lost["calibration_error"] > 0).all()


def test_floors_of_shifted_splits_stand_in_levels_and_decide_contrast(results):
    levels = read_table(results / "levels.csv", "levels")
    assert set(levels[levels["split"] == "ood-length"]["floor"]) == {0.25}
    comparisons = read_table(results / "comparisons.csv", "comparisons")
    (row,) = comparisons[comparisons["split"] == "ood-length"].to_dict("records")
    assert row["verdict"] == "shown, no verdict"  # two seeds; with enough of them neither would be above the floor


def test_the_report_shows_floors_ceiling_and_halting_heads(results, tmp_path):
    text = build_report(results, tmp_path).with_name("report.md").read_text(encoding="utf-8")
    assert "Halting heads on toy" in text and "seed 0: all answers are wrong; seed 1: all answers are wrong" in text
    assert "floor: most frequent answer | ood-length | – | 25.0" in text
    assert "ceiling: exact solver | test | – | 100.0" in text
