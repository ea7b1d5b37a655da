"""Optimizers follow their published formulas, step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from harness.recipe import Schedule
from harness.training.optim import AdamATan2, SparseSignSGD


def test_adam_atan2_follows_the_published_formula_in_float64():
    """p ← p(1 − lr·wd); p ← p − lr/(1 − β₁ᵗ) · atan2(m, √v/√(1 − β₂ᵗ)), written out in NumPy."""
    random = np.random.default_rng(0)
    p = random.standard_normal(7)
    parameter = nn.Parameter(torch.from_numpy(p.copy()))
    lr, wd, b1, b2 = 1e-2, 0.3, 0.9, 0.95
    optimizer = AdamATan2([parameter], lr, (b1, b2), wd)
    m = v = np.zeros(7)
    for t in range(1, 30):
        g = random.standard_normal(7)
        parameter.grad = torch.from_numpy(g.copy())
        optimizer.step()
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        p = p * (1 - lr * wd)
        p = p - lr / (1 - b1**t) * np.arctan2(m, np.sqrt(v) / math.sqrt(1 - b2**t))
        np.testing.assert_allclose(parameter.detach().numpy(), p, rtol=1e-12, atol=1e-14)


def test_adam_atan2_does_not_see_the_scale_of_the_gradient():
    results = []
    for scale in (1.0, 1e6):
        parameter = nn.Parameter(torch.ones(4, dtype=torch.float64))
        optimizer = AdamATan2([parameter], 1e-2, (0.9, 0.95), 0.0)
        for step in range(3):
            parameter.grad = scale * torch.tensor([1.0, -2.0, 0.5, step + 1.0], dtype=torch.float64)
            optimizer.step()
        results.append(parameter.detach().clone())
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=0)


def test_sparse_sign_sgd_equals_the_dense_definition_on_touched_rows_and_leaves_the_others():
    """Equal ids are summed before the sign; rows that no id names keep their bits."""
    random = torch.Generator().manual_seed(0)
    table = nn.Parameter(torch.randn(6, 3, generator=random))
    before = table.detach().clone()
    ids = torch.tensor([4, 1, 4, 4, 0, 1])
    rows = nn.functional.embedding(ids, table, sparse=True)
    gradient = torch.randn(6, 3, generator=random)
    (rows * gradient).sum().backward()
    SparseSignSGD([table], lr=0.1, weight_decay=0.5).step()
    for row in range(6):
        if row in (0, 1, 4):
            total = gradient[ids == row].sum(0)
            torch.testing.assert_close(table[row].detach(), before[row] * (1 - 0.1 * 0.5) - 0.1 * total.sign())
        else:
            assert torch.equal(table[row].detach(), before[row])


@pytest.mark.parametrize(
    ("update", "progress", "expected"), [(1, 0.01, 0.1), (10, 0.1, None), (100, 1.0, 0.2), (55, 0.5, 0.6)]
)
def test_schedule_warms_up_linearly_then_follows_a_cosine_over_the_budget(update, progress, expected):
    schedule = Schedule(name="cosine", warmup_updates=10, final_ratio=0.2)
    cosine = 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * progress))
    assert schedule.factor(update, progress) == pytest.approx(cosine if expected is None else expected)


def test_constant_schedule_stays_at_the_peak():
    schedule = Schedule(name="constant", warmup_updates=4)
    assert [schedule.factor(u, u / 8) for u in (2, 4, 8)] == [0.5, 1.0, 1.0]
