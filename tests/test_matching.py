"""The solver finds equal parameters or says that there are none; costs are those of a closed formula."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cost import measure, parameters
from harness.errors import UserError
from harness.matching import match_parameters
from harness.recipe import ONE_PASS, Loop
from models.base import ModelShape, resolve_config


def attention_flops(D: int, S: int) -> int:
    return 2 * S * (3 * D * D + D * D) + 2 * 2 * S * S * D


def layer_flops(D: int, S: int, inner: int) -> int:
    """One block on one row: qkv, output, scores and values, gate, up, down. 2 per multiply-add."""
    return attention_flops(D, S) + 2 * S * 3 * D * inner


@settings(max_examples=25, deadline=None)
@given(
    heads=st.integers(1, 8),
    head_size=st.sampled_from([16, 32, 64]),
    inner=st.integers(32, 512),
    H_layers=st.integers(1, 4),
    L_layers=st.integers(1, 4),
    layers=st.integers(1, 10),
    vocabulary=st.integers(3, 64),
)
def test_every_match_is_within_tolerance_and_keeps_the_head_size(
    heads, head_size, inner, H_layers, L_layers, layers, vocabulary
):
    shape = ModelShape(vocabulary, 20, 20)
    config = {"hidden": heads * head_size, "heads": heads, "inner": inner}
    reference = parameters("hrm", resolve_config("hrm", {**config, "H_layers": H_layers, "L_layers": L_layers}), shape)
    start = resolve_config("transformer", {"hidden": heads * head_size, "heads": heads, "layers": layers})
    try:
        found = match_parameters("transformer", start, reference, head_size, shape, "arms.transformer")
    except UserError as error:
        assert "tried" in str(error) and "nearest" in str(error)
        return
    ours = parameters("transformer", found.config, shape)
    assert found.config.hidden // found.config.heads == head_size
    assert abs(ours["core"] / reference["core"] - 1) <= 0.01
    assert ours["core"] / reference["core"] - 1 == pytest.approx(found.error_core)
    total = sum(ours.values()) / sum(v for k, v in reference.items() if k != "never_trained") - 1
    assert total == pytest.approx(found.error_total)
    assert abs(total) <= 0.02


def test_the_paper_pair_matches_exactly_at_eight_layers():
    shape = ModelShape(11, 81, 81)
    reference = parameters("hrm", resolve_config("hrm", {}, "paper"), shape)
    found = match_parameters("transformer", resolve_config("transformer", {}), reference, 64, shape, "x")
    assert (found.config.hidden, found.config.inner) == (512, 1536)
    assert found.error_core == 0


def test_an_impossible_match_says_what_was_tried():
    shape = ModelShape(11, 81, 81)
    reference = parameters("hrm", resolve_config("hrm", {"hidden": 64, "heads": 1, "inner": 64}), shape)
    many_layers = resolve_config("transformer", {"hidden": 64, "heads": 1, "layers": 200})
    with pytest.raises(UserError, match=r"arms\.deep.*core parameters within 1%.*tried hidden 64 to 192.*nearest"):
        match_parameters("transformer", many_layers, reference, 64, shape, "arms.deep")


@pytest.mark.parametrize(("D", "heads", "S", "inner"), [(64, 2, 17, 172), (512, 8, 81, 1536)])
def test_flops_are_those_of_the_closed_formula(D, heads, S, inner):
    """Forward of 24 or 8 layers and the head; an update is 64 or 24 layer-forwards (HRM: 24 + bootstrap 24 + 16)."""
    shape = ModelShape(11, S, S)
    layer, head, q = layer_flops(D, S + 1, inner), 2 * S * D * 11, 2 * D * 2
    base = {"hidden": D, "heads": heads, "inner": inner}
    hrm = measure("hrm", resolve_config("hrm", base), shape, Loop(), 32)
    assert hrm.flops_per_segment == 24 * layer + head + q
    assert hrm.flops_per_answer == 16 * hrm.flops_per_segment
    assert hrm.layers_per_answer == 384
    # the backward pass of the head and of the q head costs twice their forward pass, like any layer
    assert hrm.flops_per_update == 32 * (64 * layer + 4 * (head + q))
    one_pass = measure("transformer", resolve_config("transformer", base), shape, ONE_PASS, 32)
    assert one_pass.flops_per_segment == 8 * layer + head
    assert one_pass.flops_per_update == 32 * 3 * (8 * layer + head)


def test_without_bootstrap_an_update_costs_no_second_forward_pass():
    shape = ModelShape(5, 9, 9)
    config = resolve_config("hrm", {"hidden": 32, "heads": 2, "inner": 64})
    learned = measure("hrm", config, shape, Loop(), 4)
    simple = measure("hrm", config, shape, Loop(halting="q_halt"), 4)
    assert learned.flops_per_update - simple.flops_per_update == 4 * learned.flops_per_segment


def test_activation_memory_does_not_grow_with_the_cycles_of_the_one_step_gradient():
    shape = ModelShape(5, 9, 9)
    base = {"hidden": 32, "heads": 2, "inner": 64}
    few = measure("hrm", resolve_config("hrm", base), shape, Loop(), 4)
    many = measure("hrm", resolve_config("hrm", {**base, "H_cycles": 4, "L_cycles": 4}), shape, Loop(), 4)
    assert few.activation_bytes == many.activation_bytes > 0
