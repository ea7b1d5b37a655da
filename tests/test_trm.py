"""TRM is the published one: counts, schedule, cost, gradient, and agreement with a second definition, in both forms."""

from __future__ import annotations

import numpy as np
import pytest
import reference_trm as reference
import torch
from test_matching import layer_flops
from toys import SMALL, random_batch

from harness.cost import measure
from harness.errors import UserError
from harness.plan import make_plan
from harness.recipe import Loop, Recipe
from harness.suite import load_suite
from harness.training.act import detached, first_carry, halted_after, refill, run_segment
from models.base import ModelShape, create_model, resolve_config
from tasks.base import DataFolder, Task

Q_HALT = Loop(halting="q_halt")
ATT = {**SMALL, "L_layers": 2, "H_cycles": 3, "L_cycles": 2}
MLP = {**ATT, "mixer": True, "mixer_inner": 20, "positions": "none"}


class Equal(Task):
    """Label equality, the default verifier."""


@pytest.mark.parametrize(
    ("preset", "vocabulary", "length", "published"),
    [
        ("att", 11, 81, 6_828_034),
        ("att", 6, 900, 6_822_914),
        ("att", 12, 900, 6_829_058),
        ("mlp", 11, 81, 5_028_866),
        ("mlp", 6, 900, 18_795_522),
        ("mlp", 12, 900, 18_801_666),
    ],
)
def test_presets_have_the_published_parameter_counts(preset, vocabulary, length, published):
    groups = create_model("trm", {}, ModelShape(vocabulary, length, length), preset=preset).parameter_groups()
    assert groups["core"] + groups["embeddings"] + groups["heads"] == published
    assert groups["puzzle_table"] == 512
    assert groups["never_trained"] == 1024


@pytest.mark.parametrize(("L_cycles", "layers", "layer_forwards"), [(6, 42, 70), (4, 30, 50)])
def test_layers_per_segment_and_cost_of_an_update_are_those_of_the_papers(L_cycles, layers, layer_forwards):
    """Forward of every layer, twice the last cycle's for the backward pass, no second forward pass."""
    D, S, inner = 64, 17, 172
    shape = ModelShape(11, S, S)
    config = resolve_config("trm", {"hidden": D, "heads": 2, "inner": inner, "L_cycles": L_cycles}, "att")
    cost = measure("trm", config, shape, Q_HALT, Recipe(batch_size=32))
    layer, head, q = layer_flops(D, S + 16, inner), 2 * S * D * 11, 2 * D * 2
    assert cost.layers_per_segment == layers
    assert cost.flops_per_segment == layers * layer + head + q
    assert cost.flops_per_update == 32 * (layer_forwards * layer + 3 * (head + q))


def test_flops_of_the_mixer_are_those_of_the_closed_formula():
    D, S, inner, mixer_inner = 32, 9, 40, 24
    config = {"hidden": D, "heads": 2, "inner": inner, "mixer": True, "mixer_inner": mixer_inner, "positions": "none"}
    cost = measure("trm", resolve_config("trm", config), ModelShape(5, S, S), Q_HALT, Recipe(batch_size=1))
    T = S + 16
    layer = 2 * D * 3 * T * mixer_inner + 2 * T * 3 * D * inner
    assert cost.flops_per_segment == 42 * layer + 2 * S * D * 5 + 2 * D * 2


@pytest.mark.parametrize("config", [ATT, MLP], ids=["att", "mlp"])
def test_gradient_reaches_exactly_the_calls_of_the_last_cycle(config):
    model = small(config)
    with_gradient: list[bool] = []
    model.L_level.register_forward_hook(lambda module, args, out: with_gradient.append(out.requires_grad))
    batch = random_batch(5, 2, 6)
    _, prediction = model(model.initial_state(batch), batch)
    assert with_gradient == [False] * 6 + [True] * 3
    prediction.logits.sum().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("q_head"):
            assert parameter.grad is not None, f"{name} has no gradient"


def test_every_call_of_the_last_cycle_adds_to_the_gradient():
    """Cut at the last cycle's first call by hand, and the gradient is another one."""
    model, batch = small({**ATT, "H_cycles": 1}), random_batch(5, 2, 6)
    gradients = []
    for cut in (False, True):
        model.zero_grad()
        calls = iter(range(9))
        hook = model.L_level.register_forward_hook(
            lambda module, args, out, calls=calls, cut=cut: out.detach() if cut and next(calls) == 0 else out
        )
        model(model.initial_state(batch), batch)[1].logits.square().sum().backward()
        hook.remove()
        gradients.append(model.L_level.layers[0].mlp.down_proj.weight.grad.clone())
    assert not torch.allclose(gradients[0], gradients[1])


def test_sixteen_slots_stand_before_the_sequence_and_fifteen_are_empty():
    model, batch = small(ATT, num_puzzles=3), random_batch(5, 2, 6, num_puzzles=3)
    torch.nn.init.normal_(model.puzzle_emb.weights)
    x = model.embed(batch, model.puzzle_vectors(batch))
    assert x.shape == (2, 16 + 6, 16)
    assert torch.equal(x[:, 0], model.puzzle_emb.weights[batch.puzzle_ids] * 4)
    assert not x[:, 1:16].any() and x[:, 16:].any(-1).all()
    bare = small({**ATT, "puzzle_embedding": False})
    assert bare.embed(batch, None).shape == (2, 16 + 6, 16) and not bare.embed(batch, None)[:, :16].any()


def test_the_halting_head_reads_the_first_slot():
    model, batch = small(ATT), random_batch(5, 2, 6)
    torch.nn.init.normal_(model.q_head.weight)
    state, prediction = model(model.initial_state(batch), batch)
    expected = state["z_H"][:, 0] @ model.q_head.weight.T + model.q_head.bias
    torch.testing.assert_close(torch.stack((prediction.q_halt, prediction.q_continue), 1), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "none"}, "attention without positions"),
        ({"mixer": True}, "no attention for rope"),
        ({"slots": 0}, "no place for the puzzle vector"),
        ({"positions": "sinus"}, "positions"),
    ],
)
def test_a_combination_that_can_not_work_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        resolve_config("trm", changes)


def test_the_mixer_names_the_length_it_can_not_take():
    model, batch = small(MLP), random_batch(5, 2, 7)
    with pytest.raises(UserError, match="built for 22 positions, slots included; an input has 23"):
        model(model.initial_state(batch), batch)


def test_an_arm_halts_by_the_papers_rule_unless_the_suite_says_otherwise(tmp_path):
    arms = {
        "plain": {"model": "trm", "config": ATT, "loop": {"segments": 3}},
        "other": {"model": "trm", "config": ATT, "loop": {"halting": "q_learning"}},
    }
    suite = load_suite({"name": "x", "arms": arms, "tasks": {"parity": {"seeds": 1}}}, "x")
    plan = make_plan(suite, DataFolder(), tmp_path)
    halting = {name: (arm.loop.halting, arm.loop.segments) for name, arm in plan.tasks["parity"].arms.items()}
    assert halting == {"plain": ("q_halt", 3), "other": ("q_learning", 16)}


# -- the second definition --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mixer", "positions"), [(False, "rope"), (False, "learned"), (True, "none"), (True, "learned")]
)
def test_sixteen_training_segments_agree_with_the_literal_definition(mixer, positions):
    """States, logits, q values and halting over 16 segments, in float64, to 1e-6."""
    V, S, B, P, inner, mixer_inner = 7, 6, 5, 3, 24, 20
    config = reference.ReferenceConfig(
        hidden=16, heads=2, layers=2, H_cycles=3, L_cycles=2, mixer=mixer, positions=positions, halt_max_steps=6
    )
    weights = reference.random_weights(reference.weight_shapes(config, V, P, S, inner, mixer_inner), seed=3)
    random = np.random.default_rng(5)
    start = np.broadcast_to(weights["H_init"], (60, 22, 16)), np.broadcast_to(weights["L_init"], (60, 22, 16))
    many = random.integers(1, V, (60, S)), random.integers(0, P, 60)
    *_, q_halt, _ = reference.segment(weights, config, *start, *many)
    weights["q_head.bias"][0] -= np.median(q_halt)  # so that q_halt lies on both sides of 0
    model = create_model(
        "trm",
        {**ATT, "mixer": mixer, "mixer_inner": mixer_inner, "positions": positions},
        ModelShape(V, S, S, num_puzzles=P),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float64,
    )
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    loop = Loop(segments=6, halting="q_halt")
    theirs = reference.initial_carry(config, B, S)
    ours = None
    halts = 0
    for segment in range(16):
        fresh = random_batch(V, B, S, P, seed=100 + segment)
        minimum = random.integers(0, 7, B) * (random.random(B) < 0.5)
        theirs, expected = reference.act_step(
            weights, config, theirs, fresh.inputs.numpy(), fresh.labels.numpy(), fresh.puzzle_ids.numpy(), minimum
        )
        carry = refill(model, ours or first_carry(model, fresh), fresh)
        steps = carry.steps + 1
        state, prediction, losses = run_segment(loop, Equal(), model, carry.state, carry.batch, steps, "softmax")
        halted = halted_after(loop, prediction, steps, torch.from_numpy(minimum))
        assert losses.target_continue is None
        close(state["z_H"], theirs.z_H)
        close(state["z_L"], theirs.z_L)
        for name, value in expected.items():
            close(getattr(prediction, name), value)
        assert halted.tolist() == theirs.halted.tolist()
        assert steps.tolist() == theirs.steps.tolist()
        halts += int((halted & (steps < 6)).sum())
        ours = type(carry)(detached(state), carry.batch, steps, halted)
    assert 5 < halts < 70, "the test must see rows halt by q_halt and rows go on"


# -- helpers -----------------------------------------------------------------------------------------------------


def small(config, num_puzzles=1):
    return create_model("trm", config, ModelShape(5, 6, 6, num_puzzles), generator=torch.Generator().manual_seed(0))


def close(ours, theirs):
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=0, atol=1e-6)
