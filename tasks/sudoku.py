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
from tasks.ownership import fill, split_of
from tasks.sudoku_generator import classes_of_side_4, harder_puzzles, random_dress, random_puzzles
from tasks.sudoku_solver import solve
from tasks.sudoku_symmetry import BOXES, class_keys

BLANK = 1
"""Token of an open position. Digit d is token d + 1, and 0 (padding) never occurs, as in the HRM paper's data."""

MOST_BLANKS = {4: 12, 6: 26, 9: 54}
"""By side. At side 4 no puzzle with 3 givens has one solution (all were counted); at sides 6 and 9 the generator gets
slow beyond (about 170 and 70 puzzles a second there), though puzzles with more blanks exist (up to 64 at side 9)."""

GROUP_WIDTH = {4: 1, 6: 3, 9: 4}
"""Numbers of blanks that make one group of the accuracy table, by side."""

BANDS = {"any": (0, None), "easy": (0, 0), "hard": (1, 9), "extreme": (10, None)}
"""Guesses of the exact solver. Of random puzzles with 54 blanks 85 % are easy and 1 % extreme."""

GUESSES_OF_EXTREME = 136
"""Mean guesses of the same solver over 10,000 test rows of Sudoku-Extreme (median 130; 10 % need none)."""

AT_ONCE = 500
"""Puzzles generated together. A fixed number, so that asking for more examples keeps those that were there."""

PATIENCE = 5
"""Batches without a new class after which a split counts as exhausted."""


class SudokuTask(Task):
    """Tokens, augmentation, classes and text of every Sudoku task. A subclass has the field or property `side`."""

    version: ClassVar[int] = 2  # 2: rounds as difficulty, one blank, another order of repairs
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
        return dress(batch, *self.symmetry(random)) if self.augmentation else batch

    def symmetry(self, random: RowRandom) -> tuple[Any, Any]:
        """A random symmetry per row: each token's new name [B, side + 2] and where each position comes from [B, S].

        Digits, bands, rows in a band, stacks, columns in a stack, and, where boxes are square, transposition with
        probability 1/2 (HRM, dataset builder).
        """
        import torch

        side = self.grid_side
        height, width = BOXES[side]
        names = torch.nn.functional.pad(random.permutation(side) + 2, (2, 0))
        names[:, BLANK] = BLANK
        rows, columns = _line_order(random, side, height), _line_order(random, side, width)
        source = rows[:, :, None] * side + columns[:, None, :]
        if height == width:
            source = torch.where((random.uniform() < 0.5)[:, None, None], source.transpose(1, 2), source)
        return names, source.flatten(1)

    def canonical(self, examples: Examples) -> np.ndarray:
        """[N] uint64 keys of symmetry classes; see tasks/sudoku_symmetry.py for how exact they are."""
        return class_keys(examples.inputs - BLANK, examples.labels - BLANK)

    def solve(self, examples: Examples) -> np.ndarray:
        """The solution that the search of tasks/sudoku_solver.py finds."""
        return solve(examples.inputs - np.uint8(BLANK)).solutions[:, 0] + np.uint8(BLANK)

    @property
    def columns(self) -> int:
        return self.grid_side

    def parse(self, text: str) -> Examples:
        """side² digits, line by line or in one line, `.` or 0 for a blank. It must have exactly one solution."""
        symbols = "".join(text.split()).replace("0", ".")
        positions = self.sequence_length
        wrong = [c for c in symbols if c not in self.vocabulary[BLANK:]]
        if wrong or len(symbols) != positions:
            found = f'"{wrong[0]}" is none of them' if wrong else f"{len(symbols)} are given"
            raise UserError(f"a puzzle of {self.name} is {positions} digits 1-{self.grid_side} or blanks (.): {found}")
        puzzle = np.array([[self.vocabulary.index(c) - BLANK for c in symbols]], np.uint8)
        solved = solve(puzzle)
        if not solved.unique[0]:
            raise UserError(f"the puzzle has {'more than one' if solved.number[0] > 1 else 'no'} solution")
        return self.examples(puzzle, solved.solutions[:, 0], solved.guesses)

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

    def one_blank(self, test: Examples, n: int, difficulty: float) -> Examples:
        """n puzzles with one blank, from the first solutions of `test`: a model that solves hard puzzles and fails here
        has learnt something else than Sudoku (arXiv 2601.10679 reports that HRM can)."""
        random = generator("sudoku", self.grid_side, "one blank")
        puzzles = test.labels[np.arange(n) % len(test)] - BLANK
        solutions = puzzles.copy()
        puzzles[np.arange(n), random.integers(0, puzzles.shape[1], n)] = 0
        return self.examples(puzzles, solutions, np.full(n, difficulty)).with_groups(["one blank"] * n)


def dress(batch: Batch, names: Any, source: Any) -> Batch:
    """The rows under a symmetry each, the same for puzzle and solution. Its inverse is names and source, argsorted."""

    def dressed(tokens: Any) -> Any:
        return names.gather(1, tokens.gather(1, source).long()).to(tokens.dtype)

    return Batch(dressed(batch.inputs), dressed(batch.labels), batch.puzzle_ids, batch.facts)


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
    Difficulty is the number of rounds of the exact solver, summed over its search, since its rules alone solve nearly
    all generated puzzles (0 guesses). `band` chooses by guesses; `hard` and `extreme` (side 9) are found by a search
    that starts from puzzles with the blanks asked for and ends with more. It stops where the band begins, so `extreme`
    puzzles need about 12 guesses on average, Sudoku-Extreme's 136 (by the same solver); 1,200 changes instead of
    230 brought 200 puzzles to a mean of 20 only. Out of distribution: `ood-one-blank`.
    """

    summary: ClassVar[str] = "Sudoku with one solution, generated: fill the blanks"
    difficulty_unit: ClassVar[str] = "rounds of the exact solver, one rule at a time"

    side: Literal[4, 6, 9] = 4
    min_blanks: int = Field(8, ge=1)
    max_blanks: int = Field(11, ge=1)
    band: Literal["any", "easy", "hard", "extreme"] = Field("any", description="0, 1 to 9, or 10 and more guesses")
    train_examples: int = Field(1000, ge=1)
    validation_examples: int = Field(200, ge=1)
    test_examples: int = Field(300, ge=1)
    one_blank_examples: int = Field(
        100, ge=0, description="of ood-one-blank, where puzzles have more; 0: no such split"
    )

    @model_validator(mode="after")
    def _possible(self) -> Sudoku:
        if self.name not in ("", f"sudoku-{self.side}"):
            raise ValueError(f"{self.name} has side {self.name[-1]}; for side {self.side} use sudoku-{self.side}")
        if self.min_blanks > self.max_blanks:
            raise ValueError(f"min_blanks ({self.min_blanks}) is above max_blanks ({self.max_blanks})")
        if self.max_blanks > MOST_BLANKS[self.side]:
            raise ValueError(f"max_blanks is at most {MOST_BLANKS[self.side]} at side {self.side}")
        if self.band in ("hard", "extreme") and self.side != 9:
            raise ValueError(f"puzzles of side {self.side} need hardly any guesses; band {self.band} has side 9 only")
        return self

    @property
    def grid_side(self) -> int:
        return self.side

    def splits(self, seed: int, data: DataFolder) -> Splits:
        held_out = {"validation": self.validation_examples, "test": self.test_examples}
        draw = self._from_all_classes if self.side == 4 else self._from_random_puzzles
        train = draw({"train": self.train_examples}, generator("sudoku", self.side, "train", seed))
        parts = train | draw(held_out, generator("sudoku", self.side, "held out"))
        if self.one_blank_examples and self.min_blanks > 1:
            parts["ood-one-blank"] = self.one_blank(parts["test"], self.one_blank_examples, difficulty=1)
        return parts

    def notes(self, splits: Splits) -> list[str]:
        if self.side != 9:
            return super().notes(splits)
        mean = solve(splits["test"].inputs - BLANK).guesses.mean()
        real = f"{GUESSES_OF_EXTREME} over 10,000 test rows of Sudoku-Extreme"
        return [*super().notes(splits), f"mean guesses of the exact solver: {mean:.1f} over test; {real}"]

    def _from_all_classes(self, wanted: dict[str, int], random: np.random.Generator) -> Splits:
        puzzles, solutions = classes_of_side_4((self.min_blanks, self.max_blanks))
        owner = split_of(class_keys(puzzles, solutions))
        parts = {}
        for name, n in wanted.items():
            mine = np.flatnonzero(owner == name)
            self._require(name, n, len(mine))
            picked = np.concatenate([random.permutation(mine) for _ in range(-(-n // len(mine)))])[:n]
            dressed = random_dress(puzzles[picked], solutions[picked], random)
            parts[name] = self._examples(*dressed)
        return parts

    def _from_random_puzzles(self, wanted: dict[str, int], random: np.random.Generator) -> Splits:
        """Training repeats classes where it runs short of them."""

        def draw() -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
            blanks, (low, high) = (self.min_blanks, self.max_blanks), BANDS[self.band]
            if low:
                puzzles, solutions, guesses = harder_puzzles(AT_ONCE, blanks, low, random)
            else:
                puzzles, solutions, guesses = random_puzzles(self.side, AT_ONCE, blanks, random)
            wanted = guesses <= (guesses if high is None else high)
            puzzles, solutions = puzzles[wanted], solutions[wanted]
            return class_keys(puzzles, solutions), (puzzles, solutions)

        parts = {}
        for name, (puzzles, solutions) in fill(wanted, draw, patience=PATIENCE).items():
            self._require(name, wanted[name], len(puzzles))
            rows = np.arange(wanted[name]) % len(puzzles)
            parts[name] = self._examples(puzzles[rows], solutions[rows])
        return parts

    def _require(self, split: str, wanted: int, found: int) -> None:
        """Refuse a split that can't have one class per example, or, for training, has none at all."""
        if found < (1 if split == "train" else wanted):
            raise UserError(
                f"task {self.name}: {split}_examples is {wanted}, but puzzles with {self.min_blanks} to "
                f"{self.max_blanks} blanks give that split {found} symmetry classes; lower it or widen the blanks"
            )

    def _examples(self, puzzles: np.ndarray, solutions: np.ndarray) -> Examples:
        blanks, width = (puzzles == 0).sum(1), GROUP_WIDTH[self.side]
        low = blanks - (blanks - self.min_blanks) % width
        most = self.max_blanks if BANDS[self.band][0] == 0 else puzzles.shape[1]  # hard puzzles end with more
        high = np.minimum(low + width - 1, most)
        groups = [f"{a:02d} blanks" if a == b else f"{a:02d}-{b:02d} blanks" for a, b in zip(low, high, strict=True)]
        return self.examples(puzzles, solutions, solve(puzzles, one_rule=True).rounds).with_groups(groups)
