"""Splits on disk as Arrow files of `datasets`, a folder per data set, named by the hash of its content.

A folder is written whole or not at all, and read memory-mapped. Reading hashes every byte again, so a file that was cut
or changed is never taken for the data.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import BrokenData
from harness.files import hold, read_json, write_json
from tasks.base import Examples, Splits

MANIFEST = "manifest.json"


def save(splits: Splits, folder: Path, about: dict[str, Any]) -> None:
    """Write the splits and what is to be known `about` them; where the folder is there already, and whole, it stays."""
    if folder.is_dir():
        try:
            load(folder)
            return
        except BrokenData as broken:
            print(
                f"{broken.args[0].removesuffix('; delete the folder')}; writing it again", file=sys.stderr, flush=True
            )
            shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        described = {name: _write(part, temporary / f"{name}.arrow") for name, part in splits.items()}
        write_json(temporary / MANIFEST, {**about, "splits": described})
        with contextlib.suppress(OSError):  # another process was faster; its bytes are the same, by their hash
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(folder: Path) -> Splits:
    """The splits of a folder whose name is the hash of their content. BrokenData where anything differs."""
    try:
        manifest = read_json(folder / MANIFEST)
        splits = {
            name: _read(folder / f"{name}.arrow", columns, rows) for name, (rows, columns) in manifest["splits"].items()
        }
        found = splits_digest(splits)
    except Exception as error:  # a cut file raises whatever the reader meets first
        raise BrokenData(f"data cache {folder}: {type(error).__name__}: {error}; delete the folder") from error
    if found != folder.name:
        raise BrokenData(f"data cache {folder}: its content has another hash ({found}); delete the folder")
    return splits


def remembered(index: Path, build: Callable[[], Splits]) -> Splits:
    """What `build` gave when it was first asked for under this name; built again, saying so, where that is damaged.

    Of several processes one builds. The file `index` names the folder beside it that holds the splits.
    """
    with hold(index.with_suffix(".lock")):
        if index.is_file():
            try:
                return load(index.parent / str(read_json(index)["digest"]))
            except (BrokenData, ValueError, KeyError, TypeError) as error:
                said = str(error).removesuffix("; delete the folder")
                print(f"data cache {index}: {said}; building it again", file=sys.stderr, flush=True)
        splits = build()
        folder = index.parent / splits_digest(splits)
        save(splits, folder, {})
        write_json(index, {"digest": folder.name})
        return load(folder)


def splits_digest(splits: Splits) -> str:
    """Sixteen hex digits over every byte of every split."""
    import hashlib

    total = hashlib.sha256()
    for name in sorted(splits):
        total.update(f"{name}:{splits[name].digest()};".encode())
    return total.hexdigest()[:16]


def _write(part: Examples, path: Path) -> list[Any]:
    """One file, one record batch: its columns can then be read without a copy. Returns [rows, columns]."""
    import pyarrow as pa
    from datasets.arrow_writer import ArrowWriter

    arrays = dict(part.arrays())
    table = pa.table({name: _column(array) for name, array in arrays.items()})
    with ArrowWriter(path=str(path)) as writer:
        writer.write_table(table, writer_batch_size=max(1, len(part)))
        writer.finalize()
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return [len(part), {name: [array.dtype.str, list(array.shape[1:])] for name, array in arrays.items()}]


def _column(array: np.ndarray) -> Any:
    """Text as strings, numbers as they are, rows of numbers as fixed-size lists."""
    import pyarrow as pa

    if array.dtype.kind == "U":
        return pa.array(array.tolist(), pa.string())
    flat = np.ascontiguousarray(array).reshape(-1)
    values = pa.array(flat.view(np.uint8) if array.dtype == bool else flat)
    return values if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(values, int(np.prod(array.shape[1:])))


def _read(path: Path, columns: dict[str, Any], rows: int) -> Examples:
    from datasets import Dataset

    table = Dataset.from_file(str(path)).data.table
    if table.num_rows != rows:
        raise ValueError(f"{path.name} holds {table.num_rows} rows, not {rows}")
    found: dict[str, Any] = {"facts": {}}
    for name, (dtype, shape) in columns.items():
        column = table.column(name)
        values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if np.dtype(dtype).kind == "U":
            array = np.array(values.to_pylist(), dtype)
        else:
            flat = (values.flatten() if shape else values).to_numpy(zero_copy_only=True)
            array = (flat.view(bool) if np.dtype(dtype) == bool else flat).reshape(rows, *shape)
        target = found["facts"] if name.startswith("facts.") else found
        target[name.removeprefix("facts.")] = array
    return Examples(**found)
