"""A folder's files as bytes and back, for nodes that do not share the results folder."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Collection
from pathlib import Path


def pack(folder: Path, leave: Collection[str] = ()) -> bytes:
    """The folder's files as a tar archive; but for hidden ones (locks, half-written files) and those to `leave`."""
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as archive:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            name = str(path.relative_to(folder))
            if path.is_file() and name not in leave and not any(part.startswith(".") for part in Path(name).parts):
                archive.add(path, name)
    return into.getvalue()


def unpack(parcel: bytes, folder: Path, last: str = "") -> set[str]:
    """Put the files of a parcel into the folder, in place of those of the same names.

    All are on disk before the first gets its name, and the file called `last` gets it last: so where that one says
    that the folder is whole, it is, through a full disk or a kill at any moment. For who holds the folder's lock.
    Returns their names.
    """
    waiting = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(waiting, ignore_errors=True)
    waiting.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(parcel)) as archive:
            archive.extractall(waiting, filter="data")
        names = [path.relative_to(waiting) for path in sorted(waiting.rglob("*")) if path.is_file()]
        for name in names:
            with (waiting / name).open("rb") as file:
                os.fsync(file.fileno())
        for name in sorted(names, key=lambda name: str(name) == last):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (waiting / name).replace(folder / name)
        return {str(name) for name in names}
    finally:
        shutil.rmtree(waiting, ignore_errors=True)
