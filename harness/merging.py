"""`merge INTO FROM…`: results folders of one suite become one, such as the shards of several machines. Torch-free.

Everything is looked at before anything is written: another suite, a task asked for in another way, a file that is not
what it was, or a cell of two different results, and INTO stays as it is.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.analysis.results import read_suite, table_file
from harness.cell import Cell
from harness.errors import BrokenData, UserError
from harness.files import held, read_json, write_json
from harness.saying import say
from harness.tables import RUN_TABLES, SIDE_CELLS_FILE, TIME_COLUMNS
from harness.tuning import ENDED

Row = dict[str, Any]

PASSING = TIME_COLUMNS | {"machine", "commit", "harness_version"}
PASSING |= {"python", "torch", "numpy", "sandbox", "kernel", "landlock_abi", "suite", "notes"}
"""Columns in which two runs of one cell may differ: time, memory, where it ran. Numbers are not among them."""

LEFT = (".lock", "log.txt")
"""Files of a run folder that are not part of its results."""


@dataclass
class Share:
    """One folder's description."""

    place: Path
    suite: Row
    cells: list[Row]
    side: list[Row]
    references: list[Row]

    @classmethod
    def read(cls, place: Path) -> Share:
        read_suite(place)  # refuses what is none, or another version's
        found = [place / name for name in ("cells.json", SIDE_CELLS_FILE, "references.json")]
        try:
            return cls(place, read_json(place / "suite.json"), *(read_json(p) if p.is_file() else [] for p in found))
        except ValueError as error:
            raise BrokenData(f"{place}: {error}; run the suite again") from None

    def all_cells(self) -> list[Row]:
        return [cell for cell in (*self.cells, *self.side) if cell.get("status") != "skipped"]


@dataclass
class Merge:
    """What is to be copied, found before anything is written."""

    copies: dict[str, Path] = field(default_factory=dict)  # run folder → where it comes from
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)  # of the copies: file → SHA-256
    same: int = 0
    open: int = 0
    conflicts: list[str] = field(default_factory=list)


def merge_folders(into: Path, others: Sequence[Path], reports: Path) -> tuple[Path, Row]:
    """Merge, collect and build the report; returns the page and what the last line says of the merge."""
    from harness.analysis.collect import collect
    from harness.report import html

    places = [place.resolve() for place in (into, *others)]
    if len(set(places)) < len(places):
        raise UserError("merge: a folder is named twice")
    with held(into, say):  # the others are only read: what has a record is whole, and is hashed twice
        new = not (into / "suite.json").is_file()
        if new and any(p.name != ".lock" for p in into.iterdir()):
            raise UserError(f"merge: {into} is no results folder and not empty; name another one to merge into")
        shares = [Share.read(place) for place in ((*others,) if new else (into, *others))]
        _check_alike(shares)
        found = _look(into, shares)
        if found.conflicts:
            raise UserError(
                "merge: nothing was merged, since cells of the same id have other results: "
                f"{'; '.join(found.conflicts)}. The same cell should give the same numbers on machines of one kind; "
                "delete the run folder that you trust less, or compare the folders instead of merging them"
            )
        for run_folder, source in found.copies.items():
            _copy(source, into / run_folder, found.hashes[run_folder])
        _describe(into, shares)
        collect(into)
        page = html.build(into, reports)
    say(f"merged {len(found.copies)} cells into {into}; {found.same} were there with the same results")
    if found.open:
        say(f"{found.open} cells are finished in none of the folders: run the suite on {into} to finish them")
    return page, {"merged": {"copied": len(found.copies), "same": found.same, "open": found.open}}


def _check_alike(shares: Sequence[Share]) -> None:
    """One suite, tasks asked for in the same way, arms that are the same."""
    first = shares[0]
    for other in shares[1:]:
        if other.suite["name"] != first.suite["name"]:
            raise UserError(
                f"merge: {first.place} holds suite {first.suite['name']}, {other.place} suite {other.suite['name']}; "
                "compare takes folders of different suites"
            )
        for task, described in other.suite["tasks"].items():
            known = next((s for s in shares if task in s.suite["tasks"]), other)
            if known.suite["tasks"][task].get("fingerprint") != described.get("fingerprint"):
                raise UserError(
                    f"merge: {known.place} and {other.place} ran {task} in different ways (recipe, settings, arms, "
                    "versions, device or precision); compare takes such folders"
                )
        for key in ("minimum_seeds", "equivalence_band"):
            if other.suite[key] != first.suite[key]:
                raise UserError(
                    f"merge: {key} is {first.suite[key]} in {first.place}, {other.suite[key]} in {other.place}"
                )


def _look(into: Path, shares: Sequence[Share]) -> Merge:
    """Which cells come from where: those that ended, and failed ones where no folder has better."""
    merge, place_of = Merge(), {}
    planned: dict[str, str] = {}
    for share in shares:
        for cell in share.all_cells():
            planned[cell["run_folder"]] = cell["cell_id"]
    for run_folder, cell_id in planned.items():
        ends = [share.place for share in shares if (share.place / run_folder / "record.json").is_file()]
        finished = [place for place in ends if _status(place / run_folder) in ENDED]
        if not finished:
            merge.open += 1
            if ends and into.resolve() not in [place.resolve() for place in ends]:
                place_of[run_folder] = ends[0]
            continue
        for place in finished:
            _verify(place / run_folder, cell_id)
        kept, *rest = finished
        for place in rest:
            other = _differs(kept / run_folder, place / run_folder)
            if other:
                merge.conflicts.append(f"{run_folder}: {other} differs between {kept} and {place}")
        if kept.resolve() == into.resolve():
            merge.same += bool(rest)
        else:
            place_of[run_folder] = kept
    ended: dict[tuple[Any, ...], str] = {}
    for share in shares:
        for cell in share.cells:
            known, key = cell["run_folder"], (cell["task"], cell["arm"], cell["seed"])
            if known is None or not any(_finished(one.place / known) for one in shares):
                continue
            if ended.setdefault(key, known) != known:
                merge.conflicts.append(f"{known} and {ended[key]}, of one task, arm and seed, ran on other data")
    for run_folder, place in place_of.items():
        merge.copies[run_folder] = place / run_folder
        merge.hashes[run_folder] = _hashes(place / run_folder)
    return merge


def _finished(folder: Path) -> bool:
    return (folder / "record.json").is_file() and _status(folder) in ENDED


def _status(folder: Path) -> str:
    try:
        return str(read_json(folder / "record.json")["status"])
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenData(f"{folder / 'record.json'}: {error}; delete the folder and run the suite again") from None


def _verify(folder: Path, cell_id: str) -> None:
    """The folder holds the cell that it should: what ran hashes to its id, and the record names that id."""
    try:
        cell = Cell.model_validate_json((folder / "cell.json").read_text(encoding="utf-8"))
        found = {cell.id, read_json(folder / "record.json")["cell_id"], cell_id}
    except (OSError, ValueError, KeyError) as error:
        raise BrokenData(f"{folder}: {error}; delete the folder and run the suite again") from None
    if len(found) > 1:
        raise BrokenData(f"{folder}: holds another cell than its id {cell_id} says; delete it and run the suite again")


def _differs(one: Path, other: Path) -> str:
    """The first thing in which two finished folders of a cell have other numbers; empty where they have the same."""
    left, right = (
        {key: value for key, value in read_json(folder / "record.json").items() if key not in PASSING}
        for folder in (one, other)
    )
    for key in left:
        if left[key] != right.get(key):
            return f"{key} ({left[key]} and {right.get(key)})"
    for table in RUN_TABLES:
        paths = [folder / table_file(table) for folder in (one, other)]
        if any(path.is_file() for path in paths) and _rows(paths[0]) != _rows(paths[1]):
            return table_file(table)
    weights = [folder / "weights.safetensors" for folder in (one, other)]
    if all(path.is_file() for path in weights) and _hash(weights[0]) != _hash(weights[1]):
        return "weights.safetensors"
    return ""


def _rows(path: Path) -> str:
    """A digest of a table without the columns of time."""
    if not path.is_file():
        return "absent"
    total = hashlib.sha256()
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            total.update(json.dumps([value for key, value in row.items() if key not in PASSING]).encode())
    return total.hexdigest()


def _files(folder: Path) -> list[Path]:
    names = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
    return [name for name in names if name.name not in LEFT and not name.name.endswith(".tmp")]


def _hashes(folder: Path) -> dict[str, str]:
    return {str(name): _hash(folder / name) for name in _files(folder)}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: Path, target: Path, hashes: dict[str, str]) -> None:
    """The run folder whole or not at all: written beside, hashed again, renamed. What an unfinished run left goes."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for name in hashes:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, temporary / name)
        if (log := source / "log.txt").is_file():
            shutil.copy2(log, temporary / "log.txt")
        if _hashes(temporary) != hashes:
            raise BrokenData(f"{source}: what was copied from it differs from what it held; merge again")
        if target.is_dir():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _describe(into: Path, shares: Sequence[Share]) -> None:
    """suite.json, cells.json, side_cells.json and references.json of all folders together, the first one's in front."""
    document = dict(shares[0].suite)
    order = {key: list(dict.fromkeys(name for s in shares for name in s.suite[key])) for key in ("tasks", "arms")}
    document["arms"] = {
        arm: next(s.suite["arms"][arm] for s in shares if arm in s.suite["arms"]) for arm in order["arms"]
    }
    document["tasks"] = {}
    for task in order["tasks"]:
        own = [s.suite["tasks"][task] for s in shares if task in s.suite["tasks"]]
        arms = {arm for one in own for arm in one["arms"]}
        merged = own[0] | {"arms": [arm for arm in order["arms"] if arm in arms], "seeds": max(o["seeds"] for o in own)}
        merged["not_scored"] = {arm: why for one in own for arm, why in one.get("not_scored", {}).items()}
        primary = next((o["primary"] for o in own if o["primary"]), None)
        merged["primary"] = primary if primary and set(primary["arms"]) <= arms else None
        document["tasks"][task] = merged
    document["merged_from"] = [{"folder": s.place.name, "command": s.suite["command"]} for s in shares]
    write_json(into / "suite.json", document)
    # of two ids for one task, arm and seed (planned before and after tuning, say) the one that ran
    cells = sorted((cell for s in shares for cell in s.cells), key=lambda cell: not _ran(into, cell))
    write_json(into / "cells.json", _once(cells, ("task", "arm", "seed")))
    side = sorted((cell for s in shares for cell in s.side), key=lambda cell: not _ran(into, cell))
    write_json(into / SIDE_CELLS_FILE, _once(side, ("purpose", "task", "arm", "seed", "trial")))
    keys = ("task", "seed", "split", "predictor", "metric")
    write_json(into / "references.json", _once([row for s in shares for row in s.references], keys))


def _ran(into: Path, cell: Row) -> bool:
    return bool(cell["run_folder"]) and (into / cell["run_folder"] / "record.json").is_file()


def _once(rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """The first row of each key; a cell that is skipped in one folder and planned in another is planned."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row.get(name) for name in keys)
        if key not in found or (found[key].get("status") == "skipped" and row.get("status") == "planned"):
            found[key] = row
    return list(found.values())
