"""`maze-hard`: Maze-Hard, the HRM paper's 30x30 mazes whose shortest path has at least 109 steps.

The files are read from the data folder where one is set, else from the Hugging Face hub. Every row is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from harness.errors import BrokenData, MissingData
from harness.seeds import generator
from tasks.base import DataFolder, Examples, Splits, register_task
from tasks.maze import MazeTask
from tasks.maze_rule import FREE, GOAL, PATH, START, answers, is_shortest_path
from tasks.puzzle_csv import DataSet, Rows, Source, codes, refuse, whole_numbers

SIDE = 30
SHORTEST = 109
"""Steps of the shortest path in the easiest rows."""

FILES = DataSet("sapientinc/maze-30x30-hard-1k", "maze-30x30-hard-1k")
SYMBOLS = {"#": 1, " ": FREE, "S": START, "G": GOAL, "o": PATH}


@register_task("maze-hard")
class MazeHard(MazeTask):
    """Maze-Hard (Wang et al. 2025, arXiv 2506.21734, section 3; mazes as in Lehnert et al. 2024): 1,000 training and
    1,000 test mazes, with 37 % walls on average. None of them has a single shortest path.

    Validation is the end of the test file, so that training keeps all its rows, and is never scored as test. Rows that
    a turn or reflection makes equal to a row of test are left out of it. A row whose answer is not the shortest path
    that the labelling rule gives is refused as broken, since labels of turned mazes follow that rule.
    """

    summary: ClassVar[str] = "Maze-Hard, the HRM paper's 30x30 mazes: mark a shortest path"
    source: ClassVar[str] = f"Hugging Face data set {FILES.hub}"
    licence: ClassVar[str] = "not stated on the data set's card; not distributed here"
    real_data: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = ("maze-30x30-hard-1k/train.csv", "maze-30x30-hard-1k/test.csv")
    hub: ClassVar[str] = FILES.hub

    train_rows: int | None = Field(1000, ge=1, description="a seeded sample of the training file; null: all of it")
    validation_rows: int = Field(100, ge=1, description="the last rows of the test file, never scored as test")
    test_rows: int | None = Field(None, ge=1, description="the first rows of the test file; null: all that remain")

    @property
    def grid_side(self) -> int:
        return SIDE

    def splits(self, seed: int, data: DataFolder) -> Splits:
        train, test = FILES.open(data, "train"), FILES.open(data, "test")
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
        new = ~np.isin(self.canonical(validation), self.canonical(scored))
        rows = np.sort(generator(self.name, "train", seed).permutation(len(train))[:n])
        return {"train": self._load(train, rows), "validation": validation[new], "test": scored}

    def _load(self, file: Source, picked: np.ndarray) -> Examples:
        return self.examples(checked(file.rows(picked)), SHORTEST)


def checked(rows: Rows) -> np.ndarray:
    """Mazes [N, 900] as tokens, their answers verified; BrokenData names the place of the first fault."""
    mazes, labels = _tokens(rows.questions, "question", rows), _tokens(rows.answers, "answer", rows)
    refuse((mazes == 0).any(1) | (mazes == PATH).any(1), rows.places, "the question holds something other than '# SG'")
    refuse((labels == 0).any(1), rows.places, "the answer holds something other than '# SGo'")
    for token, name in ((START, "S"), (GOAL, "G")):
        refuse((mazes == token).sum(1) != 1, rows.places, f"the question has not exactly one {name}")
    drawn = (labels == mazes) | ((labels == PATH) & (mazes == FREE))
    refuse(~drawn.all(1), rows.places, "the answer changes something other than blanks into path")
    expected, steps = answers(mazes)
    refuse(steps < 0, rows.places, "no path leads from S to G")
    shortest = is_shortest_path(mazes, expected, labels)
    refuse(~shortest, rows.places, "the answer is not a shortest path from S to G")
    refuse(
        (labels != expected).any(1),
        rows.places,
        "the answer is a shortest path, but not the first in the order Down, Left, Right, Up, as the data set's are",
    )
    ratings = whole_numbers(rows.ratings, "rating", rows.places)
    refuse(ratings != steps + 1, rows.places, lambda row: f"the rating is {ratings[row]}, not steps + 1")
    return mazes


def _tokens(texts: Sequence[str], column: str, rows: Rows) -> np.ndarray:
    """[N, 900] uint8; 0 for any other character."""
    table = np.zeros(256, np.uint8)
    for symbol, token in SYMBOLS.items():
        table[ord(symbol)] = token
    return table[codes(texts, SIDE**2, column, rows.places)]
