"""The arithmetic-proof and parity HRMs with exactly the parameters of their public projects, for counting only.

Built of PyTorch's own modules on the meta device: nothing here can run. The families that train are `hrm-proof` and
`hrm-gru`; their docstrings say by how much they differ, and why.
"""

from __future__ import annotations

from torch import nn

from harness.errors import UserError


def published_parameters(system: str, *, act: bool = False) -> dict[str, int]:
    """Numbers per group of a public project at its own sizes; never_trained: those that its training never reaches.

    S0: PyTorch HRM for arithmetic proofs, width 128, vocabulary 58. S2: minimal parity HRM, 32 bits, width 256, `act`
    with its halting head. The groups add up to the published total. Raises UserError for another system.
    """
    if system == "S0":
        groups = _arithmetic_proofs()
    elif system == "S2":
        groups = _parity(act)
    else:
        raise UserError(f'no published parameters of system "{system}" here; there are S0 and S2')
    return {name: sum(p.numel() for part in parts for p in part.parameters()) for name, parts in groups.items()}


def _arithmetic_proofs(vocabulary: int = 58, width: int = 128, heads: int = 8) -> dict[str, list[nn.Module]]:
    """Two modules of two pre-norm blocks with three norms each. H is never given a third operand for its third norm.

    (The key biases, 512 numbers of the core, have a gradient in form, but the softmax cancels them.)
    """

    def block() -> nn.Module:
        return nn.TransformerEncoderLayer(
            width, heads, 4 * width, activation="gelu", norm_first=True, batch_first=True, device="meta"
        )

    def norm() -> nn.Module:
        return nn.LayerNorm(width, device="meta")

    low = [norm(), norm(), norm(), block(), block()]
    high = [norm(), norm(), block(), block()]
    return {
        "core": low + high,
        "embeddings": [nn.Embedding(vocabulary, width, device="meta")],
        "heads": [nn.Linear(width, vocabulary, device="meta"), nn.Linear(width, 2, device="meta")],
        "puzzle_table": [],
        "never_trained": [norm()],
    }


def _parity(act: bool, bits: int = 32, width: int = 256, classes: int = 2) -> dict[str, list[nn.Module]]:
    """A linear map of the bits, L's cell over [x̃, z_H, z_L], H's over [z_L, z_H], and a norm before the output.

    No loss reaches the halting head that `act` adds. Input map and output count as core, as in `hrm-gru`.
    """
    return {
        "core": [
            nn.Linear(bits, width, device="meta"),
            nn.GRUCell(3 * width, width, device="meta"),
            nn.GRUCell(2 * width, width, device="meta"),
            nn.LayerNorm(width, device="meta"),
            nn.Linear(width, classes, device="meta"),
        ],
        "embeddings": [],
        "heads": [],
        "puzzle_table": [],
        "never_trained": [nn.Linear(width, 1, device="meta")] if act else [],
    }
