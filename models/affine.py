"""Parts with the numbers that the HRM paper's blocks do without and the source systems' have: biases, norm scales."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Linear, rms_norm


class Affine(Linear):
    """A linear map with a bias, zero at first."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator | None) -> None:
        super().__init__(inputs, outputs, generator)
        self.bias = nn.Parameter(torch.zeros(outputs, device="meta" if generator is None else None))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.bias.to(x.dtype)


class MLP(nn.Module):
    """Affine, GELU, affine: [..., inputs] → [..., outputs]."""

    def __init__(self, inputs: int, inner: int, outputs: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.inner = Affine(inputs, inner, generator)
        self.outer = Affine(inner, outputs, generator)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.outer(F.gelu(self.inner(x)))
        return out


class ScaledNorm(nn.Module):
    """Root-mean-square normalisation with a learned scale per number of the width, one at first."""

    def __init__(self, hidden: int, eps: float, generator: torch.Generator | None) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden, device="meta" if generator is None else None))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.eps) * self.weight.to(x.dtype)
