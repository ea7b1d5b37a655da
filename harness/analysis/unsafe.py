"""What `--allow-unsafe` leaves behind: a mark on every row of every table that rests on programs run without isolation.

Such a program could have read the answers, or written figures of its own, so no table may be read without seeing that.
The mark is one more column at a table's end, there only where it says something. Torch-free.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from harness.analysis.results import table_file
from harness.files import write_atomically
from harness.tables import MARK, TABLES, UNSANDBOXED, names


def unsafe_runs(runs: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of runs.csv whose programs ran without isolation."""
    return [run for run in runs if run["sandbox"] == UNSANDBOXED]


def warning(tasks: Iterable[str]) -> str:
    """What stands above such results; empty where there are none."""
    listed = ", ".join(dict.fromkeys(tasks))
    return (
        f"UNSANDBOXED: the programs written for {listed} ran without isolation (--allow-unsafe). They could read the "
        "answers and change any file of this machine, so figures that rest on them prove nothing."
        if listed
        else ""
    )


def mark(folder: Path, cells: Collection[str], tasks: Collection[str]) -> None:
    """Add the column to every table of a folder.

    A row is marked by its cell where it has one, else by its task; a row that rests on several tasks (overall, claims)
    is marked whatever it says, for it may rest on one of these.
    """
    for table in TABLES:
        path = folder / table_file(table)
        if path.is_file() and MARK not in names(table):
            write_atomically(path, partial(_rewrite, path, table, cells, tasks))


def _rewrite(path: Path, table: str, cells: Collection[str], tasks: Collection[str], out: BinaryIO) -> None:
    packed = out
    if path.suffix == ".gz":
        packed = cast(BinaryIO, gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=out, mtime=0))
    text = io.TextIOWrapper(packed, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names(table), MARK])
    writer.writerows(_marked(path, table, cells, tasks))
    text.flush()
    text.detach()
    if packed is not out:
        packed.close()


def _marked(path: Path, table: str, cells: Collection[str], tasks: Collection[str]) -> Iterator[Sequence[str]]:
    columns = names(table)
    key, known = ("cell_id", cells) if "cell_id" in columns else ("task", tasks)
    place = columns.index(key) if key in columns else None
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        rows = csv.reader(io.TextIOWrapper(cast(BinaryIO, file), encoding="utf-8", newline=""))
        next(rows)
        for row in rows:
            unsafe = place is None or row[place] in known
            yield [*row[: len(columns)], UNSANDBOXED if unsafe else ""]
