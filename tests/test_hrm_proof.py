"""hrm-proof is the source's model: counts, update equations by a second definition, gradient, noise, pooled Q head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import erf
from test_matching import attention_flops, referred
from toys import FAMILIES, SMALL, cell, random_batch, trainer

from harness.cost import measure
from harness.errors import UserError
from harness.matching import match_arm
from harness.recipe import Loop, Recipe
from harness.training.act import detached, run_segment
from models.base import ModelShape, create_model, resolve_config
from models.hrm_proof import HRMProof
from models.published_s0_s2 import published_parameters
from tasks.base import Batch

CONFIG = {**SMALL, "H_layers": 1, "L_layers": 2, "H_cycles": 2, "L_cycles": 3}
LOOP = Loop.model_validate({"segments": 4, **HRMProof.LOOP})


def small(shape=ModelShape(5, 6, 6), dtype=torch.float32, **changes):  # noqa: B008
    model = create_model(
        "hrm-proof", {**CONFIG, **changes}, shape, generator=torch.Generator().manual_seed(0), dtype=dtype
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # nothing at its special first value: biases, norms and Q head have a say
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def with_facts(batch, **facts):
    return Batch(batch.inputs, batch.labels, batch.puzzle_ids, facts)


# -- counts ----------------------------------------------------------------------------------------------------------


def test_the_source_has_the_published_parameters_and_ours_all_but_those_without_gradient():
    published = published_parameters("S0")
    assert sum(published.values()) == 809_788
    assert published["never_trained"] == 256
    model = create_model("hrm-proof", {}, ModelShape(58, 20, 20), preset="source")
    ours = model.parameter_groups()
    assert sum(ours.values()) == 809_020
    assert published["core"] - ours["core"] == 4 * 128  # the keys' biases
    for group in ("embeddings", "heads", "puzzle_table"):
        assert ours[group] == published[group]
    assert model.layers_per_segment == 16


def test_of_an_unknown_system_no_parameters_are_given():
    with pytest.raises(UserError, match="S0 and S2"):
        published_parameters("S4")


def test_a_bias_on_the_keys_would_change_nothing():
    """Why 512 of the published parameters are left out: the softmax cancels what is the same for all keys."""
    model, batch = small(dtype=torch.float64), random_batch(5, 3, 6)
    state = model.initial_state(batch)
    before = model(state, batch)[1].logits
    D = model.config.hidden
    bias = torch.randn(D, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for part, changed in (("keys", False), ("values", True)):
        start = D if part == "keys" else 2 * D
        hooks = [
            block.self_attn.qkv_proj.register_forward_hook(
                lambda module, args, out, start=start: torch.cat(
                    (out[..., :start], out[..., start : start + D] + bias, out[..., start + D :]), -1
                )
            )
            for block in (*model.H_level.stack.layers, *model.L_level.stack.layers)
        ]
        after = model(state, batch)[1].logits
        for hook in hooks:
            hook.remove()
        assert torch.allclose(after, before, atol=1e-10) != changed


def test_flops_are_those_of_the_closed_formula():
    """16 blocks forward, 8 backward of the last L and H, 16 of the bootstrap pass, four segments to one step."""
    D, S, V, inner = 32, 9, 11, 40
    cost = measure("hrm-proof", resolve_config("hrm-proof", {"hidden": D, "heads": 2, "inner": inner}),
                   ModelShape(V, S, S), LOOP, Recipe(batch_size=8))  # fmt: skip
    block, head, q = attention_flops(D, S) + 2 * S * 2 * D * inner, 2 * S * D * V, 2 * D * 2
    assert cost.flops_per_segment == 16 * block + head + q
    assert cost.flops_per_update == 8 * 4 * ((16 + 8 + 16) * block + 4 * (head + q))


# -- equations ---------------------------------------------------------------------------------------------------------


def norm(x, p, name):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def block(x, p, name, heads):
    """[S, D] → [S, D], one head at a time."""
    S, D = x.shape
    size = D // heads
    weight = p[f"{name}.self_attn.qkv_proj.weight"]
    y = norm(x, p, f"{name}.attn_norm")
    mixed = np.zeros((S, D))
    for h in range(heads):
        at = slice(h * size, (h + 1) * size)
        q = y @ weight[:D][at].T + p[f"{name}.self_attn.q_bias"][at]
        k = y @ weight[D : 2 * D][at].T
        v = y @ weight[2 * D :][at].T + p[f"{name}.self_attn.v_bias"][at]
        scores = np.exp(q @ k.T / np.sqrt(size))
        mixed[:, at] = scores / scores.sum(1, keepdims=True) @ v
    x = x + mixed @ p[f"{name}.self_attn.o_proj.weight"].T + p[f"{name}.self_attn.o_proj.bias"]
    y = norm(x, p, f"{name}.mlp_norm") @ p[f"{name}.mlp.up_proj.weight"].T + p[f"{name}.mlp.up_proj.bias"]
    y = y * (1 + erf(y / np.sqrt(2))) / 2
    return x + y @ p[f"{name}.mlp.down_proj.weight"].T + p[f"{name}.mlp.down_proj.bias"]


def module(operands, p, name, layers, heads):
    x = sum(norm(operand, p, f"{name}.norms.{i}") for i, operand in enumerate(operands))
    for i in range(layers):
        x = block(x, p, f"{name}.stack.layers.{i}", heads)
    return x


def defined_segment(p, tokens, z_H, z_L, heads=2):
    """One segment of one row, from the facts alone: L gets (z_L, z_H, x), three times, then H (z_H, z_L); all twice."""
    S, D = len(tokens), z_H.shape[1]
    place = np.array([[pos / 10000 ** (2 * (i // 2) / D) for i in range(D)] for pos in range(S)])
    position = np.where(np.arange(D) % 2 == 0, np.sin(place), np.cos(place))
    x = p["embed_tokens.embedding_weight"][tokens] * np.sqrt(D) + position
    for _ in range(2):
        for _ in range(3):
            z_L = module((z_L, z_H, x), p, "L_level", 2, heads)
        z_H = module((z_H, z_L), p, "H_level", 1, heads)
    logits = z_H @ p["lm_head.weight"].T + p["lm_head.bias"]
    q = z_H.mean(0) @ p["q_head.weight"].T + p["q_head.bias"]
    return z_H, z_L, logits, q


def test_two_segments_are_those_of_a_second_definition():
    model, batch = small(dtype=torch.float64), random_batch(5, 3, 6)
    p = {name: value.numpy() for name, value in model.state_dict().items()}
    state = model.initial_state(batch, torch.tensor([4, 5, 6]))
    expected = [(state["z_H"][row].numpy(), state["z_L"][row].numpy()) for row in range(3)]
    for _ in range(2):
        state, prediction = model(state, batch)
        state = detached(state)
        for row in range(3):
            z_H, z_L, logits, q = defined_segment(p, batch.inputs[row].numpy(), *expected[row])
            expected[row] = (z_H, z_L)
            np.testing.assert_allclose(state["z_H"][row], z_H, atol=1e-9)
            np.testing.assert_allclose(state["z_L"][row], z_L, atol=1e-9)
            np.testing.assert_allclose(prediction.logits[row].detach(), logits, atol=1e-9)
            values = [prediction.q_halt[row].item(), prediction.q_continue[row].item()]
            np.testing.assert_allclose(values, q, atol=1e-9)


# -- gradient ----------------------------------------------------------------------------------------------------------


def test_gradient_reaches_exactly_the_last_L_and_the_last_H_call():
    model, batch = small(), random_batch(5, 2, 6)
    carrying: dict[str, list[bool]] = {"H": [], "L": []}
    model.H_level.register_forward_hook(lambda m, args, out: carrying["H"].append(out.requires_grad))
    model.L_level.register_forward_hook(lambda m, args, out: carrying["L"].append(out.requires_grad))
    model(model.initial_state(batch), batch)
    assert carrying == {"L": [False] * 5 + [True], "H": [False, True]}


def test_an_update_is_one_step_over_the_mean_of_four_segments_losses():
    t = trainer(cell("proof", "hrm-proof", config=FAMILIES["hrm-proof"][1]))
    assert (t.cell.loop.segments, t.cell.loop.rollout, t.cell.loop.halting_weight) == (4, 4, 0.05)
    gradients = {}

    def noting_step(update, progress):
        gradients.update({name: p.grad.clone() for name, p in t.model.named_parameters()})
        t.model.zero_grad()

    t.optimizers.step = noting_step
    t.advance()
    batch, state = t.carry.batch, {**t.carry.state, "segment": torch.zeros(8, dtype=torch.int32)}
    state = t.model.initial_state(batch, state["key"])
    total = torch.zeros(())
    for segment in range(4):
        steps = torch.full((8,), segment + 1)
        state, _, losses = run_segment(t.cell.loop, t.task, t.model, state, batch, steps, t.recipe.loss)
        total = total + losses.total / 8 / 4
        state = detached(state)
    total.backward()
    assert t.carry.halted.all()
    for name, p in t.model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-4, atol=1e-7)


# -- noise -------------------------------------------------------------------------------------------------------------


def test_the_initial_states_are_normal_noise_of_the_stated_size():
    state = small(ModelShape(5, 50, 50)).initial_state(random_batch(5, 100, 50), torch.arange(100))
    for name in ("z_H", "z_L"):
        values = state[name].flatten()
        assert values.mean().abs() < 4 * 0.02 / len(values) ** 0.5
        assert values.std().item() == pytest.approx(0.02, rel=0.01)
        assert values.abs().max() < 0.02 * 5.5
    together = torch.stack((state["z_H"].flatten(), state["z_L"].flatten()))
    assert abs(torch.corrcoef(together)[0, 1]) < 0.02


def test_noise_differs_by_row_and_is_the_same_in_any_batch():
    model, batch = small(), random_batch(5, 6, 6)
    batch.inputs[:] = batch.inputs[0]  # so that only the noise can tell the rows apart
    keys = torch.tensor([11, 12, 13, 14, 15, 2**62])
    states = model.initial_state(batch, keys)
    for name in ("z_H", "z_L"):
        assert len(states[name].unique(dim=0)) == 6
    _, together = model(states, batch)
    assert len(together.logits.unique(dim=0)) == 6
    some = batch.map(lambda values: values[[3, 1]])
    alone = model.initial_state(some, keys[[3, 1]])
    for name in ("z_H", "z_L"):
        assert torch.equal(alone[name], states[name][[3, 1]])
    torch.testing.assert_close(model(alone, some)[1].logits, together.logits[[3, 1]])


def test_a_longer_rows_noise_begins_like_a_shorter_ones():
    model, keys = small(), torch.tensor([7, 8])
    short = model.initial_state(random_batch(5, 2, 6), keys)
    long = model.initial_state(random_batch(5, 2, 9), keys)
    assert torch.equal(long["z_H"][:, :6], short["z_H"])


def test_dropout_acts_in_training_alone_and_is_the_rows_own():
    model, batch, keys = small(dropout=0.3), random_batch(5, 4, 6), torch.arange(20, 24)

    def logits(rows):
        part = batch.map(lambda values: values[rows])
        return model(model.initial_state(part, keys[rows]), part)[1].logits

    training = logits([0, 1, 2, 3])
    torch.testing.assert_close(logits([2, 0]), training[[2, 0]])
    model.eval()
    assert not torch.allclose(logits([0, 1, 2, 3]), training)
    same = small()
    torch.testing.assert_close(same(same.initial_state(batch, keys), batch)[1].logits, logits([0, 1, 2, 3]))


# -- what is seen ------------------------------------------------------------------------------------------------------


def test_masked_padding_changes_neither_answer_nor_halting():
    model = small(ModelShape(5, 6, 1, masked=True))
    batch, padded = random_batch(5, 3, 6), random_batch(5, 3, 9)
    padded.inputs[:, :6], padded.inputs[:, 6:] = batch.inputs, 0
    keys = torch.arange(3)
    _, one = model(model.initial_state(batch, keys), batch)
    _, two = model(model.initial_state(padded, keys), padded)
    torch.testing.assert_close(one.logits, two.logits)
    torch.testing.assert_close(one.q_halt, two.q_halt)
    visible = small(ModelShape(5, 6, 1))
    _, three = visible(visible.initial_state(padded, keys), padded)
    assert not torch.allclose(one.q_halt, three.q_halt)


def test_under_a_causal_mask_nothing_is_said_from_what_follows():
    model = small(ModelShape(5, 6, 6, causal=True))
    batch = with_facts(random_batch(5, 3, 6), prompt_length=torch.tensor([2, 3, 4]))
    later = with_facts(random_batch(5, 3, 6), prompt_length=torch.tensor([2, 3, 4]))
    later.inputs[:, 4:] = batch.inputs[:, 4:] % 4 + 1
    _, one = model(model.initial_state(batch), batch)
    _, two = model(model.initial_state(later), later)
    torch.testing.assert_close(one.logits[:, :4], two.logits[:, :4])
    assert not torch.allclose(one.logits[:, 4:], two.logits[:, 4:])
    torch.testing.assert_close(one.q_halt, two.q_halt)


def test_the_q_head_reads_the_mean_over_the_prompt_and_the_slots():
    model = small(ModelShape(5, 4, 4, causal=True), slots=2, puzzle_embedding=True)
    z = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
    batch = with_facts(random_batch(5, 2, 4), prompt_length=torch.tensor([1, 3]))
    pooled = model.halting_vector(z, batch)
    torch.testing.assert_close(pooled, torch.stack((z[0, :3].mean(0), z[1, :5].mean(0))))


@pytest.mark.parametrize(
    "shape", [ModelShape(7, 5, 5, features=True), ModelShape(7, 5, 2, features=True), ModelShape(7, 5, 1, 4)]
)
def test_it_takes_numbers_and_any_answer_length(shape):
    puzzles = {"slots": 1, "puzzle_embedding": True} if shape.num_puzzles > 1 else {}
    model, batch = small(shape, **puzzles), random_batch(7, 3, 5, shape.num_puzzles)
    if shape.features:
        batch = Batch(batch.inputs.float() / 7, batch.labels, batch.puzzle_ids)
    _, prediction = model(model.initial_state(batch), batch)
    assert prediction.logits.shape == (3, shape.answer_length, 7)
    prediction.logits.sum().backward()
    assert model.embed_tokens.direction.grad.all() if shape.features else model.puzzle_emb.weights.grad is not None


def test_learned_positions_end_where_they_were_built_and_sinusoids_go_on():
    longer = random_batch(5, 2, 9)
    model = small(ModelShape(5, 6, 1))
    model(model.initial_state(longer), longer)
    learned = small(ModelShape(5, 6, 1), positions="learned")
    with pytest.raises(UserError, match="learned positions end at 6, an input has 9"):
        learned(learned.initial_state(longer), longer)
    with pytest.raises(UserError, match="positions"):
        resolve_config("hrm-proof", {"positions": "rope"})


# -- matching ----------------------------------------------------------------------------------------------------------


def test_it_sets_the_size_of_others_and_takes_the_size_of_hrm():
    shape = ModelShape(17, 24, 24)
    start = {"hidden": 64, "heads": 2}
    proof = referred("hrm-proof", {**start, "slots": 1, "puzzle_embedding": True}, shape, 4)
    layers = {**start, "layers": 4}
    plain = match_arm("params", "transformer", resolve_config("transformer", layers), proof, shape, 1, "x")
    looped = match_arm("inference_flops", "looped", resolve_config("looped", layers), proof, shape, 4, "x")
    assert max(abs(plain.error_core), abs(looped.error_core)) <= 0.01
    assert looped.config.loops == 4 and abs(looped.error_flops) < 0.05
    hrm = referred("hrm", {**start, "inner": 100, "H_layers": 2, "L_layers": 2}, shape, 4)
    matched = match_arm("params", "hrm-proof", resolve_config("hrm-proof", start), hrm, shape, 4, "x")
    assert abs(matched.error_core) <= 0.01 and abs(matched.error_total) <= 0.02
