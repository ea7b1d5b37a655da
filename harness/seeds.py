"""Seeds by axis. Every random choice is keyed by words and numbers that say what it is for.

Data and stream depend on (task, seed), initial weights on (arm, seed), so arms are paired. Keys pass through
SHA-256 into `numpy.random.SeedSequence`; nowhere is a seed made by `seed + i`, which makes neighbours overlap.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np


def _digest(parts: tuple[str | int, ...]) -> bytes:
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).digest()


def sequence(*parts: str | int) -> np.random.SeedSequence:
    """The seed sequence of a purpose, such as `sequence("parity", "train", 3)`."""
    return np.random.SeedSequence(np.frombuffer(_digest(parts), dtype=np.uint32).tolist())


def generator(*parts: str | int) -> np.random.Generator:
    """A NumPy generator of that purpose alone."""
    return np.random.Generator(np.random.PCG64(sequence(*parts)))


def key(*parts: str | int) -> int:
    """A 63-bit key of that purpose, for counter-based random numbers on the device and for `torch.Generator`."""
    return int(sequence(*parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
