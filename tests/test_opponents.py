"""Every HRM's opponents: four rules, each kept, and a refusal said where nothing fits."""

from __future__ import annotations

import pytest
from toys import SMALL_HRM

from harness import plan, suite
from harness.matching import CORE_TOLERANCE, FLOPS_TOLERANCE, TOTAL_TOLERANCE
from harness.opponents import RULES, hrms, opponents
from tasks.base import DataFolder

SIZE = {"hidden": 64, "heads": 2, "inner": 96, "H_layers": 1, "L_layers": 1}


def planned(tmp_path, **arms):
    document = {
        "name": "mine",
        "recipe": {"batch_size": 8, "budget": {"updates": 100}},
        "arms": {name: {"model": model, "config": config} for name, (model, config) in arms.items()},
        "tasks": {"sudoku-4": {"seeds": 1, "settings": {"train_examples": 50}}},
    }
    made = plan.make_plan(suite.load_suite(document, "mine.yaml"), DataFolder(), tmp_path / "results")
    return made.tasks["sudoku-4"]


def test_an_hrm_gets_an_opponent_by_every_rule_within_its_tolerance(tmp_path):
    task = planned(tmp_path, hrm=("hrm", SIZE))
    (hrm,) = hrms(task, task.arms)
    found = {one.rule: one for one in opponents(task, hrm)}
    assert list(found) == [rule for rule, _ in RULES]
    for rule in ("params", "inference_flops", "train_flops"):
        assert abs(found[rule].matched.error_core) <= CORE_TOLERANCE
        assert abs(found[rule].matched.error_total) <= TOTAL_TOLERANCE
    for rule in ("inference_flops", "inference_flops_only"):
        assert found[rule].flops_per_answer == pytest.approx(hrm.cost.flops_per_answer, rel=FLOPS_TOLERANCE)
    assert found["train_flops"].updates > found["params"].updates == 100
    assert "loops" in found["inference_flops"].size


def test_baselines_need_none_and_ablations_of_one_size_are_shown_once(tmp_path):
    task = planned(
        tmp_path,
        hrm=("hrm", SIZE),
        bptt=("hrm", {**SIZE, "gradient": "full"}),
        looped=("looped", {"hidden": 64, "heads": 2, "layers": 2}),
        small=("hrm", SMALL_HRM),
    )
    assert [arm.name for arm in hrms(task, task.arms)] == ["hrm", "small"]


def test_a_rule_that_nothing_can_keep_is_refused_with_the_reason(tmp_path):
    task = planned(tmp_path, gru=("hrm-gru", {"hidden": 96, "heads": 3, "inner": 96}))
    found = {one.rule: one for one in opponents(task, task.arms["gru"])}
    assert found["inference_flops"].matched is None and "tried loops 1" in found["inference_flops"].size
    assert found["params"].matched is not None
