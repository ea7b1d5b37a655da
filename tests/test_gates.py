"""Every gate lets a sound arm pass and catches the fault that it was made for, planted."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import FakeTask, build

from harness.analysis import audit
from harness.analysis.collect import collect
from harness.evaluation import gates
from harness.files import read_json, write_json
from harness.recipe import Loop, Recipe
from harness.request import load_plugins
from models.base import ModelShape, Prediction, ReasoningModel, create_model, resolve_config
from tasks.base import Batch, DataFolder, Splits, Task, create_task

SIZE = {"hidden": 16, "heads": 2, "inner": 16}
LOOP = Loop(segments=3)


@pytest.fixture(scope="module")
def task() -> Task:
    load_plugins(None, models=True)
    return create_task("sudoku-4", {"train_examples": 40, "validation_examples": 10, "test_examples": 10})


@pytest.fixture(scope="module")
def splits(task: Task) -> Splits:
    return task.splits(0, DataFolder(None))


@pytest.fixture(scope="module")
def batch(splits: Splits) -> Batch:
    return splits["train"][:8].batch().map(lambda a: torch.from_numpy(np.array(a).astype(np.int32)))


@pytest.fixture(scope="module")
def hrm(task: Task) -> ReasoningModel:
    config = resolve_config("hrm", SIZE | {"H_layers": 1, "L_layers": 1})
    return create_model("hrm", config, ModelShape.of(task), generator=torch.Generator().manual_seed(0))


class Changed(ReasoningModel):
    """A model with a fault: `change(logits, batch)` after every segment."""

    def __init__(self, inner: ReasoningModel, change: Callable[[torch.Tensor, Batch], torch.Tensor]) -> None:
        super().__init__(inner.config, inner.shape, inner.dtype)
        self.inner, self.change = inner, change

    def initial_state(self, batch: Batch, keys: torch.Tensor | None = None) -> Any:
        return self.inner.initial_state(batch, keys)

    def forward(self, state: Any, batch: Batch) -> tuple[Any, Prediction]:
        state, prediction = self.inner(state, batch)
        prediction.logits = self.change(prediction.logits, batch)
        return state, prediction


class LeftToRight:
    """A task of which a gate asks only this much."""

    causal = True
    vocabulary = ("", "a", "b", "c", "d")


def test_duplicates_are_counted(task: Task, splits: Splits) -> None:
    assert gates.duplicates(task, splits).result == "passed"
    planted = splits | {"test": splits["train"][[0, 1, 1]]}
    found = gates.duplicates(task, planted)
    assert found.result == "failed" and "of test in training" in found.figure


def test_wrong_and_constant_labels_are_found(task: Task, splits: Splits) -> None:
    solved: dict[str, float | None] = {"test": 1.0, "validation": None}
    assert gates.labels(task, splits, solved).result == "passed"
    assert gates.labels(task, splits, {"test": 0.99}).result == "failed"
    assert gates.labels(task, splits | {"train": splits["train"][[0, 0, 0]]}, solved).result == "failed"

    class Strict(type(task)):  # type: ignore[misc]
        def correct(self, batch: Batch, prediction: Any) -> Any:
            return np.arange(len(prediction)) > 0

    found = gates.labels(Strict(**task.model_dump()), splits, solved)
    assert found.result == "failed" and found.figure.startswith(f"{len(splits)} of")


def test_a_view_of_the_next_token_is_a_leak(task: Task, hrm: ReasoningModel, batch: Batch) -> None:
    assert gates.leak(task, hrm, batch).result == "does not apply"
    causal = LeftToRight()

    def shut(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.nn.functional.one_hot(batch.inputs.long(), logits.shape[-1]).float()

    def peeking(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return shut(logits, batch).roll(-1, 1)

    assert gates.leak(causal, Changed(hrm, shut), batch).result == "passed"  # type: ignore[arg-type]
    assert gates.leak(causal, Changed(hrm, peeking), batch).result == "failed"  # type: ignore[arg-type]


def test_a_model_without_positions_is_found(hrm: ReasoningModel, batch: Batch) -> None:
    assert gates.positions(hrm, batch).result == "passed"
    blind = Changed(hrm, lambda logits, b: torch.nn.functional.one_hot(b.inputs.long(), logits.shape[-1]).float())
    assert gates.positions(blind, batch).result == "failed"


def test_dependence_on_batch_mates_is_found(hrm: ReasoningModel, batch: Batch) -> None:
    assert gates.mates(LOOP, hrm, batch).result == "passed"
    mixed = Changed(hrm, lambda logits, b: logits + logits.mean(0))
    assert gates.mates(LOOP, mixed, batch).result == "failed"


@pytest.mark.parametrize("rows", [2, 3, 4])
def test_few_rows_are_mates_enough_and_one_is_said_to_be_too_few(hrm: ReasoningModel, batch: Batch, rows: int) -> None:
    few = batch.map(lambda tensor: tensor[:rows])
    assert gates.mates(LOOP, hrm, few).result == "passed"
    mixed = Changed(hrm, lambda logits, b: logits + logits.mean(0))
    assert gates.mates(LOOP, mixed, few).result == "failed"
    assert gates.mates(LOOP, hrm, batch.map(lambda tensor: tensor[:1])).result == "not run"


def test_labels_that_are_the_next_inputs_are_a_leak_without_a_mask(
    task: Task, hrm: ReasoningModel, batch: Batch
) -> None:
    shifted = Batch(batch.inputs, torch.nn.functional.pad(batch.inputs[:, 1:], (0, 1)), batch.puzzle_ids, batch.facts)
    assert gates.leak(task, hrm, shifted).result == "failed"


def test_a_learning_rate_that_trains_nothing_counts_as_none(task: Task, hrm: ReasoningModel, batch: Batch) -> None:
    recipe = Recipe.model_validate({"optimizer": {"factors": {"H_level": 1e-12}}})
    found = gates.gradients(LOOP, recipe, task, hrm, batch)
    assert found.result == "failed" and "H_level" in found.figure


def test_corrupted_inputs_may_stand_in_training(task: Task, splits: Splits) -> None:
    assert gates.duplicates(task, splits | {"ood-corrupted-0.1": splits["train"]}).result == "passed"


def test_a_gate_without_memory_did_not_run_and_one_that_raises_failed() -> None:
    def short() -> gates.Finding:
        raise MemoryError("no room")

    def broken() -> gates.Finding:
        raise ValueError("it broke")

    assert gates._found(short).result == "not run"
    assert gates._found(broken) == gates.Finding("failed", "ValueError: it broke")


def test_parameters_that_never_learn_are_found(task: Task, hrm: ReasoningModel, batch: Batch) -> None:
    found = gates.gradients(LOOP, Recipe(), task, hrm, batch)
    assert found.result == "passed", found.figure
    dead = Changed(hrm, lambda logits, b: logits)
    dead.unused = torch.nn.Linear(64, 64)
    found = gates.gradients(LOOP, Recipe(), task, dead, batch)
    assert found.result == "failed" and "unused.weight" in found.figure and "4,160" in found.figure
    frozen = Changed(hrm, lambda logits, b: logits.detach() + 0 * logits.mean())
    assert gates.gradients(LOOP, Recipe(), task, frozen, batch).result == "failed"


# -- what the runs did -----------------------------------------------------------------------------------------

TASKS = {"toy": FakeTask({"hrm": 0.9, "transformer": 0.5}, examples=40)}


def table(results: Path, name: str) -> list[dict[str, str]]:
    with (results / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def plant(results: Path, arm: str, **fields: Any) -> None:
    """Change an arm's records."""
    for path in results.glob(f"runs/toy/{arm}/*/record.json"):
        write_json(path, read_json(path) | fields)


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("G-budget", {"updates": 1200}),
    ("G-budget", {"recipe": json.dumps({"batch_size": 64, "optimizer": {"learning_rate": 0.01}})}),
    ("G-budget", {"match_error_core": 0.03}),
    ("G-select", {"validation_exact": 0.1}),
    ("G-select", {"validation_examples": 0}),
    ("G-depth", {"test_exact": 0.95}),
    ("G-depth", {"segments": 3}),
]


def test_sound_runs_pass_every_gate(tmp_path: Path) -> None:
    results = build(tmp_path, TASKS)
    collect(results)
    rows = table(results, "gates")
    assert len(rows) == 2 * len(audit.MEANING)
    assert {row["result"] for row in rows} == {"passed", "does not apply"}
    assert all(row["gate"] == "" for row in table(results, "comparisons"))
    assert table(results, "comparisons")[0]["verdict"] == "better"


@pytest.mark.parametrize(("gate", "fault"), FAULTS)
def test_a_planted_fault_fails_its_gate_and_takes_the_verdict(tmp_path: Path, gate: str, fault: dict[str, Any]) -> None:
    results = build(tmp_path, TASKS)
    plant(results, "transformer", **fault)
    collect(results)
    failed = [(row["arm"], row["gate"]) for row in table(results, "gates") if row["result"] == "failed"]
    assert failed == [("transformer", gate)]
    row = table(results, "comparisons")[0]
    assert row["verdict"] == "cannot tell" and gate in row["gate"] and gate in row["sentence"]
    assert row["p_adjusted"] == "" and row["difference"] != ""


def test_a_gate_that_did_not_run_takes_the_verdict(tmp_path: Path) -> None:
    results = build(tmp_path, TASKS)
    for path in results.glob("runs/toy/transformer/*/gates.json"):
        path.unlink()
    collect(results)
    row = table(results, "comparisons")[0]
    assert row["verdict"] == "cannot tell" and "did not run" in row["gate"]


def test_real_data_without_a_source_fail(tmp_path: Path) -> None:
    results = build(
        tmp_path, {"toy": FakeTask({"hrm": 0.9, "transformer": 0.5}, examples=40, text={"real_data": True})}
    )
    plant(results, "hrm", data_sources=json.dumps({"file a.csv": "abc"}))
    collect(results)
    found = {row["arm"]: row["result"] for row in table(results, "gates") if row["gate"] == "G-fallback"}
    assert found == {"hrm": "passed", "transformer": "failed"}


def test_a_halting_head_that_always_says_the_same_fails(tmp_path: Path) -> None:
    import gzip

    results = build(tmp_path, TASKS)
    for path in results.glob("runs/toy/hrm/*/examples.csv.gz"):
        rows = list(csv.reader(gzip.decompress(path.read_bytes()).decode().splitlines()))
        at = rows[0].index("halting_step")
        lines = [rows[0], *([*row[:at], "8", *row[at + 1 :]] for row in rows[1:])]
        path.write_bytes(gzip.compress("\n".join(",".join(line) for line in lines).encode()))
    collect(results)
    found = {row["arm"]: row["result"] for row in table(results, "gates") if row["gate"] == "G-halt"}
    assert found == {"hrm": "failed", "transformer": "does not apply"}


def test_trivial_predictors_that_solve_the_task_fail(tmp_path: Path) -> None:
    results = build(tmp_path, {"toy": FakeTask({"hrm": 0.9, "transformer": 0.5}, examples=40, floor=0.995)})
    collect(results)
    assert {row["result"] for row in table(results, "gates") if row["gate"] == "G-neg"} == {"failed"}


# -- training on shuffled labels -------------------------------------------------------------------------------


def control(results: Path, arm: str) -> Path:
    return next(results.glob(f"controls/toy/{arm}/*/record.json"))


def of_gate(results: Path, gate: str) -> dict[str, dict[str, str]]:
    return {row["arm"]: row for row in table(results, "gates") if row["gate"] == gate}


def test_an_arm_that_learns_from_shuffled_labels_loses_its_verdict(tmp_path: Path) -> None:
    results = build(tmp_path, TASKS)
    path = control(results, "transformer")
    write_json(path, read_json(path) | {"test_exact": 0.2})
    collect(results)
    found = of_gate(results, "G-neg")
    assert (found["hrm"]["result"], found["transformer"]["result"]) == ("passed", "failed")
    assert "40 of 200 held-out answers right" in found["transformer"]["figure"]
    row = table(results, "comparisons")[0]
    assert row["verdict"] == "cannot tell" and "G-neg" in row["gate"]


@pytest.mark.parametrize(
    ("status", "remedy"), [("absent", "--controls"), ("planned", "run the suite again"), ("diverged", "--retry-failed")]
)
def test_a_control_that_is_missing_is_said_with_the_remedy(tmp_path: Path, status: str, remedy: str) -> None:
    """And leaves comparisons their verdict: only a failure takes it."""
    results = build(tmp_path, TASKS)
    if status == "absent":
        (results / "side_cells.json").unlink()
    elif status == "planned":
        control(results, "hrm").unlink()
    else:
        write_json(control(results, "hrm"), read_json(control(results, "hrm")) | {"status": status, "reason": "NaN"})
    collect(results)
    found = of_gate(results, "G-neg")["hrm"]
    assert found["result"] == "not run" and remedy in found["figure"]
    assert table(results, "comparisons")[0]["verdict"] == "better"


def test_unequal_tuning_is_an_unequal_budget(tmp_path: Path) -> None:
    """As many trials as the reference: passed, with their number; one arm alone: failed."""
    results = build(tmp_path, TASKS, tuning={"trials": 2})
    cells = read_json(results / "side_cells.json")
    for arm in ("hrm", "transformer"):
        for trial in range(2):
            folder = f"trials/toy/{arm}/{trial}"
            cell = {"cell_id": f"t{trial}", "purpose": "trial", "task": "toy", "arm": arm, "seed": 1000, "updates": 30}
            cells.append(
                cell | {"run_folder": folder, "trial": trial, "learning_rate": 1e-3 + trial, "weight_decay": 0.1}
            )
            record = cell | {"status": "finished", "validation_exact": trial / 2, "validation_token": 0.5}
            write_json(results / folder / "record.json", record)
    write_json(results / "side_cells.json", cells)
    chosen = {"batch_size": 64, "rollout": 1, "optimizer": {"name": "adamw", "learning_rate": 1.001}}
    plant(results, "hrm", recipe=json.dumps(chosen))
    collect(results)
    found = of_gate(results, "G-budget")
    assert {row["result"] for row in found.values()} == {"passed"}, found
    assert "2 tuning trials of 30 updates" in found["transformer"]["figure"]
    assert [row["selected"] for row in table(results, "tuning")] == ["False", "True", "False", "True"]
    write_json(
        results / "side_cells.json", [cell for cell in cells if (cell["purpose"], cell["arm"]) != ("trial", "hrm")]
    )
    collect(results)
    assert of_gate(results, "G-budget")["transformer"]["result"] == "failed"
