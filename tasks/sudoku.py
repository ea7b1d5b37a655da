"""Sudoku. `sudoku-4`, `sudoku-6` and `sudoku-9` are generated, every puzzle with one proven solution.

What all Sudoku tasks share (tokens, augmentation, classes) is here too; `sudoku-extreme` is the real data set.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from harness.errors import UserError
from harness.seeds import generator
from tasks.base import Batch, DataFolder, Examples, RowRandom, Splits, Task, register_task
from tasks.sudoku_generator import classes_of_side_4, random_dress, random_puzzles
from tasks.sudoku_solver import solve
from tasks.sudoku_symmetry import BOXES, class_keys

BLANK = 1
"""Token of an open position. Digit d is token d + 1, and 0 (padding) never occurs, as in the HRM paper's data."""

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
"""Which part of all symmetry classes belongs to a split, by hash; the rest is for training."""

MOST_BLANKS = {4: 12, 6: 26, 9: 54}
"""By side. At side 4 no puzzle with 3 givens has one solution (all were counted); at sides 6 and 9 the generator gets
slow beyond (about 170 and 70 puzzles a second there), though puzzles with more blanks exist (up to 64 at side 9)."""

GROUP_WIDTH = {4: 1, 6: 3, 9: 4}
"""Numbers of blanks that make one group of the accuracy table, by side."""

AT_ONCE = 500
"""Puzzles generated together. A fixed number, so that asking for more examples keeps those that were there."""

PATIENCE = 5
"""Batches without a new class after which a split counts as exhausted."""


class SudokuTask(Task):
    """Tokens, augmentation, classes and text of every Sudoku task. A subclass has the field or property `side`."""

    exact_means: ClassVar[str] = "every position equals the only solution"

    augmentation: bool = Field(True, description="new digits, bands, rows, stacks, columns (and transposition) per use")

    @property
    def grid_side(self) -> int:
        raise NotImplementedError

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("_", ".", *(str(d) for d in range(1, self.grid_side + 1)))

    @property
    def sequence_length(self) -> int:
        return self.grid_side**2

    def augment(self, batch: Batch, random: RowRandom) -> Batch:
        """Another dress for each row, the same for puzzle and solution: digits, bands, rows in a band, stacks,
        columns in a stack, and, where boxes are square, transposition with probability 1/2 (HRM, dataset builder)."""
        if not self.augmentation:
            return batch
        import torch

        side = self.grid_side
        height, width = BOXES[side]
        names = torch.nn.functional.pad(random.permutation(side) + 2, (2, 0))
        names[:, BLANK] = BLANK
        rows, columns = _line_order(random, side, height), _line_order(random, side, width)
        source = rows[:, :, None] * side + columns[:, None, :]  # [B, side, side]: where each position comes from
        if height == width:
            source = torch.where((random.uniform() < 0.5)[:, None, None], source.transpose(1, 2), source)
        source = source.flatten(1)

        def dress(tokens: Any) -> Any:
            return names.gather(1, tokens.gather(1, source).long()).to(tokens.dtype)

        return Batch(dress(batch.inputs), dress(batch.labels), batch.puzzle_ids, batch.facts)

    def canonical(self, examples: Examples) -> np.ndarray:
        """[N] uint64 keys of symmetry classes; see tasks/sudoku_symmetry.py for how exact they are."""
        return class_keys(examples.inputs - BLANK, examples.labels - BLANK)

    def solve(self, examples: Examples) -> np.ndarray:
        """The solution that the search of tasks/sudoku_solver.py finds."""
        return solve(examples.inputs - np.uint8(BLANK)).solutions[:, 0] + np.uint8(BLANK)

    def decode(self, tokens: np.ndarray) -> str:
        """A grid, one line per row, `.` for a blank."""
        text = "".join(self.vocabulary[int(t)] for t in tokens)
        return "\n".join(text[i : i + self.grid_side] for i in range(0, len(text), self.grid_side))

    def notes(self, splits: Splits) -> list[str]:
        """Sentences about the data for the report: how many symmetry classes each split holds."""
        return [
            f"{name}: {len(part):,} puzzles of {len(np.unique(self.canonical(part))):,} symmetry classes"
            for name, part in splits.items()
        ]

    def examples(self, puzzles: np.ndarray, solutions: np.ndarray, difficulty: np.ndarray) -> Examples:
        """Examples from digits [N, S] (0 = blank) and difficulties [N]."""
        return Examples(
            inputs=(puzzles + BLANK).astype(np.uint8),
            labels=(solutions + BLANK).astype(np.uint8),
            difficulty=difficulty.astype(np.float32),
        )


def _line_order(random: RowRandom, side: int, size: int) -> Any:
    """[B, side]: a random order of rows (or columns) that keeps bands (or stacks) of `size` together."""
    import torch

    blocks = random.permutation(side // size)
    within = torch.stack([random.permutation(size) for _ in range(side // size)], 1)
    return (blocks[:, :, None] * size + within).flatten(1)


@register_task("sudoku-4", side=4, min_blanks=8, max_blanks=11)
@register_task("sudoku-6", side=6, min_blanks=14, max_blanks=22)
@register_task("sudoku-9", side=9, min_blanks=40, max_blanks=50)
class Sudoku(SudokuTask):
    """Generated puzzles. A symmetry class belongs to one split, by a hash of the class; test and validation hold one
    puzzle per class, so that their examples are independent.

    Side 4 has few classes: 980, 1,040, 711, 376, 96 and 13 with 7 to 12 blanks, 2,223 with the 8 to 11 of the default
    (4,710 in all). They are enumerated, and each puzzle is shown in a random dress; training repeats classes once it
    has used all of its own. Sides 6 (2x3 boxes) and 9 draw random puzzles from far more classes than they use.
    Singles alone solve nearly all generated puzzles (0 guesses), so accuracy is grouped by the number of blanks.
    """

    summary: ClassVar[str] = "Sudoku with one solution, generated: fill the blanks"
    difficulty_unit: ClassVar[str] = "guesses of the exact solver"

    side: Literal[4, 6, 9] = 4
    min_blanks: int = Field(8, ge=1)
    max_blanks: int = Field(11, ge=1)
    train_examples: int = Field(1000, ge=1)
    validation_examples: int = Field(200, ge=1)
    test_examples: int = Field(300, ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Sudoku:
        if self.name not in ("", f"sudoku-{self.side}"):
            raise ValueError(f"{self.name} has side {self.name[-1]}; for side {self.side} use sudoku-{self.side}")
        if self.min_blanks > self.max_blanks:
            raise ValueError(f"min_blanks ({self.min_blanks}) is above max_blanks ({self.max_blanks})")
        if self.max_blanks > MOST_BLANKS[self.side]:
            raise ValueError(f"max_blanks is at most {MOST_BLANKS[self.side]} at side {self.side}")
        return self

    @property
    def grid_side(self) -> int:
        return self.side

    def splits(self, seed: int, data: DataFolder) -> Splits:
        held_out = {"validation": self.validation_examples, "test": self.test_examples}
        draw = self._from_all_classes if self.side == 4 else self._from_random_puzzles
        train = draw({"train": self.train_examples}, generator("sudoku", self.side, "train", seed))
        return train | draw(held_out, generator("sudoku", self.side, "held out"))

    def _from_all_classes(self, wanted: dict[str, int], random: np.random.Generator) -> Splits:
        puzzles, solutions = classes_of_side_4((self.min_blanks, self.max_blanks))
        owner = split_of(class_keys(puzzles, solutions))
        parts = {}
        for name, n in wanted.items():
            mine = np.flatnonzero(owner == name)
            self._require(name, n, len(mine))
            picked = np.concatenate([random.permutation(mine) for _ in range(-(-n // len(mine)))])[:n]
            dressed = random_dress(puzzles[picked], solutions[picked], random)
            parts[name] = self._examples(*dressed, solve(dressed[0]).guesses)
        return parts

    def _from_random_puzzles(self, wanted: dict[str, int], random: np.random.Generator) -> Splits:
        """Draws until every split has enough new classes; where training runs short of them, it repeats some."""
        rows: dict[str, list[tuple[np.ndarray, np.ndarray, int]]] = {name: [] for name in wanted}
        seen: set[int] = set()
        dry = 0
        while short := [name for name, n in wanted.items() if len(rows[name]) < n]:
            before = sum(len(rows[name]) for name in short)
            puzzles, solutions, guesses = random_puzzles(self.side, AT_ONCE, (self.min_blanks, self.max_blanks), random)
            keys = class_keys(puzzles, solutions)
            for key, name, *row in zip(keys.tolist(), split_of(keys), puzzles, solutions, guesses, strict=True):
                if name in rows and key not in seen:
                    rows[name].append(tuple(row))
                seen.add(key)
            dry = dry + 1 if sum(len(rows[name]) for name in short) == before else 0
            if dry == PATIENCE:
                for name in short:
                    self._require(name, wanted[name], len(rows[name]))
                    rows[name] *= -(-wanted[name] // len(rows[name]))
        return {
            name: self._examples(*(np.array(column) for column in zip(*rows[name][:n], strict=True)))
            for name, n in wanted.items()
        }

    def _require(self, split: str, wanted: int, found: int) -> None:
        """Refuse a split that can't have one class per example, or, for training, has none at all."""
        if found < (1 if split == "train" else wanted):
            raise UserError(
                f"task {self.name}: {split}_examples is {wanted}, but puzzles with {self.min_blanks} to "
                f"{self.max_blanks} blanks give that split {found} symmetry classes; lower it or widen the blanks"
            )

    def _examples(self, puzzles: np.ndarray, solutions: np.ndarray, guesses: np.ndarray) -> Examples:
        blanks, width = (puzzles == 0).sum(1), GROUP_WIDTH[self.side]
        low = blanks - (blanks - self.min_blanks) % width
        high = np.minimum(low + width - 1, self.max_blanks)
        groups = [f"{a:02d} blanks" if a == b else f"{a:02d}-{b:02d} blanks" for a, b in zip(low, high, strict=True)]
        return self.examples(puzzles, solutions, guesses).with_groups(groups)


def split_of(keys: np.ndarray) -> np.ndarray:
    """[N] str: the split that owns each class, whatever the seed and the settings."""
    share = keys / 2.0**64
    return np.select(
        [share < TEST_SHARE, share < TEST_SHARE + VALIDATION_SHARE], ["test", "validation"], default="train"
    )
