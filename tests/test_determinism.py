"""The same cell gives the same bytes, whatever runs before it, beside it, or in which order."""

from __future__ import annotations

from pathlib import Path

import torch
from test_cell import prepared, toy_task  # noqa: F401 (a fixture)
from test_resume import tables
from toys import SMALL, cell

from harness.training import runner

CELLS = {
    "hrm": {"updates": 12},
    "other seed": {"seed": 1, "updates": 9},
    "averaged": {"arm": "averaged", "updates": 7, "recipe": {"ema": 0.9}},
    "transformer": {"arm": "transformer", "model": "transformer", "config": {**SMALL, "layers": 2}, "updates": 12},
}


def ran(folder: Path, known, order: list[str]) -> dict[str, dict[str, object]]:
    for name in order:
        runner.run_cell(cell(**CELLS[name]), folder / name, known)
    return {name: tables(folder / name) for name in order}


def test_order_and_presence_of_other_cells_in_a_process_change_no_byte(tmp_path, toy_task):  # noqa: F811
    known = prepared(tmp_path, toy_task)
    forth = ran(tmp_path / "forth", known, list(CELLS))
    torch.rand(11)  # the process's generator stands elsewhere
    back = ran(tmp_path / "back", known, list(CELLS)[::-1])
    for name in CELLS:
        assert forth[name] == back[name] == ran(tmp_path / "alone", known, [name])[name], name


def test_how_often_a_run_saves_and_reports_changes_no_byte(tmp_path, toy_task):  # noqa: F811
    known, chosen = prepared(tmp_path, toy_task), cell(**CELLS["hrm"])
    runner.run_cell(chosen, tmp_path / "often", known, lambda progress, text: True, runner.Options(0.0))
    runner.run_cell(chosen, tmp_path / "never", known, options=runner.Options(1e9))
    assert tables(tmp_path / "often") == tables(tmp_path / "never")


def test_strict_algorithms_are_a_field_of_the_cell_and_change_nothing_on_a_cpu(tmp_path, toy_task):  # noqa: F811
    known, loose = prepared(tmp_path, toy_task), cell(**CELLS["hrm"])
    strict = cell(**CELLS["hrm"], deterministic=True)
    assert strict.id != loose.id
    runner.run_cell(loose, tmp_path / "loose", known)
    try:
        runner.run_cell(strict, tmp_path / "strict", known)
        assert (
            torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
        )
    finally:
        runner.set_deterministic(False)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("loose", "strict")]
    assert weights[0] == weights[1]


def test_the_id_of_a_cell_is_what_it_was_before_it_could_be_strict():
    """Twelve digits from a run of the version before."""
    assert cell().id == "093fe12db9e5"
