"""A (task, seed)'s data, built once and kept, so that a cell's id pins exactly what it trains on.

What was built is found again by the task's name, version, settings, seed and code; for real data the files must be the
same, too. Several processes may ask at once: one builds, the others wait.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from harness import axes, store
from harness.errors import BrokenData, MissingData
from harness.evaluation import answerers
from harness.files import hold, read_json, write_json
from tasks import hub
from tasks.base import DataFolder, Examples, Splits, Task


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
    sources: dict[str, str] = field(default_factory=dict)  # what was read → its hash, version or revision

    def load(self) -> Splits:
        """The splits, memory-mapped. Raises BrokenData where the folder was damaged since it was prepared."""
        return store.load(self.path)


def prepare(task: Task, seed: int, data: DataFolder, folder: Path) -> DataSet:
    """The task's splits for a seed, built, checked and stored under `folder` unless they are there already.

    Raises MissingData or BrokenData as the task does. A stored data set that was damaged is said to be so, and built
    again.
    """
    description = _place(task, seed, folder)
    with hold(description.with_suffix(".lock")):
        return _kept(task, seed, data, folder) or _build(task, seed, data, folder, description)


def described(task: Task, seed: int, data: DataFolder, folder: Path) -> DataSet | None:
    """What `prepare` built before, if its sources are what they were; by its description alone, so at once."""
    description = _place(task, seed, folder)
    if not description.is_file():
        return None
    try:
        known = _described(folder, description)
    except (ValueError, KeyError, TypeError) as error:
        print(f"data cache {description}: {error}; building it again", file=sys.stderr, flush=True)
        return None
    if task.real_data and not (known.sources and all(_same(task, data, *source) for source in known.sources.items())):
        return None
    return known if known.path.is_dir() else None


def _kept(task: Task, seed: int, data: DataFolder, folder: Path) -> DataSet | None:
    """What was built before and is whole; None where nothing is, or real data have changed."""
    known = described(task, seed, data, folder)
    try:
        if known is not None:
            known.load()
        return known
    except BrokenData as broken:
        assert known is not None
        print(f"{broken.args[0].removesuffix('; delete the folder')}; building it again", file=sys.stderr, flush=True)
        shutil.rmtree(known.path)
    return None


def splits_of(task: Task, seed: int, data: DataFolder) -> tuple[Splits, Splits]:
    """The task's splits as it gives them, and as its axes want them: selected, checked, the corrupted ones beside."""
    whole = task.splits(seed, data)
    splits = axes.selected(task, whole, seed)
    task.check(splits, _canonical_keys)
    # made of test rows, so never compared with the other splits
    return whole, splits | axes.corrupted(task, splits["test"])


def _build(task: Task, seed: int, data: DataFolder, folder: Path, description: Path) -> DataSet:
    watched = DataFolder(data.root, cache=folder / "parsed")
    if task.package:
        watched.package(task.package)
    whole, splits = splits_of(task, seed, watched)
    digest = store.splits_digest(splits)
    about = {
        "task": task.name,
        "version": task.version,
        "settings": task.model_dump(mode="json"),
        "seed": seed,
        "source": task.source,
        "licence": task.licence,
        "sources": watched.used,
    }
    store.save(splits, folder / digest, about)
    write_json(
        description,
        {
            **about,
            "digest": digest,
            "floor": task.floor(splits),
            "notes": [*task.notes(whole), *axes.notes(splits)],
            "sizes": {name: len(part) for name, part in splits.items()},
            "lengths": {name: part.inputs.shape[1] for name, part in splits.items()},
            "references": answerers.references(task, splits),
            "facts": {name: list(value.shape[1:]) for name, value in splits["train"].facts.items()},
        },
    )
    return _described(folder, description)


def _described(folder: Path, description: Path) -> DataSet:
    known = read_json(description)
    return DataSet(
        path=folder / known["digest"],
        digest=known["digest"],
        floor=known["floor"],
        notes=tuple(known["notes"]),
        sizes=known["sizes"],
        facts={name: tuple(shape) for name, shape in known["facts"].items()},
        lengths=known["lengths"],
        references=tuple(known["references"]),
        sources=known["sources"],
    )


def _same(task: Task, data: DataFolder, name: str, fingerprint: str) -> bool:
    """Whether a source still is what it was. Of a hub that can't be asked nobody can tell: it is read again."""
    kind, _, rest = name.partition(" ")
    if kind == "package":
        try:
            return version(rest) == fingerprint
        except PackageNotFoundError:
            return False
    if kind == "hub":
        if data.root is not None and task.files:
            return False  # they are read from the folder now
        try:
            now = hub.commit_of(rest.split()[0], getattr(task, "revision", None), "")
        except MissingData:
            return False
        return fingerprint.startswith(f"commit {now} ")
    path = data.root / rest if kind == "file" and data.root is not None else None
    return path is not None and path.is_file() and DataFolder.fingerprint(path) == fingerprint


_KEYS: dict[str, frozenset[bytes]] = {}


def _canonical_keys(task: Task, part: Examples) -> frozenset[bytes]:
    """The canonical keys of a split, found once per process: test and validation are the same for every seed."""
    known = f"{task.name} {task.model_dump_json()} {part.digest()}"
    if known not in _KEYS:
        _KEYS[known] = task.canonical_keys(part)
    return _KEYS[known]


def _place(task: Task, seed: int, folder: Path) -> Path:
    return folder / "index" / f"{_build_key(task, seed)}.json"


def _build_key(task: Task, seed: int) -> str:
    """Hash of what decides data and references: name, version, settings, seed, the code of all tasks and answerers."""
    module = sys.modules[type(task).__module__].__file__ or ""
    here = Path(__file__).parent
    own = {Path(module), Path(answerers.__file__), here / "axes.py", here / "seeds.py", here / "spacing.py"}
    files = sorted({*here.parent.joinpath("tasks").glob("*.py"), *own})
    code = hashlib.sha256()
    for file in files:
        if file.is_file():
            code.update(file.read_bytes())
    named = [task.name, task.version, task.model_dump(mode="json"), seed, np.__version__, code.hexdigest()]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]
