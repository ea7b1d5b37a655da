"""Several processes on one cell give what one gives: the same rows, the same randomness, the same sums."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from test_cell import prepared, toy_task  # noqa: F401 (a fixture)
from test_resume import tables
from together import together
from toys import SMALL_GRU, SMALL_HRM, cell, trainer

from harness.errors import UserError
from harness.training import runner
from harness.training.ranks import ALONE, Failed, Ranks
from harness.training.trainer import Trainer

EXACT = {"precision": "float64", "updates": 20}
SMALLEST = {**SMALL_HRM, "hidden": 8}

ARMS: dict[str, dict] = {
    "hrm, average, dropout, clipped": {
        **EXACT, "config": {**SMALLEST, "dropout": 0.1}, "recipe": {"ema": 0.9, "clip": 0.5},
    },
    "rollout in parts": {**EXACT, "config": SMALLEST, "loop": {"rollout": 2, "detach": False},
                         "recipe": {"accumulate": 2, "drop_unused": True}},
    "transformer": {**EXACT, "arm": "transformer", "model": "transformer"},
}  # fmt: skip


def followed(the_cell, updates: int, ranks: Ranks = ALONE) -> dict[str, object]:
    """What each of the first updates gave."""
    t = trainer(the_cell, ranks=ranks)
    windows = []
    for _ in range(updates):
        t.advance()
        windows.append(vars(t.window()))
    whole = t.state_dict()
    return {
        "windows": windows,
        "drawn": t.feeder.drawn,
        "distinct": t.feeder.distinct,
        "model": whole["model"],
        "carry": whole["carry"],
    }


def of_two(folder: Path, the_cell, updates: int) -> dict:
    def work(ranks: Ranks) -> None:
        found = followed(the_cell, updates, ranks)
        torch.save(found, folder / f"{ranks.rank}.pt")

    assert together(folder, work) == [0, 0]
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    return first


@pytest.mark.parametrize("name", [n if n.startswith("hrm") else pytest.param(n, marks=pytest.mark.slow) for n in ARMS])
def test_two_processes_follow_the_losses_of_one(tmp_path, name):
    one, two = followed(cell(**ARMS[name]), 20), of_two(tmp_path, cell(**ARMS[name]), 20)
    for alone, shared in zip(one["windows"], two["windows"], strict=True):
        assert shared == pytest.approx(alone, rel=0, abs=1e-9)
    assert (two["drawn"], two["distinct"]) == (one["drawn"], one["distinct"])
    for part in ("inputs", "labels", "steps", "halted"):  # each place holds the same example, equally augmented
        assert torch.equal(two["carry"][part], one["carry"][part]), part
    assert torch.allclose(two["carry"]["state"]["segment"], one["carry"]["state"]["segment"])


def test_signs_and_angles_agree_after_the_first_update(tmp_path):
    """Adam-atan2 and sign-SGD make as much of a tiny gradient as of a large one, so rounding soon shows there."""
    chosen = cell(
        model="hrm-gru",
        config={**SMALL_GRU, "hidden": 16, "inner": 16, "puzzle_embedding": True},
        precision="float64",
        recipe={"optimizer": {"name": "adam_atan2"}},
    )
    one, two = followed(chosen, 1), of_two(tmp_path, chosen, 1)
    table = "puzzle_emb.weights"
    assert one["model"][table].abs().sum() > 0
    for name, weights in one["model"].items():
        assert torch.allclose(two["model"][name], weights, rtol=0, atol=1e-9), name


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(UserError, match=r"batch_size 8 .* 3 ranks.*multiple of 3"):
        trainer(cell(), ranks=Ranks(0, 3))
    with pytest.raises(UserError, match=r"2 ranks × accumulate 8; choose a multiple of 16"):
        trainer(cell(recipe={"accumulate": 8}), ranks=Ranks(0, 2))


def test_the_number_of_ranks_is_part_of_a_cells_id_unless_it_is_one():
    assert cell(ranks=2).id != cell().id == cell(ranks=1).id == "093fe12db9e5"


def test_what_the_first_rank_raises_all_raise(tmp_path):
    def work(ranks: Ranks) -> None:
        def fails() -> None:
            raise ValueError("on the first")

        with pytest.raises(ValueError if ranks.leads else Failed, match="on the first"):
            ranks.lead(fails)
        assert ranks.lead(lambda: ranks.rank + 5) == 5

    assert together(tmp_path, work) == [0, 0]


@pytest.mark.slow
def test_a_run_of_two_stopped_and_resumed_or_killed_ends_with_its_own_bytes(tmp_path, toy_task):  # noqa: F811
    chosen = cell(config=SMALLEST, updates=12, ranks=2)
    known = prepared(tmp_path, toy_task)

    def run(name: str, share: float = 2.0, dies: int | None = None):
        def work(ranks: Ranks) -> None:
            calls = 0
            update = Trainer._update

            def counted(t: Trainer) -> None:
                nonlocal calls
                calls += 1
                if ranks.rank == 1 and calls == dies:
                    os.kill(os.getpid(), signal.SIGKILL)
                update(t)

            Trainer._update = counted  # type: ignore[method-assign]
            often = runner.Options(checkpoint_seconds=0.0)
            runner.run_cell(
                chosen, tmp_path / name, known, lambda done, text: done < share, often, lambda text: None, ranks
            )

        return together(tmp_path / "meetings", work)

    assert run("whole") == [0, 0]
    assert run("broken", share=0.4) == [1, 1]
    assert run("broken", dies=2) == [1, -signal.SIGKILL]
    assert run("broken") == [0, 0]
    assert tables(tmp_path / "broken") == tables(tmp_path / "whole")
    assert "2 processes together" in tables(tmp_path / "whole")["record"]["notes"]
