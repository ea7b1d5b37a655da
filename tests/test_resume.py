"""A cell killed anywhere ends with the bytes of one that was not: weights, optimizer, average, carry, stream."""

from __future__ import annotations

import os
import random
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_cell import prepared, toy_task  # noqa: F401 (a fixture)
from test_running import rows
from toys import SMALL_GRU, SMALL_HRM, cell

from harness.files import read_json
from harness.training import checkpoint, runner
from harness.training.trainer import Trainer

OFTEN = runner.Options(checkpoint_seconds=0.0)

ARMS: dict[str, dict] = {
    "hrm, average, dropout": {
        "config": {**SMALL_HRM, "dropout": 0.1},
        "updates": 20,
        "recipe": {"ema": 0.9, "optimizer": {"name": "adam_atan2"}, "evaluation": {"points": 5, "segments": [1, 4]}},
    },
    "transformer": {"arm": "transformer", "model": "transformer", "updates": 40},
    "puzzle table": {
        "model": "hrm-gru",
        "config": {**SMALL_GRU, "puzzle_embedding": True},
        "updates": 20,
    },
    "examples": {
        "updates": None,
        "recipe": {"budget": {"examples": 120}, "evaluation": {"points": 4, "segments": [1]}},
    },
}


def tables(folder: Path) -> dict[str, object]:
    """All that a run leaves, but for times and memory."""
    found: dict[str, object] = {path.name: rows(path) for path in sorted(folder.glob("*.csv*"))}
    found["weights"] = (folder / checkpoint.WEIGHTS_FILE).read_bytes()
    record = read_json(folder / "record.json")
    for name in ("seconds_train", "seconds_evaluation", "seconds_per_answer", "peak_memory_mib", "started"):
        record.pop(name)
    return found | {"record": record}


def in_a_child(work: Callable[[], None]) -> int:
    """Run in a process of its own; returns its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dies_at_call(function: Callable, number: int) -> Callable:
    """The function, but the process is killed in place of its call of that number."""
    calls = 0

    def counted(*given, **named):
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **named)

    return counted


def lay_trap(place: str, number: int) -> None:
    """Have this process killed: at an update, in writing a state, between that and dropping the old, in scoring."""
    if place == "update":
        Trainer._update = dies_at_call(Trainer._update, number)
    elif place == "checkpoint":
        checkpoint._Hashed.write = dies_at_call(checkpoint._Hashed.write, number)
    elif place == "after a checkpoint":
        checkpoint.state_files = dies_at_call(checkpoint.state_files, number)
    elif place == "evaluation":
        runner._tick = dies_at_call(runner._tick, number)
    else:
        runner.write_run_tables = dies_at_call(runner.write_run_tables, 1)


PLACES = {"update": 6, "checkpoint": 90, "after a checkpoint": 4, "evaluation": 2, "tables": 1}
"""Where a run is killed, and before which call of that place at the latest."""


@pytest.mark.parametrize("name", ARMS)
def test_a_cell_killed_anywhere_ends_with_the_bytes_of_one_that_was_not(tmp_path, toy_task, name):  # noqa: F811
    chosen, known = cell(**ARMS[name]), prepared(tmp_path, toy_task)
    runner.run_cell(chosen, tmp_path / "whole", known)
    chance = random.Random(name)
    for place in PLACES:

        def work(place: str = place) -> None:
            lay_trap(place, chance.randint(1, PLACES[place]))
            runner.run_cell(chosen, tmp_path / "killed", known, options=OFTEN, say=lambda text: None)

        chance.random()  # the child's draws are lost with it
        assert in_a_child(work) == -signal.SIGKILL, place
    runner.run_cell(chosen, tmp_path / "killed", known, say=lambda text: None)
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole")
    assert not [path.name for path in (tmp_path / "killed").iterdir() if path.suffix in (".tmp", ".pt")]


def stopped(folder: Path, known, chosen, share: float) -> None:
    with pytest.raises(runner.Interrupted):
        runner.run_cell(chosen, folder, known, lambda progress, text: progress < share, OFTEN)


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "empty", "another format"])
def test_a_damaged_checkpoint_is_said_to_be_so_and_the_one_before_is_used(tmp_path, toy_task, damage):  # noqa: F811
    chosen, known = cell(**ARMS["transformer"]), prepared(tmp_path, toy_task)
    stopped(tmp_path / "run", known, chosen, 0.6)
    last, before = checkpoint.state_files(tmp_path / "run")
    content = bytearray(last.read_bytes())
    if damage == "a flipped bit":
        content[len(content) // 2] ^= 4
    elif damage == "another format":
        content = content.replace(b"HRM-Bench state 1 ", b"HRM-Bench state 9 ")
    last.write_bytes(content[: {"cut short": 5000, "empty": 0}.get(damage)])
    said: list[str] = []
    runner.run_cell(chosen, tmp_path / "run", known, say=said.append)
    assert said[0].startswith(f"checkpoint not used: {last.name}: ")
    assert said[1:] == [f"resumed at update {int(before.stem.split('-')[1])}"]
    runner.run_cell(chosen, tmp_path / "whole", known)
    assert tables(tmp_path / "run") == tables(tmp_path / "whole")


def test_where_no_checkpoint_is_whole_the_run_starts_anew_and_says_so(tmp_path, toy_task):  # noqa: F811
    chosen, known = cell(**ARMS["transformer"]), prepared(tmp_path, toy_task)
    stopped(tmp_path / "run", known, chosen, 0.6)
    for path in checkpoint.state_files(tmp_path / "run"):
        path.write_bytes(b"nothing")
    said: list[str] = []
    runner.run_cell(chosen, tmp_path / "run", known, say=said.append)
    assert len(said) == 3 and said[-1] == "no checkpoint is whole: starting from the beginning"


def test_two_checkpoints_are_kept_and_none_after_the_end(tmp_path, toy_task):  # noqa: F811
    chosen, known = cell(**ARMS["transformer"]), prepared(tmp_path, toy_task)
    for share in (0.2, 0.4, 0.6, 0.8):
        stopped(tmp_path, known, chosen, share)
    assert len(checkpoint.state_files(tmp_path)) == 2
    runner.run_cell(chosen, tmp_path, known, say=lambda text: None)
    assert not checkpoint.state_files(tmp_path)


@pytest.mark.parametrize("words", ["validation", "test", "ood-later"])
def test_a_run_stopped_in_an_evaluation_goes_on_to_the_same_bytes(tmp_path, toy_task, words):  # noqa: F811
    chosen, known = cell(**ARMS["hrm, average, dropout"]), prepared(tmp_path, toy_task)
    with pytest.raises(runner.Interrupted, match=f"stopped in {words}"):
        runner.run_cell(chosen, tmp_path / "run", known, lambda progress, text: not text.startswith(words))
    runner.run_cell(chosen, tmp_path / "run", known, say=lambda text: None)
    runner.run_cell(chosen, tmp_path / "whole", known)
    assert tables(tmp_path / "run") == tables(tmp_path / "whole")


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(tmp_path, toy_task, monkeypatch):  # noqa: F811
    """torch hides the error of the file it writes to behind one of its own."""

    class Full(checkpoint._Hashed):
        def __init__(self, file):
            super().__init__(file)
            full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
            self.file = full

    monkeypatch.setattr(checkpoint, "_Hashed", Full)
    said: list[str] = []
    runner.run_cell(cell(**ARMS["transformer"]), tmp_path, prepared(tmp_path, toy_task), options=OFTEN, say=said.append)
    assert said and all("No space left on device; the one before stays" in text for text in said)
    assert read_json(tmp_path / "record.json")["status"] == "finished"


def test_a_plug_in_that_draws_from_torchs_global_generator_is_resumed_exactly(tmp_path, toy_task, monkeypatch):  # noqa: F811
    update = Trainer._update

    def noisy(self):
        update(self)
        with torch.no_grad():
            self.model.lm_head.weight.add_(torch.randn_like(self.model.lm_head.weight), alpha=1e-3)

    monkeypatch.setattr(Trainer, "_update", noisy)
    chosen, known = cell(**ARMS["transformer"]), prepared(tmp_path, toy_task)
    runner.run_cell(chosen, tmp_path / "whole", known)
    stopped(tmp_path / "run", known, chosen, 0.5)
    torch.rand(7)  # what other cells of the process draw
    runner.run_cell(chosen, tmp_path / "run", known, say=lambda text: None)
    assert tables(tmp_path / "run") == tables(tmp_path / "whole")
