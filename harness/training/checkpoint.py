"""What a run leaves on disk: the selected weights, and the state from which a stopped run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.files import write_atomically

STATE_FILE = "checkpoint.pt"
WEIGHTS_FILE = "weights.safetensors"


def save_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    """The model's state dict as safetensors. Its configuration stands beside it in cell.json."""
    from safetensors.torch import save

    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(folder / WEIGHTS_FILE, lambda file: file.write(save(flat)))


def load_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / WEIGHTS_FILE)


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Everything an unfinished run needs to go on: tensors, numbers and strings only."""
    write_atomically(folder / STATE_FILE, lambda file: torch.save(state, file))


def load_state(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The saved state, or None when there is none. Loading runs no code (`weights_only`)."""
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def drop_state(folder: Path) -> None:
    (folder / STATE_FILE).unlink(missing_ok=True)
