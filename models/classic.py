"""The classic transformer's parts, with biases and learned norms: what the families after other HRM projects are made
of. A generator of None builds on the meta device, for counting."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Linear


class BiasedLinear(Linear):
    """A linear map whose bias starts at zero; parameters float32, cast to the input's type at use."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator | None) -> None:
        super().__init__(inputs, outputs, generator)
        self.bias = nn.Parameter(torch.zeros(outputs, device="meta" if generator is None else None))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.bias.to(x.dtype)


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


class GELUNetwork(nn.Module):
    """down(GELU(up(x))), both with biases."""

    def __init__(self, hidden: int, inner: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.up_proj = BiasedLinear(hidden, inner, generator)
        self.down_proj = BiasedLinear(inner, hidden, generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(x)))
