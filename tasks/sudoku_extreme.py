"""`sudoku-extreme`: the HRM paper's Sudoku data, 1,000 training puzzles by default, most of them very hard.

The files are read from the data folder where one is set, else from the Hugging Face hub. Every row used is checked.
"""

from __future__ import annotations

import csv
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from pydantic import Field

from harness.errors import BrokenData, MissingData
from harness.seeds import generator
from tasks.base import DataFolder, Examples, Splits, register_task
from tasks.sudoku import SudokuTask
from tasks.sudoku_symmetry import valid_solutions

HUB = "sapientinc/sudoku-extreme"
COLUMNS = ("source", "question", "answer", "rating")
REMEDY = (
    f"put train.csv and test.csv of the Hugging Face data set {HUB} into sudoku-extreme/ of a data folder "
    "(--data DIR or HRM_BENCH_DATA), or run where the hub can be reached once (it is then cached)"
)
HUB_SECONDS = 8.0
"""How long the hub may take to answer before the data count as absent."""

BANDS = ((0, 0), (1, 9), (10, 24), (25, 49), (50, None))
"""Ratings that make one group of the accuracy table; about 14, 23, 25, 26 and 11 % of the first 10,000 test rows."""


class Rows(NamedTuple):
    """Rows as text, and where each stands, for messages."""

    questions: Sequence[str]
    answers: Sequence[str]
    ratings: Sequence[str]
    places: Sequence[str]


class Source(Protocol):
    """One CSV file, wherever it is: its number of rows, and the rows at increasing indices."""

    def __len__(self) -> int: ...

    def rows(self, picked: np.ndarray) -> Rows: ...


@register_task("sudoku-extreme")
class SudokuExtreme(SudokuTask):
    """Sudoku-Extreme (Wang et al. 2025, arXiv 2506.21734, section 3): 3.8 million training and 423 thousand test
    puzzles with one solution each, as the data set's authors state; train and test share no symmetry class.

    Published "1k": 1,000 rows drawn uniformly from the training file, here seeded. Validation is the end of the test
    file, so that training keeps all its rows, and is never scored as test. Rating: guesses of the solver tdoku.
    """

    summary: ClassVar[str] = "Sudoku-Extreme, the HRM paper's hard 9x9 puzzles"
    source: ClassVar[str] = f"Hugging Face data set {HUB}"
    licence: ClassVar[str] = "not stated on the data set's card; not distributed here"
    real_data: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = ("sudoku-extreme/train.csv", "sudoku-extreme/test.csv")
    hub: ClassVar[str] = HUB
    difficulty_unit: ClassVar[str] = "rating (guesses of the solver tdoku)"

    train_rows: int | None = Field(1000, ge=0, description="0 or null: the whole training file")
    validation_rows: int = Field(500, ge=1, description="the last rows of the test file, never scored as test")
    test_rows: int | None = Field(None, ge=1, description="the first rows of the test file; null: all that remain")

    @property
    def grid_side(self) -> int:
        return 9

    def splits(self, seed: int, data: DataFolder) -> Splits:
        train, test = _open(data, "train"), _open(data, "test")
        random = generator(self.name, "train", seed)
        n = self.train_rows or len(train)
        if n > len(train):  # a sample under the name of the whole would be another task
            raise MissingData(f"train.csv holds {len(train):,} rows, train_rows = {n:,} are asked for", REMEDY)
        left = len(test) - self.validation_rows
        if left < 1:
            raise BrokenData(
                f"task {self.name}: test.csv has {len(test):,} rows, all of them taken by "
                f"validation_rows = {self.validation_rows:,}"
            )
        scored = self._load(test, np.arange(min(left, self.test_rows or left)))
        validation = self._load(test, np.arange(left, len(test)))
        # the authors promise inequivalence between their two files, not within one
        new = ~np.isin(self.canonical(validation), self.canonical(scored))
        return {
            "train": self._load(train, np.sort(random.permutation(len(train))[:n])),
            "validation": validation[new],
            "test": scored,
        }

    def notes(self, splits: Splits) -> list[str]:
        found = [*super().notes(splits), "validation: from the end of test.csv, never scored as test"]
        equivalent = self.validation_rows - len(splits["validation"])
        if equivalent:
            found.append(f"validation: {equivalent:,} rows left out, since test has them in another dress")
        return found

    def _load(self, file: Source, picked: np.ndarray) -> Examples:
        puzzles, solutions, ratings = checked(file.rows(picked))
        groups = [next(_band(low, high) for low, high in BANDS if high is None or r <= high) for r in ratings.tolist()]
        return self.examples(puzzles, solutions, ratings).with_groups(groups)


def _band(low: int, high: int | None) -> str:
    return f"rating {low}+" if high is None else f"rating {low}" if low == high else f"rating {low}-{high}"


# -- checks --------------------------------------------------------------------------------------------------------


def checked(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Puzzles [N, 81] (0 = blank), solutions [N, 81] and ratings [N]; BrokenData names the place of the first fault."""
    questions = _digits(rows.questions, "question", rows.places)
    answers = _digits(rows.answers, "answer", rows.places)
    _refuse((questions > 9).any(1), rows.places, "the question holds something other than digits and dots")
    _refuse(((answers > 9) | (answers == 0)).any(1), rows.places, "the answer holds something other than digits 1-9")
    _refuse(((questions != 0) & (questions != answers)).any(1), rows.places, "the answer changes a given digit")
    _refuse(~valid_solutions(answers), rows.places, "the answer repeats a digit in a row, column or box")
    bad_rating = np.array([not (rating.isascii() and rating.isdigit()) for rating in rows.ratings], bool)
    _refuse(bad_rating, rows.places, "the rating is not a whole number")
    return questions, answers, np.array([int(rating) for rating in rows.ratings], np.int64)


def _digits(texts: Sequence[str], column: str, places: Sequence[str]) -> np.ndarray:
    """[N, 81] uint8: 0 for `.` or `0`, the digit, or above 9 for any other character."""
    lengths = np.array([len(text) for text in texts])
    _refuse(lengths != 81, places, lambda row: f"the {column} has {lengths[row]} characters, not 81")
    codes = np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8).reshape(-1, 81)
    return np.where(codes == ord("."), 0, codes - np.uint8(ord("0"))).astype(np.uint8)


def _refuse(bad: Any, places: Sequence[str], problem: str | Callable[[int], str]) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise BrokenData(f"{places[row]}: {problem if isinstance(problem, str) else problem(row)}")


# -- where rows come from --------------------------------------------------------------------------------------------


def _open(data: DataFolder, split: str) -> Source:
    if data.root is None:
        return HubFile(split)
    return LocalFile(data.file(f"sudoku-extreme/{split}.csv", remedy=REMEDY))


class LocalFile:
    """A CSV file, read once to count its rows and once to pick some: the full training file has 3.8 million."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = sum(1 for _ in self._lines())
        if not self.count:
            raise BrokenData(f"{path}: no rows below the header")

    def __len__(self) -> int:
        return self.count

    def rows(self, picked: np.ndarray) -> Rows:
        wanted = set(picked.tolist())
        found = [line for row, line in enumerate(self._lines()) if row in wanted]
        return Rows(*zip(*found, strict=True))

    def _lines(self) -> Any:
        """(question, answer, rating, place) of each row, in file order."""
        with self.path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            try:
                header = next(reader, [])
                if set(header) != set(COLUMNS):
                    raise BrokenData(f"{self.path}, line 1: the columns must be {','.join(COLUMNS)}")
                question, answer, rating = (header.index(column) for column in COLUMNS[1:])
                for row in reader:
                    place = f"{self.path}, line {reader.line_num}"
                    if len(row) != len(header):
                        raise BrokenData(f"{place}: {len(row)} fields, not {len(header)}")
                    yield row[question], row[answer], row[rating], place
            except (UnicodeDecodeError, csv.Error) as error:
                raise BrokenData(f"{self.path}, line {reader.line_num + 1}: not readable as CSV: {error}") from error


class HubFile:
    """A file of the hub's data set. Strings are asked for, since 81-digit answers overflow the guessed number type."""

    def __init__(self, split: str) -> None:
        self.split = split
        require_hub()
        try:
            from datasets import Features, Value, load_dataset

            text = Features({column: Value("string") for column in COLUMNS})
            self.table = load_dataset(HUB, data_files={split: f"{split}.csv"}, split=split, features=text)
        except Exception as error:  # whatever goes wrong there, the data are not to be had
            raise MissingData(f"{HUB} could not be loaded ({_first_line(error)})", REMEDY) from error

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, picked: np.ndarray) -> Rows:
        table = self.table.select(picked)
        places = [f"{HUB} {self.split}.csv, line {row + 2}" for row in picked]
        # a field left empty reads as None; the checks then name its line
        question, answer, rating = ([text or "" for text in table[column]] for column in COLUMNS[1:])
        return Rows(question, answer, rating, places)


def require_hub() -> None:
    """MissingData unless the hub answers in time. With HF_HUB_OFFLINE set only the cache is asked, so it need not."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return
    trouble: list[str] = []

    def ask() -> None:
        try:
            from huggingface_hub import HfApi

            HfApi().dataset_info(HUB, timeout=HUB_SECONDS / 2)
            trouble.append("")
        except Exception as error:
            trouble.append(_first_line(error))

    # a thread, because looking up a host's name knows no time limit; left to itself `datasets` retries for 24 s
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    answer = trouble[0] if trouble else f"no answer within {HUB_SECONDS:.0f} s"
    if answer:
        raise MissingData(
            f"no data folder is set and the Hugging Face hub can't be reached ({answer})",
            f"{REMEDY}; a copy in the cache is used when HF_HUB_OFFLINE=1 is set",
        )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}".rstrip(": ")
