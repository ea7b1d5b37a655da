"""Which split owns a generated example: decided by a hash of its symmetry class, so that splits can't share one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
"""Which part of all symmetry classes belongs to a split, by hash; the rest is for training."""

Columns = tuple[np.ndarray, ...]


def split_of(keys: np.ndarray) -> np.ndarray:
    """[N] str: the split that owns each class [N] uint64, whatever the seed and the settings."""
    share = keys / 2.0**64
    return np.select(
        [share < TEST_SHARE, share < TEST_SHARE + VALIDATION_SHARE], ["test", "validation"], default="train"
    )


def fill(
    wanted: dict[str, int],
    draw: Callable[[], tuple[np.ndarray, Columns]],
    *,
    patience: int,
    seen: set[int] | None = None,
) -> dict[str, Columns]:
    """Draw until every split has as many new classes as wanted, or `patience` draws in a row brought none.

    `draw` gives class keys [M] uint64 and columns of M rows each; every split gets the same columns with at most as
    many rows as wanted, each of a class that is not in `seen` (which grows by what is drawn).
    """
    known = set() if seen is None else seen
    parts: dict[str, list[Columns]] = {name: [] for name in wanted}
    have = dict.fromkeys(wanted, 0)
    dry = 0
    columns: Columns = ()
    while (short := [name for name in wanted if have[name] < wanted[name]]) and dry < patience:
        keys, columns = draw()
        new = np.zeros(len(keys), bool)
        for row, key in enumerate(keys.tolist()):
            new[row] = key not in known
            known.add(key)
        owner = split_of(keys)
        dry += 1
        for name in short:
            rows = np.flatnonzero(new & (owner == name))[: wanted[name] - have[name]]
            if len(rows):
                parts[name].append(tuple(column[rows] for column in columns))
                have[name] += len(rows)
                dry = 0
    empty = [tuple(column[:0] for column in columns)]
    return {name: tuple(np.concatenate(c) for c in zip(*(parts[name] or empty), strict=True)) for name in wanted}


def row_hashes(rows: np.ndarray) -> np.ndarray:
    """[N] uint64: a 64-bit hash of each row of small numbers [N, L]."""
    places = mix(np.arange(rows.shape[1], dtype=np.uint64))
    return mix(mix(rows.astype(np.uint64) + places).sum(1))


def mix(x: Any) -> np.ndarray:
    """A 64-bit mixing function (the finaliser of SplitMix64, Steele et al. 2014). Wraps around, as it should."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
