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

from harness.evaluation import answerers
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
    facts: dict[str, tuple[int, ...]]  # shape of each fact of one example
    lengths: dict[str, int]  # positions of an input, per split
    references: tuple[dict[str, Any], ...] = ()  # rows of references.csv, without task and seed

    def load(self) -> Splits:
        return load_splits(self.path)


def prepare(task: Task, seed: int, data: DataFolder, store: Path) -> DataSet:
    """The task's splits for a seed, built, checked and stored under `store` unless they are there already.

    Raises MissingData or BrokenData as the task does.
    """
    description = store / "index" / f"{_build_key(task, seed)}.json"
    if not task.real_data and description.is_file():
        known = _described(store, description)
        if known.path.is_file():
            return known
    splits = task.splits(seed, data)
    task.check(splits, _canonical_keys)
    digest = splits_digest(splits)
    if description.is_file() and read_json(description)["digest"] == digest and store_file(store, digest).is_file():
        return _described(store, description)  # real data that have not changed since
    path = store_file(store, digest)
    if not path.is_file():
        write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **_flat(splits)))
    write_json(
        description,
        {
            "task": task.name,
            "seed": seed,
            "digest": digest,
            "floor": task.floor(splits),
            "notes": task.notes(splits),
            "sizes": {name: len(part) for name, part in splits.items()},
            "lengths": {name: part.inputs.shape[1] for name, part in splits.items()},
            "references": answerers.references(task, splits),
            "facts": {name: list(value.shape[1:]) for name, value in splits["train"].facts.items()},
        },
    )
    return _described(store, description)


_KEYS: dict[str, frozenset[bytes]] = {}


def _canonical_keys(task: Task, part: Examples) -> frozenset[bytes]:
    """The canonical keys of a split, found once per process: test and validation are the same for every seed."""
    known = f"{task.name} {task.model_dump_json()} {part.digest()}"
    if known not in _KEYS:
        _KEYS[known] = task.canonical_keys(part)
    return _KEYS[known]


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


def store_file(store: Path, digest: str) -> Path:
    return store / f"{digest}.npz"


def _described(store: Path, description: Path) -> DataSet:
    known = read_json(description)
    return DataSet(
        path=store_file(store, known["digest"]),
        digest=known["digest"],
        floor=known["floor"],
        notes=tuple(known["notes"]),
        sizes=known["sizes"],
        lengths=known["lengths"],
        references=tuple(known["references"]),
        facts={name: tuple(shape) for name, shape in known["facts"].items()},
    )


def _build_key(task: Task, seed: int) -> str:
    """Hash of what decides data and references: name, version, settings, seed, the code of all tasks and answerers."""
    module = sys.modules[type(task).__module__].__file__ or ""
    own = {Path(module), Path(answerers.__file__)}
    files = sorted({*Path(__file__).parent.parent.joinpath("tasks").glob("*.py"), *own})
    code = hashlib.sha256()
    for file in files:
        if file.is_file():
            code.update(file.read_bytes())
    named = [task.name, task.version, task.model_dump(mode="json"), seed, np.__version__, code.hexdigest()]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]
