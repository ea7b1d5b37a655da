"""Losses of the HRM paper and code: stablemax or softmax cross-entropy, and the two halting losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.registry import Registry
from models.base import Prediction
from tasks.base import PAD, Batch

AnswerLoss = Callable[[Prediction, Batch], Tensor]
"""The loss of each row's answer after a segment: (prediction, batch) → [B], differentiable. The loop adds the halting
losses and the model's own."""

LOSSES: Registry[AnswerLoss] = Registry("loss")


def register_loss(name: str) -> Callable[[AnswerLoss], AnswerLoss]:
    """Decorator: makes a loss known to recipes as `loss: NAME`. In a plug-in file, no other file need change."""

    def register(loss: AnswerLoss) -> AnswerLoss:
        LOSSES.add(name, loss)
        return loss

    return register


def log_stablemax(logits: Tensor) -> Tensor:
    """log(s(x) / Σ s) over the last dimension, s(x) = x + 1 for x ≥ 0 and 1 / (1 − x) below.

    log s(x) = sign(x)·log(1 + |x|), so this is a log-softmax of that: no overflow and no ε, in any precision.
    The published code divides in float64; the two agree to float64's last digits.
    """
    squashed = torch.where(logits >= 0, torch.log1p(logits.clamp(min=0)), -torch.log1p(-logits.clamp(max=0)))
    return F.log_softmax(squashed, dim=-1)


def cross_entropy(logits: Tensor, labels: Tensor, kind: str) -> Tensor:
    """Mean negative log-likelihood over each row's scored positions: [B].

    logits [B, A, V], labels [B, A] with 0 = not scored. stablemax is computed in float64 where the device has it, as
    published; softmax in float32 (float64 in float64 runs).
    """
    if kind == "stablemax":
        wide = torch.float32 if logits.device.type == "mps" else torch.float64
        log_p = log_stablemax(logits.to(wide))
    else:
        log_p = F.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
    scored = labels != PAD
    nll = -log_p.gather(-1, labels.long().unsqueeze(-1)).squeeze(-1)
    return (nll * scored).sum(-1) / scored.sum(-1).clamp(min=1)


@register_loss("stablemax")
def stablemax_loss(prediction: Prediction, batch: Batch) -> Tensor:
    return cross_entropy(prediction.logits, batch.labels, "stablemax")


@register_loss("softmax")
def softmax_loss(prediction: Prediction, batch: Batch) -> Tensor:
    return cross_entropy(prediction.logits, batch.labels, "softmax")


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """[B] with logits [B] and targets [B] in [0, 1]."""
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
