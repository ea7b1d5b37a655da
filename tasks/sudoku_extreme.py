"""`sudoku-extreme`: the HRM paper's Sudoku data, 1,000 training puzzles by default, most of them very hard.

The files are read from the data folder where one is set, else from the Hugging Face hub. Every row used is checked.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from tasks.base import DataFolder, Examples, Splits, register_task
from tasks.puzzle_csv import PuzzleFiles, PuzzleTask, Rows
from tasks.sudoku import SudokuTask
from tasks.sudoku_symmetry import valid_solutions

FILES = PuzzleFiles("sapientinc/sudoku-extreme", "sudoku-extreme", 81)

BANDS = ((0, 0), (1, 9), (10, 24), (25, 49), (50, None))
"""Ratings that make one group of the accuracy table; about 14, 23, 25, 26 and 11 % of the first 10,000 test rows."""


@register_task("sudoku-extreme")
class SudokuExtreme(PuzzleTask, SudokuTask):
    """Sudoku-Extreme (Wang et al. 2025, arXiv 2506.21734, section 3): 3.8 million training and 423 thousand test
    puzzles with one solution each, as the data set's authors state; train and test share no symmetry class.

    Published "1k": 1,000 rows drawn uniformly from the training file, here seeded. Validation is the end of the test
    file, so that training keeps all its rows, and is never scored as test. Rating: guesses of the solver tdoku.
    """

    of_hub: ClassVar[PuzzleFiles] = FILES
    summary: ClassVar[str] = "Sudoku-Extreme, the HRM paper's hard 9x9 puzzles"
    source: ClassVar[str] = f"Hugging Face data set {FILES.hub}"
    files: ClassVar[tuple[str, ...]] = FILES.names
    hub: ClassVar[str] = FILES.hub
    difficulty_unit: ClassVar[str] = "rating (guesses of the solver tdoku)"

    one_blank_examples: int = Field(200, ge=0, description="of ood-one-blank, solutions of test rows; 0: no such split")

    @property
    def grid_side(self) -> int:
        return 9

    def splits(self, seed: int, data: DataFolder) -> Splits:
        parts = super().splits(seed, data)
        if self.one_blank_examples:
            parts["ood-one-blank"] = self.one_blank(parts["test"], self.one_blank_examples, difficulty=0)
        return parts

    def chosen(self, rows: Rows) -> Examples:
        puzzles, solutions = checked(rows)
        ratings = rows.ratings.tolist()
        groups = [next(_band(low, high) for low, high in BANDS if high is None or r <= high) for r in ratings]
        return self.examples(puzzles, solutions, rows.ratings).with_groups(groups)


def _band(low: int, high: int | None) -> str:
    return f"rating {low}+" if high is None else f"rating {low}" if low == high else f"rating {low}-{high}"


# -- checks --------------------------------------------------------------------------------------------------------


def checked(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Puzzles [N, 81] (0 = blank) and solutions [N, 81]; BrokenData names the place of the first fault."""
    questions, answers = _digits(rows.questions), _digits(rows.answers)
    rows.refuse((questions > 9).any(1), "the question holds something other than digits and dots")
    rows.refuse(((answers > 9) | (answers == 0)).any(1), "the answer holds something other than digits 1-9")
    rows.refuse(((questions != 0) & (questions != answers)).any(1), "the answer changes a given digit")
    rows.refuse(~valid_solutions(answers), "the answer repeats a digit in a row, column or box")
    return questions, answers


def _digits(found: np.ndarray) -> np.ndarray:
    """[N, 81] uint8: 0 for `.` or `0`, the digit, or above 9 for any other character."""
    return np.where(found == ord("."), 0, found - np.uint8(ord("0"))).astype(np.uint8)
