"""Optimizers and learning-rate schedules behind one small interface.

AdamW or Adam-atan2 for the dense parameters, sign-SGD for the rows of the puzzle table that an update touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

from harness.recipe import OptimizerSettings, PuzzleOptimizerSettings, Schedule
from models.base import ReasoningModel
from models.layers import PuzzleEmbedding


class AdamATan2(torch.optim.Optimizer):
    """Adam with atan2 in place of the division: no ε, and updates that no gradient's scale can change.

    p ← p·(1 − lr·wd);  m, v as in Adam;  p ← p − lr/(1 − β₁ᵗ) · atan2(m, √v / √(1 − β₂ᵗ)), as HRM's published
    optimizer computes it: the first moment's bias correction stands outside the atan2; there are no scale constants.
    """

    def __init__(self, params: Iterable[Any], lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        for group in self.param_groups:
            # a parameter that a curriculum brings in late has taken fewer steps than the others
            by_step: dict[int, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p] = {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
                self.state[p]["step"] += 1
                by_step.setdefault(self.state[p]["step"], []).append(p)
            for t, params in by_step.items():
                self._step(params, t, **{name: group[name] for name in ("lr", "betas", "weight_decay")})
        return None

    def _step(self, params: list[Tensor], t: int, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        beta1, beta2 = betas
        grads = [p.grad for p in params if p.grad is not None]
        m = [self.state[p]["m"] for p in params]
        v = [self.state[p]["v"] for p in params]
        torch._foreach_mul_(params, 1 - lr * weight_decay)
        torch._foreach_lerp_(m, grads, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1 - beta2)
        scale = torch._foreach_sqrt(v)
        torch._foreach_div_(scale, math.sqrt(1 - beta2**t))
        for p, first, second in zip(params, m, scale, strict=True):
            p.sub_(torch.atan2(first, second), alpha=lr / (1 - beta1**t))


class SparseSignSGD(torch.optim.Optimizer):
    """p ← p·(1 − lr·wd) − lr·sign(gradient), on the rows of a table that the update touched, as HRM's puzzle table.

    Gradients of equal ids are summed before the sign. Shapes are static and nothing synchronises: every touched row is
    written once per occurrence, each time with the same value.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                ids, rows = p.grad._indices()[0], p.grad._values()
                ids, order = ids.sort()
                rows = rows[order]
                first = torch.ones_like(ids, dtype=torch.bool)
                first[1:] = ids[1:] != ids[:-1]
                slot = first.cumsum(0) - 1
                total = _summed(rows, slot)[slot]
                p[ids] = p[ids] * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * total.sign()
        return None


def _summed(rows: Tensor, slot: Tensor) -> Tensor:
    """rows [N, D] added up by slot [N]; on CUDA in a fixed order, since ranks must agree on signs of sums near 0."""
    if rows.is_cuda:
        return torch.zeros_like(rows).index_put_((slot,), rows, accumulate=True)
    return torch.zeros_like(rows).index_add_(0, slot, rows)


def factor_of(parameter: str, factors: dict[str, float]) -> float:
    """The learning-rate factor of a parameter by the longest of `factors`' names that it lies in; 1 by default."""
    within = [name for name in factors if parameter == name or parameter.startswith(f"{name}.")]
    return factors[max(within, key=len)] if within else 1.0


def parameter_groups(model: ReasoningModel, factors: dict[str, float], but: set[int]) -> list[dict[str, Any]]:
    """The model's parameters by learning-rate factor and by whether weight decay spares them; ids in `but` left out."""
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in but:
            groups.setdefault((factor_of(name, factors), model.exempt_from_decay(name)), []).append(parameter)
    return [
        {"params": parameters, "factor": factor, **({"weight_decay": 0.0} if spared else {})}
        for (factor, spared), parameters in groups.items()
    ]


class Optimizers:
    """All optimizers of one model, stepped together under one schedule, with one clip over the dense gradients."""

    def __init__(
        self,
        model: ReasoningModel,
        dense: OptimizerSettings,
        puzzle: PuzzleOptimizerSettings,
        schedule: Schedule,
        clip: float | None,
    ) -> None:
        table = {id(p) for m in model.modules() if isinstance(m, PuzzleEmbedding) for p in m.parameters()}
        self.dense = [p for p in model.parameters() if id(p) not in table]
        self.sparse = [p for p in model.parameters() if id(p) in table]
        self.schedule, self.clip = schedule, clip
        groups = parameter_groups(model, dense.factors, table)
        optimizer: torch.optim.Optimizer
        if dense.name == "adamw":
            # one kernel for all parameters, on CPU and CUDA alike
            optimizer = torch.optim.AdamW(
                groups, lr=dense.learning_rate, betas=dense.betas, weight_decay=dense.weight_decay, fused=True
            )
        else:
            optimizer = AdamATan2(groups, dense.learning_rate, dense.betas, dense.weight_decay)
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [(optimizer, dense.learning_rate)]
        if self.sparse:
            signed = SparseSignSGD(self.sparse, puzzle.learning_rate, puzzle.weight_decay)
            self.optimizers.append((signed, puzzle.learning_rate))
        self.learning_rate = 0.0  # of the dense parameters, at the last step

    def step(self, update: int, progress: float) -> None:
        """Clip, step, and forget the gradients. `update` counts from 1; `progress` is the share of the budget used."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.dense, self.clip, foreach=True)
        factor = self.schedule.factor(update, progress)
        for optimizer, peak in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor * group.get("factor", 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.learning_rate = self.optimizers[0][1] * factor

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer, _ in self.optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for (optimizer, _), state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
