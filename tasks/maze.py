"""Mazes: mark a shortest path. `maze` (any side up to 30), `maze-6`, `maze-10`, `maze-20`, `maze-30` are generated.

What all maze tasks share (tokens, both counts of right answers, augmentation, classes) is here too; `maze-hard` is the
real data set.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from harness.errors import UserError
from harness.seeds import generator
from tasks.base import Array, Batch, DataFolder, Examples, RowRandom, Splits, Task, register_task
from tasks.maze_generator import random_mazes
from tasks.maze_rule import (
    LARGEST_SIDE,
    PATH,
    all_turns,
    answers,
    class_keys,
    composition,
    is_shortest_path,
    turned,
)
from tasks.ownership import fill

AT_ONCE = 1000
"""Mazes drawn together. A fixed number, so that asking for more examples keeps those that were there."""

PATIENCE = 50
"""Draws without a new maze after which the settings count as too hard."""


class MazeTask(Task):
    """Tokens, verdicts, augmentation, classes and text of every maze task. A subclass has the field or property
    `grid_side`.

    Most mazes have several shortest paths. The label is the one that breadth-first search finds (tasks/maze_rule.py);
    `exact`, which decides, asks for it as the published code does, and `valid` takes any shortest path, as the paper
    says. A turned maze has another label than the turned label. Searching anew per update takes 15 ms for 64 mazes of
    side 30 and 92 ms for 768 (in tensor operations on one CPU core; some 2,000 dependent ones on any device). So the
    eight labels of every maze are found once and travel with it as bits (0.9 kB at side 30), and augmentation, on the
    device, picks one: 0.8 and 13 ms, turning included.
    """

    exact_means: ClassVar[str] = "equal to the label, one of several shortest paths; `valid` counts any of them"
    difficulty_unit: ClassVar[str] = "steps of the shortest path"

    augmentation: bool = Field(True, description="one of the eight turns and reflections per use, labelled anew")

    @property
    def grid_side(self) -> int:
        raise NotImplementedError

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("_", "#", " ", "S", "G", "o")

    @property
    def sequence_length(self) -> int:
        return self.grid_side**2

    def metrics(self, batch: Batch, prediction: Array) -> dict[str, Array]:
        return {"valid": is_shortest_path(batch.inputs, batch.labels, prediction)}

    def solve(self, examples: Examples) -> np.ndarray:
        """The path that the labelling rule's search finds."""
        return answers(examples.inputs)[0]

    def metric_notes(self) -> dict[str, str]:
        return {"valid": "any shortest path from S to G, and nothing else changed"}

    def augment(self, batch: Batch, random: RowRandom) -> Batch:
        if not self.augmentation:
            return batch
        return turn(batch, random.integers(8), self.grid_side)

    def canonical(self, examples: Examples) -> np.ndarray:
        """[N] uint64 keys, equal for mazes that a turn or reflection makes equal."""
        return class_keys(examples.inputs)

    @property
    def columns(self) -> int:
        return self.grid_side

    def parse(self, text: str) -> Examples:
        """`side` lines of `#` (wall), blank or `.` (free), one S and one G. Blanks at the ends of lines may lack."""
        side = self.grid_side
        lines = [line.replace(".", " ").ljust(side) for line in text.strip("\r\n").splitlines()]
        found = "".join(lines)
        if len(lines) != side or len(found) != side * side:
            raise UserError(f"a maze of {self.name} is {side} lines of {side} characters; {len(lines)} lines are given")
        wrong = sorted(set(found) - set("# SG"))
        if wrong or found.count("S") != 1 or found.count("G") != 1:
            raise UserError(f"a maze holds #, blanks, one S and one G{f', but no {wrong[0]!r}' if wrong else ''}")
        maze = np.array([[self.vocabulary.index(c) for c in found]], np.uint8)
        if answers(maze)[1][0] < 0:
            raise UserError("no path leads from S to G")
        return self.examples(maze, 1)

    def decode(self, tokens: np.ndarray) -> str:
        """A grid, one line per row; blanks at the ends of a line count."""
        text = "".join(self.vocabulary[int(t)] for t in tokens)
        return "\n".join(text[i : i + self.grid_side] for i in range(0, len(text), self.grid_side))

    def examples(self, mazes: np.ndarray, shortest: int) -> Examples:
        """Examples from mazes [N, S]; `shortest` steps begin the first group of the accuracy table."""
        side = self.grid_side
        labels, steps = answers(mazes)
        width = max(1, side // 3)
        low = steps - (steps - shortest) % width
        return Examples(
            inputs=mazes,
            labels=labels,
            difficulty=steps.astype(np.float32),
            groups=np.array([f"{a:03d} steps" if width == 1 else f"{a:03d}-{a + width - 1:03d} steps" for a in low]),
            facts={"paths": np.stack([paths_of(mazes[:, source]) for source in all_turns(side)], 1)},
        )

    def notes(self, splits: Splits) -> list[str]:
        """Sentences about the data for the report: lengths and walls per split."""
        return [
            f"{name}: {len(part):,} mazes, {part.difficulty.min():.0f} to {part.difficulty.max():.0f} steps "
            f"(mean {part.difficulty.mean():.1f}), {(part.inputs == 1).mean():.0%} walls"
            for name, part in splits.items()
        ]


def paths_of(mazes: np.ndarray) -> np.ndarray:
    """[N, ceil(S / 8)] uint8: the label's path of each maze as bits."""
    return np.packbits(answers(mazes)[0] == PATH, axis=1, bitorder="little")


def turn(batch: Batch, turns: Any, side: int) -> Batch:
    """The rows under their turns [B] int64, labelled as the rule labels the turned maze. Torch tensors only.

    The fact `paths` [B, 8, ceil(S / 8)] holds the path under each turn; it is turned too, so that turns can follow
    one another.
    """
    import torch

    device = turns.device
    positions = torch.arange(side * side, device=device)
    source = turned(turns[:, None], positions, side)
    inputs = batch.inputs.gather(1, source)
    after = torch.as_tensor(composition(), device=device)[turns]
    paths = batch.facts["paths"].gather(1, after[:, :, None].expand_as(batch.facts["paths"]))
    on = (paths[:, 0, positions // 8] >> (positions % 8).to(paths.dtype)) & 1
    labels = torch.where(on == 1, torch.full_like(inputs, PATH), inputs)
    return Batch(inputs, labels.to(batch.labels.dtype), batch.puzzle_ids, batch.facts | {"paths": paths})


@register_task("maze")
@register_task("maze-6", side=6, density=0.35, min_steps=4, max_steps=9)
@register_task("maze-10", side=10, density=0.35, min_steps=8, max_steps=20)
@register_task("maze-20", side=20, density=0.37, min_steps=30, max_steps=55)
@register_task("maze-30", side=30, density=0.37, min_steps=60, max_steps=108)
class Maze(MazeTask):
    """Generated mazes: every position is a wall with the same probability, start and goal lie a wanted number of steps
    apart, drawn uniformly (long ones are kept less often, since fewer mazes have them).

    A symmetry class belongs to one split, by a hash of the class. Out of distribution, at the same side: `ood-longer`
    (shortest paths longer than any in training; with the default of maze-30, as long as Maze-Hard's) and `ood-denser`
    (more walls). Where max_steps is null there is nothing longer, and no `ood-longer`.
    """

    summary: ClassVar[str] = "Mark a shortest path through a random maze, generated"
    # default sizes at side 30 take some 5 s to draw
    contract_settings: ClassVar[dict[str, int]] = {
        "train_examples": 40, "validation_examples": 10, "test_examples": 30, "ood_examples": 10,
    }  # fmt: skip

    side: int = Field(6, ge=4, le=LARGEST_SIDE)
    density: float = Field(0.35, ge=0, lt=1, description="probability of a wall")
    min_steps: int = Field(4, ge=1, description="least length of the shortest path; 1: the goal beside the start")
    max_steps: int | None = Field(9, ge=1, description="greatest length of the shortest path; null: any")
    train_examples: int = Field(1000, ge=1)
    validation_examples: int = Field(200, ge=1)
    test_examples: int = Field(300, ge=1)
    ood_examples: int = Field(100, ge=0, description="of each split out of distribution; 0: none")
    ood_density: float | None = Field(0.45, gt=0, lt=1, description="walls of ood-denser; null: no such split")

    @model_validator(mode="after")
    def _possible(self) -> Maze:
        if self.name not in ("", "maze", f"maze-{self.side}"):
            raise ValueError(
                f"{self.name} has side {self.name[5:]}; for side {self.side} use maze with side: {self.side}"
            )
        if self.max_steps is not None and self.min_steps > self.max_steps:
            raise ValueError(f"min_steps ({self.min_steps}) is above max_steps ({self.max_steps})")
        if self.ood_density is not None and self.ood_density <= self.density:
            raise ValueError(f"ood_density ({self.ood_density}) must be above density ({self.density})")
        return self

    @property
    def grid_side(self) -> int:
        return self.side

    def splits(self, seed: int, data: DataFolder) -> Splits:
        steps = (self.min_steps, self.max_steps)
        settings = (self.side, str(self.density), self.min_steps, str(self.max_steps))
        train = self._draw({"train": self.train_examples}, self.density, steps, "train", *settings, seed)
        seen: set[int] = set()
        held_out = {"validation": self.validation_examples, "test": self.test_examples}
        parts = train | self._draw(held_out, self.density, steps, "held out", *settings, seen=seen)
        beyond: dict[str, tuple[float, tuple[int, int | None]]] = {}
        if self.max_steps is not None:
            beyond["ood-longer"] = (self.density, (self.max_steps + 1, None))
        if self.ood_density is not None:
            beyond["ood-denser"] = (self.ood_density, steps)
        if self.ood_examples:
            for name, (density, lengths) in beyond.items():
                drawn = self._draw({"test": self.ood_examples}, density, lengths, name, *settings, seen=seen)
                parts[name] = drawn["test"]
        return parts

    def _draw(
        self,
        wanted: dict[str, int],
        density: float,
        steps: tuple[int, int | None],
        *purpose: str | int,
        seen: set[int] | None = None,
    ) -> Splits:
        """Examples of new classes for each split wanted; `seen` holds the classes that others have."""
        random = generator("maze", *purpose)

        def draw() -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
            mazes = random_mazes(self.side, AT_ONCE, density, steps, random)
            return class_keys(mazes), (mazes,)

        parts = {}
        for name, (mazes,) in fill(wanted, draw, patience=PATIENCE, seen=seen).items():
            if len(mazes) < wanted[name]:
                high = "" if steps[1] is None else f" to {steps[1]}"
                raise UserError(
                    f"task {self.name}: {PATIENCE * AT_ONCE:,} mazes of side {self.side} with {density:.0%} walls gave "
                    f"no new one with a shortest path of {steps[0]}{high} steps ({len(mazes)} of {wanted[name]} found);"
                    " ask for fewer steps, other walls or fewer examples, or leave out what is out of distribution "
                    "(ood_examples: 0)"
                )
            parts[name] = self.examples(mazes, steps[0])
        return parts
