"""What an arm's states do from segment to segment: how far they still move, and how many dimensions they fill.

Both are cheap sums over states that are at hand: ‖z_k − z_(k−1)‖ / ‖z_k‖ by example, and the participation ratio
(Σλ)² / Σλ² of the covariance C, which is tr(C)² / ‖C‖² and needs no eigenvalues.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.base import State


class StateRecorder:
    """Sees the states of a batch after each segment and keeps rows of states.csv, without the columns of the cell.

    A fault here must not cost what is going on around it: it ends the recording and is kept as `problem`.
    """

    def __init__(self, trained: int) -> None:
        self.trained = trained
        self.problem = ""
        self._before: dict[str, Tensor] | None = None
        self._found: list[tuple[str, int, Tensor, tuple[int, int, int]]] = []

    def see(self, state: State, segment: int) -> None:
        """The state after `segment` segments; 0 is the initial state, to be seen first."""
        if self.problem:
            return
        try:
            now = latent(state)
            if self._before is not None:
                for name in now.keys() & self._before.keys():
                    z = now[name]
                    figures = torch.stack([residual(z, self._before[name]), z.square().mean().sqrt(), participation(z)])
                    self._found.append((name, segment, figures, (z.shape[2], z.shape[0] * z.shape[1], z.shape[0])))
            self._before = now
        except Exception as error:
            self.problem = f"no figures of states: {type(error).__name__}: {error}"

    def rows(self) -> list[dict[str, Any]]:
        """In the order of the states' names, then segments. None for an arm without states, or after a fault."""
        if self.problem:
            return []
        rows = []
        for name, segment, figures, (width, vectors, examples) in sorted(self._found, key=lambda item: item[:2]):
            moved, size, ratio = (None if value != value else value for value in figures.tolist())
            rows.append(
                {
                    "state": name,
                    "segments": segment,
                    "residual": moved,
                    "norm": size,
                    "participation_ratio": ratio,
                    "width": width,
                    "vectors": vectors,
                    "examples": examples,
                    "beyond_training": segment > self.trained,
                }
            )
        return rows


def latent(state: State) -> dict[str, Tensor]:
    """The states proper as [B, positions, D] float32: what counts segments or seeds random numbers is none."""
    found = {name: z for name, z in state.items() if z.is_floating_point() and z.dim() >= 2}
    return {name: z.detach().float().reshape(len(z), -1, z.shape[-1]) for name, z in found.items()}


def residual(now: Tensor, before: Tensor) -> Tensor:
    """Mean over the examples of ‖now − before‖ / ‖now‖, each [B, P, D]; NaN where a state is zero throughout."""
    norm = now.flatten(1).norm(dim=1)
    return ((now - before).flatten(1).norm(dim=1) / norm).mean()


def participation(z: Tensor) -> Tensor:
    """(Σλ)² / Σλ² of the covariance of the vectors z [B, P, D], between 1 and D; NaN where they don't differ.

    The HRM paper gives it for its states H and L, as a measure of their dimensions (89.95 and 30.22).
    """
    vectors = z.reshape(-1, z.shape[-1])
    centred = vectors - vectors.mean(0)
    covariance = centred.T @ centred
    return covariance.trace().square() / covariance.square().sum()
