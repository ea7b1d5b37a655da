"""hrm-gru is the source's model: counts, update equations by a second definition, gradient, a trained halting head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import erf
from test_matching import referred
from toys import FAMILIES, cell, random_batch, trainer

from harness.cost import measure
from harness.errors import UserError
from harness.matching import match_arm
from harness.recipe import Loop, Recipe
from harness.training.act import detached
from models.base import ModelShape, create_model, resolve_config
from models.hrm_gru import HRMGRU, GRUCell
from models.published_s0_s2 import published_parameters
from tasks.base import Batch

CONFIG = {"hidden": 16, "heads": 2, "inner": 12, "H_cycles": 3, "L_cycles": 4}
LOOP = Loop.model_validate(HRMGRU.LOOP)


def small(shape=ModelShape(5, 6, 6), dtype=torch.float32, **changes):  # noqa: B008
    model = create_model(
        "hrm-gru", {**CONFIG, **changes}, shape, generator=torch.Generator().manual_seed(0), dtype=dtype
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # nothing at its special first value: biases, norm and Q head have a say
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


# -- counts ------------------------------------------------------------------------------------------------------------


def test_the_source_has_the_published_parameters_and_ours_a_trained_q_head_more():
    published = published_parameters("S2")
    assert sum(published.values()) == 1_388_802
    assert sum(published_parameters("S2", act=True).values()) == 1_388_802 + 257
    model = create_model("hrm-gru", {}, ModelShape(2, 32, 1, features=True), preset="source")
    ours = model.parameter_groups()
    assert ours == {**published, "heads": 2 * 257}
    assert sum(ours.values()) == 1_389_316
    cells = {name: sum(p.numel() for p in cell.parameters()) for name, cell in model.named_children()}
    assert (cells["L_cell"], cells["H_cell"], cells["input_proj"]) == (787_968, 591_360, 8_448)


def test_flops_are_those_of_the_closed_formula():
    """12 L and 3 H updates forward, 2 of them backward, and all once more for the bootstrap pass."""
    D, X, S, A, V = 32, 20, 9, 9, 7
    config = resolve_config("hrm-gru", {"hidden": D, "heads": 2, "inner": X})
    cost = measure("hrm-gru", config, ModelShape(V, S, A), LOOP, Recipe(batch_size=8))
    low, high = 2 * (X + 2 * D + D) * 3 * D, 2 * (2 * D + D) * 3 * D
    enter, leave, q = 2 * S * (V - 1) * X, 2 * D * A * V, 2 * D * 2
    segment = enter + 12 * low + 3 * high + leave + q
    assert cost.layers_per_segment == 15
    assert cost.flops_per_segment == segment
    # backward: each product twice, once where its input has no gradient: the input itself, and states that are cut off.
    # L's last call reads cut-off states in both maps (but x̃ has gradient), H's last reads cut-off z_H in its own
    extra = {
        "enter": enter,
        "low": 2 * (X + 2 * D) * 3 * D * 2 + 2 * D * 3 * D,
        "high": 2 * 2 * D * 3 * D * 2 + 2 * D * 3 * D,
        "heads": 2 * (leave + q),
    }
    assert cost.flops_per_update == 8 * (2 * segment + sum(extra.values()))


# -- equations ---------------------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(x, h, p, name):
    D = len(h)
    a = p[f"{name}.input_proj.weight"] @ x + p[f"{name}.input_proj.bias"]
    b = p[f"{name}.state_proj.weight"] @ h + p[f"{name}.state_proj.bias"]
    reset, keep = sigmoid(a[:D] + b[:D]), sigmoid(a[D : 2 * D] + b[D : 2 * D])
    return (1 - keep) * np.tanh(a[2 * D :] + reset * b[2 * D :]) + keep * h


def defined_segment(p, vector, z_H, z_L, answers, puzzle=0.0):
    """One segment of one row, from the facts alone: L gets [x̃, z_H, z_L], four times, then H [z_L, z_H]; thrice."""
    x = p["input_proj.weight"] @ vector + p["input_proj.bias"] + puzzle
    x = x * (1 + erf(x / np.sqrt(2))) / 2
    for _ in range(3):
        for _ in range(4):
            z_L = gru(np.concatenate((x, z_H, z_L)), z_L, p, "L_cell")
        z_H = gru(np.concatenate((z_L, z_H)), z_H, p, "H_cell")
    normed = (z_H - z_H.mean()) / np.sqrt(z_H.var() + 1e-5) * p["norm.weight"] + p["norm.bias"]
    logits = (p["lm_head.weight"] @ normed + p["lm_head.bias"]).reshape(answers, -1)
    return z_H, z_L, logits, p["q_head.weight"] @ z_H + p["q_head.bias"]


@pytest.mark.parametrize(
    ("shape", "puzzles"),
    [(ModelShape(5, 6, 6, 3), True), (ModelShape(5, 6, 1), False), (ModelShape(3, 6, 2, features=True), False)],
)
def test_two_segments_are_those_of_a_second_definition(shape, puzzles):
    model = small(shape, torch.float64, puzzle_embedding=puzzles)
    batch = random_batch(shape.vocabulary, 3, 6, shape.num_puzzles)
    if shape.features:
        batch = Batch(torch.randn(3, 6, generator=torch.Generator().manual_seed(5)), batch.labels, batch.puzzle_ids)
    else:
        batch.inputs[0, 4:] = 0  # padding
    p = {name: value.numpy() for name, value in model.state_dict().items()}
    state = model.initial_state(batch)
    expected = [(np.zeros(16), np.zeros(16))] * 3
    for _ in range(2):
        state, prediction = model(state, batch)
        state = detached(state)
        for row in range(3):
            vector = batch.inputs[row].double().numpy()
            if not shape.features:
                one_hot = np.eye(shape.vocabulary)[batch.inputs[row]][:, 1:]
                vector = one_hot.reshape(-1) * np.sqrt(shape.vocabulary - 1)
            puzzle = p["puzzle_emb.weights"][batch.puzzle_ids[row]] if puzzles else 0.0
            z_H, z_L, logits, q = defined_segment(p, vector, *expected[row], shape.answer_length, puzzle)
            expected[row] = (z_H, z_L)
            np.testing.assert_allclose(state["z_H"][row], z_H, atol=1e-9)
            np.testing.assert_allclose(state["z_L"][row], z_L, atol=1e-9)
            np.testing.assert_allclose(prediction.logits[row].detach(), logits, atol=1e-9)
            values = [prediction.q_halt[row].item(), prediction.q_continue[row].item()]
            np.testing.assert_allclose(values, q, atol=1e-9)


def test_the_cell_is_pytorchs():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = GRUCell(7, 4, generator).double(), torch.nn.GRUCell(7, 4).double()
    ours.input_proj.weight.data, ours.input_proj.bias.data = theirs.weight_ih.data, theirs.bias_ih.data
    ours.state_proj.weight.data, ours.state_proj.bias.data = theirs.weight_hh.data, theirs.bias_hh.data
    x, h = torch.randn(3, 7, generator=generator).double(), torch.randn(3, 4, generator=generator).double()
    torch.testing.assert_close(ours(x, h), theirs(x, h))


def test_inputs_have_a_mean_square_of_one_as_embedded_tokens_have():
    model, batch = small(), random_batch(5, 3, 6)
    torch.testing.assert_close(model.vector(batch).square().mean(1), torch.ones(3))


# -- gradient ----------------------------------------------------------------------------------------------------------


def test_gradient_reaches_exactly_the_last_L_and_the_last_H_update():
    model, batch = small(), random_batch(5, 2, 6)
    carrying: dict[str, list[bool]] = {"H": [], "L": []}
    model.H_cell.register_forward_hook(lambda m, args, out: carrying["H"].append(out.requires_grad))
    model.L_cell.register_forward_hook(lambda m, args, out: carrying["L"].append(out.requires_grad))
    model(model.initial_state(batch), batch)
    assert carrying == {"L": [False] * 11 + [True], "H": [False] * 2 + [True]}


def test_the_halting_head_is_trained_in_both_outputs():
    """The source's got no loss at all. (No weight decay here, so that whatever moves is moved by a gradient.)"""
    recipe = {"optimizer": {"weight_decay": 0.0}}
    t = trainer(cell("gru", "hrm-gru", config=FAMILIES["hrm-gru"][1], updates=30, recipe=recipe))
    assert (t.cell.loop.segments, t.cell.loop.rollout) == (3, 1)
    for _ in range(30):
        t.advance()
    assert t.model.q_head.weight.abs().min() > 0
    assert ((t.model.q_head.bias + 5).abs() > 1e-4).all()


# -- what it takes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [5, 7])
def test_an_input_of_another_length_is_refused(length):
    model, batch = small(), random_batch(5, 2, length)
    with pytest.raises(UserError, match=f"built for inputs of 6 positions alone, these have {length}"):
        model(model.initial_state(batch), batch)


def test_a_causal_task_is_refused():
    with pytest.raises(UserError, match="can't run a causal task"):
        create_model("hrm-gru", CONFIG, ModelShape(5, 6, 6, causal=True))


@pytest.mark.parametrize(
    "setting", [{"positions": "rope"}, {"slots": 1}, {"dropout": 0.1}, {"segment_heads": 2}, {"expansion": 2.0}]
)
def test_settings_of_blocks_that_it_does_not_have_are_refused(setting):
    (name,) = setting
    with pytest.raises(UserError, match=f"{name}: hrm-gru has no blocks"):
        resolve_config("hrm-gru", setting)


# -- matching ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [ModelShape(5, 16, 16), ModelShape(6, 13, 1), ModelShape(3, 32, 1, features=True)])
def test_it_sets_the_size_of_others_and_takes_the_size_of_hrm(shape):
    start = {"hidden": 64, "heads": 2}
    reference = referred("hrm-gru", start, shape, 3)
    for model, layers in (("transformer", 2), ("looped", 2)):
        config = resolve_config(model, {**start, "layers": layers})
        found = match_arm("params", model, config, reference, shape, 1, "x")
        assert abs(found.error_core) <= 0.01 and abs(found.error_total) <= 0.02
    hrm = referred("hrm", {**start, "inner": 100, "H_layers": 1, "L_layers": 1}, shape, 3)
    found = match_arm("params", "hrm-gru", resolve_config("hrm-gru", start), hrm, shape, 3, "x")
    assert abs(found.error_core) <= 0.01 and abs(found.error_total) <= 0.02
