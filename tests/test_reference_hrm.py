"""The NumPy reference of HRM by itself, against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import reference_hrm as ref

CONFIG = ref.ReferenceConfig(hidden=8, heads=2, H_layers=1, L_layers=2, H_cycles=2, L_cycles=2, halt_max_steps=4)
VOCAB, PUZZLES, B, S = 5, 3, 3, 4
NO_MINIMUM = np.zeros(B, dtype=np.int64)


def make_batch(seed: int):
    generator = np.random.default_rng(seed)
    return (
        generator.integers(0, VOCAB, (B, S)),
        generator.integers(1, VOCAB, (B, S)),
        generator.integers(0, PUZZLES, B),
    )


def weights_with_constant_q(q_halt: float, q_continue: float):
    """A halting head whose logits are its biases, whatever the state."""
    weights = ref.random_weights(CONFIG, VOCAB, PUZZLES, seed=0, inner=16)
    weights["q_head.weight"][:] = 0.0
    weights["q_head.bias"][:] = (q_halt, q_continue)
    return weights


# Network parts


def test_rms_norm_gives_mean_square_one():
    x = np.random.default_rng(0).standard_normal((2, 3, 8)) * 50.0
    np.testing.assert_allclose(np.mean(ref.rms_norm(x, 0.0) ** 2, axis=-1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(
        ref.rms_norm(np.array([3.0, 4.0]), 0.0), np.array([3.0, 4.0]) / math.sqrt(12.5), rtol=1e-15
    )
    np.testing.assert_allclose(ref.rms_norm(np.array([1.0, 1.0]), 3.0), 0.5)  # eps is added inside the root


def test_rope_known_rotation():
    """K = 4: components 0 and 2 turn by p, components 1 and 3 by p / 10 when theta is 100."""
    x = np.tile(np.array([1.0, 1.0, 0.0, 0.0]), (1, 3, 1, 1))
    for p in range(3):
        expected = [math.cos(p), math.cos(p / 10), math.sin(p), math.sin(p / 10)]
        np.testing.assert_allclose(ref.rope(x, 100.0)[0, p, 0], expected, atol=1e-15)


def test_rope_keeps_norms_and_depends_on_the_offset_only():
    generator = np.random.default_rng(1)
    q = np.tile(generator.standard_normal(8), (1, 6, 1, 1))  # the same vector at six positions
    k = np.tile(generator.standard_normal(8), (1, 6, 1, 1))
    rotated_q, rotated_k = ref.rope(q, 10000.0), ref.rope(k, 10000.0)
    np.testing.assert_allclose(np.linalg.norm(rotated_q, axis=-1), np.linalg.norm(q, axis=-1), rtol=1e-12)
    scores = rotated_q[0, :, 0] @ rotated_k[0, :, 0].T
    np.testing.assert_allclose(scores[1:, 1:], scores[:-1, :-1], rtol=1e-10)
    assert abs(scores[0, 1] - scores[1, 0]) > 1e-3  # and the sign of the offset matters


def test_input_embedding_puts_the_scaled_puzzle_vector_first():
    weights = ref.random_weights(CONFIG, VOCAB, PUZZLES, seed=2, inner=16)
    x = ref.input_embedding(weights, CONFIG, np.array([[4, 0]]), np.array([2]))
    assert x.shape == (1, 3, 8)
    np.testing.assert_allclose(x[0, 0], math.sqrt(8) * weights["puzzle_emb.weights"][2])
    np.testing.assert_allclose(x[0, 1], math.sqrt(8) * weights["embed_tokens.embedding_weight"][4])

    learned = replace(CONFIG, positions="learned")
    weights = ref.random_weights(learned, VOCAB, PUZZLES, seed=2, inner=16, seq_len=2)
    x = ref.input_embedding(weights, learned, np.array([[4, 0]]), np.array([2]))
    positions = weights["embed_pos.embedding_weight"]
    # sqrt(8) / sqrt(2) = 2
    np.testing.assert_allclose(x[0, 0], 2.0 * (weights["puzzle_emb.weights"][2] + positions[0]))
    np.testing.assert_allclose(x[0, 2], 2.0 * (weights["embed_tokens.embedding_weight"][0] + positions[2]))


def test_attention_with_equal_scores_averages_all_positions():
    config = replace(CONFIG, hidden=4, heads=2)
    weights = {
        "layer.self_attn.qkv_proj.weight": np.concatenate([np.zeros((8, 4)), np.eye(4)]),
        "layer.self_attn.o_proj.weight": 2.0 * np.eye(4),
    }
    x = np.random.default_rng(3).standard_normal((2, 5, 4))
    expected = np.broadcast_to(2.0 * x.mean(axis=1, keepdims=True), x.shape)
    np.testing.assert_allclose(ref.attention(weights, config, "layer", x), expected, rtol=1e-12, atol=1e-15)


def test_attention_known_weights():
    """One head of size 4, no RoPE, q = k = v = x: 0 and (a, 0, 0, 0) with a^2 / sqrt(4) = ln 3, so odds 1 to 3."""
    config = replace(CONFIG, hidden=4, heads=1, positions="learned")
    weights = {
        "layer.self_attn.qkv_proj.weight": np.concatenate([np.eye(4), np.eye(4), np.eye(4)]),
        "layer.self_attn.o_proj.weight": np.eye(4),
    }
    a = math.sqrt(2.0 * math.log(3.0))
    out = ref.attention(weights, config, "layer", np.array([[[0.0, 0.0, 0.0, 0.0], [a, 0.0, 0.0, 0.0]]]))[0]
    np.testing.assert_allclose(out[:, 0], [a / 2, a * 3 / 4], rtol=1e-14)
    np.testing.assert_array_equal(out[:, 1:], 0.0)


def test_swiglu_known_values():
    """D = I = 1, gate = x, up = 3x, down = 2: 2 * silu(x) * 3x."""
    weights = {
        "layer.mlp.gate_up_proj.weight": np.array([[1.0], [3.0]]),
        "layer.mlp.down_proj.weight": np.array([[2.0]]),
    }
    x = math.log(3.0)  # sigmoid = 3/4
    out = ref.swiglu(weights, "layer", np.array([[[x], [-x]]]))[0, :, 0]
    np.testing.assert_allclose(out, [6.0 * x * x * 0.75, 6.0 * x * x * 0.25], rtol=1e-14)


def test_segment_schedule(monkeypatch):
    """H_cycles = L_cycles = 2: L L H L L H, with the injections z_H + x for L and z_L for H."""
    calls = []

    def fake_module(weights, config, name, hidden, injection):
        calls.append(name)
        return 2.0 * hidden + injection

    monkeypatch.setattr(ref, "module", fake_module)
    monkeypatch.setattr(ref, "input_embedding", lambda *_: np.full((1, 2, 1), 100.0))
    weights = {
        "lm_head.weight": np.array([[1.0]]),
        "q_head.weight": np.array([[1.0], [2.0]]),
        "q_head.bias": np.ones(2),
    }
    z_H, z_L = np.ones((1, 2, 1)), np.full((1, 2, 1), 10.0)
    z_H, z_L, logits, q_halt, q_continue = ref.segment(
        weights, CONFIG, z_H, z_L, np.zeros((1, 1), int), np.zeros(1, int)
    )
    assert calls == ["L_level", "L_level", "H_level"] * 2
    # z_L: 10 -> 121 -> 343; z_H: 1 -> 345; z_L -> 686+445=1131 -> 2262+445=2707; z_H -> 690+2707=3397
    np.testing.assert_array_equal(z_L, 2707.0)
    np.testing.assert_array_equal(z_H, 3397.0)
    assert logits.shape == (1, 1, 1)
    assert (logits[0, 0, 0], q_halt[0], q_continue[0]) == (3397.0, 3398.0, 6795.0)


def test_logits_skip_and_q_reads_the_puzzle_position(monkeypatch):
    monkeypatch.setattr(ref, "module", lambda weights, config, name, hidden, injection: hidden)
    weights = ref.random_weights(CONFIG, VOCAB, PUZZLES, seed=4, inner=16)
    z = np.random.default_rng(5).standard_normal((B, S + 1, 8))
    tokens, _, puzzle_ids = make_batch(6)
    _, _, logits, q_halt, q_continue = ref.segment(weights, CONFIG, z, z, tokens, puzzle_ids)
    np.testing.assert_allclose(logits[1, 0], weights["lm_head.weight"] @ z[1, 1])
    np.testing.assert_allclose(q_halt[1], weights["q_head.weight"][0] @ z[1, 0] + weights["q_head.bias"][0])
    np.testing.assert_allclose(q_continue[1], weights["q_head.weight"][1] @ z[1, 0] + weights["q_head.bias"][1])


def test_module_counts_its_layers_and_ends_normalised():
    weights = ref.random_weights(CONFIG, VOCAB, PUZZLES, seed=7, inner=16)
    hidden, injection = np.random.default_rng(8).standard_normal((2, B, S + 1, 8))
    out = ref.module(weights, CONFIG, "L_level", hidden, injection)
    by_hand = ref.block(weights, CONFIG, "L_level.layers.0", hidden + injection)
    by_hand = ref.block(weights, CONFIG, "L_level.layers.1", by_hand)
    np.testing.assert_array_equal(out, by_hand)
    np.testing.assert_allclose(np.mean(out**2, axis=-1), 1.0, atol=1e-3)


# Losses


def test_stablemax_known_vector():
    """s(0) = 1, s(1) = 2, s(-1) = 1/2: probabilities 2/7, 4/7, 1/7."""
    log_p = ref.stablemax_log_probabilities(np.array([0.0, 1.0, -1.0]))
    np.testing.assert_allclose(np.exp(log_p), [2 / 7, 4 / 7, 1 / 7], rtol=1e-14)


def test_softmax_known_vector():
    log_p = ref.softmax_log_probabilities(np.log([1.0, 2.0, 5.0]) + 1000.0)
    np.testing.assert_allclose(np.exp(log_p), [1 / 8, 2 / 8, 5 / 8], rtol=1e-10)


def test_binary_cross_entropy_known_values():
    bce = ref.binary_cross_entropy_with_logits
    ln3 = math.log(3.0)  # sigmoid(ln 3) = 3/4
    assert bce(np.float64(0.0), 1.0) == pytest.approx(math.log(2.0))
    assert bce(np.float64(ln3), 1.0) == pytest.approx(math.log(4 / 3))
    assert bce(np.float64(ln3), 0.0) == pytest.approx(math.log(4.0))
    assert bce(np.float64(ln3), 0.5) == pytest.approx(0.5 * math.log(4 / 3) + 0.5 * math.log(4.0))
    assert bce(np.float64(-1000.0), 1.0) == 1000.0
    assert bce(np.float64(1000.0), 1.0) == 0.0


def test_losses_by_hand():
    """Row 0: two valid tokens of three, one wrong. Row 1: one valid token, right. Row 2: nothing valid."""
    right, wrong = [-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]  # stablemax of label 1: 4/7 and 2/7
    logits = np.array([[right, wrong, wrong], [right, wrong, wrong], [wrong, wrong, wrong]])
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    q_halt = np.array([math.log(3.0), 0.0, 1000.0])
    out = ref.losses(logits, labels, q_halt, np.zeros(3), np.array([0.0, 0.5, 1.0]))
    assert out["correct"].tolist() == [False, True, True]
    lm = (math.log(7 / 4) + math.log(7 / 2)) / 2 + math.log(7 / 4)
    halt = math.log(4.0) + math.log(2.0)
    cont = 3.0 * math.log(2.0)
    assert out["lm_loss"] == pytest.approx(lm)
    assert out["q_halt_loss"] == pytest.approx(halt)
    assert out["q_continue_loss"] == pytest.approx(cont)
    assert out["total"] == pytest.approx(lm + 0.5 * (halt + cont))

    soft = ref.losses(np.log([[[1.0, 2.0, 5.0]]]), np.array([[2]]), np.zeros(1), np.zeros(1), None, kind="softmax")
    assert soft["lm_loss"] == pytest.approx(math.log(8 / 5))
    assert soft["q_continue_loss"] == 0.0


# ACT


@pytest.mark.parametrize(
    ("steps", "q_halt", "q_continue", "minimum", "training", "expected"),
    [
        (4, -1.0, 1.0, 0, True, True),  # the last step always halts
        (4, -1.0, 1.0, 4, True, True),  # even with the largest minimum
        (5, -1.0, 1.0, 0, True, True),
        (1, 1.0, -1.0, 0, True, True),  # q_halt > q_continue halts
        (1, -1.0, -2.0, 0, True, True),  # raw logits are compared with each other, not with 0
        (1, 1.0, 2.0, 0, True, False),
        (1, 1.0, 1.0, 0, True, False),  # equal is not greater
        (2, 1.0, -1.0, 3, True, False),  # a drawn minimum delays
        (3, 1.0, -1.0, 3, True, True),  # until it is reached
        (3, -1.0, 1.0, 2, True, False),  # reaching it halts nothing by itself
        (1, 1.0, -1.0, 0, False, False),  # evaluation ignores the head
        (4, -1.0, 1.0, 0, False, True),
    ],
)
def test_halting_truth_table(steps, q_halt, q_continue, minimum, training, expected):
    halted = ref.halting_rule(
        CONFIG, np.array([steps]), np.array([q_halt]), np.array([q_continue]), np.array([minimum]), training
    )
    assert halted.tolist() == [expected]


def test_bootstrap_target_known_values():
    ln3 = math.log(3.0)
    target = ref.bootstrap_target(
        np.array([True, False, False]), np.array([-ln3, -ln3, ln3]), np.array([ln3, ln3, 0.0])
    )
    np.testing.assert_allclose(target, [0.25, 0.75, 0.75])


def test_first_step_uses_nothing_of_the_initial_carry():
    weights = ref.random_weights(CONFIG, VOCAB, PUZZLES, seed=9, inner=16)
    tokens, labels, puzzle_ids = make_batch(10)
    carry, outputs = ref.act_step(
        weights, CONFIG, ref.initial_carry(CONFIG, B, S), tokens, labels, puzzle_ids, NO_MINIMUM, training=True
    )
    start_H = np.broadcast_to(weights["H_init"], (B, S + 1, 8))
    start_L = np.broadcast_to(weights["L_init"], (B, S + 1, 8))
    z_H, z_L, logits, q_halt, q_continue = ref.segment(weights, CONFIG, start_H, start_L, tokens, puzzle_ids)
    np.testing.assert_array_equal(carry.z_H, z_H)
    np.testing.assert_array_equal(outputs["logits"], logits)
    np.testing.assert_array_equal(carry.labels, labels)
    assert carry.steps.tolist() == [1] * B
    assert carry.halted.tolist() == (q_halt > q_continue).tolist()
    _, _, _, next_halt, next_continue = ref.segment(weights, CONFIG, z_H, z_L, tokens, puzzle_ids)
    best = np.maximum(next_halt, next_continue)
    np.testing.assert_allclose(outputs["target_continue"], 1.0 / (1.0 + np.exp(-best)))


def test_rows_that_go_on_keep_their_data_and_halted_rows_are_replaced():
    weights = ref.random_weights(CONFIG, VOCAB, PUZZLES, seed=11, inner=16)
    old, new = make_batch(12), make_batch(13)
    first, _ = ref.act_step(weights, CONFIG, ref.initial_carry(CONFIG, B, S), *old, NO_MINIMUM, training=True)
    first = replace(first, halted=np.array([True, False, True]))
    second, outputs = ref.act_step(weights, CONFIG, first, *new, NO_MINIMUM, training=True)
    assert second.steps.tolist() == [1, 2, 1]
    for mine, before, after in zip((second.tokens, second.labels, second.puzzle_ids), old, new, strict=True):
        np.testing.assert_array_equal(mine[[0, 2]], after[[0, 2]])
        np.testing.assert_array_equal(mine[1], before[1])
    # Row 1 goes on from its own state; rows do not influence one another.
    _, _, alone, _, _ = ref.segment(weights, CONFIG, first.z_H[1:2], first.z_L[1:2], old[0][1:2], old[2][1:2])
    np.testing.assert_allclose(outputs["logits"][1], alone[0], atol=1e-12)


@pytest.mark.parametrize(
    ("q", "minimum", "training", "expected"),
    [
        ((1.0, -1.0), 0, True, [1, 1, 1, 1, 1]),  # halts and restarts at every call
        ((1.0, -1.0), 3, True, [1, 2, 3, 1, 2]),  # delayed to the drawn minimum
        ((-1.0, 1.0), 0, True, [1, 2, 3, 4, 1]),  # the maximum of 4
        ((1.0, -1.0), 0, False, [1, 2, 3, 4, 1]),  # evaluation: always the maximum
        ((1.0, -1.0), 2, False, [1, 2, 3, 4, 1]),
    ],
)
def test_step_counts_over_five_calls(q, minimum, training, expected):
    weights = weights_with_constant_q(*q)
    carry = ref.initial_carry(CONFIG, B, S)
    seen = []
    for _ in range(5):
        carry, outputs = ref.act_step(weights, CONFIG, carry, *make_batch(14), np.full(B, minimum), training)
        assert len(set(carry.steps.tolist())) == 1
        seen.append(int(carry.steps[0]))
        if training:  # constant logits: the target is q_halt on the last step, the larger one before
            target = q[0] if seen[-1] == 4 else max(q)
            np.testing.assert_allclose(outputs["target_continue"], 1.0 / (1.0 + math.exp(-target)))
        else:
            assert outputs["target_continue"] is None
    assert seen == expected


def test_a_single_step_model_always_halts_without_a_target():
    config = replace(CONFIG, halt_max_steps=1)
    carry, outputs = ref.act_step(
        weights_with_constant_q(-1.0, 1.0), config, ref.initial_carry(config, B, S), *make_batch(15), NO_MINIMUM, True
    )
    assert carry.halted.all()
    assert outputs["target_continue"] is None


# Weights


def test_published_sizes():
    """The published Sudoku model: 27,275,266 parameters; the puzzle table and the initial states are not parameters."""
    config = ref.ReferenceConfig(hidden=512, heads=8, H_layers=4, L_layers=4, H_cycles=2, L_cycles=2)
    shapes = ref.weight_shapes(config, vocab=11, num_puzzles=1)
    buffers = {"puzzle_emb.weights", "H_init", "L_init"}
    assert ref.swiglu_inner_size(512) == 1536
    assert sum(math.prod(shape) for name, shape in shapes.items() if name not in buffers) == 27_275_266


def test_random_weights_are_reproducible_and_have_contrast():
    one = ref.random_weights(CONFIG, VOCAB, PUZZLES, seed=1)
    again = ref.random_weights(CONFIG, VOCAB, PUZZLES, seed=1)
    other = ref.random_weights(CONFIG, VOCAB, PUZZLES, seed=2)
    for name in one:
        assert one[name].dtype == np.float64
        assert (one[name] == again[name]).all()
        assert (one[name] != other[name]).any()
        assert (one[name] != 0.0).all()
    assert one["H_level.layers.0.mlp.gate_up_proj.weight"].shape == (512, 8)  # inner: 21 rounded up to 256
