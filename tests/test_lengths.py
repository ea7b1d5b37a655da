"""A split that an arm can't read is known before training, left out for that arm alone, and this is explained."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from test_cli import TOY
from toys import SMALL, SMALL_HRM, SMALL_MIXER, SMALL_TRM, random_batch

from harness import cli
from harness import suite as suites
from harness.analysis.collect import collect
from harness.analysis.results import read_tables
from harness.errors import UserError
from harness.estimate import _remarks
from harness.plan import make_plan
from harness.report.content import page
from harness.results import describe
from harness.training.runner import run_cell
from models.base import ModelShape, create_model
from tasks.base import DataFolder

SHAPE = ModelShape(6, 9, 9)
MODELS = {
    "rope": ("hrm", SMALL_HRM, {1, 9, 12}),
    "learned": ("hrm", {**SMALL_HRM, "positions": "learned"}, {1, 9}),
    "learned-transformer": ("transformer", {**SMALL, "layers": 1, "positions": "learned"}, {1, 9}),
    "attention": ("trm", SMALL_TRM, {1, 9, 12}),
    "mixer": ("trm", SMALL_MIXER, {9}),
}


@pytest.mark.parametrize("form", MODELS)
def test_a_model_runs_exactly_the_lengths_that_it_says_it_can_read(form):
    name, config, readable = MODELS[form]
    model = create_model(name, config, SHAPE, generator=torch.Generator().manual_seed(0))
    for length in (1, 9, 12):
        batch = random_batch(6, 2, length)
        problem = model.length_problem(length)
        assert (problem is None) == (length in readable), problem
        if problem is None:
            model(model.initial_state(batch), batch)
        else:
            with pytest.raises(UserError):
                model(model.initial_state(batch), batch)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A suite of two arms, of which one can't read the longer strings, run and collected."""
    folder = tmp_path_factory.mktemp("lengths")
    mixer = {"model": "trm", "config": SMALL_MIXER, "loop": {"segments": 2}}
    document = TOY | {"arms": {"hrm": TOY["arms"]["hrm"], "mixer": mixer}}
    document["tasks"] = {"parity": {"settings": {"max_length": 8, "ood_lengths": [10]}, "seeds": 1}}
    plan = make_plan(suites.load_suite(document, "toy"), DataFolder(), folder / "results/toy")
    assert set(plan.tasks["parity"].not_scored) == {"mixer"}
    (remark,) = [line for line in _remarks(plan, plan.tasks["parity"], ["hrm", "mixer"]) if "not scored" in line]
    assert remark.startswith("mixer: not scored on ood-length: the mixer form of TRM takes 9 positions alone")
    results = folder / "results/toy"
    describe(plan, results, "python run_benchmarks.py --suite toy")
    for cell in plan.cells:
        run_cell(cell, results / cell.run_folder, plan.tasks["parity"].data[cell.seed])
    collect(results)
    return results


def test_the_arm_is_trained_and_scored_on_all_other_splits(run):
    with (run / "depth.csv").open() as file:
        scored = {(row["arm"], row["split"]) for row in csv.DictReader(file)}
    assert scored == {("hrm", "test"), ("hrm", "ood-length"), ("mixer", "test")}


def test_tables_and_report_say_which_split_is_missing_and_why(run):
    with (run / "runs.csv").open() as file:
        notes = {row["arm"]: row["notes"] for row in csv.DictReader(file)}
    assert "not scored on ood-length: the mixer form of TRM takes 9 positions alone" in notes["mixer"]
    assert "not scored" not in notes["hrm"]
    limits = " ".join(page(read_tables(run), {}, "").limits)
    assert "On parity, mixer is not scored on ood-length: the mixer form of TRM takes 9 positions alone" in limits


def test_floors_and_ceiling_of_the_planned_data_reach_the_tables(run):
    with (run / "references.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "exact"]
    assert {row["split"] for row in rows} == {"test", "ood-length"}
    assert {row["value"] for row in rows if row["kind"] == "ceiling"} == {"1.0"}
    assert {row["value"] for row in rows if row["predictor"] in ("constant", "majority-token", "lookup")} == {"0.5"}


def test_a_comparison_on_a_split_that_an_arm_can_t_read_gives_the_reason(tmp_path):
    from synthetic import FakeTask, build

    missed = {"transformer": {"ood-length": "learned positions end at 9, inputs have 12; positions: rope has no end"}}
    spec = FakeTask({"hrm": 0.5, "transformer": 0.5}, examples=20, ood={"hrm": 0.5, "transformer": 0.5})
    spec.text["not_scored"] = missed
    results = build(tmp_path, {"toy": spec})
    for path in results.glob("runs/toy/transformer/*/examples.csv.gz"):
        import gzip

        lines = [line for line in gzip.decompress(path.read_bytes()).decode().splitlines() if "ood-length" not in line]
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    collect(results)
    with (results / "comparisons.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["split"] == "ood-length"]
    assert row["verdict"] == "cannot tell" and "learned positions end at 9" in row["sentence"]


def test_plan_prints_what_will_not_be_scored(tmp_path, capsys):
    import yaml

    mixer = {"model": "trm", "config": SMALL_MIXER, "loop": {"segments": 2}}
    path = tmp_path / "toy.yaml"
    parity = {"settings": {"max_length": 8, "ood_lengths": [10]}, "seeds": 1}
    path.write_text(yaml.safe_dump({**TOY, "arms": {"mixer": mixer}, "tasks": {"parity": parity}}))
    assert cli.main(["plan", "--suite", str(path), "--results", str(tmp_path / "r")]) == 0
    assert "mixer: not scored on ood-length" in capsys.readouterr().out
