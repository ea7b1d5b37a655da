"""Published checkpoints load strictly, under every prefix and from both kinds of file; mistakes in them are named."""

from __future__ import annotations

import numpy as np
import pytest
import reference_hrm
import reference_trm
import torch
from safetensors.torch import save_file
from toys import random_batch

from harness.errors import UserError
from models.base import ModelShape, create_model
from models.official import convert_state_dict

V, S, P, INNER = 7, 6, 3, 24
SHAPE = ModelShape(V, S, S, num_puzzles=P)
SIZE = {"hidden": 16, "heads": 2, "inner": INNER}
HRM = reference_hrm.ReferenceConfig(hidden=16, heads=2, H_layers=2, L_layers=1, H_cycles=2, L_cycles=3)
TRM = {"hidden": 16, "heads": 2, "layers": 2, "H_cycles": 3, "L_cycles": 2}
MIXER = {"mixer": True, "mixer_inner": 20, "positions": "none"}
CYCLES = {"H_cycles": 3, "L_cycles": 2}

FORMS = {
    # form: family, configuration of the model, definition of the family, its configuration
    "hrm": ("hrm", {**SIZE, "H_layers": 2, "L_layers": 1, "L_cycles": 3}, reference_hrm, HRM),
    "trm-att": ("trm", {**SIZE, **CYCLES}, reference_trm, reference_trm.ReferenceConfig(**TRM)),
    "trm-mlp": (
        "trm",
        {**SIZE, **CYCLES, **MIXER},
        reference_trm,
        reference_trm.ReferenceConfig(**TRM, mixer=True, positions="none"),
    ),
}

every_form = pytest.mark.parametrize("form", FORMS)


def published(form: str, prefix: str = "_orig_mod.model.inner.") -> dict[str, torch.Tensor]:
    """A state dict as the published code writes it: float32, the initial states in bfloat16."""
    family, _, _, config = FORMS[form]
    if family == "hrm":
        weights = reference_hrm.random_weights(config, V, P, seed=1, inner=INNER)
    else:
        weights = reference_trm.random_weights(reference_trm.weight_shapes(config, V, P, S, INNER, 20), seed=1)
    return {
        prefix + name: torch.from_numpy(value).to(torch.bfloat16 if name.endswith("_init") else torch.float32)
        for name, value in weights.items()
    }


def fresh(form: str):
    family, config, _, _ = FORMS[form]
    return create_model(family, config, SHAPE, generator=torch.Generator().manual_seed(0))


@every_form
@pytest.mark.parametrize("prefix", ["_orig_mod.model.inner.", "model.inner.", "inner.", "model.", "_orig_mod.", ""])
def test_every_published_prefix_loads_strictly(form, prefix):
    model, state = fresh(form), published(form, prefix)
    model.load_state_dict(convert_state_dict(state, FORMS[form][0]), strict=True)
    loaded = model.state_dict()
    assert len(loaded) == len(state)
    for name, value in state.items():
        assert torch.equal(loaded[name.removeprefix(prefix)], value.float())


@every_form
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_files_of_both_kinds_are_told_apart_without_their_names_help(form, kind, tmp_path):
    state, path = published(form), tmp_path / "step_414456"
    save_file(state, path) if kind == "safetensors" else torch.save(state, path)
    for place in (path, str(path)):
        converted = convert_state_dict(place, FORMS[form][0])
        assert all(
            torch.equal(value, state["_orig_mod.model.inner." + name].float()) for name, value in converted.items()
        )


@every_form
@pytest.mark.parametrize("own_states", [True, False], ids=["free", "held"])
def test_the_loaded_model_follows_the_literal_definition_in_float32(form, own_states):
    """16 segments: logits, q values and states to 1e-4.

    Under weights drawn at random a state is chaotic: a difference in the last bit grows by up to 30 times per segment,
    in any precision. So the model either starts each segment where the definition starts it, or both run on by
    themselves under weights whose residual branches are small, where differences die out, as in a trained model.
    """
    family, _, reference, config = FORMS[form]
    model = fresh(form)
    converted = convert_state_dict(published(form), family)
    if own_states:
        converted = {
            k: v * 0.05 if k.endswith(("down_proj.weight", "o_proj.weight")) else v for k, v in converted.items()
        }
    model.load_state_dict(converted, strict=True)
    weights = {name: value.double().numpy() for name, value in converted.items()}
    batch = random_batch(V, 5, S, P)
    state = model.initial_state(batch)
    z_H, z_L = (state[name].double().numpy() for name in ("z_H", "z_L"))
    for _ in range(16):
        if not own_states:
            state |= {"z_H": torch.from_numpy(z_H).float(), "z_L": torch.from_numpy(z_L).float()}
        state, prediction = model(state, batch)
        z_H, z_L, *outputs = reference.segment(
            weights, config, z_H, z_L, batch.inputs.numpy(), batch.puzzle_ids.numpy()
        )
        ours = (state["z_H"], state["z_L"], prediction.logits, prediction.q_halt, prediction.q_continue)
        for one, other in zip(ours, (z_H, z_L, *outputs), strict=True):
            np.testing.assert_allclose(one.detach().numpy(), other, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "config", "shape"),
    [
        ("hrm", {**SIZE, "positions": "learned"}, SHAPE),
        ("hrm", {**SIZE, "puzzle_embedding": False, "slots": 0}, SHAPE),
        ("trm", {**SIZE, "positions": "learned"}, SHAPE),
        ("trm", {**SIZE, **MIXER, "positions": "learned"}, SHAPE),
        ("hrm", {}, ModelShape(12, 900, 900, num_puzzles=40)),  # the published widths
        ("trm", {"mixer": True, "positions": "none"}, ModelShape(11, 81, 81)),
    ],
)
def test_options_and_sizes_are_read_off_the_weights(family, config, shape):
    model = create_model(family, config, shape, generator=torch.Generator().manual_seed(0))
    state = {f"model.inner.{name}": value for name, value in model.state_dict().items()}
    model.load_state_dict(convert_state_dict(state, family), strict=True)


def without(state, *names):
    return {key: value for key, value in state.items() if not key.endswith(names)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "lm_head.weight"), r"^hrm checkpoint: missing keys: lm_head\.weight$"),
        (lambda s: without(s, "H_init", "H_level.layers.0.mlp.down_proj.weight"), r"missing keys: H_init, H_level\.l"),
        (lambda s: {**s, "inner.extra.weight": torch.ones(2)}, r"^hrm checkpoint: unknown keys: extra\.weight$"),
        (lambda s: {**s, "inner.q_head.bias": torch.ones(3)}, r"wrong shapes: q_head\.bias is \[3\], expected \[2\]$"),
        (
            lambda s: {**s, "inner.H_level.layers.0.mlp.down_proj.weight": torch.ones(16, 9)},
            r"^hrm checkpoint: wrong shapes: H_level\.layers\.0\.mlp\.down_proj\.weight is \[16, 9\], expected \[16, 2",
        ),
        (
            lambda s: {**s, "inner.embed_tokens.embedding_weight": torch.ones(V, 17)},
            r"^hrm checkpoint: wrong.* \[7, 16\]",
        ),
        (
            lambda s: {k.replace("L_level.layers.0", "L_level.layers.1"): v for k, v in s.items()},
            r"missing.*L_level.*\.0",
        ),
        (lambda s: {**s, "lm_head.weight": torch.ones(V, 16)}, r"lm_head\.weight is there twice"),
        (lambda s: {**s, "inner.step": 3}, r"inner\.step is a int, not a tensor"),
        (
            lambda s: {"a": torch.ones(1), "b": torch.ones(1)},
            r"none of the published names is there; its keys are a, b",
        ),
        (lambda s: {}, r"none of the published names"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(UserError, match=message):
        convert_state_dict(change(published("hrm", "inner.")), "hrm")


def test_a_checkpoint_of_the_other_family_is_refused():
    with pytest.raises(
        UserError, match=r"unknown keys: H_level\.layers\.0\.self_attn\.qkv_proj\.weight.* and \d+ more"
    ):
        convert_state_dict({**published("hrm"), **published("hrm", "x.")}, "trm")
    with pytest.raises(UserError, match=r"missing keys: H_level\.layers\.0"):
        convert_state_dict(published("trm-att"), "hrm")
    with pytest.raises(UserError, match=r'family "hmr" \(did you mean "hrm"\?\)'):
        convert_state_dict({}, "hmr")


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="none: no such file"):
        convert_state_dict(tmp_path / "none", "hrm")
    text = tmp_path / "text"
    text.write_text("hello, this is no checkpoint")
    with pytest.raises(UserError, match="text: neither a torch nor a safetensors file"):
        convert_state_dict(text, "hrm")
    torch.save([torch.ones(1)], tmp_path / "list")
    with pytest.raises(UserError, match="holds a list, not a state dict"):
        convert_state_dict(tmp_path / "list", "hrm")
