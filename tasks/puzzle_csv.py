"""Rows of the HRM paper's puzzle files (`source,question,answer,rating`), from the data folder or the Hugging Face hub.

Used by sudoku-extreme and maze-hard. Fields are text, never stripped: a maze's blanks matter at either end.
"""

from __future__ import annotations

import csv
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from harness.errors import BrokenData, MissingData
from tasks.base import DataFolder

COLUMNS = ("source", "question", "answer", "rating")
HUB_SECONDS = 8.0
"""How long the hub may take to answer before the data count as absent."""


class Rows(NamedTuple):
    """Rows as text, and where each stands, for messages."""

    questions: Sequence[str]
    answers: Sequence[str]
    ratings: Sequence[str]
    places: Sequence[str]


class Source(Protocol):
    """One CSV file, wherever it is: its number of rows, and the rows at increasing indices."""

    def __len__(self) -> int: ...

    def rows(self, picked: np.ndarray) -> Rows: ...


class DataSet(NamedTuple):
    """A data set of the hub, `owner/name`, and the folder of a data folder where copies of its files may lie."""

    hub: str
    folder: str

    @property
    def remedy(self) -> str:
        return (
            f"put train.csv and test.csv of the Hugging Face data set {self.hub} into {self.folder}/ of a data folder "
            "(--data DIR or HRM_BENCH_DATA), or run where the hub can be reached once (it is then cached)"
        )

    def open(self, data: DataFolder, split: str) -> Source:
        """The file `split`.csv: from the data folder where one is set, else from the hub."""
        if data.root is None:
            source = HubFile(self, split)
            data.hub(f"{self.hub} {split}.csv", source.table._fingerprint)
            return source
        return LocalFile(data.file(f"{self.folder}/{split}.csv", remedy=self.remedy))


def refuse(bad: Any, places: Sequence[str], problem: str | Callable[[int], str]) -> None:
    """BrokenData naming the place of the first bad row; `problem` may be a function of the row."""
    if bad.any():
        row = int(bad.argmax())
        raise BrokenData(f"{places[row]}: {problem if isinstance(problem, str) else problem(row)}")


def codes(texts: Sequence[str], length: int, column: str, places: Sequence[str]) -> np.ndarray:
    """[N, length] uint8: the character codes of texts that must all have this length ('?' beyond ASCII)."""
    lengths = np.array([len(text) for text in texts])
    refuse(lengths != length, places, lambda row: f"the {column} has {lengths[row]} characters, not {length}")
    return np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8).reshape(-1, length)


def whole_numbers(texts: Sequence[str], column: str, places: Sequence[str]) -> np.ndarray:
    """[N] int64."""
    bad = np.array([not (text.isascii() and text.isdigit()) for text in texts], bool)
    refuse(bad, places, f"the {column} is not a whole number")
    return np.array([int(text) for text in texts], np.int64)


class LocalFile:
    """A CSV file, read once to count its rows and once to pick some: the full training file has 3.8 million."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = sum(1 for _ in self._lines())
        if not self.count:
            raise BrokenData(f"{path}: no rows below the header")
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() not in (b"\n", b"\r"):
                line = self.count + 1  # fields hold no line breaks
                raise BrokenData(f"{path}, line {line}: the line has no end, so the file is cut short; fetch it again")

    def __len__(self) -> int:
        return self.count

    def rows(self, picked: np.ndarray) -> Rows:
        wanted = set(picked.tolist())
        found = [line for row, line in enumerate(self._lines()) if row in wanted]
        return Rows(*zip(*found, strict=True))

    def _lines(self) -> Iterator[tuple[str, str, str, str]]:
        """(question, answer, rating, place) of each row, in file order."""
        with self.path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            try:
                header = next(reader, [])
                if set(header) != set(COLUMNS):
                    raise BrokenData(f"{self.path}, line 1: the columns must be {','.join(COLUMNS)}")
                question, answer, rating = (header.index(column) for column in COLUMNS[1:])
                for row in reader:
                    place = f"{self.path}, line {reader.line_num}"
                    if len(row) != len(header):
                        raise BrokenData(f"{place}: {len(row)} fields, not {len(header)}")
                    yield row[question], row[answer], row[rating], place
            except (UnicodeDecodeError, csv.Error) as error:
                raise BrokenData(f"{self.path}, line {reader.line_num + 1}: not readable as CSV: {error}") from error


class HubFile:
    """A file of the hub's data set. Strings are asked for, since 81-digit answers overflow the guessed number type."""

    def __init__(self, data_set: DataSet, split: str) -> None:
        self.hub, self.split = data_set.hub, split
        require_hub(data_set)
        try:
            from datasets import Features, Value, load_dataset

            text = Features({column: Value("string") for column in COLUMNS})
            self.table = load_dataset(self.hub, data_files={split: f"{split}.csv"}, split=split, features=text)
        except Exception as error:  # whatever goes wrong there, the data are not to be had
            raise MissingData(f"{self.hub} could not be loaded ({_first_line(error)})", data_set.remedy) from error

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, picked: np.ndarray) -> Rows:
        table = self.table.select(picked)
        places = [f"{self.hub} {self.split}.csv, line {row + 2}" for row in picked]
        # a field left empty reads as None; the checks then name its line
        question, answer, rating = ([text or "" for text in table[column]] for column in COLUMNS[1:])
        return Rows(question, answer, rating, places)


def require_hub(data_set: DataSet) -> None:
    """MissingData unless the hub answers in time. With HF_HUB_OFFLINE set only the cache is asked, so it need not."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return
    trouble: list[str] = []

    def ask() -> None:
        try:
            from huggingface_hub import HfApi

            HfApi().dataset_info(data_set.hub, timeout=HUB_SECONDS / 2)
            trouble.append("")
        except Exception as error:
            trouble.append(_first_line(error))

    # a thread, because looking up a host's name knows no time limit; left to itself `datasets` retries for 24 s
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    answer = trouble[0] if trouble else f"no answer within {HUB_SECONDS:.0f} s"
    if answer:
        raise MissingData(
            f"no data folder is set and the Hugging Face hub can't be reached ({answer})",
            f"{data_set.remedy}; a copy in the cache is used when HF_HUB_OFFLINE=1 is set",
        )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}".rstrip(": ")
