"""A run's examples as columns of numbers, read a part at a time: as text they may exceed the memory.

Columns of many rows lie on disk, as those of an evaluation do (harness/spill.py), so that what is kept of an
example in memory is its id alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from harness import spill
from harness.analysis.results import read_parts, table_file
from harness.errors import BrokenData
from harness.tables import TABLES

Columns = dict[str, np.ndarray]


def read_examples(folder: Path, columns: Sequence[str]) -> dict[str, Columns]:
    """Split → column → its N values, in the order of the share of examples in a run's folder.

    example_id is [N] bytes; correct_by_segment [N, M] bool; q_halt_by_segment [N, M] float64, left out where no row has
    any; a column of 0 and 1 [N] float16, all others [N] float64, empty fields NaN. Raises BrokenData where rows of a
    split don't agree on their segments.
    """
    path = folder / table_file("examples")
    place = folder if os.access(folder, os.W_OK) else None  # another's folder may be read only
    found: dict[str, dict[str, _Growing]] = {}
    for part in read_parts(path, "examples", ["split", *columns]):
        for split, rows in part.groupby("split", sort=False):
            grown = found.setdefault(str(split), {name: _Growing(None if name == ID else place) for name in columns})
            try:
                for name in columns:
                    grown[name].append(PARSED[name](rows[name]))
            except ValueError as error:
                raise _disagree(path, str(split), error) from None
    whole = {split: {name: c.whole() for name, c in grown.items() if c.rows} for split, grown in found.items()}
    for split, own in whole.items():
        right, logits = (own.get(name) for name in ("correct_by_segment", "q_halt_by_segment"))
        if right is not None and logits is not None and right.shape != logits.shape:
            raise _disagree(path, split, f"{right.shape} answers, but {logits.shape} logits")
    return whole


def shared(own: np.ndarray, known: list[np.ndarray]) -> np.ndarray:
    """A known array that equals one's own, so that many runs keep one; else one's own, which is known from now on."""
    for other in known:
        if np.array_equal(own, other):
            return other
    known.append(own)
    return own


def _disagree(path: Path, split: str, error: object) -> BrokenData:
    return BrokenData(f"{path}: split {split}: segments don't agree between rows ({error})")


# -- a part's text as numbers ------------------------------------------------------------------------------------


def _ids(texts: pd.Series) -> np.ndarray:
    """As bytes, which take a quarter of the room and have the same order."""
    return np.array([text.encode() for text in texts], np.bytes_)


def _digits(texts: pd.Series) -> np.ndarray:
    _alike({len(text) for text in texts})
    digits = np.frombuffer("".join(texts).encode("ascii"), np.uint8) == ord("1")
    return digits.reshape(len(texts), len(texts.iloc[0]))


def _logits(texts: pd.Series) -> np.ndarray:
    """No rows where every text is empty."""
    if not (texts != "").any():
        return np.empty(0)
    _alike({text.count(";") for text in texts})
    return np.array(";".join(texts).split(";"), np.float64).reshape(len(texts), -1)


def _alike(lengths: set[int]) -> None:
    """One row too short and one too long would else make a table of the right size."""
    if len(lengths) > 1:
        raise ValueError(f"from {min(lengths)} to {max(lengths)} in a row")


def _numbers(values: pd.Series) -> np.ndarray:
    return values.to_numpy(dtype=np.float64)


def _flags(values: pd.Series) -> np.ndarray:
    return values.to_numpy(dtype=np.float16)


ID = "example_id"
PARSED: dict[str, Callable[[pd.Series], np.ndarray]] = {
    **{column.name: {"str": _ids, "bool": _flags}.get(column.kind, _numbers) for column in TABLES["examples"]},
    "correct_by_segment": _digits,
    "q_halt_by_segment": _logits,
}


class _Growing:
    """Parts of a column, one below the other; more than BLOCK_ROWS rows in a file of the folder, where there is one."""

    def __init__(self, folder: Path | None) -> None:
        self.rows = 0
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._parts: list[np.ndarray] = []

    def append(self, part: np.ndarray) -> None:
        """ValueError where its rows are longer or shorter than those before."""
        if not len(part):
            return
        if self._parts and part.shape[1:] != self._parts[0].shape[1:]:
            raise ValueError(f"{self._parts[0].shape[1:]} and then {part.shape[1:]}")
        self._parts.append(part)
        self.rows += len(part)
        if self._folder is not None and self.rows > spill.BLOCK_ROWS:
            self._file = self._file or tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (`whole` does)
            for each in self._parts:
                self._file.write(np.ascontiguousarray(each).data)
            self._parts = [part[:0].copy()]  # its kind and width

    def whole(self) -> np.ndarray:
        if self._file is None:
            return np.concatenate(self._parts)
        (like,) = self._parts
        with self._file:
            self._file.flush()
            return np.memmap(self._file, like.dtype, "r", shape=(self.rows, *like.shape[1:]))
