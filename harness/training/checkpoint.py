"""What a run leaves on disk: the selected weights, and the states from which a stopped run goes on."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from harness.files import write_atomically

WEIGHTS_FILE = "weights.safetensors"

FORMAT = 1
"""Version of a state file; a state of another one is not read."""

KEPT = 2
"""State files that stay: where the last one is damaged, the one before is used."""

_SEAL = "\nHRM-Bench state {version} sha256 {digest}\n"  # stands behind the archive, whose reader looks from its end
_SEALED = re.compile(rb"\nHRM-Bench state (\d+) sha256 ([0-9a-f]{64})\n\Z")
_SEAL_BYTES = 128  # at most


class Loaded(NamedTuple):
    state: dict[str, Any] | None  # None: there is none that can be used
    problems: list[str]  # a sentence on each state file that can't be used


def save_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    """The model's state dict as safetensors. Its configuration stands beside it in cell.json."""
    from safetensors.torch import save

    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(folder / WEIGHTS_FILE, lambda file: file.write(save(flat)))


def load_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / WEIGHTS_FILE)


def save_state(folder: Path, state: dict[str, Any], updates: int) -> None:
    """Everything an unfinished run needs to go on: tensors, numbers and strings only. Then all but the last two go."""

    def write(file: BinaryIO) -> None:
        hashed = _Hashed(file)
        try:
            torch.save(state, hashed)  # type: ignore[arg-type]
        except RuntimeError as error:  # torch's own, from closing an archive whose file failed before
            raise hashed.failed or error from None
        file.write(_SEAL.format(version=FORMAT, digest=hashed.total.hexdigest()).encode())

    write_atomically(folder / f"checkpoint-{updates:010d}.pt", write)
    for old in state_files(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def load_state(folder: Path, device: torch.device) -> Loaded:
    """The newest state that is whole, its checksum verified. Loading runs no code (`weights_only`)."""
    problems: list[str] = []
    for path in state_files(folder):
        problem = _damage(path)
        if problem is None:
            return Loaded(torch.load(path, map_location=device, weights_only=True), problems)
        problems.append(f"{path.name}: {problem}")
    return Loaded(None, problems)


def state_files(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)


def drop_state(folder: Path) -> None:
    for path in state_files(folder):
        path.unlink(missing_ok=True)


def _damage(path: Path) -> str | None:
    """What is wrong with a state file, None where nothing is."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - _SEAL_BYTES))
            seal = _SEALED.search(file.read())
            if seal is None:
                return "cut short, or not a state"
            if int(seal[1]) != FORMAT:
                return f"written in format {int(seal[1])}, this program reads {FORMAT}"
            file.seek(0)
            total, left = hashlib.sha256(), size - len(seal[0])
            while block := file.read(min(left, 1 << 20)):
                total.update(block)
                left -= len(block)
    except OSError as error:
        return error.strerror or str(error)
    return None if total.hexdigest().encode() == seal[2] else "its checksum is wrong"


class _Hashed:
    """A file that hashes what is written to it, so that a state is never in memory twice."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.total = file, hashlib.sha256()
        self.failed: OSError | None = None

    def write(self, data: Any) -> int:
        self.total.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.failed = error
            raise

    def flush(self) -> None:
        self.file.flush()
