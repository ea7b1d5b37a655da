"""What holds on a CPU holds on a GPU: same numbers, same bytes again, no waiting. Skipped where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_cell import prepared, toy_task  # noqa: F401 (a fixture)
from test_resume import OFTEN, stopped, tables
from toys import FAMILIES, SMALL_HRM, cell
from toys import toy_task as task_of

from harness.errors import UserError
from harness.files import read_json
from harness.training import runner
from harness.training.device import DETERMINISTIC_VARIABLE
from harness.training.trainer import Trainer
from tasks.base import DataFolder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")

CUDA: dict = {"device": "cuda", "precision": "float64"}
BFLOAT16 = pytest.param(
    "bfloat16",
    marks=pytest.mark.skipif(
        torch.cuda.is_available() and torch.cuda.get_device_capability()[0] < 8, reason="no bfloat16 tensor cores here"
    ),
)


@pytest.fixture(autouse=True)
def workspace(monkeypatch):
    monkeypatch.setenv(*DETERMINISTIC_VARIABLE)  # before the process's first matrix product; harmless elsewhere
    yield
    runner.set_deterministic(False)


def trainer_on(device: str, **fields) -> Trainer:
    chosen = cell(**{**CUDA, **fields, "device": device})
    task = task_of(chosen.model)
    return Trainer(chosen, task, task.splits(chosen.seed, DataFolder()), torch.device(device))


def trained(device: str, **fields) -> tuple[float, dict[str, torch.Tensor]]:
    t = trainer_on(device, **fields)
    while not t.finished:
        t.advance()
    return t.window().loss, {name: value.cpu() for name, value in t.model.state_dict().items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_gpu_and_a_cpu_train_to_the_same_weights(name):
    """In float64 both round alike to 1e-12 or so; AdamW, since sign-like steps amplify the rest."""
    model, config = FAMILIES[name]
    recipe = {"optimizer": {"name": "adamw", "learning_rate": 1e-3}, "budget": {"updates": 8}}
    fields = {"arm": name, "model": model, "config": config, "recipe": recipe, "updates": 8}
    (loss, weights), (other_loss, others) = (trained(device, **fields) for device in ("cpu", "cuda"))
    assert other_loss == pytest.approx(loss, rel=1e-9)
    for key, value in weights.items():
        torch.testing.assert_close(others[key], value, rtol=1e-6, atol=1e-8, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("precision", ["float32", BFLOAT16])
@pytest.mark.parametrize("name", ["hrm", "transformer", "trm-mlp"])
def test_compiling_changes_a_loss_by_no_more_than_rounding(name, precision):
    model, config = FAMILIES[name]
    fields = {"arm": name, "model": model, "config": config, "precision": precision, "updates": 5}
    eager, compiled = (trained("cuda", engine=engine, **fields)[0] for engine in ("eager", "compiled"))
    assert compiled == pytest.approx(eager, rel=1e-3 if precision == "float32" else 0.05)


@pytest.mark.parametrize("name", ["hrm", "hrm-gru-puzzles", "transformer", "hrm-planner"])
def test_an_update_does_not_wait_for_the_device(name):
    model, config = FAMILIES[name]
    t = trainer_on("cuda", arm=name, model=model, config=config, precision="bfloat16", updates=10_000)
    for _ in range(3):
        t._update()
    t.feeder._left = 0
    t._update()  # takes the next window of the stream, as once in 50 updates
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            t._update()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["float32", BFLOAT16])
def test_a_strict_run_gives_the_same_bytes_again_also_when_stopped(tmp_path, toy_task, precision):  # noqa: F811
    chosen = cell(
        config={**SMALL_HRM, "dropout": 0.1}, device="cuda", precision=precision, deterministic=True, updates=120,
        recipe={"ema": 0.9, "optimizer": {"name": "adam_atan2"}, "evaluation": {"points": 4, "segments": [1, 4]}},
    )  # fmt: skip
    known = prepared(tmp_path, toy_task)
    for name in ("one", "two"):
        runner.run_cell(chosen, tmp_path / name, known)
    stopped(tmp_path / "stopped", known, chosen, 0.5)
    runner.run_cell(chosen, tmp_path / "stopped", known, say=lambda text: None)
    one = tables(tmp_path / "one")
    assert one == tables(tmp_path / "two") == tables(tmp_path / "stopped")


@pytest.mark.parametrize("name", ["hrm", "transformer", "hrm-gru-puzzles"])
def test_a_run_ends_with_all_that_one_on_a_cpu_leaves(tmp_path, toy_task, name):  # noqa: F811
    model, config = FAMILIES[name]
    fields = {"arm": name, "model": model, "config": config, "precision": "bfloat16"}
    known = prepared(tmp_path, toy_task)
    for device in ("cpu", "cuda"):
        runner.run_cell(cell(**fields, device=device), tmp_path / device, known, options=OFTEN)
    there, here = ({path.name for path in (tmp_path / d).iterdir()} for d in ("cuda", "cpu"))
    assert there == here
    record = read_json(tmp_path / "cuda" / "record.json")
    assert record["status"] == "finished" and record["device"] == torch.cuda.get_device_name()
    assert "no traces" not in record["notes"] and record["seconds_per_answer"] > 0
    assert 0 < record["peak_memory_mib"] < 1000
    gates = {gate["gate"]: gate["result"] for gate in read_json(tmp_path / "cuda" / "gates.json")}
    assert gates == {gate["gate"]: gate["result"] for gate in read_json(tmp_path / "cpu" / "gates.json")}


def test_out_of_memory_on_a_gpu_is_recognised():
    from harness.execution.worker import why_failed

    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50, dtype=torch.uint8, device="cuda")
    assert why_failed(raised.value).startswith("out of memory: ")


def test_a_device_by_number_is_refused_with_the_remedy():
    from harness.training.device import choose_device

    with pytest.raises(UserError, match="unknown device"):
        choose_device("cuda:1")
    assert choose_device("auto").value == "cuda"


def test_weights_of_a_gpu_are_read_on_a_cpu(tmp_path: Path, toy_task):  # noqa: F811
    from safetensors.torch import load_file

    runner.run_cell(cell(device="cuda"), tmp_path / "run", prepared(tmp_path, toy_task))
    assert all(value.device.type == "cpu" for value in load_file(tmp_path / "run" / "weights.safetensors").values())
