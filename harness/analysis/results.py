"""Reading a results folder: what the suite planned (suite.json, cells.json) and its tables, typed by the schema."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from harness.errors import BrokenData, UserError
from harness.files import read_json
from harness.tables import MARK, SCHEMA_VERSION, TABLES, check_rows, names


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Match(_Part):
    to: str
    rule: str


class Arm(_Part):
    model: str
    summary: str = ""
    match: Match | None = None
    label: str | None = None


class Primary(_Part):
    arms: tuple[str, str]
    metric: Literal["exact", "token"] = "exact"
    split: str = "test"
    stopping: Literal["fixed", "model", "oracle"] = "fixed"

    @model_validator(mode="after")
    def _measured(self) -> Primary:
        if self.metric == "token" and self.stopping != "fixed":
            raise ValueError("token accuracy is measured under the stopping rule fixed only")
        return self


class SuiteTask(_Part):
    summary: str = ""
    exact_means: str = ""
    difficulty_unit: str = "difficulty"
    floor_note: str = ""
    real_data: bool = False
    source: str = ""
    licence: str = ""
    in_sample: dict[str, str] = Field(default_factory=dict)  # splits that training may contain, with the reason
    scaling: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    metric_notes: dict[str, str] = Field(default_factory=dict)
    arms: list[str]
    seeds: int
    primary: Primary | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    overrides: dict[str, Any] = Field(default_factory=dict)  # settings that an arm has on this task alone
    not_scored: dict[str, dict[str, str]] = Field(default_factory=dict)  # arm → split that it can't read → the reason


class Suite(_Part):
    """suite.json: everything the tables and the report need to know of a suite, so that neither imports a task."""

    schema_version: int
    name: str
    title: str
    summary: str = ""
    proxy: bool = False
    limits: list[str] = Field(default_factory=list)
    command: str
    created: str = ""
    recipe: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, Arm]
    tasks: dict[str, SuiteTask]
    machine: dict[str, Any] = Field(default_factory=dict)
    minimum_seeds: int = 5
    equivalence_band: float = 0.01
    tuning: dict[str, Any] | None = None

    def arm_label(self, arm: str) -> str:
        known = self.arms.get(arm)
        return known.label if known and known.label else arm


class PlannedCell(_Part):
    cell_id: str
    task: str
    arm: str
    seed: int
    status: Literal["planned", "skipped"]
    reason: str | None = None
    run_folder: str | None = None


def read_suite(results: Path) -> Suite:
    """suite.json of a results folder. UserError when the folder or the file is absent, or of another version."""
    if not results.is_dir():
        raise UserError(f"{results}: no such results folder; run the suite first")
    document = _read(results / "suite.json")
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{results / 'suite.json'}: schema_version is {version}, this program reads {SCHEMA_VERSION}; "
            "use the version of HRM-Bench that wrote the folder, or run the suite into a new one"
        )
    try:
        return Suite.model_validate(document)
    except ValidationError as error:
        raise _broken(results / "suite.json", error) from None


def read_cells(results: Path, suite: Suite) -> list[PlannedCell]:
    """The planned cells, in the order of every table: tasks and arms as in the suite, then seeds."""
    try:
        cells = TypeAdapter(list[PlannedCell]).validate_python(_read(results / "cells.json"))
    except ValidationError as error:
        raise _broken(results / "cells.json", error) from None
    tasks, arms = list(suite.tasks), list(suite.arms)
    for cell in cells:
        for key, name, known in (("task", cell.task, tasks), ("arm", cell.arm, arms)):
            if name not in known:
                raise BrokenData(f"{results / 'cells.json'}: cell {cell.cell_id}: {key} {name!r} is not in suite.json")
    return sorted(cells, key=lambda c: (tasks.index(c.task), arms.index(c.arm), c.seed))


def read_references(results: Path, suite: Suite) -> list[dict[str, Any]]:
    """Rows of references.csv, in the suite's order of tasks; none in a folder of a version that did not measure any."""
    path = results / "references.json"
    if not path.is_file():
        return []
    tasks = list(suite.tasks)
    rows = _read(path)
    try:
        check_rows("references", rows)
        return sorted((r for r in rows if r["task"] in tasks), key=lambda r: (tasks.index(r["task"]), r["seed"]))
    except (AttributeError, KeyError, TypeError) as error:
        raise BrokenData(f"{path}: {error}; run the suite again") from None


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the suite first") from None
    except json.JSONDecodeError as error:
        raise BrokenData(f"{path}: line {error.lineno}: not JSON ({error.msg})") from None


def _broken(path: Path, error: ValidationError) -> BrokenData:
    problem = error.errors()[0]
    return BrokenData(f"{path}: {'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}")


TRUTH = {"true": 1.0, "1": 1.0, "false": 0.0, "0": 0.0}


def table_file(table: str) -> str:
    return "examples.csv.gz" if table == "examples" else f"{table}.csv"


PART_ROWS = 10_000
"""Rows of a long table that are in memory together: as text, 16 segments of an example take about 1.5 kB."""
SMALL = 64_000
"""Bytes of a file that is kept once read: collecting reads a run's share of examples four times, each for itself."""


def read_table(path: Path, table: str, columns: list[str] | None = None) -> pd.DataFrame:
    """A table or a run's share of it. str columns stay text (empty = ""), all others become floats (empty = NaN).

    Raises BrokenData when its columns are not those of the schema.
    """
    found = _stat(path)
    if found.st_size > SMALL or columns is None:
        return _whole(path, table, columns)
    kept = _kept(path, table, found.st_mtime_ns, found.st_size)
    return kept[[name for name in names(table) if name in columns]].copy()


def read_parts(path: Path, table: str, columns: list[str]) -> Iterator[pd.DataFrame]:
    """`read_table`, a long table PART_ROWS rows at a time; at least one part, which may be empty."""
    if _stat(path).st_size > SMALL:
        yield from _parts(path, table, columns, PART_ROWS)
    else:
        yield read_table(path, table, columns)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise BrokenData(f"{path}: cannot be read ({error})") from None


@lru_cache(maxsize=512)
def _kept(path: Path, table: str, changed: int, size: int) -> pd.DataFrame:
    """A small table whole; read again where the file has changed."""
    return _whole(path, table, None)


def _whole(path: Path, table: str, columns: list[str] | None) -> pd.DataFrame:
    (frame,) = _parts(path, table, columns, None)
    return frame


def forget_tables() -> None:
    """Give back the memory of what `read_table` keeps."""
    _kept.cache_clear()


def _parts(path: Path, table: str, columns: list[str] | None, rows: int | None) -> Iterator[pd.DataFrame]:
    """At most so many rows at a time."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            head = file.readline().rstrip("\r\n")
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise BrokenData(f"{path}: cannot be read ({error})") from None
    if head not in (",".join(names(table)), ",".join([*names(table), MARK])):
        raise BrokenData(f"{path}: its columns are not those of table {table}, version {SCHEMA_VERSION}")
    wanted = [column for column in TABLES[table] if columns is None or column.name in columns]
    text = [column.name for column in wanted if column.kind in ("str", "bool")]
    try:
        found = pd.read_csv(
            path,
            usecols=[column.name for column in wanted],
            dtype={c.name: "str" if c.name in text else "float64" for c in wanted},
            keep_default_na=False,
            na_values={c.name: [""] for c in wanted if c.name not in text},
            chunksize=rows,
        )
        for frame in [found] if isinstance(found, pd.DataFrame) else found:
            for column in wanted:
                if column.kind == "bool":
                    truth = frame[column.name].str.lower().map(TRUTH)
                    frame[column.name] = np.asarray(truth, dtype=np.float64)
            yield frame
    except (ValueError, EOFError, OSError) as error:
        raise BrokenData(f"{path}: {error}") from None


@dataclass(frozen=True)
class Tables:
    """A suite's collected tables, but for the examples, of which only what the figures need is kept."""

    suite: Suite
    runs: pd.DataFrame
    curves: pd.DataFrame
    depth: pd.DataFrame
    halting: pd.DataFrame
    metrics: pd.DataFrame
    calibration: pd.DataFrame
    reliability: pd.DataFrame
    flips: pd.DataFrame
    stopping: pd.DataFrame
    effort: pd.DataFrame
    states: pd.DataFrame
    references: pd.DataFrame
    histograms: pd.DataFrame
    passes: pd.DataFrame
    samples: pd.DataFrame
    levels: pd.DataFrame
    comparisons: pd.DataFrame
    overall: pd.DataFrame
    pareto: pd.DataFrame
    claims: pd.DataFrame
    gates: pd.DataFrame
    tuning: pd.DataFrame
    steps: pd.DataFrame  # task, arm, seed, difficulty, count, halting_step (mean): test examples by difficulty

    @cached_property
    def identity(self) -> dict[str, tuple[str, str, int]]:
        """Cell id → task, arm, seed."""
        columns = (self.runs[name] for name in ("cell_id", "task", "arm", "seed"))
        return {cell: (task, arm, int(seed)) for cell, task, arm, seed in zip(*columns, strict=True)}


def read_tables(results: Path) -> Tables:
    """Every table of a collected results folder. UserError when it has not been collected."""
    suite = read_suite(results)
    small = [table for table in TABLES if table in Tables.__annotations__]
    for table in (*small, "examples"):
        if not (results / table_file(table)).is_file():
            raise UserError(f"{results / table_file(table)}: no such file; make it with report --suite {suite.name}")
    return Tables(
        suite=suite,
        **{table: read_table(results / table_file(table), table) for table in small},
        steps=_steps_by_difficulty(results / table_file("examples")),
    )


def _steps_by_difficulty(path: Path) -> pd.DataFrame:
    """Halting steps of test examples, summed up a block at a time: the table may exceed the memory."""
    key = ["task", "arm", "seed", "difficulty"]
    wanted = {"task": "str", "arm": "str", "seed": "float64", "split": "str"}
    wanted |= {"difficulty": "float64", "halting_step": "float64"}
    parts = [pd.DataFrame({name: [] for name in [*key, "count", "total"]})]
    with pd.read_csv(
        path,
        usecols=list(wanted),
        dtype=wanted,
        keep_default_na=False,
        na_values={name: [""] for name in ("seed", "difficulty", "halting_step")},
        chunksize=500_000,
    ) as blocks:
        for block in blocks:
            test = block[(block["split"] == "test") & block["halting_step"].notna()]
            parts.append(
                test.groupby(key, sort=False)["halting_step"].agg(count="size", total="sum").reset_index()
            )  # fmt: skip
    summed = pd.concat(parts[1:] or parts).groupby(key, sort=False)[["count", "total"]].sum().reset_index()
    summed["halting_step"] = summed["total"] / summed["count"]
    return summed.drop(columns="total")
