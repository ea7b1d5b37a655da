"""Which of many are taken where few will do: evenly spaced ones, so that what stands in an order stays covered."""

from __future__ import annotations

import numpy as np


def evenly(count: int, most: int | None) -> np.ndarray:
    """[min(count, most)] int64: places in 0 … count − 1, rising and distinct, the first and the last among them (of
    `most` 1 the first); all of them where `most` is None."""
    if most is None or count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)
