"""`maze-hard`: Maze-Hard, the HRM paper's 30x30 mazes whose shortest path has at least 109 steps.

The files are read from the data folder where one is set, else from the Hugging Face hub. Every row is checked.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from tasks.base import Examples, register_task
from tasks.maze import MazeTask
from tasks.maze_rule import FREE, GOAL, PATH, START, WALL, answers, is_shortest_path
from tasks.puzzle_csv import PuzzleFiles, PuzzleTask, Rows

SIDE = 30
SHORTEST = 109
"""Steps of the shortest path in the easiest rows."""

FILES = PuzzleFiles("sapientinc/maze-30x30-hard-1k", "maze-30x30-hard-1k", SIDE**2)
TOKENS = np.zeros(256, np.uint8)
"""Token of each character code; 0 for any that is none."""
TOKENS[[ord(symbol) for symbol in "# SGo"]] = (WALL, FREE, START, GOAL, PATH)


@register_task("maze-hard")
class MazeHard(PuzzleTask, MazeTask):
    """Maze-Hard (Wang et al. 2025, arXiv 2506.21734, section 3; mazes as in Lehnert et al. 2024): 1,000 training and
    1,000 test mazes, with 37 % walls on average. None of them has a single shortest path.

    Validation is the end of the test file, so that training keeps all its rows, and is never scored as test. Rows that
    a turn or reflection makes equal to a row of test are left out of it. A row whose answer is not the shortest path
    that the labelling rule gives is refused as broken, since labels of turned mazes follow that rule.
    """

    of_hub: ClassVar[PuzzleFiles] = FILES
    summary: ClassVar[str] = "Maze-Hard, the HRM paper's 30x30 mazes: mark a shortest path"
    source: ClassVar[str] = f"Hugging Face data set {FILES.hub}"
    files: ClassVar[tuple[str, ...]] = FILES.names
    hub: ClassVar[str] = FILES.hub

    validation_rows: int = Field(100, ge=1, description="the last rows of the test file, never scored as test")

    @property
    def grid_side(self) -> int:
        return SIDE

    def chosen(self, rows: Rows) -> Examples:
        return self.examples(checked(rows), SHORTEST)


def checked(rows: Rows) -> np.ndarray:
    """Mazes [N, 900] as tokens, their answers verified; BrokenData names the place of the first fault."""
    mazes, labels = TOKENS[rows.questions], TOKENS[rows.answers]
    rows.refuse((mazes == 0).any(1) | (mazes == PATH).any(1), "the question holds something other than '# SG'")
    rows.refuse((labels == 0).any(1), "the answer holds something other than '# SGo'")
    for token, name in ((START, "S"), (GOAL, "G")):
        rows.refuse((mazes == token).sum(1) != 1, f"the question has not exactly one {name}")
    drawn = (labels == mazes) | ((labels == PATH) & (mazes == FREE))
    rows.refuse(~drawn.all(1), "the answer changes something other than blanks into path")
    expected, steps = answers(mazes)
    rows.refuse(steps < 0, "no path leads from S to G")
    shortest = is_shortest_path(mazes, expected, labels)
    rows.refuse(~shortest, "the answer is not a shortest path from S to G")
    rows.refuse(
        (labels != expected).any(1),
        "the answer is a shortest path, but not the first in the order Down, Left, Right, Up, as the data set's are",
    )
    rows.refuse(rows.ratings != steps + 1, lambda row: f"the rating is {rows.ratings[row]}, not steps + 1")
    return mazes
