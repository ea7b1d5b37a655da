"""Built data sets on disk, named by the hash of their bytes, so that a cell's id pins exactly what it trains on.

Generated data are kept between commands, keyed by the task's version, settings, seed and code; real data are read
anew each time, since files may change.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.files import read_json, write_atomically, write_json
from tasks.base import DataFolder, Examples, Splits, Task

PARTS = ("inputs", "labels", "difficulty", "puzzle_ids", "groups")


@dataclass(frozen=True)
class DataSet:
    """One (task, seed)'s data: where it lies, its hash, and what a table needs to know without loading it."""

    path: Path
    digest: str
    floor: float
    notes: tuple[str, ...]
    sizes: dict[str, int]  # examples per split

    def load(self) -> Splits:
        return load_splits(self.path)


def prepare(task: Task, seed: int, data: DataFolder, store: Path) -> DataSet:
    """The task's splits for a seed, built, checked and stored under `store` unless they are there already.

    Raises MissingData or BrokenData as the task does.
    """
    index = store / "index" / f"{_build_key(task, seed)}.json"
    if not task.real_data and index.is_file():
        known = _described(store, read_json(index)["digest"])
        if known is not None:
            return known
    splits = task.splits(seed, data)
    task.check(splits)
    digest = splits_digest(splits)
    known = _described(store, digest)
    if known is None:
        write_atomically(store / f"{digest}.npz", lambda file: np.savez(file, allow_pickle=False, **_flat(splits)))
        write_json(
            store / f"{digest}.json",
            {
                "floor": task.floor(splits),
                "notes": task.notes(splits),
                "sizes": {name: len(part) for name, part in splits.items()},
            },
        )
        known = _described(store, digest)
        assert known is not None
    if not task.real_data:
        write_json(index, {"digest": digest, "task": task.name, "seed": seed})
    return known


def splits_digest(splits: Splits) -> str:
    """Sixteen hex digits over every byte of every split."""
    total = hashlib.sha256()
    for name in sorted(splits):
        total.update(f"{name}:{splits[name].digest()};".encode())
    return total.hexdigest()[:16]


def load_splits(path: Path) -> Splits:
    """Splits from a stored file."""
    with np.load(path, allow_pickle=False) as stored:
        fields: dict[str, dict[str, Any]] = {}
        for key in stored.files:
            split, part = key.split("/", 1)
            entry = fields.setdefault(split, {"facts": {}})
            if part.startswith("facts/"):
                entry["facts"][part.removeprefix("facts/")] = stored[key]
            else:
                entry[part] = stored[key]
    return {name: Examples(**entry) for name, entry in fields.items()}


def _flat(splits: Splits) -> dict[str, np.ndarray]:
    flat: dict[str, np.ndarray] = {}
    for name, part in splits.items():
        for field in PARTS:
            value = getattr(part, field)
            if value is not None:
                flat[f"{name}/{field}"] = value
        flat |= {f"{name}/facts/{fact}": value for fact, value in part.facts.items()}
    return flat


def _described(store: Path, digest: str) -> DataSet | None:
    path, description = store / f"{digest}.npz", store / f"{digest}.json"
    if not (path.is_file() and description.is_file()):
        return None
    known = read_json(description)
    return DataSet(path, digest, known["floor"], tuple(known["notes"]), known["sizes"])


def _build_key(task: Task, seed: int) -> str:
    """Hash of what decides generated data: name, version, settings, seed, and the code of all task files."""
    module = sys.modules[type(task).__module__].__file__ or ""
    files = sorted({*Path(__file__).parent.parent.joinpath("tasks").glob("*.py"), Path(module)})
    code = hashlib.sha256()
    for file in files:
        if file.is_file():
            code.update(file.read_bytes())
    named = [task.name, task.version, task.model_dump(mode="json"), seed, np.__version__, code.hexdigest()]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]
