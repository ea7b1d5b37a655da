"""Parts that the HRM paper's blocks do without and other HRM projects have: biases, norms with learned numbers, GELU.

Parameters are float32 and cast to the input's type at use. A generator of None builds on the meta device, for counting.
"""

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
    """down(GELU(up(x))), both with biases: […, inputs] → […, outputs]."""

    def __init__(self, inputs: int, inner: int, outputs: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.up_proj = Affine(inputs, inner, generator)
        self.down_proj = Affine(inner, outputs, generator)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.gelu(self.up_proj(x)))
        return out


class ScaledNorm(nn.Module):
    """Root-mean-square normalisation with a learned scale per number of the width, one at first."""

    def __init__(self, hidden: int, eps: float, generator: torch.Generator | None) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden, device="meta" if generator is None else None))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.eps) * self.weight.to(x.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the width with scale and shift (arXiv 1607.06450), computed in at least float32."""

    def __init__(self, hidden: int, eps: float, generator: torch.Generator | None) -> None:
        super().__init__()
        device = "meta" if generator is None else None
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden, device=device))
        self.bias = nn.Parameter(torch.zeros(hidden, device=device))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(self.weight.dtype)
        return F.layer_norm(wide, self.weight.shape, self.weight, self.bias, self.eps).to(x.dtype)
