"""Pooled states of fixed size, gradient where the switch says, a controller that is trained, losses with an effect."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import POOLED_LOSSES, SMALL_POOLED, cell, random_batch, trainer

from harness.cost import measure
from harness.errors import UserError
from harness.matching import Reference, match_arm
from harness.recipe import ONE_PASS, Loop, Recipe
from models.base import PRESET_LOOPS, ModelShape, create_model, resolve_config
from models.hrm_pooled import consistency, diversity

SHAPE = ModelShape(5, 6, 6)


def pooled(shape=SHAPE, dtype=torch.float32, **changes):
    """A small model whose halting head says something from the start."""
    generator = torch.Generator().manual_seed(0)
    model = create_model("hrm-pooled", {**SMALL_POOLED, **changes}, shape, generator=generator, dtype=dtype)
    torch.nn.init.normal_(model.q_head.weight, std=0.3, generator=generator)
    return model


# -- states --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [6, 50])
def test_what_lasts_is_one_vector_per_level_whatever_the_length(length):
    model, batch = pooled(), random_batch(5, 3, length)
    state, _ = model(model.initial_state(batch), batch)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "z_H": (3, 16),
        "z_L": (3, 16),
        "segment": (3,),
    }


def test_both_levels_pass_on_what_they_hold():
    """Another z_H changes the next z_L and the other way round, and each changes the answer."""
    model, batch = pooled(), random_batch(5, 3, 6)
    state, _ = model(model.initial_state(batch), batch)
    plain, answer = model(state, batch)
    for name, other in (("z_H", "z_L"), ("z_L", "z_H")):
        moved, changed = model({**state, name: state[name] + 1}, batch)
        assert not torch.allclose(moved[other], plain[other], atol=1e-4)
        assert not torch.allclose(changed.logits, answer.logits, atol=1e-4)


def test_positions_are_told_apart_after_many_low_steps():
    """In the source they hold the same vector after the first: the pooled one."""
    model, batch = pooled(L_cycles=12), random_batch(5, 3, 6)
    state = model.initial_state(batch)
    for _ in range(3):
        state, prediction = model(state, batch)
    assert prediction.logits.std(dim=1).mean() > 0.1


def test_hidden_padding_changes_nothing():
    model, short = pooled(ModelShape(5, 6, 6, masked=True)), random_batch(5, 3, 6)
    padded = short.map(lambda tensor: torch.nn.functional.pad(tensor, (0, 4)) if tensor.dim() == 2 else tensor)
    after_one, one = model(model.initial_state(short), short)
    after_two, two = model(model.initial_state(padded), padded)
    torch.testing.assert_close(two.logits[:, :6], one.logits, atol=1e-5, rtol=1e-5)
    for name in ("z_H", "z_L"):
        torch.testing.assert_close(after_two[name], after_one[name], atol=1e-5, rtol=1e-5)


def test_a_causal_task_is_refused():
    with pytest.raises(UserError, match="shows the future"):
        pooled(ModelShape(5, 6, 6, causal=True))


def test_presets_come_with_the_sources_cycles():
    layers = {
        name: loop["segments"] * create_model("hrm-pooled", {}, ModelShape(11, 81, 81), preset=name).layers_per_segment
        for name, loop in PRESET_LOOPS["hrm-pooled"].items()
    }
    assert layers == {"sudoku": 1560, "maze": 2480, "arc": 3600}


# -- gradient ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gradient_cycles", "expected"),
    [(1, [False, False, True]), (2, [False, True, True]), (9, [True] * 3), (None, [True] * 3)],
)
def test_gradient_reaches_exactly_the_last_cycles(gradient_cycles, expected):
    model, batch = pooled(H_cycles=3, gradient_cycles=gradient_cycles), random_batch(5, 2, 6)
    high, low = [], []
    # x carries gradient, so a call's output does, unless gradient is off
    model.H_level.register_forward_hook(lambda module, args, out: high.append(out.requires_grad))
    model.L_level.register_forward_hook(lambda module, args, out: low.append(out.requires_grad))
    model(model.initial_state(batch), batch)
    assert high == expected and low == [flag for flag in expected for _ in range(2)]


def test_queries_of_the_attention_to_pooled_states_matter():
    """With a single key, as in the source, its weight is 1 and queries and keys get no gradient."""
    model, batch = pooled(), random_batch(5, 4, 6)
    model(model.initial_state(batch), batch)[1].logits.square().sum().backward()
    for attention in (model.L_attention, model.communication):
        assert attention.q_proj.weight.grad.abs().max() > 1e-6
        attention.q_proj.weight.grad = None
    alone = torch.randn(4, 1, 16)
    model.L_attention(torch.randn(4, 1, 16), alone).sum().backward()
    assert model.L_attention.q_proj.weight.grad.abs().max() == 0


def test_the_controller_learns_from_the_halting_loss():
    t = trainer(
        cell("pooled", "hrm-pooled", config=SMALL_POOLED, updates=10, recipe={"optimizer": {"weight_decay": 0.0}})
    )
    start = {
        name: p.detach().clone() for name, p in t.model.named_parameters() if "controller" in name or "q_head" in name
    }
    while not t.finished:
        t.advance()
    assert start and all(not torch.equal(t.model.get_parameter(name), before) for name, before in start.items())


# -- further losses ------------------------------------------------------------------------------------------------


def test_they_are_off_by_default():
    model, batch = pooled(), random_batch(5, 2, 6)
    assert model(model.initial_state(batch), batch)[1].extra == {}


def test_consistency_is_the_mean_squared_change_between_cycles():
    heights = [torch.randn(3, 4, dtype=torch.float64) for _ in range(3)]
    a, b, c = (z.numpy() for z in heights)
    first, second = ((b - a) ** 2).mean(1), ((c - b) ** 2).mean(1)
    ours = consistency(heights, torch.tensor([False, True, False]))
    np.testing.assert_allclose(ours, np.where([False, True, False], second, (first + second) / 2))


def test_a_rows_first_change_counts_for_nothing():
    """It is the change from zeros, not between cycles."""
    model, batch = pooled(**POOLED_LOSSES), random_batch(5, 2, 6)
    state, prediction = model(model.initial_state(batch), batch)
    assert prediction.extra["consistency_loss"].tolist() == [0.0, 0.0]
    after, prediction = model(state, batch)
    expected = 0.1 * (after["z_H"] - state["z_H"]).square().mean(1)
    torch.testing.assert_close(prediction.extra["consistency_loss"], expected)


def test_diversity_is_the_similarity_above_the_threshold_of_every_pair():
    trace = torch.randn(3, 4, 2, dtype=torch.float64)
    expected = []
    for states in trace.numpy():
        pairs = [
            max(0.0, a @ b / np.linalg.norm(a) / np.linalg.norm(b) - 0.3)
            for i, a in enumerate(states)
            for b in states[:i]
        ]
        expected.append(np.mean(pairs))
    np.testing.assert_allclose(diversity(trace), expected)


def test_diversity_of_a_single_low_step_is_refused():
    with pytest.raises(UserError, match="L_cycles to 2 or more"):
        resolve_config("hrm-pooled", {"L_cycles": 1, "diversity_weight": 0.1})


def test_ponder_losses_add_up_to_the_expected_number_of_segments():
    """Halting after segment n with probability σ(q_halt): Σ n·P(n), all that is left at the last."""
    model, batch = pooled(dtype=torch.float64, ponder_weight=1.0), random_batch(5, 3, 6)
    state, p, total = model.initial_state(batch), [], torch.zeros(3, dtype=torch.float64)
    for _ in range(4):
        state, prediction = model(state, batch)
        p.append(torch.sigmoid(prediction.q_halt).detach().numpy())
        total = total + prediction.extra["ponder_loss"].detach()
    running, expected = np.ones(3), np.zeros(3)
    for n, halting in enumerate(p, start=1):
        expected += n * running * halting
        running *= 1 - halting
    expected += 5 * running
    np.testing.assert_allclose(1 + total.numpy(), expected)


@pytest.mark.parametrize("loss", ["ponder", "consistency", "diversity"])
def test_each_loss_moves_what_it_should(loss):
    changes = {"L_cycles": 4, "slots": 0, "puzzle_embedding": False, f"{loss}_weight": 1.0}
    model, batch = pooled(**changes), random_batch(5, 16, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    state, _ = model(model.initial_state(batch), batch)
    state = {name: value.detach() for name, value in state.items()}
    values = []
    for _ in range(15):
        value = model(state, batch)[1].extra[f"{loss}_loss"]
        assert value.shape == (16,)
        values.append(value.mean().item())
        optimizer.zero_grad()
        value.mean().backward()
        optimizer.step()
    assert values[0] > 0 and values[-1] < 0.8 * values[0]


# -- fair opponents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "model", "layers"), [("params", "transformer", 4), ("inference_flops", "looped", 1)])
def test_it_can_be_the_reference_of_a_match(rule, model, layers):
    shape, loop = ModelShape(11, 16, 16), Loop(segments=4)
    config = resolve_config("hrm-pooled", {"hidden": 32, "heads": 4, "inner": 64, "H_layers": 1, "L_layers": 1})
    cost = measure("hrm-pooled", config, shape, loop, Recipe(batch_size=8))
    start = resolve_config(model, {"hidden": 32, "heads": 4, "layers": layers})
    segments = ONE_PASS.segments if model == "transformer" else loop.segments
    found = match_arm(rule, model, start, Reference(config, cost), shape, segments, "arms.x")
    assert abs(found.error_core) <= 0.01 and abs(found.error_total) <= 0.02
    if model == "looped":
        assert found.config.loops >= 1 and abs(found.error_flops) < 0.5 / found.config.loops
