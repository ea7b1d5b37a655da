"""Controls and tuning trials: real, short runs beside the suite's own, which they leave as they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import suite_file
from toys import Shifted, cell

from harness import cli
from harness.analysis import audit
from harness.analysis.results import Suite
from harness.cell import Cell
from harness.data import DataSet
from harness.errors import UserError
from harness.files import read_json
from harness.side_cells import control_of, trials_of, tuned
from harness.suite import Controls
from harness.training import runner
from harness.tuning import Point, Tuning, choose, points
from models.base import Prediction
from tasks.base import TASKS, DataFolder


def the_run() -> Cell:
    return cell(updates=200, recipe={"batch_size": 32, "optimizer": {"learning_rate": 1e-2}})


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS._items, "shifted", Shifted)


class InMemory(DataSet):
    def load(self) -> Any:
        return Shifted().splits(0, DataFolder())


def carried_out(one: Cell, folder: Path) -> dict[str, Any]:
    runner.run_cell(one, folder, InMemory(Path(), "x", 0.0, (), {}, {}, {}))
    return dict(read_json(folder / "record.json"))


def judged(record: dict[str, Any]) -> audit.Found:
    suite = Suite(schema_version=2, name="s", title="", command="", arms={}, tasks={})
    floor = {"split": "test", "metric": "exact", "value": 0.0, "kind": "floor"}
    of = audit.Runs(suite, Path(), "shifted", "hrm", [], [], [floor], record, (0, 0), (0, 0))
    return audit.negative(of)


def test_a_sound_arm_stays_at_chance_on_shuffled_labels(tmp_path: Path) -> None:
    control = control_of(the_run(), Controls(updates=30, test_examples=32))
    found = judged(carried_out(control, tmp_path))
    assert found.result == "passed" and "after 30 updates on shuffled labels" in found.figure
    assert {path.name for path in tmp_path.iterdir()} == {"cell.json", "record.json"}


def test_labels_in_view_of_the_model_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault of a public project: what is scored can be read off the batch."""
    import torch

    from models.hrm import HRM

    forward = HRM.forward

    def peeking(self: HRM, state: Any, batch: Any) -> tuple[Any, Prediction]:
        state, prediction = forward(self, state, batch)
        seen = torch.nn.functional.one_hot(batch.labels.long(), prediction.logits.shape[-1])
        prediction.logits = prediction.logits + 9 * seen
        return state, prediction

    monkeypatch.setattr(HRM, "forward", peeking)
    control = control_of(the_run(), Controls(updates=5, test_examples=32))
    found = judged(carried_out(control, tmp_path))
    assert found.result == "failed" and "32 of 32 held-out answers right" in found.figure


def test_shuffling_deals_out_the_same_labels_to_other_inputs() -> None:
    from harness.training.side_runs import shuffled

    splits = Shifted().splits(0, DataFolder())
    dealt = shuffled(splits, the_run())
    before, after = splits["train"].labels, dealt["train"].labels
    assert sorted(map(bytes, before)) == sorted(map(bytes, after))
    assert (before == after).all(1).mean() < 0.1
    assert dealt["test"] is splits["test"]


def test_ids_of_runs_know_nothing_of_controls_and_trials() -> None:
    """A run's id from before there were any."""
    assert the_run().id == the_run().model_copy(update={"purpose": "run"}).id
    control = control_of(the_run(), Controls())
    trials = list(trials_of(the_run(), Tuning(trials=4), "d" * 16))
    ids = {the_run().id, control.id, *(trial.cell.id for trial in trials)}
    assert len(ids) == 6
    assert control.run_folder.startswith("controls/") and trials[0].cell.run_folder.startswith("trials/")
    assert the_run().run_folder.startswith("runs/")


# -- tuning ------------------------------------------------------------------------------------------------------


def test_every_arm_tries_the_same_points_within_the_space() -> None:
    tuning = Tuning(trials=16, learning_rate=(1e-4, 1e-2), weight_decay=(1e-3, 1.0))
    own = Point(5e-4, 0.1)
    found = points(tuning, own)
    assert found[0] == own and len(set(found)) == 16
    assert found == points(tuning, own) and found[1:] == points(tuning, Point(1.0, 1.0))[1:]
    plane = np.log(np.array(found[1:]))
    assert np.all((plane >= np.log([1e-4, 1e-3]) - 1e-2) & (plane <= np.log([1e-2, 1.0]) + 1e-2))
    quarters = {(bool(a), bool(b)) for a, b in plane > np.log([1e-3, 0.0316])}
    assert len(quarters) == 4
    assert found[1:] != points(tuning.model_copy(update={"seed": 2000}), own)[1:]


def trial(number: int, exact: float, token: float = 0.5, status: str = "finished") -> dict[str, Any]:
    return {"trial": number, "status": status, "validation_exact": exact, "validation_token": token}


def test_validation_chooses_and_an_open_trial_holds_the_choice_back() -> None:
    rows = [trial(0, 0.5), trial(1, 0.7, 0.8), trial(2, 0.7, 0.9), trial(3, 0.7, 0.9)]
    best = choose(rows)
    assert best is not None and best["trial"] == 2
    diverged = choose([*rows, trial(4, 0.0, status="diverged")])
    assert diverged is not None and diverged["trial"] == 2
    assert choose([*rows, trial(4, 0.9, status="failed")]) is None
    assert choose([*rows, trial(4, 0.9, status="planned")]) is None
    assert choose([trial(0, 0.0, status="diverged")]) is None


@pytest.mark.parametrize("space", [[1e-2, 1e-3], [0.0, 1e-3], [1e-3, 1e-3]])
def test_a_space_with_no_room_is_refused_by_name(tmp_path: Path, space: list[float], capsys: Any) -> None:
    path = suite_file(tmp_path, tuning={"learning_rate": space})
    assert cli.main(["plan", "--suite", str(path), "--results", str(tmp_path)]) == 2
    assert "tuning: learning_rate: give two ends above 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_tuned_suite_runs_from_trials_to_the_report_and_is_not_run_twice(tmp_path: Path, capsys: Any) -> None:
    path = suite_file(tmp_path, tuning={"trials": 2, "updates": 2}, controls={"updates": 2})
    command = ["--suite", str(path), "--seeds", "1", "--jobs", "1", "--results", str(tmp_path / "results")]
    command += ["--reports", str(tmp_path / "reports")]
    assert cli.main(command) == 0
    assert "tuning: 4 of 4 trials to run" in capsys.readouterr().err
    results = tmp_path / "results" / "toy"
    with (results / "tuning.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["trial"]) for row in rows] == [
        (arm, number) for arm in ("hrm", "transformer") for number in "01"
    ]
    with (results / "runs.csv").open() as file:
        runs = {row["arm"]: json.loads(row["recipe"])["optimizer"] for row in csv.DictReader(file)}
    for row in rows:
        if row["selected"] == "True":
            assert runs[row["arm"]]["learning_rate"] == float(row["learning_rate"])
            assert runs[row["arm"]]["weight_decay"] == float(row["weight_decay"])
    with (results / "gates.csv").open() as file:
        gates = {(row["arm"], row["gate"]): row for row in csv.DictReader(file)}
    assert gates["hrm", "G-neg"]["result"] == gates["hrm", "G-budget"]["result"] == "passed"
    assert "2 tuning trials of 2 updates" in gates["hrm", "G-budget"]["figure"]
    page = (tmp_path / "reports" / "toy" / "index.html").read_text()
    assert "2 trials of 2 updates" in page
    assert cli.main(command) == 0
    assert "trials to run" not in capsys.readouterr().err


def test_a_point_changes_learning_rate_and_weight_decay_alone() -> None:
    changed = tuned(the_run().recipe, Point(3e-3, 0.2)).model_dump()
    own = the_run().recipe.model_dump()
    assert changed["optimizer"] == own["optimizer"] | {"learning_rate": 3e-3, "weight_decay": 0.2}
    assert changed | {"optimizer": None} == own | {"optimizer": None}


def test_all_trials_diverged_is_an_error_and_no_silent_choice(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from harness.running import _explain

    trials = list(trials_of(the_run(), Tuning(trials=2), "d" * 16))
    for one in trials:
        folder = tmp_path / one.cell.run_folder
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps({"status": "diverged", "reason": "NaN"}))
    plan: Any = SimpleNamespace(
        undecided=lambda: [("shifted", "hrm")], tasks={"shifted": SimpleNamespace(trials={"hrm": trials})}
    )
    with pytest.raises(UserError, match="all 2 trials of hrm on shifted diverged"):
        _explain(plan, tmp_path)
