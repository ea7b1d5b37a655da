"""Tasks from the HRM paper's puzzle files (`source,question,answer,rating`): sudoku-extreme and maze-hard.

A file is read once: its rows are then kept as arrays, by its content's hash. Fields are text, never stripped: a maze's
blanks matter at either end.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, StringConstraints

from harness import store
from harness.errors import BrokenData, MissingData
from harness.seeds import generator
from tasks import hub
from tasks.base import DataFolder, Examples, Splits, Task

COLUMNS = ("source", "question", "answer", "rating")

AT_ONCE = 100_000
"""Rows held as text at a time: the full training file has 3.8 million."""


Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$")]


class PuzzleFiles(NamedTuple):
    """A data set of the hub, `owner/name`, and the folder of a data folder where copies of its files may lie."""

    hub: str
    folder: str
    length: int  # characters of a question and of an answer

    @property
    def names(self) -> tuple[str, str]:
        """Its files below a data folder."""
        return f"{self.folder}/train.csv", f"{self.folder}/test.csv"

    @property
    def remedy(self) -> str:
        return (
            f"put train.csv and test.csv of the Hugging Face data set {self.hub} into {self.folder}/ of a data folder "
            "(--data DIR or HRM_BENCH_DATA), or run where the hub can be reached once (it is then cached)"
        )


class PuzzleTask(Task):
    """What the two tasks share: which rows make which split, and what pins them. A subclass gives `of_hub`, `chosen`.

    Validation is the end of the test file, so that training keeps all its rows, and is never scored as test. Rows of it
    that a symmetry makes equal to a row of test are left out.
    """

    of_hub: ClassVar[PuzzleFiles]
    real_data: ClassVar[bool] = True
    licence: ClassVar[str] = "not stated on the data set's card; not distributed here"

    train_rows: int | None = Field(1000, ge=0, description="a seeded sample of the training file; 0 or null: all of it")
    validation_rows: int = Field(500, ge=1, description="the last rows of the test file, never scored as test")
    test_rows: int | None = Field(None, ge=1, description="the first rows of the test file; null: all that remain")
    revision: str | None = Field(None, description="commit (or tag, branch) of the hub's data set: pins it there")
    sha256: dict[Literal["train.csv", "test.csv"], Sha256] = Field(
        default_factory=dict, description="file → SHA-256: pins it, wherever it is read from"
    )

    def chosen(self, rows: Rows) -> Examples:
        """Examples of rows; BrokenData names the first that is wrong."""
        raise NotImplementedError

    def splits(self, seed: int, data: DataFolder) -> Splits:
        train, test = self.rows("train.csv", data), self.rows("test.csv", data)
        n = self.train_rows or len(train)
        if n > len(train):  # a sample under the name of the whole would be another task
            raise MissingData(
                f"train.csv holds {len(train):,} rows, train_rows = {n:,} are asked for", self.of_hub.remedy
            )
        left = len(test) - self.validation_rows
        if left < 1:
            raise BrokenData(
                f"task {self.name}: test.csv has {len(test):,} rows, all of them taken by "
                f"validation_rows = {self.validation_rows:,}"
            )
        sample = np.sort(generator(self.name, "train", seed).permutation(len(train))[:n])
        scored = self.chosen(test[: min(left, self.test_rows or left)])
        validation = self.chosen(test[left:])
        new = ~np.isin(self.canonical(validation), self.canonical(scored))
        return {"train": self.chosen(train[sample]), "validation": validation[new], "test": scored}

    def notes(self, splits: Splits) -> list[str]:
        found = [*super().notes(splits), "validation: from the end of test.csv, never scored as test"]
        equivalent = self.validation_rows - len(splits["validation"])
        if equivalent:
            found.append(f"validation: {equivalent:,} rows left out, since test has them in another dress")
        return found

    def rows(self, file: Literal["train.csv", "test.csv"], data: DataFolder) -> Rows:
        """All rows of a file: from the data folder where one is set, else from the hub."""
        files = self.of_hub
        if data.root is not None:
            path, label = data.file(f"{files.folder}/{file}", remedy=files.remedy), ""
        else:
            path, commit = hub.file_of(files.hub, file, self.revision, files.remedy)
            label = f"{files.hub} {file} (commit {commit[:12]})"
            data.hub(f"{files.hub} {file}", commit, DataFolder.fingerprint(path))
        sha256 = DataFolder.fingerprint(path)
        pinned = self.sha256.get(file, sha256)
        if sha256 != pinned.lower():
            raise BrokenData(f"{label or path}: its SHA-256 is {sha256}, the suite pins {pinned}")
        return parsed(path, label or str(path), sha256, files.length, data.cache)


@dataclass(frozen=True)
class Rows:
    """Rows of a file as character codes, and where each stands, for messages. Texts all have the same length L."""

    source: str
    questions: np.ndarray  # [N, L] uint8
    answers: np.ndarray  # [N, L] uint8
    ratings: np.ndarray  # [N] int64
    lines: np.ndarray  # [N] int64, from 1

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, picked: Any) -> Rows:
        return Rows(self.source, self.questions[picked], self.answers[picked], self.ratings[picked], self.lines[picked])

    def refuse(self, bad: Any, problem: str | Callable[[int], str]) -> None:
        """BrokenData naming the place of the first bad row of [N] bool; `problem` may be a function of the row."""
        if bad.any():
            row = int(bad.argmax())
            said = problem if isinstance(problem, str) else problem(row)
            raise BrokenData(f"{self.source}, line {self.lines[row]}: {said}")


def parsed(path: Path, source: str, sha256: str, length: int, cache: Path | None) -> Rows:
    """Every row of the file, its form checked; from `cache`, where it was read before, by this code, with this hash."""

    def read() -> Splits:
        rows = _read(path, source, length)
        facts = {"rating": rows.ratings, "line": rows.lines}
        return {"rows": Examples(rows.questions, rows.answers, np.zeros(len(rows), np.float32), facts=facts)}

    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    name = hashlib.sha256(f"{sha256} {length} {code}".encode()).hexdigest()[:16]
    whole = (read() if cache is None else store.remembered(cache / f"{name}.json", read))["rows"]
    return Rows(source, whole.inputs, whole.labels, whole.facts["rating"], whole.facts["line"])


def _read(path: Path, source: str, length: int) -> Rows:
    lines, parts = _lines(path, source), []
    while few := list(islice(lines, AT_ONCE)):
        parts.append(_coded(source, length, few))
    if not parts:
        raise BrokenData(f"{source}: no rows below the header")
    rows = Rows(source, *(np.concatenate(column) for column in zip(*parts, strict=True)))
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() not in (b"\n", b"\r"):
            raise BrokenData(
                f"{source}, line {rows.lines[-1]}: the line has no end, so the file is cut short; fetch it again"
            )
    return rows


Line = tuple[int, str, str, str]
"""Number of a line, question, answer, rating."""


def _lines(path: Path, source: str) -> Iterator[Line]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        try:
            header = next(reader, [])
            if set(header) != set(COLUMNS):
                raise BrokenData(f"{source}, line 1: the columns must be {','.join(COLUMNS)}")
            question, answer, rating = (header.index(column) for column in COLUMNS[1:])
            for row in reader:
                if len(row) != len(header):
                    raise BrokenData(f"{source}, line {reader.line_num}: {len(row)} fields, not {len(header)}")
                yield reader.line_num, row[question], row[answer], row[rating]
        except (UnicodeDecodeError, csv.Error) as error:
            raise BrokenData(f"{source}, line {reader.line_num + 1}: not readable as CSV: {error}") from error


def _coded(source: str, length: int, rows: list[Line]) -> tuple[np.ndarray, ...]:
    """Questions, answers, ratings and line numbers of rows that have the right form ('?' beyond ASCII)."""
    for line, question, answer, rating in rows:
        for column, text in (("question", question), ("answer", answer)):
            if len(text) != length:
                raise BrokenData(f"{source}, line {line}: the {column} has {len(text)} characters, not {length}")
        if not (rating.isascii() and rating.isdigit()):
            raise BrokenData(f"{source}, line {line}: the rating is not a whole number")
    lines, questions, answers, ratings = zip(*rows, strict=True)
    texts = [np.frombuffer("".join(t).encode("ascii", "replace"), np.uint8) for t in (questions, answers)]
    return *(text.reshape(-1, length) for text in texts), np.array(ratings).astype(np.int64), np.array(lines, np.int64)
