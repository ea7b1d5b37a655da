"""Losses are the published formulas, stable where the formulas are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.training.losses import cross_entropy, log_stablemax


def published_log_stablemax(x: np.ndarray) -> np.ndarray:
    """s(x) = x + 1 for x ≥ 0, 1 / (1 − x) below; log of its share, in float64."""
    s = np.where(x >= 0, x + 1, 1 / (1 - x + 1e-30))
    return np.log(s / s.sum(-1, keepdims=True))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=8))
def test_stablemax_equals_the_published_division(values):
    x = np.array(values)
    ours = log_stablemax(torch.from_numpy(x)).numpy()
    # where x is far below 0, 1 − x rounds to −x in the published form, too: agreement to float64's relative precision
    np.testing.assert_allclose(ours, published_log_stablemax(x), rtol=1e-9, atol=1e-12)


def test_stablemax_in_float32_differs_from_float64_by_rounding_only():
    x = torch.randn(512, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 20
    difference = (log_stablemax(x.float()).double() - log_stablemax(x)).abs().max().item()
    assert 0 < difference < 2e-6  # measured 9.6e-7


def test_stablemax_has_a_gradient_at_zero():
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    log_stablemax(x)[0].backward()
    np.testing.assert_allclose(x.grad.numpy(), [2 / 3, -1 / 3, -1 / 3])


@pytest.mark.parametrize("kind", ["stablemax", "softmax"])
def test_positions_without_label_change_nothing_and_rows_weigh_equally(kind):
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, 0, 0], [1, 2, 3, 4]])
    per_row = cross_entropy(logits, labels, kind)
    alone = cross_entropy(logits[:1, :2], labels[:1, :2], kind)
    torch.testing.assert_close(per_row[:1], alone)
    logits[0, 2:] = 1e3
    torch.testing.assert_close(cross_entropy(logits, labels, kind), per_row)


def test_a_row_without_any_label_has_loss_zero():
    assert cross_entropy(torch.randn(1, 3, 4), torch.zeros(1, 3, dtype=torch.int64), "stablemax").item() == 0
