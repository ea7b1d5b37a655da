"""The baselines of the library transformers are that library's, at the size that the matching solver gives them."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FAMILIES, Echo, Shifted, cell, random_batch, trainer

from harness.cost import flops_per_segment, measure, parameters
from harness.errors import UserError
from harness.matching import match_parameters
from harness.recipe import ONE_PASS, Recipe
from models.base import ModelShape, create_model, resolve_config
from tasks.base import PAD, Batch, DataFolder

GRID = ModelShape(5, 6, 6, num_puzzles=3)
TEXT = replace(GRID, causal=True)
SHAPES = {"modernbert": GRID, "llama": TEXT}

both = pytest.mark.parametrize("model", SHAPES)


def small(model: str, shape: ModelShape | None = None, dtype=torch.float32, seed: int = 0, **changes):
    config = {**FAMILIES[model][1], **changes}
    generator = torch.Generator().manual_seed(seed)
    return create_model(model, config, shape or SHAPES[model], generator=generator, dtype=dtype)


def rows(seed: int = 0) -> Batch:
    batch = random_batch(5, 4, 6, 3, seed)
    return replace(batch, facts={"prompt_length": torch.tensor([1, 2, 3, 4])})


@torch.no_grad()
def logits(model, batch: Batch, keys=None) -> torch.Tensor:
    return model(model.initial_state(batch, keys), batch)[1].logits


@both
def test_without_slots_it_says_what_the_librarys_own_call_says(model):
    m = small(model, slots=0, puzzle_embedding=False).eval()
    batch = rows()
    with torch.no_grad():
        own = m.net(input_ids=batch.inputs, attention_mask=torch.ones_like(batch.inputs)).logits
    torch.testing.assert_close(logits(m, batch), own, atol=1e-6, rtol=1e-5)


@both
def test_the_librarys_configuration_is_the_one_stated(model):
    m = small(model, rms_eps=1e-3, rope_theta=500.0)
    c = m.net.config
    assert (c.hidden_size, c.num_attention_heads, c.intermediate_size, c.num_hidden_layers) == (16, 2, 24, 2)
    assert c._attn_implementation == "sdpa" and not c.tie_word_embeddings
    assert c.attention_dropout == 0
    if model == "modernbert":
        assert c.layer_types == ["full_attention"] * 2
        assert all(layer.attn.sliding_window is None for layer in m.net.model.layers)
        assert c.norm_eps == 1e-3 and c.rope_parameters["full_attention"]["rope_theta"] == 500.0
    else:
        assert c.num_key_value_heads == 2
        assert c.rms_norm_eps == 1e-3 and c.rope_parameters["rope_theta"] == 500.0


@both
def test_initial_weights_come_from_the_generator_alone(model):
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state()
    one = small(model, seed=3).state_dict()
    assert torch.equal(before, torch.get_rng_state()), "the program's own random numbers were drawn from"
    torch.manual_seed(2)
    two, other = small(model, seed=3).state_dict(), small(model, seed=4).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@both
def test_no_weight_is_shared_and_all_are_saved(model):
    m = small(model)
    saved = m.state_dict()
    assert saved.keys() == dict(m.named_parameters()).keys()
    assert len({tensor.data_ptr() for tensor in saved.values()}) == len(saved)


@pytest.mark.parametrize(("model", "other"), [("modernbert", "llama"), ("llama", "modernbert")])
def test_the_wrong_kind_of_task_is_refused_with_the_model_to_use(model, other):
    with pytest.raises(UserError, match=f"use the model {other}"):
        create_model(model, FAMILIES[model][1], SHAPES[other])


@both
def test_settings_that_the_library_does_not_offer_are_refused(model):
    for key, value in (("positions", "learned"), ("segment_heads", 2)):
        with pytest.raises(UserError, match=key):
            resolve_config(model, {key: value})


# -- size and cost ---------------------------------------------------------------------------------------------------


@both
@settings(max_examples=10, deadline=None)
@given(
    heads=st.integers(2, 8),
    head_size=st.sampled_from([16, 32, 64]),
    inner=st.integers(64, 512),
    H_layers=st.integers(1, 4),
    layers=st.integers(2, 8),
    vocabulary=st.integers(3, 64),
)
def test_the_solver_gives_it_the_references_size(model, heads, head_size, inner, H_layers, layers, vocabulary):
    shape = replace(SHAPES[model], vocabulary=vocabulary, sequence_length=20, answer_length=20)
    config = {"hidden": heads * head_size, "heads": heads, "inner": inner, "H_layers": H_layers}
    reference = parameters("hrm", resolve_config("hrm", config), shape)
    start = resolve_config(model, {"hidden": heads * head_size, "heads": heads, "layers": layers})
    try:
        found = match_parameters(model, start, reference, head_size, shape, "arms.library")
    except UserError as error:
        assert "tried" in str(error) and "nearest" in str(error)
        return
    ours = parameters(model, found.config, shape)
    assert found.config.hidden // found.config.heads == head_size
    assert abs(ours["core"] / reference["core"] - 1) <= 0.01
    assert abs(sum(ours.values()) / sum(v for k, v in reference.items() if k != "never_trained") - 1) <= 0.02


@both
def test_eight_layers_match_the_papers_hrm_at_its_width(model):
    shape = replace(SHAPES[model], vocabulary=11, sequence_length=81, answer_length=81, num_puzzles=1)
    reference = parameters("hrm", resolve_config("hrm", {}, "paper"), shape)
    found = match_parameters(model, resolve_config(model, {}), reference, 64, shape, "x")
    assert found.config.hidden == 512
    assert abs(found.error_core) < 0.001 and abs(found.error_total) < 0.001


@pytest.mark.parametrize(("D", "heads", "S", "inner", "layers"), [(64, 2, 17, 172, 3), (512, 8, 81, 1500, 8)])
@both
def test_parameters_and_flops_are_those_of_a_closed_formula(model, D, heads, S, inner, layers):
    shape = replace(SHAPES[model], vocabulary=11, sequence_length=S, answer_length=S, num_puzzles=7)
    config = resolve_config(model, {"hidden": D, "heads": heads, "inner": inner, "layers": layers})
    groups = parameters(model, config, shape)
    block = 4 * D * D + 3 * D * inner
    if model == "modernbert":
        # norms: of the embedding, two per layer but no first one in the first, the last, and that of the dense layer
        core, bias, dense = layers * block + D * D + (2 * layers + 2) * D, 11, D * D
    else:
        core, bias, dense = layers * block + (2 * layers + 1) * D, 0, 0
    assert groups == {
        "core": core,
        "embeddings": 11 * D,
        "heads": 11 * D + bias,
        "puzzle_table": 7 * D,
        "never_trained": 0,
    }
    T = S + 1  # with the slot, which the heads read, too
    forward = layers * (2 * T * block + 4 * T * T * D) + 2 * T * (dense + 11 * D)
    assert flops_per_segment(model, config, shape) == forward
    assert measure(model, config, shape, ONE_PASS, Recipe(batch_size=32)).flops_per_update == 32 * 3 * forward


# -- arithmetic ------------------------------------------------------------------------------------------------------


@both
def test_activations_have_the_type_asked_for_and_parameters_stay_wide(model):
    batch = rows()
    wide = logits(small(model), batch)
    double = small(model, dtype=torch.float64)
    assert logits(double, batch).dtype == torch.float64
    assert all(p.dtype == torch.float64 for p in double.parameters())
    torch.testing.assert_close(logits(double, batch).float(), wide, atol=1e-5, rtol=1e-4)
    half = small(model, dtype=torch.bfloat16)
    kinds = []
    half.net.model.layers[1].register_forward_pre_hook(lambda module, args: kinds.append(args[0].dtype))
    out = half(half.initial_state(batch), batch)[1].logits
    assert out.dtype == torch.bfloat16 and kinds == [torch.bfloat16]
    torch.testing.assert_close(out.float(), wide, atol=0.05 * float(wide.abs().amax()), rtol=0)
    out.float().square().sum().backward()
    assert all(p.dtype == torch.float32 and p.grad is not None for p in half.parameters())


@both
def test_it_trains_in_bfloat16_close_to_float32(model):
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = FAMILIES[model][1]
        t = trainer(cell(model, model, config=config, precision=precision, updates=20))
        while not t.finished:
            t.advance()
        losses[precision] = t.window().loss
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]


@pytest.mark.parametrize("optimizer", ["adamw", "adam_atan2"])
@both
def test_weight_decay_spares_norm_scales_and_biases_alone(model, optimizer):
    settings = {"name": optimizer, "learning_rate": 1e-2, "weight_decay": 1.0}
    recipe = {"optimizer": settings, "puzzle_optimizer": {"weight_decay": 0.0}}
    t = trainer(cell(model, model, config=FAMILIES[model][1], recipe=recipe))
    start = {name: p.detach().clone() for name, p in t.model.named_parameters()}
    for p in t.optimizers.dense:
        p.grad = torch.zeros_like(p)
    t.optimizers.step(1, 0.0)
    spared = {name for name, p in t.model.named_parameters() if torch.equal(p, start[name])} - {"puzzle_emb.weights"}
    assert spared == {name for name, p in start.items() if p.dim() == 1}
    for name in start.keys() - spared - {"puzzle_emb.weights"}:
        torch.testing.assert_close(t.model.get_parameter(name), start[name] * 0.99)


def test_padding_is_not_seen_where_the_task_hides_it():
    m = small("modernbert", replace(GRID, masked=True))
    open_eyes = small("modernbert")
    long = rows()
    long.inputs[:, 4:] = PAD
    short = replace(long, inputs=long.inputs[:, :4])
    torch.testing.assert_close(logits(m, long)[:, :4], logits(m, short)[:, :4])
    assert (logits(open_eyes, long)[:, :4] - logits(open_eyes, short)[:, :4]).abs().amax() > 1e-4


@both
def test_the_puzzle_stands_in_the_first_slot_and_is_heard(model):
    for slots in (1, 3):
        m, batch = small(model, slots=slots), rows()
        silent = logits(m, batch)
        torch.nn.init.normal_(m.puzzle_emb.weights, generator=torch.Generator().manual_seed(1))
        heard = logits(m, batch)
        assert silent.shape == heard.shape == (4, 6, 5)
        assert not torch.equal(silent, heard)
        other = logits(m, replace(batch, puzzle_ids=(batch.puzzle_ids + 1) % 3))
        assert ((other - heard).abs().amax((1, 2)) > 0).all()


@both
def test_numbers_take_the_place_of_token_vectors(model):
    m = small(model, replace(SHAPES[model], features=True))
    groups = m.parameter_groups()
    assert groups["embeddings"] == 2 * 16
    batch = replace(rows(), inputs=torch.rand(4, 6))
    out = m(m.initial_state(batch), batch)[1].logits
    assert out.shape == (4, 6, 5)
    out.square().sum().backward()
    assert all(p.grad is not None for p in m.parameters())


@both
def test_dropout_is_a_rows_own_and_off_in_evaluation(model):
    m = small(model, dropout=0.5).train()
    batch, keys = rows(), torch.tensor([5, 6, 7, 8])
    before = torch.get_rng_state()
    one, again = logits(m, batch, keys), logits(m, batch, keys)
    assert torch.equal(one, again) and torch.equal(before, torch.get_rng_state())
    mixed = logits(m, batch, torch.tensor([5, 9, 7, 10]))
    same = [torch.equal(a, b) for a, b in zip(one, mixed, strict=True)]
    assert same == [True, False, True, False]
    assert torch.equal(logits(m.eval(), batch, keys), logits(small(model).eval(), batch, keys))


@pytest.mark.slow
@both
def test_compiled_it_trains_as_eagerly(model):
    import shutil

    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("torch.compile needs a C compiler on CPU")
    for precision, dropout in (("float32", 0.1), ("bfloat16", 0.0)):
        losses = []
        for engine in ("eager", "compiled"):
            config = {**FAMILIES[model][1], "dropout": dropout}
            t = trainer(cell(model, model, config=config, engine=engine, precision=precision, updates=4))
            while not t.finished:
                t.advance()
            losses.append(t.window().loss)
        assert losses[0] == pytest.approx(losses[1], rel=1e-4 if precision == "float32" else 0.02)


def test_the_library_is_imported_where_a_model_is_built_and_not_before():
    code = (
        "import sys, models; models.load_all(); from harness import listing\n"
        "from models.base import resolve_config\n"
        "resolve_config('llama', {}), resolve_config('modernbert', {})\n"
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_toy_tasks_are_sound():
    for task in (Shifted(), Echo(), Echo(least=2, most=4)):
        task.check(task.splits(0, DataFolder()))
