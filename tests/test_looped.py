"""The one-state baselines do HRM's work under HRM's training scheme, and their halting head is really trained."""

from __future__ import annotations

import pytest
import torch
from test_matching import layer_flops
from toys import FAMILIES, SMALL, cell, random_batch, trainer

from harness.cost import measure
from harness.errors import UserError
from harness.recipe import Loop, Recipe
from models.base import ModelShape, create_model, resolve_config

SHAPE = ModelShape(5, 6, 6)


def small(model, config):
    return create_model(model, {**SMALL, "layers": 2, **config}, SHAPE, generator=torch.Generator().manual_seed(0))


def test_the_paper_preset_has_hrms_core_and_does_hrms_work():
    shape = ModelShape(11, 81, 81)
    hrm = create_model("hrm", {}, shape, preset="paper")
    looped = create_model("looped", {}, shape, preset="paper")
    act = create_model("transformer-act", {}, shape, preset="paper")
    assert looped.layers_per_segment == hrm.layers_per_segment == 24
    assert act.layers_per_segment == 8
    ours, theirs = looped.parameter_groups(), hrm.parameter_groups()
    assert ours["never_trained"] == 512 and theirs["never_trained"] == 1024  # one state, two states
    assert {**ours, "never_trained": 0} == {**theirs, "never_trained": 0}


def test_an_update_costs_what_hrms_costs():
    """24 forward, 16 backward of the last loop's 8 layers, 24 for the bootstrap pass: 64 layer-forwards, as HRM's."""
    S, base = 9, {"hidden": 32, "heads": 2, "inner": 40}
    shape = ModelShape(5, S, S)
    looped = measure("looped", resolve_config("looped", base), shape, Loop(), Recipe(batch_size=8))
    hrm = measure("hrm", resolve_config("hrm", base), shape, Loop(), Recipe(batch_size=8))
    assert looped.flops_per_segment == hrm.flops_per_segment
    assert looped.flops_per_update == hrm.flops_per_update
    layer, head, q = layer_flops(32, S + 1, 40), 2 * S * 32 * 5, 2 * 32 * 2
    everything = measure(
        "looped", resolve_config("looped", {**base, "gradient_loops": None}), shape, Loop(), Recipe(batch_size=8)
    )
    assert everything.flops_per_update == 8 * ((24 + 48 + 24) * layer + 4 * (head + q))


@pytest.mark.parametrize(
    ("gradient_loops", "expected"),
    [(1, [False, False, True]), (2, [False, True, True]), (3, [True] * 3), (9, [True] * 3), (None, [True] * 3)],
)
def test_gradient_reaches_exactly_the_last_loops(gradient_loops, expected):
    model = small("looped", {"loops": 3, "gradient_loops": gradient_loops})
    carrying: list[bool] = []
    model.stack.register_forward_hook(lambda module, args, out: carrying.append(out.requires_grad))
    batch = random_batch(5, 2, 6)
    model(model.initial_state(batch), batch)
    assert carrying == expected


def test_the_input_is_added_before_each_loop():
    model, batch = small("looped", {"loops": 3}), random_batch(5, 2, 6)
    state = model.initial_state(batch)
    around = model.surroundings(state, batch)
    z, x = state["z"], model.embed(batch, model.puzzle_vectors(batch))
    for _ in range(3):
        z = model.stack(z + x, around)
    assert torch.equal(model(state, batch)[0]["z"], z)


def test_transformer_act_is_looped_with_one_loop_to_the_bit():
    one, other = small("transformer-act", {}), small("looped", {"loops": 1})
    batch = random_batch(5, 3, 6)
    state_one, state_other = one.initial_state(batch), other.initial_state(batch)
    for _ in range(3):
        state_one, a = one(state_one, batch)
        state_other, b = other(state_other, batch)
        assert torch.equal(a.logits, b.logits) and torch.equal(state_one["z"], state_other["z"])
    with pytest.raises(UserError, match="loops"):
        resolve_config("transformer-act", {"loops": 2})


def test_the_first_segment_of_transformer_act_is_the_one_pass_transformer():
    """With an initial vector of zeros, and the same weights, the two compute the same."""
    act, plain = small("transformer-act", {}), small("transformer", {})
    act.z_init.zero_()
    plain.load_state_dict({k: v for k, v in act.state_dict().items() if not k.startswith(("q_head", "z_init"))})
    batch = random_batch(5, 3, 6)
    assert torch.equal(
        act(act.initial_state(batch), batch)[1].logits, plain(plain.initial_state(batch), batch)[1].logits
    )


@pytest.mark.parametrize("family", ["transformer-act", "looped"])
def test_q_continue_is_trained_and_not_a_decaying_bias(family):
    """The trap of a public baseline: without the bootstrap pass q_continue only decays, and rows halt almost at once.

    (Weight decay is off here, so that whatever moves is moved by a gradient.)
    """
    model, config = FAMILIES[family]
    t = trainer(cell(family, model, config=config, updates=30, recipe={"optimizer": {"weight_decay": 0.0}}))
    before = t.model.q_head.bias[1].item()
    for _ in range(30):
        t.advance()
    assert t.model.q_head.weight[1].abs().min() > 0
    assert abs(t.model.q_head.bias[1].item() - before) > 1e-4


def test_the_state_is_carried_from_segment_to_segment():
    t = trainer(cell("act", "transformer-act", config=FAMILIES["transformer-act"][1], loop={"exploration": 0.0}))
    t.advance()
    first = t.carry.state["z"].clone()
    t.carry.halted[:] = False
    t.advance()
    assert t.carry.steps.tolist() == [2] * 8
    assert not torch.equal(t.carry.state["z"], first)
