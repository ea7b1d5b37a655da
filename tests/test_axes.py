"""Axes of every task: what they leave, that draws nest, that a corrupted input keeps its answer, that ids tell them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import ROOT

from harness import axes, data
from harness.errors import BrokenData, UserError
from tasks.base import DataFolder, Examples, Task, create_task


def built(axes_settings: dict[str, Any], name: str = "parity", **more: Any) -> tuple[Task, dict[str, Examples]]:
    task = create_task(name, {"axes": axes_settings, **more})
    splits = axes.selected(task, task.splits(0, DataFolder()), 0)
    return task, splits | axes.corrupted(task, splits["test"])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(1, 300), st.integers(1, 300))
def test_smaller_draws_nest_in_larger_ones_and_leave_the_other_splits_alone(few: int, many: int) -> None:
    few, many = sorted((few, many))
    settings = {"train_examples": 300}
    small, large = (built({"base_examples": n}, **settings)[1] for n in (few, many))
    whole = built({}, **settings)[1]
    assert len(small["train"]) == few and len(large["train"]) == many
    assert set(small["train"].ids) <= set(large["train"].ids) <= set(whole["train"].ids)
    assert small["test"].digest() == whole["test"].digest()


def test_the_draw_depends_on_the_seed_alone() -> None:
    task = create_task("sudoku-4", {"axes": {"base_examples": 50}, "train_examples": 200})
    splits = task.splits(0, DataFolder())
    drawn = [axes.selected(task, splits, seed)["train"].digest() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_more_base_examples_than_there_are_is_an_error_that_names_both() -> None:
    with pytest.raises(UserError, match=r"axes\.base_examples: 9,000 asked for, train holds 4,000"):
        built({"base_examples": 9000})


def test_difficulty_keeps_what_lies_inside_both_bounds_and_drops_an_empty_ood_split() -> None:
    _, splits = built({"difficulty": [7, 9]})
    assert {split: (part.difficulty.min(), part.difficulty.max()) for split, part in splits.items()} == dict.fromkeys(
        ("train", "validation", "test"), (7, 9)
    )
    _, splits = built({"train_difficulty": [None, 8]})
    assert splits["train"].difficulty.max() == splits["validation"].difficulty.max() == 8
    assert splits["test"].difficulty.max() == 12 and "ood-length" in splits


def test_a_range_that_leaves_nothing_is_refused_by_prepare(tmp_path: Path) -> None:
    task = create_task("parity", {"axes": {"difficulty": [100, 200]}})
    with pytest.raises(BrokenData, match="the split train is empty"):
        data.prepare(task, 0, DataFolder(), tmp_path)
    with pytest.raises(UserError, match=r"settings\.axes\.difficulty: 9 is above 7"):
        create_task("parity", {"axes": {"difficulty": [9, 7]}})
    with pytest.raises(UserError, match=r"settings\.axes\.base_example: unknown key.*base_examples"):
        create_task("parity", {"axes": {"base_example": 7}})


@pytest.mark.parametrize(
    ("name", "more"),
    [("parity", {}), ("parity", {"form": "vector"}), ("sudoku-4", {}), ("arithmetic-proofs", {"form": "causal"})],
)
def test_corruption_changes_the_asked_share_of_what_can_change_and_nothing_else(name: str, more: Any) -> None:
    task, splits = built({"corruption": [0.25, 1]}, name, **more)
    clean = splits["test"]
    free = (clean.inputs != 0) & (clean.inputs != clean.inputs[0]).any(0)
    if task.causal:
        free &= np.arange(clean.inputs.shape[1]) < clean.facts["prompt_length"][:, None]
    for share in (0.25, 1.0):
        part = splits[f"ood-corrupted-{share:g}"]
        changed = part.inputs != clean.inputs
        assert not (changed & ~free).any()
        assert changed[free].mean() == pytest.approx(share, abs=0.05 if share < 1 else 1e-9)
        assert (part.labels == clean.labels).all() and part.inputs.dtype == clean.inputs.dtype
        assert np.asarray(task.correct(part.batch(), part.labels)).all()
    again = built({"corruption": [0.25]}, name, **more)[1]["ood-corrupted-0.25"]
    assert again.digest() == splits["ood-corrupted-0.25"].digest()


def test_corrupted_splits_are_told_as_stability_with_the_floors_of_their_labels_and_no_ceiling(tmp_path: Path) -> None:
    task = create_task("sudoku-4", {"axes": {"corruption": [0.2]}, "train_examples": 100, "test_examples": 50})
    known = data.prepare(task, 0, DataFolder(), tmp_path)
    name = "ood-corrupted-0.2"
    (note,) = [note for note in known.notes if note.startswith(name)]
    splits = known.load()
    assert f"{(splits[name].inputs != splits['test'].inputs).mean():.1%} of its input places" in note
    rows = [row for row in known.references if row["split"] == name and row["metric"] == "exact"]
    clean = {row["predictor"]: row["value"] for row in known.references if row["split"] == "test"}
    assert {row["predictor"]: row["value"] for row in rows if row["predictor"] == "constant"} == {
        "constant": next(r["value"] for r in known.references
                         if (r["split"], r["predictor"], r["metric"]) == ("test", "constant", "exact"))
    }  # fmt: skip
    (ceiling,) = [row for row in rows if row["kind"] == "ceiling"]
    assert ceiling["value"] is None and ceiling["reason"] == axes.NO_CEILING and clean["exact-solver"] == 1


def test_axes_are_one_line_of_a_suite_and_part_of_the_cells_id(tmp_path: Path) -> None:
    from harness import suite as suites
    from harness.plan import Selection, make_plan

    document, label = suites.read_suite("tiny")
    line = ["tasks.parity.settings.axes={base_examples: 100, corruption: [0.1]}"]
    ids = []
    for assignments in ([], line):
        suite = suites.load_suite(document, label, assignments)
        plan = make_plan(suite, DataFolder(), tmp_path / "results", Selection(["parity"], ["transformer"], 1))
        ids.append(plan.cells[0].id)
    assert ids[0] != ids[1]
    assert plan.cells[0].settings["axes"]["base_examples"] == 100
    assert plan.tasks["parity"].data[0].sizes["train"] == 100
    assert "ood-corrupted-0.1" in plan.tasks["parity"].data[0].sizes
    assert re.search("axes", (ROOT / "docs/tasks.md").read_text())
