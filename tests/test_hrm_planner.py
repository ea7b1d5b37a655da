"""Planner and executor compute S3's equations with full gradient, and leak nothing under a causal mask."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import reference_hrm as reference
import torch
from toys import SMALL_PLANNER, cell, random_batch, trainer

from harness import seeds
from harness.cost import measure
from harness.evaluation.evaluate import evaluate
from harness.matching import Reference, match_arm
from harness.recipe import ONE_PASS, Loop, Recipe
from harness.training.checkpoint import load_weights, save_weights
from models.base import ModelShape, create_model, resolve_config
from models.hrm_planner import HRMPlanner
from tasks.base import Batch, DataFolder, Examples, Task

SHAPE = ModelShape(5, 6, 6)
LOOP = Loop(**HRMPlanner.LOOP)


def planner(shape=SHAPE, dtype=torch.float32, **changes):
    """A small planner whose every number is random, those that start as zeros and ones, too."""
    generator = torch.Generator().manual_seed(0)
    model = create_model("hrm-planner", {**SMALL_PLANNER, **changes}, shape, generator=generator, dtype=dtype)
    for name, p in model.named_parameters():
        if "bias" in name or "norm" in name or "q_head" in name or "puzzle" in name:
            torch.nn.init.normal_(p, mean=float("norm" in name), std=0.3, generator=generator)
    return model


# -- a literal definition ------------------------------------------------------------------------------------------


def literal_segments(model, batch, segments):
    """The equations in float64 NumPy, from the source's start: z_L = x̃, z_H = P(x̃). Yields (logits, q [B, 2])."""
    w = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    c, residual = model.config, float(w["residual_scale"])

    def affine(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x):
        return reference.rms_norm(x, 1e-5)

    def stack(name, x, hidden, heads):
        sizes = reference.ReferenceConfig(hidden, heads, 1, 1, 1, 1)
        for i in range(c.L_layers if name == "L_level" else c.H_layers):
            layer = f"{name}.layers.{i}"
            normed = norm(x) * w[f"{layer}.attention_norm.weight"]
            x = x + residual * reference.attention(w, sizes, layer, normed)
            normed = norm(x) * w[f"{layer}.mlp_norm.weight"]
            x = x + residual * reference.swiglu(w, layer, normed)
        return x

    sizes = reference.ReferenceConfig(c.hidden, c.heads, 1, 1, 1, 1)
    x = reference.input_embedding(w, sizes, batch.inputs.numpy(), batch.puzzle_ids.numpy())
    z_L, z_H = x, affine("to_planner", x)
    for segment in range(segments):
        z_L, z_H = z_L + x, z_H + affine("to_planner", x)
        for _ in range(c.H_cycles):
            g = affine("to_executor", norm(z_H))
            kept = 1 / (1 + np.exp(-affine("gate", g)))
            z_L = kept * z_L + (1 - kept) * g
            for _ in range(c.L_cycles):
                z_L = stack("L_level", z_L, c.hidden, c.heads)
            z_H = stack("H_level", z_H + affine("to_planner", norm(z_L)), 3 * c.hidden, 3 * c.heads)
        top = affine("to_heads", norm(z_H))[:, 1:]
        head = f"segment_head.{segment}" if segment < c.segment_heads else "lm_head"
        yield top @ w[f"{head}.weight"].T, affine("q_head", top.mean(1))


def test_it_computes_the_equations_of_its_first_lines():
    model, batch = planner(dtype=torch.float64, L_layers=2), random_batch(5, 3, 6)
    model.set_progress(0.4)
    state = model.initial_state(batch)
    for logits, q in literal_segments(model, batch, segments=4):
        state, prediction = model(state, batch)
        np.testing.assert_allclose(prediction.logits.detach().numpy(), logits, atol=1e-9)
        np.testing.assert_allclose(prediction.q_halt.detach().numpy(), q[:, 0], atol=1e-9)
        np.testing.assert_allclose(prediction.q_continue.detach().numpy(), q[:, 1], atol=1e-9)


def test_the_planner_is_three_times_as_wide_with_heads_of_the_same_size():
    state, attention = planner().initial_state(random_batch(5, 2, 6)), planner().H_level.layers[0].self_attn
    assert state["z_H"].shape[-1] == 3 * state["z_L"].shape[-1] == 3 * SMALL_PLANNER["hidden"]
    assert attention.heads == 3 * SMALL_PLANNER["heads"]


@pytest.mark.parametrize("size", ["tiny", "medium"])
def test_neither_logits_nor_states_explode_over_sixteen_segments(size):
    shape = ModelShape(11, 16, 16)
    model = create_model("hrm-planner", {}, shape, generator=torch.Generator().manual_seed(0), preset=size)
    batch = random_batch(11, 2, 16)
    state = model.initial_state(batch)
    with torch.no_grad():
        for _ in range(16):
            state, prediction = model(state, batch)
            assert 0.3 < prediction.logits.std() < 3
    assert state["z_H"].std() < 16 * 10 and state["z_L"].std() < 16 * 10


# -- gradient ------------------------------------------------------------------------------------------------------


def test_the_last_segment_of_a_rollout_sends_gradient_into_every_call_of_every_segment():
    model, batch, outputs = planner(), random_batch(5, 2, 6), []

    def keep(module, args, out):
        out.retain_grad()
        outputs.append(out)

    for stack in (model.L_level, model.H_level):
        stack.register_forward_hook(keep)
    state = model.initial_state(batch)
    for _ in range(LOOP.rollout):
        state, prediction = model(state, batch)
    prediction.logits.square().sum().backward()
    assert len(outputs) == 3 * 2 * (2 + 1)
    assert all(bool(out.grad.any()) for out in outputs)


def test_by_default_an_update_is_three_supervised_segments_with_full_gradient():
    assert (LOOP.segments, LOOP.rollout, LOOP.detach) == (3, 3, False)
    assert resolve_config("hrm-planner", {}).segment_heads == LOOP.segments - 1


def test_each_row_answers_through_the_head_of_its_own_segment():
    model, batch = planner(slots=0, puzzle_embedding=False), random_batch(5, 4, 6)
    state = model.initial_state(batch)
    state, _ = model(state, batch)
    state = {**state, "segment": torch.tensor([0, 1, 2, 7], dtype=torch.int32)}
    tops = []
    model.to_heads.register_forward_hook(lambda module, args, out: tops.append(out))
    logits = model(state, batch)[1].logits
    heads = [*model.segment_head, model.lm_head, model.lm_head]
    for row, head in enumerate(heads):
        torch.testing.assert_close(logits[row], head(tops[0])[row])
        assert not torch.allclose(logits[row], heads[row - 1](tops[0])[row]) or row == 3


# -- residual branches ---------------------------------------------------------------------------------------------


def planner_trainer(updates=5, **recipe):
    return trainer(cell("planner", "hrm-planner", config=SMALL_PLANNER, updates=updates, recipe=recipe))


@pytest.mark.parametrize("recipe", [{}, {"ema": 0.5}])
def test_residual_branches_grow_with_the_share_of_the_budget_used(recipe):
    t, seen = planner_trainer(**recipe), []
    while not t.finished:
        t.advance()
        seen.append((t.model.residual_scale.item(), t.evaluated.residual_scale.item()))
    expected = [0.8 + 0.18 * i / 5 for i in range(5)]
    assert seen == [(pytest.approx(value), pytest.approx(value)) for value in expected]


def test_the_residual_factor_decides_the_outputs_and_is_saved_with_the_weights(tmp_path):
    model, batch = planner(), random_batch(5, 3, 6)

    def logits(model):
        return model(model.initial_state(batch), batch)[1].logits

    at_first = logits(model)
    model.set_progress(1.0)
    assert model.residual_scale.item() == pytest.approx(0.98)
    assert not torch.allclose(logits(model), at_first)
    save_weights(tmp_path, model.state_dict())
    again = create_model("hrm-planner", SMALL_PLANNER, SHAPE, generator=torch.Generator().manual_seed(3))
    again.load_state_dict(load_weights(tmp_path), strict=True)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits():
    whole, first = planner_trainer(6, ema=0.9), planner_trainer(6, ema=0.9)
    for _ in range(3):
        first.advance()
    second = planner_trainer(6, ema=0.9)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    while not whole.finished:
        whole.advance()
    while not second.finished:
        second.advance()
    for one, other in ((whole.model, second.model), (whole.evaluated, second.evaluated)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.slow
def test_compiled_it_follows_the_schedule_too():
    model, batch = planner(H_cycles=1, L_cycles=1), random_batch(5, 3, 6)
    plain = copy.deepcopy(model)
    model.compile_segment()
    for progress in (0.0, 0.5, 1.0):
        model.set_progress(progress)
        plain.set_progress(progress)
        ours = model(model.initial_state(batch), batch)[1].logits
        torch.testing.assert_close(ours, plain(plain.initial_state(batch), batch)[1].logits, atol=1e-5, rtol=1e-4)


# -- what a position and the halting head may see ------------------------------------------------------------------

CAUSAL = ModelShape(5, 8, 8, causal=True)


@pytest.mark.parametrize("token", [1, 4, 7])
def test_a_token_moves_nothing_before_it_under_a_causal_mask(token):
    model, batch = planner(CAUSAL), random_batch(5, 7, 8)
    batch = Batch(batch.inputs, batch.labels, batch.puzzle_ids, {"prompt_length": torch.arange(1, 8)})
    other = Batch(batch.inputs.clone(), batch.labels, batch.puzzle_ids, batch.facts)
    other.inputs[:, token] = batch.inputs[:, token] % 4 + 1
    state, changed = model.initial_state(batch), model.initial_state(other)
    for _ in range(3):
        state, one = model(state, batch)
        changed, two = model(changed, other)
    assert torch.equal(one.logits[:, :token], two.logits[:, :token])
    assert (one.logits[:, token] != two.logits[:, token]).any(-1).all()
    unseen = batch.facts["prompt_length"] <= token
    assert torch.equal(one.q_halt == two.q_halt, unseen) and torch.equal(one.q_continue == two.q_continue, unseen)


def test_without_a_causal_mask_every_position_sees_every_token():
    model, batch = planner(ModelShape(5, 8, 8)), random_batch(5, 2, 8)
    other = Batch(batch.inputs.clone(), batch.labels, batch.puzzle_ids)
    other.inputs[:, 7] = batch.inputs[:, 7] % 4 + 1
    one, two = (model(model.initial_state(b), b)[1].logits for b in (batch, other))
    assert (one != two).any(-1).all()


def test_hidden_padding_changes_neither_answer_nor_halting():
    model, short = planner(ModelShape(5, 6, 6, masked=True)), random_batch(5, 3, 6)
    padded = short.map(lambda tensor: torch.nn.functional.pad(tensor, (0, 4)) if tensor.dim() == 2 else tensor)
    _, one = model(model.initial_state(short), short)
    _, two = model(model.initial_state(padded), padded)
    torch.testing.assert_close(two.logits[:, :6], one.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(two.q_halt, one.q_halt, atol=1e-5, rtol=1e-5)


class Recited(Task):
    """Four tokens, then the same again, written from left to right."""

    name = "recited"

    @property
    def causal(self):
        return True

    @property
    def vocabulary(self):
        return ("", "a", "b", "c", "d")

    @property
    def sequence_length(self):
        return 7

    def splits(self, seed, data):
        rows = seeds.generator("recited").permutation(4**4)
        words = (rows[:, None] // 4 ** np.arange(4) % 4 + 1).astype(np.uint8)
        text = np.concatenate((words, words), axis=1)
        labels = np.where(np.arange(7) < 3, 0, text[:, 1:]).astype(np.uint8)
        facts = {"prompt_length": np.full(256, 4, np.int32)}
        everything = Examples(text[:, :-1], labels, difficulty=np.zeros(256, np.float32), facts=facts)
        return {"train": everything[:128], "validation": everything[128:160], "test": everything[160:]}


@pytest.mark.slow
def test_it_learns_a_causal_task():
    recipe = {"batch_size": 32, "optimizer": {"learning_rate": 3e-3}}
    t = trainer(cell("planner", "hrm-planner", config=SMALL_PLANNER, updates=300, recipe=recipe), Recited())
    while not t.finished:
        t.advance()
    result = evaluate(t.model, t.task, LOOP, Recited().splits(0, DataFolder())["test"], segments=3, batch_size=32)
    assert result.fixed().mean() > 0.9


# -- fair opponents ------------------------------------------------------------------------------------------------


@cache
def matched(rule, model, loop):
    """The opponent of a planner 32 wide with two layers per module."""
    shape = ModelShape(11, 16, 16)
    config = resolve_config("hrm-planner", {"hidden": 32, "heads": 4, "H_cycles": 2})
    cost = measure("hrm-planner", config, shape, LOOP, Recipe(batch_size=8))
    hidden, heads, _ = config.typical_block
    start = resolve_config(model, {"hidden": hidden, "heads": heads, "layers": 4})
    return match_arm(rule, model, start, Reference(config, cost), shape, loop.segments, "arms.x")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "model", "loop"), [("params", "transformer", ONE_PASS), ("inference_flops", "looped", LOOP)]
)
def test_as_a_reference_it_gets_opponents_of_ordinary_shape(rule, model, loop):
    found = matched(rule, model, loop)
    assert abs(found.error_core) <= 0.01 and abs(found.error_total) <= 0.02
    assert found.config.hidden == 72  # √5 times 32, in heads of 8
    assert 1.5 < found.config.inner / found.config.hidden < 3


@pytest.mark.slow
def test_its_looped_opponent_is_as_near_as_whole_loops_come():
    """A loop is all of the core once: with 2 H cycles of 2 + 1 calls it does 2 · (2 · 1 + 9) / 10 = 2.2 of them."""
    found = matched("inference_flops", "looped", LOOP)
    assert found.config.loops == 2
    assert found.error_flops == pytest.approx(2 / 2.2 - 1, abs=0.05)
