"""Sinks see every evaluation point, change no number, and can't cost a run, however they fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_cell import prepared, toy_task  # noqa: F401 (a fixture)
from test_cli import suite_file
from test_resume import tables
from test_running import run
from toys import SMALL_HRM, cell

from harness import cli, sinks
from harness.files import read_json
from harness.training import runner

CELL = {"config": {**SMALL_HRM, "dropout": 0.1}, "updates": 6}


class Kept:
    """Keeps what it is told; draws random numbers and spoils what it was given, as a careless sink may."""

    opened: list[Kept]
    fails_at = 99

    def __init__(self, the_cell, folder, update) -> None:
        self.update, self.points, self.attention, self.closed = update, [], [], []
        type(self).opened.append(self)

    def point(self, point: sinks.Point) -> None:
        torch.rand(5)
        self.points.append((dict(point.figures), dict(point.halting)))
        self.attention.append(point.attention())
        if len(self.points) == self.fails_at:
            raise ConnectionError("nobody listens")
        point.figures.clear()  # type: ignore[attr-defined]
        point.halting.clear()  # type: ignore[attr-defined]

    def close(self, record) -> None:
        self.closed.append(record)


@pytest.fixture
def kept():
    made = type("Fresh", (Kept,), {"opened": []})
    sinks.SINKS._items["kept"] = made
    yield made
    sinks.SINKS._items.pop("kept")


TELL = runner.Options(sinks=("kept",))


def test_a_sink_sees_each_point_changes_no_byte_and_is_left_out_where_it_fails(tmp_path, toy_task, kept):  # noqa: F811
    known = prepared(tmp_path, toy_task)
    runner.run_cell(cell(**CELL), tmp_path / "silent", known)
    runner.run_cell(cell(**CELL), tmp_path / "told", known, options=TELL)
    silent = tables(tmp_path / "silent")
    assert tables(tmp_path / "told") == silent
    (sink,) = kept.opened
    assert [figures["updates"] for figures, _ in sink.points] == [3, 6]
    assert all(sum(halting.values()) == 32 for _, halting in sink.points)
    for weights in sink.attention:
        assert weights.shape == (4, 6, 6) and np.allclose(weights.sum(-1), 1, atol=1e-2)
    assert [record["test_exact"] for record in sink.closed] == [silent["record"]["test_exact"]]
    kept.fails_at = 1
    runner.run_cell(cell(**CELL), tmp_path / "failing", known, options=TELL)
    failing = tables(tmp_path / "failing")
    assert failing["record"].pop("notes") == "sink kept left out: ConnectionError: nobody listens"
    assert silent["record"].pop("notes") == ""
    assert failing == silent
    assert len(kept.opened[1].points) == 1 and not kept.opened[1].closed


@pytest.mark.slow
def test_a_resumed_run_tells_its_sink_from_where_it_goes_on(tmp_path, toy_task, kept):  # noqa: F811
    known = prepared(tmp_path, toy_task)
    with pytest.raises(runner.Interrupted):
        runner.run_cell(cell(**CELL), tmp_path / "run", known, lambda done, text: done < 0.6, TELL)
    runner.run_cell(cell(**CELL), tmp_path / "run", known, options=TELL)
    assert [(sink.update, [figures["updates"] for figures, _ in sink.points]) for sink in kept.opened] == [
        (0, [3]), (4, [6]),
    ]  # fmt: skip
    assert kept.opened[0].closed == [None]


def test_a_sink_that_is_not_there_is_refused_before_anything_runs(tmp_path, capsys, monkeypatch):
    places = ["--results", str(tmp_path / "results"), "--reports", str(tmp_path / "reports")]
    assert cli.main(["--suite", str(suite_file(tmp_path)), *places, "--sink", "tensorbord"]) == 2
    assert 'unknown sink "tensorbord" (did you mean "tensorboard"?)' in capsys.readouterr().err
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["--suite", str(suite_file(tmp_path)), *places, "--tensorboard"]) == 2
    assert "pip install -r requirements-tensorboard.txt" in capsys.readouterr().err
    assert not (tmp_path / "results/toy/runs").exists()


@pytest.mark.slow
def test_tensorboard_and_a_plug_ins_sink_get_their_files_from_the_command_line(tmp_path):
    pytest.importorskip("tensorboard", reason="requirements-tensorboard.txt is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from harness.sinks import register_sink\n"
        "@register_sink('lines')\n"
        "class Lines:\n"
        "    def __init__(self, cell, folder, update): self.path = folder / 'lines.txt'\n"
        "    def point(self, point): self.path.open('a').write(str(point.figures['updates']) + chr(10))\n"
        "    def close(self, record): self.path.open('a').write(record['status'])\n"
    )
    assert run(tmp_path, "--tensorboard", "--plugin", str(plugin), "--sink", "lines", "--seeds", "1") == 0
    for arm, heads in (("hrm", True), ("transformer", False)):
        (folder,) = (tmp_path / "results/toy/runs/parity" / arm).iterdir()
        assert (folder / "lines.txt").read_text() == "3\nfinished"
        assert "sink" not in read_json(folder / "record.json")["notes"]
        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        assert {"train/loss", "validation/exact", "halting/mean_step"} <= set(events.Tags()["scalars"])
        assert [event.step for event in events.Scalars("validation/exact")] == [3]
        assert events.Tags()["histograms"] == ["halting/step"]
        assert len(events.Tags()["images"]) == (2 if heads else 1)
