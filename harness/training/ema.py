"""An exponential moving average of the weights: what is evaluated and saved where the recipe asks for one (`ema`)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from models.base import ReasoningModel
from models.layers import PuzzleEmbedding


class WeightAverage:
    """A second copy of a model whose weights follow the first: a ← decay · a + (1 − decay) · w after every update.

    As in TRM's public code (arXiv 2510.04871, decay 0.999) it starts at the initial weights, without bias correction,
    and leaves out the puzzle table, whose rows are rarely touched: that stays one tensor in both models.
    """

    def __init__(self, model: ReasoningModel, decay: float) -> None:
        self.decay = decay
        shared = [p for m in model.modules() if isinstance(m, PuzzleEmbedding) for p in m.parameters()]
        self.model = copy.deepcopy(model, {id(p): p for p in shared})
        kept = {id(p) for p in shared}
        self.averages = {name: p for name, p in self.model.named_parameters() if id(p) not in kept}
        live = dict(model.named_parameters())
        self.weights: list[Tensor] = [live[name] for name in self.averages]
        for average in self.averages.values():
            average.requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(list(self.averages.values()), self.weights, 1 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: average.detach() for name, average in self.averages.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, average in self.averages.items():
            average.copy_(state[name])
