"""Flips, stopping rules, effort, reliability and Pareto fronts, against hand-made answers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import FakeTask, build

from harness.analysis.by_segment import BySegment, read_by_segment
from harness.analysis.calibration import calibration_error, reliability
from harness.analysis.collect import collect
from harness.analysis.evidence import Evidence, moving
from harness.analysis.frontier import dominates, pareto
from harness.analysis.halting import effort, fisher_interval, flips, rank_correlation, stopping
from harness.analysis.results import read_suite, read_table

RUN = {"cell_id": "c", "task": "t", "arm": "a", "seed": 0, "segments": 3, "flops_per_answer": 30.0}


def answers(*rows: str, steps: list[int], difficulty: list[float] | None = None) -> BySegment:
    right = np.array([[digit == "1" for digit in row] for row in rows])
    hard = np.array(difficulty or range(len(rows)), float)
    return BySegment("test", right, np.where(right, 1.0, -1.0), np.array(steps, float), hard)


OWN = answers("0110", "1001", "0000", "1111", steps=[2, 1, 3, 1])


def test_a_flip_is_counted_in_the_segment_that_made_it():
    rows = list(flips(RUN, [OWN]))
    assert [(r["segments"], r["gained"], r["lost"]) for r in rows] == [(2, 1, 1), (3, 0, 0), (4, 1, 1)]
    assert [r["beyond_training"] for r in rows] == [0, 0, 1] and [r["right"] for r in rows] == [2, 2, 2]


def test_each_rule_is_charged_for_the_segments_it_used_and_no_others():
    rows = {(r["stopping"], r["segments"]): r for r in stopping(RUN, [OWN])}
    assert {segments for _, segments in rows} == {1, 2, 3}
    assert [rows[rule, 3]["segments_used"] for rule in ("fixed", "model", "oracle")] == [3, 7 / 4, (2 + 1 + 3 + 1) / 4]
    assert [rows[rule, 3]["exact"] for rule in ("fixed", "model", "oracle")] == [0.5, 0.75, 0.75]
    assert rows["fixed", 1]["exact"] == 0.5 and rows["fixed", 1]["flops_per_answer"] == 10
    assert rows["model", 2]["segments_used"] == 6 / 4, "allowed two, the third row stops at two"


@settings(deadline=None)
@given(st.lists(st.text("01", min_size=4, max_size=4), min_size=1, max_size=20))
def test_the_oracle_is_never_worse_and_flips_add_up(rows):
    own = answers(*rows, steps=[1 + i % 3 for i in range(len(rows))])
    at = {(r["stopping"], r["segments"]): r for r in stopping(RUN, [own])}
    for segments in (1, 2, 3):
        assert at["oracle", segments]["exact"] >= max(at[rule, segments]["exact"] for rule in ("fixed", "model"))
        assert at["oracle", segments]["segments_used"] <= at["fixed", segments]["segments_used"]
    change = sum(r["gained"] - r["lost"] for r in flips(RUN, [own]))
    assert change == own.right[:, -1].sum() - own.right[:, 0].sum()


def test_one_pass_arms_have_none_of_these_rows():
    own = BySegment("test", np.ones((3, 1), bool), None, np.ones(3), np.arange(3.0))
    run = RUN | {"segments": 1}
    assert not [*flips(run, [own]), *stopping(run, [own]), *effort(run, [own]), *reliability(run, [own])]


def test_effort_is_one_where_harder_takes_longer_and_says_why_where_nothing_varies():
    steps = [1, 1, 2, 2, 3, 3]
    (row,) = effort(RUN, [answers(*["111"] * 6, steps=steps, difficulty=[0, 0, 5, 5, 9, 9])])
    assert row["spearman"] == pytest.approx(1) and row["low"] == row["high"] == row["spearman"]
    (row,) = effort(RUN, [answers(*["111"] * 6, steps=[2] * 6)])
    assert row["spearman"] is None and row["reason"] == "all halt at the same step"
    (row,) = effort(RUN, [answers(*["111"] * 6, steps=steps, difficulty=[1.0] * 6)])
    assert row["reason"] == "all examples are equally difficult"


def test_intervals_of_rank_correlations_cover_the_truth():
    random = np.random.default_rng(3)
    covered = 0
    truth = 6 / math.pi * math.asin(0.5 / 2)  # Spearman's of a normal pair whose Pearson's is 0.5
    for _ in range(400):
        x, noise = random.normal(size=(2, 60))
        low, high = fisher_interval(rank_correlation(x, 0.5 * x + math.sqrt(0.75) * noise), 60)
        covered += low <= truth <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_reliability_bins_give_the_calibration_error():
    random = np.random.default_rng(5)
    logits = random.normal(size=(300, 3)) * 2
    own = BySegment("test", random.random((300, 3)) < 0.6, logits, np.ones(300), np.ones(300))
    rows = list(reliability(RUN, [own]))
    gaps = [abs(r["right"] - r["examples"] * r["confidence"]) for r in rows]
    assert sum(r["examples"] for r in rows) == 300
    assert sum(gaps) / 300 == pytest.approx(calibration_error(1 / (1 + np.exp(-logits[:, 2])), own.right[:, 2]))
    assert all(r["low"] <= r["confidence"] <= r["high"] for r in rows)


def test_an_arm_is_off_the_front_only_where_another_is_better_in_one_thing_and_worse_in_none():
    assert dominates((10, 0.9), (20, 0.8)) and dominates((10, 0.9), (10.3, 0.8)) and dominates((10, 0.8), (20, 0.8))
    assert not dominates((10, 0.8), (10.3, 0.8)), "costs within 5 % are equal"
    assert not dominates((10, 0.8), (20, 0.9)) and not dominates((20, 0.9), (10, 0.8))
    assert dominates((10.3, 0.9), (10, 0.8)), "as costly, and more accurate"
    costs = dict.fromkeys(("parameters_core", "parameters_total", "flops_train", "seconds_train"), 7.0)
    runs = [
        {"task": "t", "arm": arm, "cell_id": arm, "test_exact": exact, "flops_per_answer": flops,
         "seconds_per_answer": None, **costs}
        for arm, exact, flops in (("small", 0.5, 1.0), ("large", 0.9, 9.0), ("bad", 0.4, 5.0))
    ]  # fmt: skip
    rows = list(pareto({"t": ["small", "large", "bad"]}, runs))
    front = {r["arm"]: (r["on_front"], r["beaten_by"]) for r in rows if r["cost"] == "flops_per_answer"}
    assert front == {"small": (1, None), "large": (1, None), "bad": (0, "small")}
    assert {r["arm"]: r["on_front"] for r in rows if r["cost"] == "flops_train"} == {"small": 0, "large": 1, "bad": 0}
    assert not [r for r in rows if r["cost"] == "seconds_per_answer"], "never measured, so there is nothing to say"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tasks = {"toy": FakeTask({"hrm": 0.6, "transformer": 0.5}, seeds=2, examples=40)}
    folder = build(tmp_path_factory.mktemp("project") / "results", tasks)
    collect(folder)
    return folder


def test_tables_agree_with_one_another(results):
    cap, depth = (read_table(results / f"{name}.csv", name) for name in ("stopping", "depth"))
    for rule, column in (("fixed", "exact"), ("model", "exact_model"), ("oracle", "exact_oracle")):
        own = cap[cap["stopping"] == rule].set_index(["seed", "segments"])["exact"]
        other = depth[depth["arm"] == "hrm"].set_index(["seed", "segments"])[column]
        assert own.to_numpy() == pytest.approx(other.loc[own.index].to_numpy())
    states = read_table(results / "states.csv", "states")
    assert set(states["arm"]) == {"hrm"} and set(states["state"]) == {"z_H", "z_L"}


def test_the_arm_whose_state_moves_further_is_told_from_the_other(tmp_path):
    tasks = {"toy": FakeTask({"hrm": 0.6, "looped": 0.5}, seeds=5, examples=20),
             "few": FakeTask({"hrm": 0.6, "looped": 0.5}, seeds=2, examples=20)}  # fmt: skip
    folder = build(tmp_path, tasks)
    collect(folder)
    runs, states = (read_table(folder / f"{name}.csv", name).to_dict("records") for name in ("runs", "states"))
    of = Evidence(folder, read_suite(folder), runs, (), (), (), states=states)
    holds = {}
    for pair in (["hrm", "looped"], ["looped", "hrm"]):
        for task in tasks:
            (outcome,) = moving(of, task, {"moving": pair})
            holds[pair[0], task] = outcome.holds
    assert holds == {("hrm", "toy"): True, ("looped", "toy"): False, ("hrm", "few"): None, ("looped", "few"): None}
    assert not [*moving(of, "toy", {"moving": ["hrm", "transformer"]})], "a one-pass arm has no states"
    rows = read_table(folder / "claims.csv", "claims")
    assert (rows["reason"] != "").all() and (rows["verdict"] != "").all(), "every claim has a verdict and why"
    settled = rows[rows["claim"].isin(["R06", "R07", "R08", "R09", "R10", "R18", "R40"])]
    assert (
        set(settled["verdict"]) <= {"supported", "refuted"} and len(settled) == 7 and (settled["measured"] != "").all()
    )
    assert set(rows[rows["claim"] == "R39"]["verdict"]) == {"not testable"}


def test_runs_of_before_these_tables_existed_are_still_collected(results, tmp_path):
    import shutil

    copy = tmp_path / "tiny"
    shutil.copytree(results, copy)
    for path in (copy / "runs").rglob("states.csv"):
        path.unlink()
    collect(copy)
    assert read_table(copy / "states.csv", "states").empty
    (run,) = read_table(results / "runs.csv", "runs").query("arm == 'hrm' and seed == 0").to_dict("records")
    assert [own.right.shape for own in read_by_segment(copy / run["run_folder"])] == [(40, 16)]
