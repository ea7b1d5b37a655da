"""The solver finds equal parameters or says that there are none; costs are those of a closed formula."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cost import Cost, flops_per_segment, measure, parameters
from harness.errors import UserError
from harness.matching import Reference, match_arm, match_parameters
from harness.plan import make_plan
from harness.recipe import ONE_PASS, Loop, Recipe
from harness.record import identity
from models.base import ModelShape, resolve_config
from tasks.base import DataFolder


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
    hrm = measure("hrm", resolve_config("hrm", base), shape, Loop(), Recipe(batch_size=32))
    assert hrm.flops_per_segment == 24 * layer + head + q
    assert hrm.flops_per_answer == 16 * hrm.flops_per_segment
    assert hrm.layers_per_answer == 384
    # the backward pass of the head and of the q head costs twice their forward pass, like any layer
    assert hrm.flops_per_update == 32 * (64 * layer + 4 * (head + q))
    one_pass = measure("transformer", resolve_config("transformer", base), shape, ONE_PASS, Recipe(batch_size=32))
    assert one_pass.flops_per_segment == 8 * layer + head
    assert one_pass.flops_per_update == 32 * 3 * (8 * layer + head)


def test_without_bootstrap_an_update_costs_no_second_forward_pass():
    shape = ModelShape(5, 9, 9)
    config = resolve_config("hrm", {"hidden": 32, "heads": 2, "inner": 64})
    learned = measure("hrm", config, shape, Loop(), Recipe(batch_size=4))
    simple = measure("hrm", config, shape, Loop(halting="q_halt"), Recipe(batch_size=4))
    assert learned.flops_per_update - simple.flops_per_update == 4 * learned.flops_per_segment


def test_activation_memory_does_not_grow_with_the_cycles_of_the_one_step_gradient():
    shape = ModelShape(5, 9, 9)
    base = {"hidden": 32, "heads": 2, "inner": 64}
    few = measure("hrm", resolve_config("hrm", base), shape, Loop(), Recipe(batch_size=4))
    many = measure(
        "hrm", resolve_config("hrm", {**base, "H_cycles": 4, "L_cycles": 4}), shape, Loop(), Recipe(batch_size=4)
    )
    assert few.activation_bytes == many.activation_bytes > 0


# -- equal FLOPs per answer ----------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    heads=st.integers(1, 6),
    head_size=st.sampled_from([16, 32]),
    inner=st.integers(32, 300),
    H_layers=st.integers(1, 2),
    L_layers=st.integers(1, 2),
    H_cycles=st.integers(1, 2),
    L_cycles=st.integers(1, 2),
    layers=st.integers(1, 4),
    segments=st.sampled_from([4, 8, 16, 24]),
)
def test_looped_arms_get_equal_parameters_and_the_nearest_number_of_loops(
    heads, head_size, inner, H_layers, L_layers, H_cycles, L_cycles, layers, segments
):
    shape = ModelShape(7, 12, 12)
    cycles = {"H_layers": H_layers, "L_layers": L_layers, "H_cycles": H_cycles, "L_cycles": L_cycles}
    reference = referred("hrm", {"hidden": heads * head_size, "heads": heads, "inner": inner, **cycles}, shape)
    start = resolve_config("looped", {"hidden": heads * head_size, "heads": heads, "layers": layers})
    try:
        found = match_arm("inference_flops", "looped", start, reference, shape, segments, "arms.looped")
    except UserError as error:
        assert "tried" in str(error)
        return

    ours, loops = found.config, found.config.loops

    def error(loops: int) -> float:
        """By the closed formula."""
        per_loop = layers * layer_flops(ours.hidden, 12 + 1, ours.inner)
        flops = segments * (loops * per_loop + 2 * 12 * ours.hidden * 7 + 2 * ours.hidden * 2)
        return flops / reference.cost.flops_per_answer - 1

    assert abs(found.error_core) <= 0.01 and abs(found.error_total) <= 0.02
    assert found.error_flops == pytest.approx(error(loops))
    assert abs(error(loops)) <= min(abs(error(loops + 1)), abs(error(max(1, loops - 1)))) + 1e-9
    assert found.error_core == pytest.approx(parameters("looped", ours, shape)["core"] / reference.cost.core - 1)


@settings(max_examples=10, deadline=None)
@given(
    heads=st.integers(1, 4),
    head_size=st.sampled_from([16, 32]),
    L_layers=st.integers(1, 2),
    H_cycles=st.integers(1, 2),
    L_cycles=st.integers(1, 3),
    trained=st.integers(1, 3),
    model=st.sampled_from(["transformer", "transformer-act"]),
)
def test_deep_arms_get_the_nearest_number_of_layers_at_the_references_width(
    heads, head_size, L_layers, H_cycles, L_cycles, trained, model
):
    shape = ModelShape(7, 12, 12)
    size = {"hidden": heads * head_size, "heads": heads, "inner": 40}
    cycles = {"L_layers": L_layers, "H_cycles": H_cycles, "L_cycles": L_cycles}
    reference = referred("hrm", {**size, "H_layers": 2, **cycles}, shape, trained)
    segments = trained if model == "transformer-act" else 1
    start = resolve_config(model, {"hidden": 48, "heads": 3})
    found = match_arm("inference_flops_only", model, start, reference, shape, segments, "arms.deep")
    config = found.config
    assert (config.hidden, config.heads, config.inner_width) == (heads * head_size, heads, 40)
    # every application of a layer in the reference is a layer of its own here, up to the heads, read once per segment
    applied = H_cycles * (L_cycles * L_layers + 2) * trained // segments
    assert config.layers == pytest.approx(applied, abs=1)
    assert found.error_flops == pytest.approx(
        segments * flops_per_segment(model, config, shape) / reference.cost.flops_per_answer - 1
    )
    assert abs(found.error_flops) <= 0.5 / config.layers + 1e-9
    assert found.error_core == pytest.approx(parameters(model, config, shape)["core"] / reference.cost.core - 1)


def test_the_papers_hrm_meets_eight_layers_three_times_and_24_distinct_layers():
    shape = ModelShape(11, 81, 81)
    reference = referred("hrm", {"hidden": 512, "heads": 8}, shape)
    looped = match_arm("inference_flops", "looped", resolve_config("looped", {}), reference, shape, 16, "x")
    assert (looped.config.hidden, looped.config.inner, looped.config.layers, looped.config.loops) == (512, 1536, 8, 3)
    assert (looped.error_core, looped.error_flops) == (0, 0)
    start = resolve_config("transformer-act", {})
    deep = match_arm("inference_flops_only", "transformer-act", start, reference, shape, 16, "x")
    assert (deep.config.layers, deep.error_flops) == (24, 0)
    assert deep.error_core == 2  # 24 layers have three times the parameters of 8


@pytest.mark.parametrize(
    ("rule", "model", "config", "segments", "message"),
    [
        ("inference_flops", "transformer", {"layers": 2}, 1, r"no number of loops.*equal parameters.*tried hidden 32"),
        ("inference_flops", "looped", {"layers": 2}, 64, r"even with loops = 1 .* 5\.\d times .*tried loops 1 and 2"),
        ("inference_flops_only", "transformer-act", {}, 64, r"even with layers = 1 .*tried layers 1 and 2 at hidden"),
        ("inference_flops_only", "hrm", {}, 4, r"hrm has no number of layers.*looped, .*transformer, transformer-act"),
        ("inference_flops", "looped", {"layers": 99}, 4, r"core parameters within 1%.*tried"),
    ],
)
def test_a_match_in_flops_that_can_not_be_says_what_was_tried(rule, model, config, segments, message):
    shape = ModelShape(7, 12, 12)
    size = {"hidden": 32, "heads": 2}
    cycles = {"H_layers": 1, "L_layers": 1, "H_cycles": 1, "L_cycles": 1}
    reference = referred("hrm", {**size, "inner": 40, **cycles}, shape, 12 if segments == 64 else 4)
    start = resolve_config(model, {**size, **config})
    with pytest.raises(UserError, match=r"^arms\.x: .*" + message):
        match_arm(rule, model, start, reference, shape, segments, "arms.x")


def test_a_match_without_loops_is_taken_where_flops_agree_by_themselves():
    shape = ModelShape(7, 12, 12)
    one_loop = referred("looped", {"hidden": 32, "heads": 2, "inner": 40, "layers": 2, "loops": 1}, shape)
    start = resolve_config("transformer-act", {"hidden": 32, "heads": 2, "layers": 2})
    found = match_arm("inference_flops", "transformer-act", start, one_loop, shape, 16, "x")
    assert found.error_flops == 0


def test_every_matched_arm_records_its_flops_against_the_reference(tmp_path, capsys):
    from harness.cli import main
    from harness.suite import load_suite

    size = {"hidden": 32, "heads": 2, "inner": 40, "H_layers": 1, "L_layers": 2}
    document = {
        "name": "flops",
        "arms": {
            "hrm": {"model": "hrm", "config": size, "loop": {"segments": 4}},
            "plain": {"model": "transformer", "config": {"layers": 3}, "match": {"to": "hrm", "rule": "params"}},
            "looped": {
                "model": "looped",
                "config": {"layers": 4},
                "loop": {"segments": 4},
                "match": {"to": "hrm", "rule": "inference_flops"},
            },
            "deep": {
                "model": "transformer-act",
                "loop": {"segments": 4},
                "match": {"to": "hrm", "rule": "inference_flops_only"},
            },
        },
        "tasks": {"parity": {"seeds": 1, "settings": {"train_examples": 100, "ood_lengths": []}}},
        "recipe": {"batch_size": 8},
    }
    suite = load_suite(document, "flops")
    plan = make_plan(suite, DataFolder(), tmp_path / "results")
    arms = plan.tasks["parity"].arms
    for cell in plan.cells:
        arm = arms[cell.arm]
        recorded = identity(cell)["match_error_flops"]
        if cell.arm == "hrm":
            assert recorded is None
        else:
            assert recorded == pytest.approx(arm.cost.flops_per_answer / arms["hrm"].cost.flops_per_answer - 1)
    assert arms["looped"].config.loops == 3  # 10 applications of 3 layers: 3.3 times the parameters
    assert arms["looped"].matched.error_flops == pytest.approx(-0.08, abs=0.03)
    assert arms["deep"].config.layers == 10
    path = tmp_path / "flops.yaml"
    path.write_text(json.dumps(document))
    assert main(["plan", "--suite", str(path), "--results", str(tmp_path / "results")]) == 0
    out = capsys.readouterr().out
    assert "looped: FLOPs per answer differ from hrm's by -" in out
    assert "deep: parameters are not matched to hrm's (+233% core)" in out
    shown = json.loads(out.splitlines()[-1])["tasks"]["parity"]["arms"]
    assert shown["plain"]["match_error_flops"] == pytest.approx(-0.925, abs=0.01)  # 3 of 40 layer applications
    with pytest.raises(UserError, match=r"arms\.looped\.config\.loops: the matching solver sets it"):
        make_plan(load_suite(document, "x", ["arms.looped.config.loops=2"]), DataFolder(), tmp_path / "results")


def referred(model: str, config: dict, shape: ModelShape, segments: int = 16) -> Reference:
    """A reference whose training cost is not counted, which takes most of the time."""
    resolved = resolve_config(model, config)
    groups, flops = parameters(model, resolved, shape), flops_per_segment(model, resolved, shape)
    return Reference(resolved, Cost(**groups, layers_per_segment=0, segments=segments, flops_per_segment=flops,
                                    flops_per_update=0, activation_bytes=0))  # fmt: skip
