"""HRM's ablation switches: each takes away the one thing that it names, and nothing else."""

from __future__ import annotations

import pytest
import torch
from toys import SMALL, SMALL_HRM, random_batch

from harness.errors import UserError
from harness.random import CounterRandom
from models.base import PRESET_LOOPS, PRESETS, ModelShape, create_model, resolve_config
from models.layers import Surroundings

SHAPE = ModelShape(5, 6, 6)


def small(**switches):
    return create_model("hrm", {**SMALL_HRM, **switches}, SHAPE, generator=torch.Generator().manual_seed(0))


def recorded(model):
    """What each call of a module in one segment got and whether it carried gradient: (module, input, carries)."""
    calls = []
    for name in ("H_level", "L_level"):
        if hasattr(model, name):
            getattr(model, name).register_forward_hook(
                lambda module, args, out, name=name: calls.append((name[0], args[0].detach(), out.requires_grad))
            )
    batch = random_batch(5, 2, 6)
    state = model.initial_state(batch)
    after, prediction = model(state, batch)
    return calls, state, after, prediction, model.embed(batch, model.puzzle_vectors(batch)).detach()


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({}, "l l h l L H"),
        ({"gradient": "last_cycle"}, "l l h L L H"),
        ({"gradient": "full"}, "L L H L L H"),
        ({"modules": "L"}, "l l l L"),
        ({"modules": "L", "gradient": "last_cycle"}, "l l L L"),
        ({"modules": "shared"}, "l l l l L L"),
        ({"L_cycles": 3, "H_cycles": 1, "gradient": "last_cycle"}, "L L L H"),
    ],
)
def test_modules_run_in_order_and_capitals_carry_gradient(switches, expected):
    calls, *_ = recorded(small(**switches))
    assert " ".join(name if carries else name.lower() for name, _, carries in calls) == expected


def test_low_sees_the_input_before_every_call_or_before_the_first_only():
    for inject, times in (("every", 4), ("first", 1)):
        calls, state, _, _, x = recorded(small(gradient="full", inject=inject))
        z_H, z_L = state["z_H"], state["z_L"]
        assert torch.equal(calls[0][1], z_L + (z_H + x))
        low = [given for name, given, _ in calls if name == "L"]
        model = small(gradient="full", inject=inject)
        z_L = model.L_level(low[0], Surroundings(model.rotary(7, x.device, x.dtype))).detach()
        expected = z_L + (z_H + x) if times == 4 else z_L + z_H
        assert torch.equal(low[1], expected)


def test_a_cut_link_is_cut_and_the_other_holds():
    calls, state, *_, x = recorded(small(H_to_L=False))
    assert torch.equal(calls[0][1], state["z_L"] + x), "L must not see H"
    calls, state, after, prediction, _ = recorded(model := small(L_to_H=False))
    assert torch.equal(calls[2][1], state["z_H"]), "H must not see L"
    assert torch.equal(prediction.logits, model.lm_head((after["z_H"] + after["z_L"])[:, 1:]))


def test_without_the_link_to_H_the_state_of_H_knows_nothing_of_the_input():
    model = small(L_to_H=False)
    a, b = random_batch(5, 2, 6, seed=1), random_batch(5, 2, 6, seed=2)
    one, _ = model(model.initial_state(a), a)
    two, _ = model(model.initial_state(b), b)
    assert torch.equal(one["z_H"], two["z_H"])
    assert not torch.equal(one["z_L"], two["z_L"])


def test_one_module_is_counted_once_and_one_state_is_carried():
    both, shared, low = small(H_layers=1), small(modules="shared"), small(modules="L")
    core = both.parameter_groups()["core"]
    assert shared.parameter_groups()["core"] == low.parameter_groups()["core"] == core // 2
    assert set(low.initial_state(random_batch(5, 2, 6))) == {"z_L", "segment"}
    assert (both.layers_per_segment, shared.layers_per_segment, low.layers_per_segment) == (6, 6, 4)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"inject": "first"}, "gradient is full"),
        ({"modules": "L", "H_to_L": False}, "no H to cut"),
        ({"modules": "shared", "H_layers": 3}, "leave H_layers out"),
    ],
)
def test_switches_that_contradict_each_other_are_refused(switches, message):
    with pytest.raises(UserError, match=message):
        resolve_config("hrm", {**SMALL, "L_layers": 1, **switches})


# -- dropout -------------------------------------------------------------------------------------------------------


def test_dropout_acts_in_training_alone_and_by_row():
    model = small(dropout=0.5)
    batch, keys = random_batch(5, 4, 6), torch.arange(4) * 977
    state = model.initial_state(batch, keys)
    model.eval()
    still = model(state, batch)[1].logits
    assert torch.equal(still, small().eval()(small().initial_state(batch), batch)[1].logits)
    model.train()
    moved = model(state, batch)[1].logits
    assert not torch.allclose(moved, still, atol=1e-2)
    assert torch.equal(moved, model(state, batch)[1].logits), "the same keys and segment draw the same"
    part = batch.map(lambda t: t[[2, 0]])
    alone = model(model.initial_state(part, keys[[2, 0]]), part)[1].logits
    assert torch.allclose(alone, moved[[2, 0]], atol=1e-5), "a row's dropout depends on its own key"
    later = {**state, "segment": state["segment"] + 1}
    assert not torch.allclose(model(later, batch)[1].logits, moved, atol=1e-2)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_its_share_and_the_mean(rate):
    around = Surroundings(noise=CounterRandom(1, torch.arange(64)))
    x = torch.ones(64, 20, 16)
    first, second = around.dropout(x, rate, around.call(1)), around.dropout(x, rate, around.call(1))
    n = x.numel()
    assert abs((first == 0).float().mean() - rate) < 5 * (rate * (1 - rate) / n) ** 0.5
    assert first.mean() == pytest.approx(1, abs=0.03)
    both = ((first == 0) & (second == 0)).float().mean()
    assert abs(both - rate**2) < 5 * (rate**2 / n) ** 0.5, "two calls draw independently"


# -- heads per segment -----------------------------------------------------------------------------------------------


def test_each_row_answers_through_the_head_of_its_own_segment():
    model = small(segment_heads=2)
    batch = random_batch(5, 3, 6)
    state = {**model.initial_state(batch), "segment": torch.tensor([0, 1, 5], dtype=torch.int32)}
    after, prediction = model(state, batch)
    heads = [model.segment_head[0], model.segment_head[1], model.lm_head]
    for row, head in enumerate(heads):
        assert torch.equal(prediction.logits[row], head(after["z_H"][:, 1:])[row])


# -- S4's sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "core", "layers_per_answer"),
    [
        ("micro", 3_407_872, 48),
        ("tiny", 14_155_776, None),
        ("small", 40_894_464, 384),
        ("base", 113_246_208, 960),
        ("large", 308_281_344, 2_160),
        ("xlarge", 905_969_664, 5_120),
    ],
)
def test_the_sizes_of_s4_have_their_true_cores_and_layer_applications(size, core, layers_per_answer):
    model = create_model("hrm", {}, ModelShape(1000, 8, 8), preset=f"s4-{size}")
    assert model.parameter_groups()["core"] == core
    if layers_per_answer is not None:
        assert model.layers_per_segment * PRESET_LOOPS["hrm"][f"s4-{size}"]["segments"] == layers_per_answer
    assert set(PRESET_LOOPS["hrm"]) <= set(PRESETS["hrm"])
