"""HRM is the published one: counts, schedule, gradient, halting, and agreement with a second definition."""

from __future__ import annotations

import numpy as np
import pytest
import reference_hrm as reference
import torch
from toys import SMALL_HRM, random_batch

from harness.recipe import Loop
from harness.training.act import (
    bootstrap_target,
    detached,
    exploration_minimum,
    first_carry,
    halted_after,
    refill,
    run_segment,
)
from models.base import ModelShape, Prediction, create_model, resolve_config
from tasks.base import Task


class Equal(Task):
    """Label equality, the default verifier."""


@pytest.mark.parametrize(
    ("vocabulary", "length", "published"), [(11, 81, 27_275_266), (6, 900, 27_270_146), (12, 900, 27_276_290)]
)
def test_paper_preset_has_the_published_parameter_counts(vocabulary, length, published):
    model = create_model("hrm", {}, ModelShape(vocabulary, length, length), preset="paper")
    groups = model.parameter_groups()
    assert groups["core"] == 27_262_976
    assert groups["core"] + groups["embeddings"] + groups["heads"] == published
    assert groups["puzzle_table"] == 512
    assert groups["never_trained"] == 1024


def test_paper_preset_applies_24_layers_per_segment():
    model = create_model("hrm", {}, ModelShape(11, 81, 81), preset="paper")
    assert model.layers_per_segment == 24


def test_layer_applications_are_those_that_run():
    model = small_model({"H_cycles": 3, "L_cycles": 2, "H_layers": 2})
    calls = count_calls(model, [layer for stack in (model.H_level, model.L_level) for layer in stack.layers])
    batch = random_batch(5, 2, 6)
    model(model.initial_state(batch), batch)
    assert sum(calls.values()) == model.layers_per_segment == 3 * (2 * 1 + 2)


def test_gradient_reaches_exactly_the_last_L_and_the_last_H_call():
    model = small_model({"H_cycles": 2, "L_cycles": 2})
    outputs: dict[str, list[torch.Tensor]] = {"H": [], "L": []}
    model.H_level.register_forward_hook(lambda m, i, o: outputs["H"].append(o))
    model.L_level.register_forward_hook(lambda m, i, o: outputs["L"].append(o))
    batch = random_batch(5, 2, 6)
    _, prediction = model(model.initial_state(batch), batch)
    assert [o.requires_grad for o in outputs["L"]] == [False, False, False, True]
    assert [o.requires_grad for o in outputs["H"]] == [False, True]
    prediction.logits.sum().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("q_head"):
            assert parameter.grad is not None, f"{name} has no gradient"


def test_first_segment_says_go_on_and_ignores_its_state():
    model = small_model({})
    batch = random_batch(5, 3, 6)
    _, prediction = model(model.initial_state(batch), batch)
    assert torch.equal(prediction.q_halt, torch.full((3,), -5.0))
    assert torch.equal(prediction.q_continue, torch.full((3,), -5.0))


def test_initial_weights_have_the_published_spread():
    """Truncated at 2 σ and corrected, so that what remains has the stated standard deviation."""
    model = create_model("hrm", {}, ModelShape(200, 8, 8), generator=torch.Generator().manual_seed(0), preset="paper")
    for weight, std in (
        (model.H_level.layers[0].mlp.down_proj.weight, 1536**-0.5),
        (model.L_level.layers[1].self_attn.qkv_proj.weight, 512**-0.5),
        (model.embed_tokens.embedding_weight, 512**-0.5),
        (model.H_init, 1.0),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.05 if weight.numel() < 1000 else 0.01)
        assert weight.abs().max().item() <= 2 * std / 0.8796 + 1e-6
    assert not model.puzzle_emb.weights.any()


def test_a_row_is_the_same_bits_whatever_its_batch_mates():
    model = with_live_heads(small_model({}))
    a, b = random_batch(5, 6, 9, seed=1), random_batch(5, 6, 9, seed=2)
    b.inputs[2] = a.inputs[2]
    for segment in range(3):
        state_a = model.initial_state(a) if segment == 0 else state_a  # noqa: F821
        state_b = model.initial_state(b) if segment == 0 else state_b  # noqa: F821
        state_a, one = model(state_a, a)
        state_b, two = model(state_b, b)
        assert torch.equal(one.logits[2], two.logits[2])
        assert torch.equal(one.q_halt[2], two.q_halt[2])
        assert not torch.equal(one.q_halt, two.q_halt)


def test_a_row_is_the_same_within_rounding_at_another_batch_size():
    model = small_model({})
    many = random_batch(5, 16, 9)
    few = many.map(lambda tensor: tensor[3:5])
    state_many, state_few = model.initial_state(many), model.initial_state(few)
    for _ in range(4):
        state_many, one = model(state_many, many)
        state_few, two = model(state_few, few)
    assert torch.allclose(one.logits[3:5], two.logits, atol=1e-5)


def test_padding_behind_a_mask_changes_nothing():
    shape = ModelShape(5, 6, 6, masked=True)
    model = create_model("hrm", SMALL_HRM, shape, generator=torch.Generator().manual_seed(0))
    short = random_batch(5, 3, 6)
    padded = short.map(lambda tensor: torch.nn.functional.pad(tensor, (0, 4)) if tensor.dim() == 2 else tensor)
    _, one = model(model.initial_state(short), short)
    _, two = model(model.initial_state(padded), padded)
    assert torch.allclose(one.logits, two.logits[:, :6], atol=1e-5)


# -- halting -------------------------------------------------------------------------------------------------------

HALT, GO = 1.0, -1.0


@pytest.mark.parametrize(
    ("halting", "steps", "minimum", "q_halt", "q_continue", "released"),
    [
        ("q_learning", 1, 0, HALT, GO, True),
        ("q_learning", 1, 0, GO, HALT, False),
        ("q_learning", 1, 0, HALT, HALT, False),  # a tie goes on
        ("q_learning", 1, 2, HALT, GO, False),  # exploration holds it
        ("q_learning", 2, 2, HALT, GO, True),
        ("q_learning", 4, 0, GO, HALT, True),  # the last segment always halts
        ("q_learning", 4, 4, GO, HALT, True),
        ("q_halt", 1, 0, HALT, 9.0, True),
        ("q_halt", 1, 0, GO, -9.0, False),
        ("none", 1, 0, HALT, GO, False),
        ("none", 4, 0, GO, HALT, True),
    ],
)
def test_halting_truth_table(halting, steps, minimum, q_halt, q_continue, released):
    loop = Loop(segments=4, halting=halting)
    prediction = Prediction(torch.zeros(1, 1, 2), torch.tensor([q_halt]), torch.tensor([q_continue]))
    got = halted_after(loop, prediction, torch.tensor([steps]), torch.tensor([minimum]))
    assert got.tolist() == [released]


def test_exploration_draws_every_minimum_from_two_to_the_last_equally():
    loop = Loop(segments=5, exploration=0.4)
    uniform = torch.rand(40_000, 2, generator=torch.Generator().manual_seed(0))
    minimum = exploration_minimum(loop.segments, loop.exploration, uniform)
    share = (minimum > 0).double().mean().item()
    assert share == pytest.approx(0.4, abs=0.01)
    counts = torch.bincount(minimum[minimum > 0], minlength=6)[2:] / (minimum > 0).sum()
    assert counts.tolist() == pytest.approx([0.25] * 4, abs=0.02)


# -- the second definition --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["rope", "learned"])
@pytest.mark.parametrize("loss", ["stablemax", "softmax"])
def test_sixteen_training_segments_agree_with_the_literal_definition(positions, loss):
    """States, logits, q values, losses, bootstrap targets and halting over 16 segments, in float64, to 1e-6."""
    V, S, B, P = 7, 6, 5, 3
    config = reference.ReferenceConfig(
        hidden=16, heads=2, H_layers=2, L_layers=1, H_cycles=2, L_cycles=3, positions=positions, halt_max_steps=6
    )
    weights = reference.random_weights(config, V, P, seed=3, inner=24, seq_len=S)
    model = create_model(
        "hrm",
        {"hidden": 16, "heads": 2, "inner": 24, "H_layers": 2, "L_layers": 1, "L_cycles": 3, "positions": positions},
        ModelShape(V, S, S, num_puzzles=P),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float64,
    )
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    loop = Loop(segments=6)
    random = np.random.default_rng(5)
    theirs = reference.initial_carry(config, B, S)
    ours = None
    halts = 0
    for segment in range(16):
        fresh = random_batch(V, B, S, P, seed=100 + segment)
        minimum = random.integers(0, 7, B) * (random.random(B) < 0.5)
        theirs, expected = reference.act_step(
            weights, config, theirs, fresh.inputs.numpy(), fresh.labels.numpy(), fresh.puzzle_ids.numpy(), minimum, True
        )
        carry = refill(model, ours or first_carry(model, fresh), fresh)
        steps = carry.steps + 1
        state, prediction, losses = run_segment(loop, Equal(), model, carry.state, carry.batch, steps, loss)
        halted = halted_after(loop, prediction, steps, torch.from_numpy(minimum))
        total = reference.losses(
            expected["logits"],
            theirs.labels,
            expected["q_halt"],
            expected["q_continue"],
            expected["target_continue"],
            loss,
        )
        close(state["z_H"], theirs.z_H)
        close(state["z_L"], theirs.z_L)
        close(prediction.logits, expected["logits"])
        close(prediction.q_halt, expected["q_halt"])
        close(prediction.q_continue, expected["q_continue"])
        close(losses.target_continue, expected["target_continue"])
        close(losses.total, total["total"])
        assert halted.tolist() == theirs.halted.tolist()
        assert steps.tolist() == theirs.steps.tolist()
        assert losses.correct.tolist() == total["correct"].tolist()
        halts += int(halted.sum())
        ours = type(carry)(detached(state), carry.batch, steps, halted)
    assert 16 < halts < 16 * B, "the test must see rows halt and rows go on"


def test_initialisation_alone_agrees_with_the_published_formula_of_inner_width():
    for hidden in (64, 192, 512, 768):
        assert resolve_config("hrm", {"hidden": hidden, "heads": 4}).inner_width == reference.swiglu_inner_size(hidden)


def test_bootstrap_pass_leaves_no_gradient():
    model = small_model({})
    batch = random_batch(5, 2, 6)
    state, _ = model(model.initial_state(batch), batch)
    target = bootstrap_target(model, state, batch, torch.ones(2), 4)
    assert not target.requires_grad


# -- helpers -----------------------------------------------------------------------------------------------------


def small_model(changes):
    return create_model(
        "hrm", {**SMALL_HRM, **changes}, ModelShape(5, 6, 6), generator=torch.Generator().manual_seed(0)
    )


def with_live_heads(model):
    """The halting head starts at zero weights; here it sees the state."""
    torch.nn.init.normal_(model.q_head.weight, generator=torch.Generator().manual_seed(1))
    return model


def count_calls(model, modules):
    calls = dict.fromkeys(range(len(modules)), 0)
    for i, module in enumerate(modules):
        module.register_forward_hook(lambda m, args, out, i=i: calls.__setitem__(i, calls[i] + 1))
    return calls


def close(ours, theirs):
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=0, atol=1e-6)
