"""Training options of the source systems: each does what it says, to the number, and nothing when it is off."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FAMILIES, SMALL_HRM, Shifted, cell, trainer

from harness import plan, suite
from harness.cost import measure
from harness.errors import UserError
from harness.recipe import Curriculum, DifficultyRamp, Loop, Recipe
from harness.training import act, runner
from harness.training.batches import Stream
from harness.training.losses import LOSSES, register_loss
from models.base import ModelShape, resolve_config
from tasks.base import DataFolder


def trained(updates=4, **changes):
    t = trainer(cell(updates=updates, **changes))
    for _ in range(updates):
        t.advance()
    return t


def weights(t):
    return {name: p.detach().clone() for name, p in t.model.named_parameters()}


def furthest(one, two):
    a, b = weights(one), weights(two)
    return max((a[name] - b[name]).abs().max().item() for name in a)


# -- accumulation, recomputation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", [{}, {"segments": 4, "rollout": 2, "detach": False}])
def test_a_batch_in_parts_gives_the_same_weights_as_the_whole(loop):
    changes = {"loop": loop, "precision": "float64"}
    whole = trained(**changes)
    parts = trained(**changes, recipe={"accumulate": 4})
    assert furthest(whole, parts) < 1e-12
    a, b = whole.window(), parts.window()
    assert (a.exact, a.segments) == (b.exact, b.segments)
    assert a.loss == pytest.approx(b.loss, rel=1e-12)


@pytest.mark.parametrize("family", ["hrm", "hrm-dropout", "trm-mlp", "looped-bptt"])
def test_computing_activations_again_changes_no_weight(family):
    model, config = FAMILIES[family]
    kept = trained(arm="x", model=model, config=config)
    again = trained(arm="x", model=model, config=config, recipe={"recompute": True})
    assert furthest(kept, again) == 0


def test_computing_activations_again_costs_flops_and_saves_memory():
    config, shape = resolve_config("hrm", {**SMALL_HRM, "gradient": "full"}), ModelShape(5, 6, 6)
    kept, again = (measure("hrm", config, shape, Loop(), Recipe(recompute=flag)) for flag in (False, True))
    assert again.flops_per_update > kept.flops_per_update
    assert again.activation_bytes < 0.5 * kept.activation_bytes


def test_parts_must_divide_the_batch():
    with pytest.raises(ValueError, match="must divide batch_size 10"):
        Recipe(batch_size=10, accumulate=4)


# -- weights, ramps, annealing -----------------------------------------------------------------------------------------


def test_segment_weights_multiply_a_rows_loss_by_its_own_segment():
    recipe = Recipe(segment_weights=(1, 1.5, 2.25))
    assert recipe.weights_of(4) == pytest.approx(np.array([1, 1.5, 2.25, 2.25]) * 4 / 7)
    assert recipe.weights_of(1) == [1.0], "a one-pass arm is unchanged"
    assert Recipe().weights_of(3) == [1, 1, 1]
    t = trainer(cell())
    t.advance()
    state, batch = t.carry.state, t.carry.batch
    steps = torch.tensor([1, 2, 3, 4, 1, 2, 3, 4], dtype=torch.int32)
    given_weights = torch.tensor(recipe.weights_of(4))
    loop = t.cell.loop

    def total(rows, weights):
        part = act.Carry(state, batch, steps, steps > 99).map(lambda x: x[rows])
        return act.run_segment(loop, t.task, t.model, part.state, part.batch, part.steps, "softmax", None, weights)[
            2
        ].total.item()

    each = [total([row], None) for row in range(8)]
    expected = sum(loss * given_weights[step - 1].item() for loss, step in zip(each, steps.tolist(), strict=True))
    assert total(list(range(8)), given_weights) == pytest.approx(expected, rel=1e-5)


def test_the_last_weight_alone_trains_the_last_segment_alone():
    loop = {"segments": 2, "rollout": 2, "halting": "none", "exploration": 0.0}
    t = trainer(cell(loop=loop, recipe={"segment_weights": [0, 1]}, config={**SMALL_HRM, "segment_heads": 2}))
    t.advance()
    moments = t.optimizers.optimizers[0][0].state
    first, second = (moments[head.weight]["exp_avg"] for head in t.model.segment_head)
    assert not first.any() and second.any()
    with pytest.raises(UserError, match="segment_weights"):
        Recipe(segment_weights=(0, 1)).weights_of(1)


def test_the_halting_loss_rises_between_its_two_points():
    recipe = Recipe(halting_ramp=(0.2, 0.6))
    assert [recipe.halting_factor(p) for p in (0, 0.2, 0.4, 0.6, 1)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert Recipe().halting_factor(0.0) == 1
    t = trained(updates=2, recipe={"halting_ramp": [0.9, 1.0], "optimizer": {"weight_decay": 0.0}})
    assert not t.model.q_head.weight.any(), "the halting head has had no loss yet"
    assert trained(updates=2).model.q_head.weight.any()


def test_exploration_is_annealed_in_a_straight_line():
    recipe, loop = Recipe(exploration_final=0.0), Loop(exploration=0.3)
    assert [recipe.exploration(loop, p) for p in (0, 0.5, 1)] == pytest.approx([0.3, 0.15, 0])
    assert Recipe().exploration(loop, 0.7) == 0.3
    assert act.Phase.of(recipe, loop, 0.5, 0).exploration == pytest.approx(0.15)


def test_the_bootstrap_pass_runs_on_every_kth_update_and_is_counted_so():
    calls = {}
    for every in (1, 3):
        t = trainer(cell(loop={"bootstrap_every": every}))
        forward = t.model.forward
        calls[every] = 0

        def counting(state, batch, every=every, forward=forward):
            calls[every] += 1
            return forward(state, batch)

        t.model.forward = counting
        for _ in range(6):
            t.advance()
    assert calls == {1: 12, 3: 8}
    config, shape = resolve_config("hrm", SMALL_HRM), ModelShape(5, 6, 6)
    always, third = (measure("hrm", config, shape, Loop(bootstrap_every=k), Recipe()) for k in (1, 3))
    never = measure("hrm", config, shape, Loop(halting="q_halt"), Recipe())
    expected = never.flops_per_update + (always.flops_per_update - never.flops_per_update) / 3
    assert third.flops_per_update == pytest.approx(expected, rel=1e-9)


# -- curricula ---------------------------------------------------------------------------------------------------------

STAGES = {"segments": [{"until": 0.5, "segments": 1}, {"until": 0.75, "segments": 2}]}


def test_rows_halt_at_the_stages_largest_number_of_segments():
    t = trainer(cell(updates=16, loop={"exploration": 1.0}, recipe={"curriculum": STAGES}))
    most = []
    for _ in range(16):
        t.advance()
        most.append(int(t.carry.steps.max()))
    assert most[:8] == [1] * 8
    assert max(most[8:12]) == 2
    assert max(most[12:]) == 4


def test_a_stage_shortens_rollouts_and_its_flops_are_those_of_the_stage():
    loop = Loop(segments=4, rollout=4, halting="none", exploration=0)
    curriculum = Curriculum.model_validate_json(json.dumps(STAGES))
    assert curriculum.stages(4) == [(0.5, 1), (0.25, 2), (0.25, 4)]
    config, shape = resolve_config("hrm", SMALL_HRM), ModelShape(5, 6, 6)
    staged = measure("hrm", config, shape, loop, Recipe(curriculum=curriculum)).flops_per_update
    plain = measure("hrm", config, shape, loop, Recipe()).flops_per_update
    assert staged / plain == pytest.approx((0.5 * 1 + 0.25 * 2 + 0.25 * 4) / 4, rel=1e-9)
    t = trainer(cell(updates=4, loop=loop.model_dump(), recipe={"curriculum": STAGES}))
    calls = []
    t.model.L_level.register_forward_hook(lambda *_: calls.append(t.updates))
    for _ in range(4):
        t.advance()
    assert [calls.count(update) // 4 for update in range(4)] == [1, 1, 2, 4]


def test_stages_must_follow_each_other():
    with pytest.raises(ValueError, match="one after the other"):
        Curriculum.model_validate_json('{"segments": [{"until": 0.5, "segments": 2}, {"until": 0.4, "segments": 3}]}')


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(200, 900),
    start=st.floats(0.05, 1),
    until=st.integers(1, 9000),
    cuts=st.lists(st.integers(0, 12000), max_size=4),
    seed=st.integers(0, 5),
)
def test_the_ramp_draws_the_easiest_first_and_does_not_depend_on_how_it_is_read(n, start, until, cuts, seed):
    difficulty = np.random.default_rng(seed).integers(0, 9, n).astype(np.float32)
    ramp = DifficultyRamp(start=start, until_examples=until)
    drawn = Stream("toy", seed, n, ramp, difficulty).window(0, 12000)
    edges = [0, *sorted(cuts), 12000]
    pieces = Stream("toy", seed, n, ramp, difficulty)
    again = np.concatenate([pieces.window(a, b - a) for a, b in pairwise(edges) if b > a])
    assert np.array_equal(drawn, again)
    position = np.arange(until)
    allowed = np.ceil((start + (1 - start) * position / until) * n).astype(int)
    hardest = np.sort(difficulty)[allowed - 1]
    assert (difficulty[drawn[:until]] <= hardest[: len(drawn[:until])]).all()
    after = drawn[until : until + n * ((12000 - until) // n)]
    assert (np.bincount(after, minlength=n) == len(after) // n).all(), "then whole epochs"


def test_the_ramp_reaches_every_example_in_the_end():
    ramp = DifficultyRamp(start=0.1, until_examples=4000)
    drawn = Stream("toy", 0, 20, ramp, np.arange(20, dtype=np.float32)).window(0, 4000)
    assert set(drawn[:50]) == {0, 1, 2}
    assert set(drawn[-1000:]) == set(range(20))


def test_with_a_ramp_arms_still_read_one_stream():
    recipe = {"curriculum": {"difficulty": {"start": 0.3, "until_examples": 40}}, "augmentation": False}
    one = trainer(cell(recipe=recipe))
    other = trainer(cell("transformer", "transformer", recipe=recipe))
    everything = torch.ones(8, dtype=torch.bool)
    assert torch.equal(one.feeder.next(everything)[0].inputs, other.feeder.next(everything)[0].inputs)


# -- factors, early stopping, own losses -------------------------------------------------------------------------------


def test_a_modules_factor_scales_its_steps_and_no_others():
    settings = {"weight_decay": 0.0, "learning_rate": 1e-3, "factors": {"H_level": 0.25, "H_level.layers.0.mlp": 0.5}}
    t = trainer(cell(recipe={"optimizer": settings, "clip": None, "schedule": {"name": "constant"}}))
    before = weights(t)
    t.advance()
    # Adam's first step moves every number with a gradient by the learning rate
    moved = {name: (p - before[name]).abs().max().item() for name, p in t.model.named_parameters()}
    assert moved["H_level.layers.0.self_attn.qkv_proj.weight"] == pytest.approx(0.25e-3, rel=1e-2)
    assert moved["H_level.layers.0.mlp.down_proj.weight"] == pytest.approx(0.5e-3, rel=1e-2)
    assert moved["L_level.layers.0.mlp.down_proj.weight"] == pytest.approx(1e-3, rel=1e-2)


def test_training_stops_when_validation_stops_improving(tmp_path):
    settings = {
        "early_stopping": 2,
        "optimizer": {"learning_rate": 1e-12},
        "puzzle_optimizer": {"learning_rate": 1e-12},
        "evaluation": {"points": 8},
    }
    t = trainer(cell(updates=64, recipe=settings))
    validation = Shifted().splits(0, DataFolder())["validation"]
    progress = runner.Progress()
    runner.train(t, progress, validation, tmp_path, lambda share, text: True, runner.Options())
    # nothing moves, so the first point is as good as all others
    assert progress.stopped_early and t.updates == 24 and len(progress.curves) == 3


def planned(tmp_path, **recipe):
    document = {
        "name": "mine",
        "recipe": {"batch_size": 8, **recipe},
        "arms": {"hrm": {"model": "hrm", "config": SMALL_HRM}},
        "tasks": {"parity": {"seeds": 1}},
    }
    return plan.make_plan(suite.load_suite(document, "mine.yaml"), DataFolder(), tmp_path / "results")


def test_a_loss_of_ones_own_is_used_without_touching_the_runner(tmp_path):
    if "always-seven" not in LOSSES.names():

        @register_loss("always-seven")
        def always_seven(prediction, batch):
            return prediction.logits.sum((-1, -2)) * 0 + 7.0

    assert trained(updates=1, recipe={"loss": "always-seven"}).window().loss == pytest.approx(7.0)
    assert planned(tmp_path, loss="always-seven").cells
    with pytest.raises(UserError, match=r'recipe\.loss: no loss "always-sevn" \(did you mean "always-seven"'):
        planned(tmp_path, loss="always-sevn")


def test_a_factor_for_a_module_that_no_arm_has_is_refused(tmp_path):
    assert planned(tmp_path, optimizer={"factors": {"H_level": 0.5}}).cells
    with pytest.raises(UserError, match=r'factors\.H_levl: no arm has such a module \(did you mean "H_level"'):
        planned(tmp_path, optimizer={"factors": {"H_levl": 0.5}})


def test_model_settings_of_the_whole_suite_reach_every_arm_under_its_own(tmp_path):
    document = {
        "name": "mine",
        "recipe": {"batch_size": 8},
        "config": {"dropout": 0.2},
        "arms": {
            "hrm": {"model": "hrm", "config": SMALL_HRM},
            "still": {"model": "hrm", "config": {**SMALL_HRM, "dropout": 0.0}},
            "transformer": {"model": "transformer", "config": {"layers": 2}, "match": {"to": "hrm", "rule": "params"}},
        },
        "tasks": {"parity": {"seeds": 1}},
    }
    cells = plan.make_plan(suite.load_suite(document, "mine.yaml"), DataFolder(), tmp_path / "results").cells
    assert [c.config["dropout"] for c in cells] == [0.2, 0.0, 0.2]


def test_all_options_together_resume_to_the_same_bits():
    options = {
        "accumulate": 2,
        "recompute": True,
        "segment_weights": [1, 2],
        "halting_ramp": [0.1, 0.8],
        "exploration_final": 0.0,
        "curriculum": {**STAGES, "difficulty": {"start": 0.2, "until_examples": 60}},
        "optimizer": {"factors": {"H_level": 0.5}, "name": "adam_atan2"},
    }
    the_cell = cell(updates=12, recipe=options, config={**SMALL_HRM, "dropout": 0.2}, loop={"bootstrap_every": 2})
    straight, stopped = trainer(the_cell), trainer(the_cell)
    for _ in range(12):
        straight.advance()
    for _ in range(5):
        stopped.advance()
    resumed = trainer(the_cell)
    resumed.load_state_dict(stopped.state_dict())
    for _ in range(7):
        resumed.advance()
    assert furthest(straight, resumed) == 0
