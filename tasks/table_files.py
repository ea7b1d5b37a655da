"""Columns of a CSV file, a Parquet file or a `datasets` data set as text, with the place of every row for messages."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from harness.errors import BrokenData, MissingData, UserError, did_you_mean
from tasks import hub
from tasks.base import DataFolder

REMEDY = "put it into the data folder (--data DIR or HRM_BENCH_DATA), or name your own in the task's settings"


@dataclass(frozen=True)
class Columns:
    """The wanted columns, and where they come from. Row i stands at `unit` first + i of the source."""

    source: str
    unit: str  # "line" or "row"
    places: Sequence[int]
    values: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.places)

    def fail(self, row: int, problem: str) -> NoReturn:
        raise BrokenData(f"{self.source}, {self.unit} {self.places[row]}: {problem}")

    def refuse(self, bad: np.ndarray, problem: Callable[[int], str]) -> None:
        """BrokenData at the first row of bad [N]."""
        if bad.any():
            row = int(bad.argmax())
            self.fail(row, problem(row))

    def digest(self) -> str:
        """SHA-256 of the values, by column."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True, default=str).encode()).hexdigest()

    def texts(self, name: str) -> list[str]:
        """The column as text; lists are joined by blanks."""
        return [" ".join(map(str, v)) if isinstance(v, (list, tuple)) else str(v) for v in self.values[name]]

    def floats(self, name: str) -> np.ndarray:
        """The column as float64; BrokenData names the row of what is no finite number."""
        found = np.empty(len(self))
        for row, value in enumerate(self.values[name]):
            try:
                found[row] = float(value)
            except (TypeError, ValueError):
                found[row] = np.nan
        self.refuse(~np.isfinite(found), lambda row: f"column {name}: {self.values[name][row]!r} is not a number")
        return found


def read_columns(name: str, wanted: Sequence[str], data: DataFolder, sha256: str | None = None) -> Columns:
    """Columns of the CSV or Parquet file `name` of the data folder, which must have the hash where one is given."""
    readers = {".csv": _csv, ".parquet": _parquet}
    reader = readers.get(Path(name).suffix.lower())
    if reader is None:
        raise UserError(f"task table: {name}: must end in .csv or .parquet (or name a split, where dataset is set)")
    path = data.file(name, remedy=REMEDY)
    if sha256 is not None and DataFolder.fingerprint(path) != sha256.lower():
        raise BrokenData(f"{path}: its SHA-256 is {DataFolder.fingerprint(path)}, the suite pins {sha256}")
    columns = reader(path, wanted)
    if not len(columns):
        raise BrokenData(f"{path}: no rows")
    return columns


def _csv(path: Path, wanted: Sequence[str]) -> Columns:
    places: list[int] = []
    values: dict[str, list[Any]] = {column: [] for column in wanted}
    for place, row in _csv_rows(path, wanted):
        places.append(place)
        for column in values:
            values[column].append(row[column])
    return Columns(str(path), "line", places, values)


def _csv_rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            _require(str(path), wanted, header)
            for row in reader:
                if len(row) != len(header):
                    raise BrokenData(f"{path}, line {reader.line_num}: {len(row)} fields, not {len(header)}")
                yield reader.line_num, dict(zip(header, row, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise BrokenData(f"{path}, line {reader.line_num + 1}: not readable as CSV: {error}") from error


def _parquet(path: Path, wanted: Sequence[str]) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _require(str(path), wanted, file.schema_arrow.names)
            table = file.read(columns=list(dict.fromkeys(wanted)))
    except (pa.ArrowException, OSError) as error:
        raise BrokenData(f"{path}: not readable as Parquet (cut short?): {error}") from error
    return _of_table(str(path), table, wanted)


def _of_table(source: str, table: Any, wanted: Sequence[str]) -> Columns:
    values = {name: table.column(name).to_pylist() for name in wanted}
    columns = Columns(source, "row", range(table.num_rows), values)
    for name, found in values.items():
        absent = np.array([value is None for value in found], bool)
        if absent.any():
            columns.fail(int(absent.argmax()), f"column {name} is empty")
    return columns


def _require(source: str, wanted: Sequence[str], present: Sequence[str]) -> None:
    for name in wanted:
        if name not in present:
            raise BrokenData(f'{source}: no column "{name}"{did_you_mean(name, present)}')


# -- datasets --------------------------------------------------------------------------------------------------------


def read_dataset(name: str, split: str, revision: str | None, wanted: Sequence[str], data: DataFolder) -> Columns:
    """Columns of one split: of a data set saved below the data folder, else of the hub's data set of that name."""
    folder = None if data.root is None else data.root / name
    commit = ""
    if folder is not None and folder.is_dir():
        found, source = _saved(folder, name, split, data), f"{folder}, split {split}"
    elif folder is not None and not _is_hub_name(name):
        raise MissingData(f"{folder} is not there", REMEDY)
    else:
        place, commit = hub.folder_of(name, revision, f"{REMEDY}, or run where the hub can be reached once")
        source = f"data set {name} (commit {commit[:12]}), split {split}"
        found = _loaded(place, split, wanted, source)
    _require(source, wanted, found.column_names)
    if not len(found):
        raise BrokenData(f"{source}: no rows")
    columns = _of_table(source, found.with_format("arrow")[:], wanted)
    if commit:
        data.hub(f"{name} {split}", commit, columns.digest())
    return columns


def _is_hub_name(name: str) -> bool:
    return name.count("/") <= 1 and not name.startswith((".", "/"))


def _saved(folder: Path, name: str, split: str, data: DataFolder) -> Any:
    from datasets import DatasetDict, load_from_disk

    try:
        loaded = load_from_disk(str(folder))
        if isinstance(loaded, DatasetDict):
            if split not in loaded:
                raise BrokenData(f'{folder}: no split "{split}"{did_you_mean(split, loaded)}')
            loaded, folder, name = loaded[split], folder / split, f"{name}/{split}"
        loaded.with_format("arrow")[:]  # a file that was cut shows when it is read
    except BrokenData:
        raise
    except Exception as error:
        raise BrokenData(f"{folder}: not readable as a saved data set: {error}") from error
    for path in sorted(folder.glob("*.arrow")):
        data.file(f"{name}/{path.name}", remedy=REMEDY)
    return loaded


def _loaded(folder: Path, split: str, wanted: Sequence[str], source: str) -> Any:
    """A split by `load_dataset` of a folder in any form that it reads. Columns of CSV files come as text: a guessed
    number type drops leading zeros, and 81 digits overflow it."""
    from datasets import Features, Value, load_dataset, load_dataset_builder
    from datasets.packaged_modules.csv.csv import Csv

    try:
        is_csv = isinstance(load_dataset_builder(str(folder)), Csv)
        text = Features({column: Value("string") for column in wanted})
        return load_dataset(
            str(folder), split=split, **({"features": text, "keep_default_na": False} if is_csv else {})
        )
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise BrokenData(f"{source}: `datasets` can't read it ({type(error).__name__}: {lines[0]})") from error
