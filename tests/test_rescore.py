"""`evaluate` gives a run its own figures again, scores published checkpoints, and refuses what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_official import SHAPE, published
from test_running import rows
from toys import SMALL, SMALL_HRM, Shifted, cell

from harness import cli, data
from harness.cost import flops_per_segment
from harness.errors import UserError
from harness.evaluation.evaluate import evaluate
from harness.evaluation.rescore import Request, rescore
from harness.training import runner
from models.base import ModelShape, create_model, resolve_config
from models.official import convert_state_dict, sizes
from tasks.base import TASKS, DataFolder, Examples

TABLES = ("depth.csv", "halting.csv", "metrics.csv", "examples.csv.gz")
NOWHERE = DataFolder()


class Six(Shifted):
    """The toy task in the vocabulary and length of test_official's checkpoints, with their puzzle ids."""

    size: int = 6
    puzzles: int = 1

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("", *"abcdef")

    @property
    def num_puzzles(self) -> int:
        return self.puzzles


class Longer(Shifted):
    """The toy task whose out-of-distribution split has one position more."""

    def splits(self, seed: int, data: DataFolder) -> dict[str, Examples]:
        parts = super().splits(seed, data)
        more = Shifted(size=self.size + 1).splits(seed, data)["ood-later"]
        return parts | {"ood-later": more}


@pytest.fixture(autouse=True, scope="module")
def toy_tasks():
    for name, cls in (("shifted", Shifted), ("six", Six), ("longer", Longer)):
        cls.name = name
        TASKS.add(name, cls)
    yield
    for name in ("shifted", "six", "longer"):
        TASKS._items.pop(name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A cell of the toy task, run to its end."""
    folder = tmp_path_factory.mktemp("run")
    limits = {"points": 2, "segments": [1, 2, 8], "test_examples": 20, "validation_examples": 30}
    flops = flops_per_segment("hrm", resolve_config("hrm", SMALL_HRM), ModelShape.of(Shifted()))
    chosen = cell(updates=20, recipe={"evaluation": limits}, flops_per_segment=flops)
    runner.run_cell(chosen, folder / "hrm", data.prepare(Shifted(), 0, NOWHERE, folder / "data"))
    return folder / "hrm"


def test_a_run_gets_exactly_its_own_figures(finished, tmp_path):
    before = {path: path.read_bytes() for path in finished.iterdir()}
    document = rescore(finished, Request(), NOWHERE, tmp_path)
    for table in TABLES:
        assert rows(tmp_path / table) == rows(finished / table), table
    record = json.loads((finished / "record.json").read_text())
    assert document["splits"]["test"]["exact"] == record["test_exact"]
    assert document["splits"]["test"]["exact_model"] == record["test_exact_model"]
    assert json.loads((tmp_path / "evaluation.json").read_text())["data_hash"]
    assert {path: path.read_bytes() for path in finished.iterdir()} == before


def test_validation_is_scored_as_the_run_scored_it(finished, tmp_path):
    document = rescore(finished, Request(splits=["validation"]), NOWHERE, tmp_path)
    record = json.loads((finished / "record.json").read_text())
    assert document["splits"]["validation"]["exact"] == record["validation_exact"]
    assert {row["split"] for row in rows(tmp_path / "depth.csv")} == {"validation"}


def test_any_depth_and_any_number_of_examples_can_be_asked_for(finished, tmp_path):
    rescore(finished, Request(splits=["train"], segments=[3, 11], max_examples=7), NOWHERE, tmp_path)
    depth = rows(tmp_path / "depth.csv")
    assert [int(row["segments"]) for row in depth] == [3, 4, 11], "and the trained depth"
    assert {row["examples"] for row in depth} == {"7"}
    assert len(rows(tmp_path / "examples.csv.gz")[0]["correct_by_segment"]) == 11


def test_other_settings_of_the_run_s_task_score_other_examples(finished, tmp_path):
    document = rescore(finished, Request(task="longer"), NOWHERE, tmp_path)
    assert document["task"] == "longer" and document["same_data_as_the_run"] is None
    assert set(document["splits"]) == {"test", "ood-later"}


def test_weights_in_a_file_of_their_own_score_as_the_run_does(finished, tmp_path):
    request = Request("shifted", model="hrm", config=SMALL_HRM, trained=4, max_examples=20, splits=["test"])
    document = rescore(finished / "weights.safetensors", request, NOWHERE, tmp_path)
    assert document["splits"]["test"] == rescore(finished, Request(), NOWHERE, tmp_path)["splits"]["test"]


@pytest.mark.parametrize(
    ("form", "config"),
    [
        ("hrm", {"L_cycles": 3}),
        ("trm-att", {"H_cycles": 3, "L_cycles": 2}),
        ("trm-mlp", {"H_cycles": 3, "L_cycles": 2}),
    ],
)
def test_a_published_checkpoint_is_scored_with_sizes_read_off_its_weights(form, config, tmp_path):
    """Against the same weights loaded by hand; the file is as the published code writes it."""
    family, path = form[:3], tmp_path / "step_100"
    state = published(form)
    torch.save(state, path)
    config = {"heads": 2, **config}
    request = Request("six", family=family, config=config, segments=[1, 5], trained=4, precision="float32")
    document = rescore(path, request, NOWHERE, tmp_path / "out")
    weights = convert_state_dict(state, family)
    found, _ = sizes(weights, family)
    model = create_model(family, {**found, **config}, SHAPE, generator=torch.Generator())
    model.load_state_dict(weights)
    task = Six()
    part = task.splits(0, NOWHERE)["test"]
    loop = {"halting": "q_halt"} if family == "trm" else {}
    again = evaluate(model, task, cell(loop=loop).loop, part, segments=5, batch_size=256)
    assert document["splits"]["test"]["token"] == pytest.approx(float(again.token_fixed().mean()))
    assert document["splits"]["test"]["exact_model"] == float(again.model().mean())
    scored = rows(tmp_path / "out" / "examples.csv.gz")
    ours = [row["correct_by_segment"] for row in scored if row["split"] == "test"]
    assert ours == ["".join("01"[int(right)] for right in line) for line in again.correct]
    assert np.isfinite([float(row["flops_per_answer"]) for row in rows(tmp_path / "out" / "depth.csv")]).all()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(splits=["tset"]), r'no split "tset" \(did you mean "test"\?\)'),
        (Request(task="sudoku-4"), "trained on the 5 symbols .*; task sudoku-4 has the 6"),
        (Request(task="no-such-task"), 'unknown task "no-such-task"'),
        (Request(settings={"sise": 4}), r'unknown key \(did you mean "size"\?\)'),
        (Request(family="hrm"), "--family: .* is a run"),
        (Request(config={"hidden": 3}), "--config: .* is a run"),
        (Request(precision="float8"), 'unknown precision "float8"'),
    ],
)
def test_what_a_run_can_t_be_asked_is_refused_and_nothing_is_written(finished, tmp_path, request_, message):
    with pytest.raises(UserError, match=message):
        rescore(finished, request_, NOWHERE, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(family="hrm"), "--task: .* does not say what it was trained on"),
        (Request("six"), "give either --family"),
        (Request("six", family="hrm", model="hrm"), "give either --family"),
        (Request("six", family="hmr"), r'family "hmr" \(did you mean "hrm"\?\)'),
        (Request("six", family="trm"), "unknown keys"),
        (Request("shifted", family="hrm"), "vocabulary has 7 tokens, task shifted has 5"),
        (Request("six", {"puzzles": 5}, family="hrm"), "puzzle table has 3 rows, task six has 5"),
        (Request("six", model="hrmm"), 'unknown model "hrmm"'),
        (Request("six", model="looped", config=SMALL), "don't fit model looped as configured"),
        (Request("six", family="hrm", preset="papr"), r'unknown preset "papr" \(did you mean "paper"\?\)'),
    ],
)
def test_what_does_not_fit_a_checkpoint_is_named(tmp_path, request_, message):
    path = tmp_path / "step_100"
    torch.save(published("hrm"), path)
    with pytest.raises(UserError, match=message):
        rescore(path, request_, NOWHERE, tmp_path / "out")


@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_inputs_beyond_learned_positions_are_refused_before_anything_is_scored(tmp_path, positions):
    config = {**SMALL_HRM, "positions": positions}
    runner.run_cell(
        cell(config=config, task="longer", registered_task="longer", updates=1),
        tmp_path / "run",
        data.prepare(Longer(), 0, NOWHERE, tmp_path / "data"),
    )
    if positions == "rope":
        assert "ood-later" in rescore(tmp_path / "run", Request(), NOWHERE, tmp_path / "out")["splits"]
        return
    with pytest.raises(UserError, match=r"split ood-later: learned positions end at 5, inputs have 6.*--split"):
        rescore(tmp_path / "run", Request(), NOWHERE, tmp_path / "out")
    assert set(rescore(tmp_path / "run", Request(splits=["test"]), NOWHERE, tmp_path / "out")["splits"]) == {"test"}


def test_the_verb_writes_tables_and_names_them_and_bad_input_is_one_line(finished, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert cli.main(["evaluate", str(finished), "--split", "test", "--segments", "1,3", *out]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [int(row["segments"]) for row in rows(Path(document["results"]) / "depth.csv")] == [1, 3, 4]
    assert cli.main(["evaluate", str(finished), "--set", "count=32", "--max-examples", "3", *out]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["splits"]["test"]["examples"] == 3
    (tmp_path / "empty").mkdir()
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "cell.json").write_bytes((finished / "cell.json").read_bytes())
    for arguments, message in (
        ([str(tmp_path / "none")], "none: no such run folder or checkpoint"),
        ([str(tmp_path / "empty")], "it has no cell.json"),
        ([str(unfinished)], "it has no weights.safetensors; the run has not finished"),
        ([str(finished), "--segments", "0"], "--segments 0: must be a whole number above 0"),
        ([str(finished), "--max-examples", "0"], "--max-examples"),
        ([str(finished), "--set", "count"], "--set count: expected KEY=VALUE"),
        ([str(finished), "--split", "tset"], 'no split "tset"'),
        ([str(finished), "--out", str(finished)], "that is the run itself"),
    ):
        assert cli.main(["evaluate", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
