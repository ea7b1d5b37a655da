"""A second, literal definition of one HRM step in float64 NumPy, for tests to compare the model with.

It is written from the published description only (HRM, arXiv 2506.21734, and the published code's behaviour) and
shares nothing with the model under test. It is meant to be read, not to be fast, and it computes no gradients:
the schedule's no-gradient parts cannot be told apart here, only the values.

Letters in the shapes: B rows, S puzzle tokens, T = S + 1 positions (the puzzle slot first), D hidden size,
N heads, K = D / N head size, I SwiGLU inner size, V vocabulary, P puzzle identifiers.

Weight names are those of the published checkpoint without its wrapper prefix. A linear weight is [out, in] and
is applied as ``x @ weight.T``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

IGNORED_LABEL = 0
STABLEMAX_EPS = 1e-30
GARBAGE_STATE = 123.0
GARBAGE_INDEX = 10**9  # far out of every table: looking it up raises IndexError

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class ReferenceConfig:
    """Sizes and options of one HRM. The puzzle embedding is as wide as ``hidden``, so it fills exactly one slot."""

    hidden: int
    heads: int
    H_layers: int
    L_layers: int
    H_cycles: int
    L_cycles: int
    rms_eps: float = 1e-5
    rope_theta: float = 10000.0
    positions: str = "rope"  # or "learned"
    halt_max_steps: int = 16


@dataclass
class Carry:
    """What one ACT step hands to the next.

    z_H, z_L [B, T, D]; steps [B] int; halted [B] bool; tokens, labels [B, S] int; puzzle_ids [B] int.
    """

    z_H: np.ndarray  # noqa: N815
    z_L: np.ndarray  # noqa: N815
    steps: np.ndarray
    halted: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray
    puzzle_ids: np.ndarray


# ---------------------------------------------------------------------------------------------------------------
# Network parts (HRM, arXiv 2506.21734, architecture; published code, layers)
# ---------------------------------------------------------------------------------------------------------------


def input_embedding(weights: Weights, config: ReferenceConfig, tokens: np.ndarray, puzzle_ids: np.ndarray):
    """tokens [B, S], puzzle_ids [B] -> x [B, T, D]."""
    token_rows = weights["embed_tokens.embedding_weight"][tokens]  # [B, S, D]
    puzzle_rows = weights["puzzle_emb.weights"][puzzle_ids]  # [B, D]
    x = np.concatenate([puzzle_rows[:, None, :], token_rows], axis=1)  # the puzzle slot is position 0
    if config.positions == "learned":
        # The table [T, D] has a row for the puzzle slot too; the factor keeps the variance of the sum of two.
        x = (x + weights["embed_pos.embedding_weight"][None, :, :]) / np.sqrt(2.0)
    return np.sqrt(float(config.hidden)) * x  # undoes the 1/sqrt(D) of the tables; the puzzle slot is scaled as well


def rms_norm(x: np.ndarray, eps: float) -> np.ndarray:
    """x [..., D] -> [..., D] with mean square 1 over the last axis. There is no learnable scale."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def rope(x: np.ndarray, theta: float) -> np.ndarray:
    """Rotary positions, "rotate-half" layout: x [B, T, N, K] -> [B, T, N, K].

    Positions run 0..T-1 in raster order with the puzzle slot at 0. Component i of a head's first half turns together
    with component i of its second half, by the angle position * theta^(-2i/K).
    """
    length, head_size = x.shape[1], x.shape[3]
    half = head_size // 2
    frequency = 1.0 / theta ** (2.0 * np.arange(half) / head_size)  # [K/2]
    angle = np.arange(length)[:, None] * frequency[None, :]  # [T, K/2]
    cos = np.cos(angle)[None, :, None, :]
    sin = np.sin(angle)[None, :, None, :]
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attention(weights: Weights, config: ReferenceConfig, layer: str, x: np.ndarray) -> np.ndarray:
    """x [B, T, D] -> [B, T, D]. Every position sees every position: published HRM has no mask. No biases."""
    B, T, D = x.shape
    N = config.heads
    K = D // N
    qkv = x @ weights[f"{layer}.self_attn.qkv_proj.weight"].T  # [B, T, 3D]: all q heads, all k heads, all v heads
    q = qkv[..., 0 * D : 1 * D].reshape(B, T, N, K)
    k = qkv[..., 1 * D : 2 * D].reshape(B, T, N, K)
    v = qkv[..., 2 * D : 3 * D].reshape(B, T, N, K)
    if config.positions == "rope":
        q = rope(q, config.rope_theta)
        k = rope(k, config.rope_theta)
    scores = np.einsum("bqnk,bsnk->bnqs", q, k) / np.sqrt(float(K))
    probabilities = np.exp(softmax_log_probabilities(scores))  # over the attended positions
    mixed = np.einsum("bnqs,bsnk->bqnk", probabilities, v).reshape(B, T, D)
    return mixed @ weights[f"{layer}.self_attn.o_proj.weight"].T


def swiglu(weights: Weights, layer: str, x: np.ndarray) -> np.ndarray:
    """x [B, T, D] -> [B, T, D]: down(silu(gate) * up), gate rows first in the fused weight. No biases."""
    gate_up = x @ weights[f"{layer}.mlp.gate_up_proj.weight"].T  # [B, T, 2I]
    inner = gate_up.shape[-1] // 2
    gate, up = gate_up[..., :inner], gate_up[..., inner:]
    return (gate * sigmoid(gate) * up) @ weights[f"{layer}.mlp.down_proj.weight"].T


def block(weights: Weights, config: ReferenceConfig, layer: str, x: np.ndarray) -> np.ndarray:
    """One post-norm layer: x [B, T, D] -> [B, T, D]."""
    x = rms_norm(x + attention(weights, config, layer, x), config.rms_eps)
    x = rms_norm(x + swiglu(weights, layer, x), config.rms_eps)
    return x


def module(weights: Weights, config: ReferenceConfig, name: str, hidden: np.ndarray, injection: np.ndarray):
    """Reasoning module ``name`` ("H_level" or "L_level"): hidden + injection [B, T, D], then its layers."""
    layers = {"H_level": config.H_layers, "L_level": config.L_layers}[name]
    x = hidden + injection
    for i in range(layers):
        x = block(weights, config, f"{name}.layers.{i}", x)
    return x


# ---------------------------------------------------------------------------------------------------------------
# One forward pass (HRM, arXiv 2506.21734, "one segment"; published code, inner model)
# ---------------------------------------------------------------------------------------------------------------


def segment(
    weights: Weights,
    config: ReferenceConfig,
    z_H: np.ndarray,
    z_L: np.ndarray,
    tokens: np.ndarray,
    puzzle_ids: np.ndarray,
):
    """z_H, z_L [B, T, D], tokens [B, S], puzzle_ids [B]
    -> (z_H [B, T, D], z_L [B, T, D], logits [B, S, V], q_halt [B], q_continue [B]).
    """
    x = input_embedding(weights, config, tokens, puzzle_ids)  # once per segment
    for _ in range(config.H_cycles):
        for _ in range(config.L_cycles):
            z_L = module(weights, config, "L_level", z_L, z_H + x)
        z_H = module(weights, config, "H_level", z_H, z_L)  # H never sees x directly
    logits = z_H[:, 1:, :] @ weights["lm_head.weight"].T  # the puzzle position is dropped
    q = z_H[:, 0, :] @ weights["q_head.weight"].T + weights["q_head.bias"]  # read at the puzzle position
    return z_H, z_L, logits, q[:, 0], q[:, 1]


# ---------------------------------------------------------------------------------------------------------------
# Losses (HRM, arXiv 2506.21734, losses; published code, loss head)
# ---------------------------------------------------------------------------------------------------------------


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function, any shape; written with tanh so that nothing overflows."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def stablemax_log_probabilities(logits: np.ndarray) -> np.ndarray:
    """[..., V] -> [..., V]: log(s / sum s), with s(x) = x + 1 for x >= 0 and 1 / (1 - x) for x < 0."""
    s = np.where(logits < 0.0, 1.0 / (1.0 - logits + STABLEMAX_EPS), logits + 1.0)
    return np.log(s / np.sum(s, axis=-1, keepdims=True))


def softmax_log_probabilities(logits: np.ndarray) -> np.ndarray:
    """[..., V] -> [..., V]: log softmax over the last axis."""
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def binary_cross_entropy_with_logits(logit: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Any shape: -target * log sigmoid(logit) - (1 - target) * log(1 - sigmoid(logit)), without overflow."""
    return np.maximum(logit, 0.0) - logit * target + np.log1p(np.exp(-np.abs(logit)))


def losses(
    logits: np.ndarray,
    labels: np.ndarray,
    q_halt: np.ndarray,
    q_continue: np.ndarray,
    target_continue: np.ndarray | None,
    kind: str = "stablemax",
) -> dict[str, Any]:
    """logits [B, S, V], labels [B, S], q_halt, q_continue, target_continue [B]
    -> lm_loss, q_halt_loss, q_continue_loss, total (floats), correct [B] bool.

    All four losses are SUMS over the rows, before the division by the batch size, and all rows count, halted or not.
    Label 0 is ignored. A row without any valid label has lm loss 0 and counts as correct. ``target_continue`` is None
    where there is no bootstrap target (evaluation, or at most one step); the q_continue loss is then 0.
    """
    log_probabilities = {"stablemax": stablemax_log_probabilities, "softmax": softmax_log_probabilities}[kind](logits)
    valid = labels != IGNORED_LABEL  # [B, S]
    token_loss = -np.take_along_axis(log_probabilities, labels[..., None], axis=-1)[..., 0]  # [B, S]
    token_loss = np.where(valid, token_loss, 0.0)
    # Rows weigh equally: the mean over a row's valid tokens, then the sum over rows.
    lm_loss = np.sum(np.sum(token_loss, axis=1) / np.maximum(np.sum(valid, axis=1), 1))

    # Correct: argmax equals the label on EVERY valid position.
    correct = np.all((np.argmax(logits, axis=-1) == labels) | ~valid, axis=1)
    q_halt_loss = np.sum(binary_cross_entropy_with_logits(q_halt, correct.astype(np.float64)))
    if target_continue is None:
        q_continue_loss = 0.0
    else:
        q_continue_loss = np.sum(binary_cross_entropy_with_logits(q_continue, target_continue))
    return {
        "lm_loss": float(lm_loss),
        "q_halt_loss": float(q_halt_loss),
        "q_continue_loss": float(q_continue_loss),
        "total": float(lm_loss + 0.5 * (q_halt_loss + q_continue_loss)),
        "correct": correct,
    }


# ---------------------------------------------------------------------------------------------------------------
# ACT (HRM, arXiv 2506.21734, adaptive computation time; published code, ACT wrapper)
# ---------------------------------------------------------------------------------------------------------------


def initial_carry(config: ReferenceConfig, B: int, S: int) -> Carry:
    """Every row halted, so the first step replaces everything else. States and data are garbage to prove it."""
    return Carry(
        z_H=np.full((B, S + 1, config.hidden), GARBAGE_STATE),
        z_L=np.full((B, S + 1, config.hidden), GARBAGE_STATE),
        steps=np.zeros(B, dtype=np.int64),
        halted=np.ones(B, dtype=bool),
        tokens=np.full((B, S), GARBAGE_INDEX, dtype=np.int64),
        labels=np.full((B, S), GARBAGE_INDEX, dtype=np.int64),
        puzzle_ids=np.full(B, GARBAGE_INDEX, dtype=np.int64),
    )


def refill(
    weights: Weights,
    carry: Carry,
    fresh_tokens: np.ndarray,
    fresh_labels: np.ndarray,
    fresh_puzzle_ids: np.ndarray,
) -> Carry:
    """Halted rows start anew on the fresh row; the others keep theirs and the fresh row at that slot is dropped."""
    halted = carry.halted
    return Carry(
        z_H=np.where(halted[:, None, None], weights["H_init"], carry.z_H),  # [D] broadcast over positions
        z_L=np.where(halted[:, None, None], weights["L_init"], carry.z_L),
        steps=np.where(halted, 0, carry.steps),
        halted=halted,
        tokens=np.where(halted[:, None], fresh_tokens, carry.tokens),
        labels=np.where(halted[:, None], fresh_labels, carry.labels),
        puzzle_ids=np.where(halted, fresh_puzzle_ids, carry.puzzle_ids),
    )


def halting_rule(
    config: ReferenceConfig,
    steps: np.ndarray,
    q_halt: np.ndarray,
    q_continue: np.ndarray,
    minimum_steps: np.ndarray,
    training: bool,
) -> np.ndarray:
    """steps (this one counted), q_halt, q_continue (raw logits), minimum_steps [B] -> halted [B] bool."""
    last = steps >= config.halt_max_steps
    if not training or config.halt_max_steps <= 1:
        return last
    return (last | (q_halt > q_continue)) & (steps >= minimum_steps)


def bootstrap_target(last: np.ndarray, next_q_halt: np.ndarray, next_q_continue: np.ndarray) -> np.ndarray:
    """last [B] bool, the next step's raw logits [B] -> target for sigmoid(q_continue) [B]."""
    return sigmoid(np.where(last, next_q_halt, np.maximum(next_q_halt, next_q_continue)))


def act_step(
    weights: Weights,
    config: ReferenceConfig,
    carry: Carry,
    fresh_tokens: np.ndarray,
    fresh_labels: np.ndarray,
    fresh_puzzle_ids: np.ndarray,
    minimum_steps: np.ndarray,
    training: bool,
) -> tuple[Carry, dict[str, Any]]:
    """One call of the ACT wrapper. fresh_tokens, fresh_labels [B, S]; fresh_puzzle_ids, minimum_steps [B].

    ``minimum_steps`` is what exploration drew for this call, 0 where it drew nothing; evaluation ignores it.
    Returns the next carry and logits [B, S, V], q_halt [B], q_continue [B], target_continue [B] or None. The labels
    that belong to these outputs are those of the RETURNED carry, not the fresh ones.
    """
    # 1. Reset and refill the rows that had halted.
    carry = refill(weights, carry, fresh_tokens, fresh_labels, fresh_puzzle_ids)

    # 2. Run the inner model and count the step.
    z_H, z_L, logits, q_halt, q_continue = segment(
        weights, config, carry.z_H, carry.z_L, carry.tokens, carry.puzzle_ids
    )
    steps = carry.steps + 1
    last = steps >= config.halt_max_steps

    # 3. (training) and 5. (evaluation: always the maximum number of steps).
    halted = halting_rule(config, steps, q_halt, q_continue, minimum_steps, training)

    # 4. Bootstrap target: a second full forward from the new states, on the same rows.
    target_continue = None
    if training and config.halt_max_steps > 1:
        _, _, _, next_q_halt, next_q_continue = segment(weights, config, z_H, z_L, carry.tokens, carry.puzzle_ids)
        target_continue = bootstrap_target(last, next_q_halt, next_q_continue)

    next_carry = Carry(
        z_H=z_H,
        z_L=z_L,
        steps=steps,
        halted=halted,
        tokens=carry.tokens,
        labels=carry.labels,
        puzzle_ids=carry.puzzle_ids,
    )
    outputs = {"logits": logits, "q_halt": q_halt, "q_continue": q_continue, "target_continue": target_continue}
    return next_carry, outputs


# ---------------------------------------------------------------------------------------------------------------
# Names, shapes and random values of the weights (published code, checkpoint names)
# ---------------------------------------------------------------------------------------------------------------


def swiglu_inner_size(hidden: int, expansion: float = 4.0) -> int:
    """round(expansion * D * 2/3), rounded up to a multiple of 256."""
    return -(-round(expansion * hidden * 2 / 3) // 256) * 256


def weight_shapes(
    config: ReferenceConfig, vocab: int, num_puzzles: int, inner: int | None = None, seq_len: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Published name -> shape. ``seq_len`` (S) is needed only for learned positions, whose table is [S + 1, D]."""
    D = config.hidden
    I = swiglu_inner_size(D) if inner is None else inner  # noqa: E741
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.embedding_weight": (vocab, D)}
    if config.positions == "learned":
        if seq_len is None:
            raise ValueError("learned positions need seq_len")
        shapes["embed_pos.embedding_weight"] = (seq_len + 1, D)
    shapes["lm_head.weight"] = (vocab, D)
    shapes["q_head.weight"] = (2, D)
    shapes["q_head.bias"] = (2,)
    shapes["puzzle_emb.weights"] = (num_puzzles, D)
    shapes["H_init"] = (D,)
    shapes["L_init"] = (D,)
    for name, layers in (("H_level", config.H_layers), ("L_level", config.L_layers)):
        for i in range(layers):
            shapes[f"{name}.layers.{i}.self_attn.qkv_proj.weight"] = (3 * D, D)
            shapes[f"{name}.layers.{i}.self_attn.o_proj.weight"] = (D, D)
            shapes[f"{name}.layers.{i}.mlp.gate_up_proj.weight"] = (2 * I, D)
            shapes[f"{name}.layers.{i}.mlp.down_proj.weight"] = (D, I)
    return shapes


def random_weights(
    config: ReferenceConfig,
    vocab: int,
    num_puzzles: int,
    seed: int,
    inner: int | None = None,
    seq_len: int | None = None,
) -> Weights:
    """Every weight drawn from a normal distribution.

    NOT the published initialisation: the halting head and the puzzle table, which start at zero there, are random
    here so that a test can see them at work. Standard deviation 1 for the initial states and the halting bias,
    1/sqrt(last axis) for all others (a linear layer's fan-in; D for a table).
    """
    generator = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in weight_shapes(config, vocab, num_puzzles, inner, seq_len).items():
        std = 1.0 if name in ("H_init", "L_init", "q_head.bias") else 1.0 / np.sqrt(float(shape[-1]))
        weights[name] = std * generator.standard_normal(shape)
    return weights
