"""Figures of very many examples, on disk instead of in memory: a file without a name, which ends with its process.

Arrays look like any other; what was read or written of them leaves the memory at `release`.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BLOCK_ROWS = 16_384
"""Examples that are looked at together; splits of up to so many stay in memory."""


def empty(shape: tuple[int, ...], dtype: np.dtype[Any], folder: Path | None) -> np.ndarray:
    """An array of any content: in a file of the folder where there is one and it has more than BLOCK_ROWS rows.

    The room is taken at once, so that a full disk is an OSError here and not a dead process later.
    """
    if folder is None or shape[0] <= BLOCK_ROWS:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)) * dtype.itemsize)
        return np.memmap(file, dtype, "r+", shape=shape)


def release(arrays: Iterable[np.ndarray | None]) -> None:
    """Let the memory of arrays on disk go; their content stays."""
    for array in arrays:
        pages = getattr(array, "_mmap", None)
        if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)


def blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK_ROWS, rows)) for start in range(0, rows, BLOCK_ROWS))
