"""`sudoku-extreme`: the HRM paper's Sudoku data, 1,000 training puzzles by default, most of them very hard.

The files are read from the data folder where one is set, else from the Hugging Face hub. Every row used is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from harness.errors import BrokenData, MissingData
from harness.seeds import generator
from tasks.base import DataFolder, Examples, Splits, register_task
from tasks.puzzle_csv import DataSet, Rows, Source, codes, refuse, whole_numbers
from tasks.sudoku import SudokuTask
from tasks.sudoku_symmetry import valid_solutions

FILES = DataSet("sapientinc/sudoku-extreme", "sudoku-extreme")

BANDS = ((0, 0), (1, 9), (10, 24), (25, 49), (50, None))
"""Ratings that make one group of the accuracy table; about 14, 23, 25, 26 and 11 % of the first 10,000 test rows."""


@register_task("sudoku-extreme")
class SudokuExtreme(SudokuTask):
    """Sudoku-Extreme (Wang et al. 2025, arXiv 2506.21734, section 3): 3.8 million training and 423 thousand test
    puzzles with one solution each, as the data set's authors state; train and test share no symmetry class.

    Published "1k": 1,000 rows drawn uniformly from the training file, here seeded. Validation is the end of the test
    file, so that training keeps all its rows, and is never scored as test. Rating: guesses of the solver tdoku.
    """

    summary: ClassVar[str] = "Sudoku-Extreme, the HRM paper's hard 9x9 puzzles"
    source: ClassVar[str] = f"Hugging Face data set {FILES.hub}"
    licence: ClassVar[str] = "not stated on the data set's card; not distributed here"
    real_data: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = ("sudoku-extreme/train.csv", "sudoku-extreme/test.csv")
    hub: ClassVar[str] = FILES.hub
    difficulty_unit: ClassVar[str] = "rating (guesses of the solver tdoku)"

    train_rows: int | None = Field(1000, ge=0, description="0 or null: the whole training file")
    validation_rows: int = Field(500, ge=1, description="the last rows of the test file, never scored as test")
    test_rows: int | None = Field(None, ge=1, description="the first rows of the test file; null: all that remain")
    one_blank_examples: int = Field(200, ge=0, description="of ood-one-blank, solutions of test rows; 0: no such split")

    @property
    def grid_side(self) -> int:
        return 9

    def splits(self, seed: int, data: DataFolder) -> Splits:
        train, test = FILES.open(data, "train"), FILES.open(data, "test")
        random = generator(self.name, "train", seed)
        n = self.train_rows or len(train)
        if n > len(train):  # a sample under the name of the whole would be another task
            raise MissingData(f"train.csv holds {len(train):,} rows, train_rows = {n:,} are asked for", FILES.remedy)
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
        parts = {
            "train": self._load(train, np.sort(random.permutation(len(train))[:n])),
            "validation": validation[new],
            "test": scored,
        }
        if self.one_blank_examples:
            parts["ood-one-blank"] = self.one_blank(scored, self.one_blank_examples, difficulty=0)
        return parts

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
    refuse((questions > 9).any(1), rows.places, "the question holds something other than digits and dots")
    refuse(((answers > 9) | (answers == 0)).any(1), rows.places, "the answer holds something other than digits 1-9")
    refuse(((questions != 0) & (questions != answers)).any(1), rows.places, "the answer changes a given digit")
    refuse(~valid_solutions(answers), rows.places, "the answer repeats a digit in a row, column or box")
    return questions, answers, whole_numbers(rows.ratings, "rating", rows.places)


def _digits(texts: Sequence[str], column: str, places: Sequence[str]) -> np.ndarray:
    """[N, 81] uint8: 0 for `.` or `0`, the digit, or above 9 for any other character."""
    found = codes(texts, 81, column, places)
    return np.where(found == ord("."), 0, found - np.uint8(ord("0"))).astype(np.uint8)
