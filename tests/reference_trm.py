"""A second, literal definition of one TRM step in float64 NumPy, for tests to compare the model with.

Written from the description of TRM (arXiv 2510.04871) and of its published code's behaviour. It shares nothing with
the model under test; the pure functions rms_norm, attention (with rope inside) and swiglu come from the NumPy
definition of HRM. Like that one, it is meant to be read and computes no gradients.

Letters in the shapes: B rows, S puzzle tokens, R slots before them, T = R + S positions, D hidden size, I and J inner
sizes of the SwiGLU over the width and over the sequence, V vocabulary, P puzzle identifiers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from reference_hrm import Weights, attention, rms_norm, swiglu


@dataclass(frozen=True)
class ReferenceConfig:
    """Sizes and options of one TRM. Fields with HRM's names mean what they mean there."""

    hidden: int
    heads: int
    layers: int
    H_cycles: int
    L_cycles: int
    mixer: bool = False
    positions: str = "rope"  # "learned"; "none" in the mixer form
    slots: int = 16
    rms_eps: float = 1e-5
    rope_theta: float = 10000.0
    halt_max_steps: int = 16


@dataclass
class Carry:
    """z_H, z_L [B, T, D]; steps [B] int; halted [B] bool; tokens, labels [B, S] int; puzzle_ids [B] int."""

    z_H: np.ndarray  # noqa: N815
    z_L: np.ndarray  # noqa: N815
    steps: np.ndarray
    halted: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray
    puzzle_ids: np.ndarray


def input_embedding(weights: Weights, config: ReferenceConfig, tokens: np.ndarray, puzzle_ids: np.ndarray):
    """tokens [B, S], puzzle_ids [B] -> x [B, T, D]: the puzzle vector in slot 0, zeros in the other slots, tokens."""
    B, S = tokens.shape
    x = np.zeros((B, config.slots + S, config.hidden))
    x[:, 0, :] = weights["puzzle_emb.weights"][puzzle_ids]
    x[:, config.slots :, :] = weights["embed_tokens.embedding_weight"][tokens]
    if config.positions == "learned":
        x = (x + weights["embed_pos.embedding_weight"]) / np.sqrt(2.0)
    return x * np.sqrt(float(config.hidden))


def token_mixing(weights: Weights, layer: str, x: np.ndarray) -> np.ndarray:
    """x [B, D, T] -> [B, D, T]: SwiGLU over the last axis, which is the sequence here."""
    renamed = {
        f"{layer}.mlp.gate_up_proj.weight": weights[f"{layer}.mlp_t.gate_up_proj.weight"],
        f"{layer}.mlp.down_proj.weight": weights[f"{layer}.mlp_t.down_proj.weight"],
    }
    return swiglu(renamed, layer, x)


def block(weights: Weights, config: ReferenceConfig, layer: str, x: np.ndarray) -> np.ndarray:
    """One post-norm layer: x [B, T, D] -> [B, T, D]. The mixer's first norm runs over the sequence axis."""
    if config.mixer:
        turned = np.swapaxes(x, 1, 2)  # [B, D, T]
        turned = rms_norm(turned + token_mixing(weights, layer, turned), config.rms_eps)
        x = np.swapaxes(turned, 1, 2)
    else:
        x = rms_norm(x + attention(weights, config, layer, x), config.rms_eps)
    return rms_norm(x + swiglu(weights, layer, x), config.rms_eps)


def net(weights: Weights, config: ReferenceConfig, x: np.ndarray) -> np.ndarray:
    """The one module that makes both updates: x [B, T, D] -> [B, T, D]."""
    for i in range(config.layers):
        x = block(weights, config, f"L_level.layers.{i}", x)
    return x


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
    x = input_embedding(weights, config, tokens, puzzle_ids)
    for _ in range(config.H_cycles):
        for _ in range(config.L_cycles):
            z_L = net(weights, config, z_L + z_H + x)
        z_H = net(weights, config, z_H + z_L)
    logits = z_H[:, config.slots :, :] @ weights["lm_head.weight"].T  # all slots are dropped
    q = z_H[:, 0, :] @ weights["q_head.weight"].T + weights["q_head.bias"]  # read at slot 0
    return z_H, z_L, logits, q[:, 0], q[:, 1]


def initial_carry(config: ReferenceConfig, B: int, S: int) -> Carry:
    """Every row halted; states and data are garbage that the first step must replace."""
    T = config.slots + S
    return Carry(
        z_H=np.full((B, T, config.hidden), 123.0),
        z_L=np.full((B, T, config.hidden), 123.0),
        steps=np.zeros(B, dtype=np.int64),
        halted=np.ones(B, dtype=bool),
        tokens=np.full((B, S), 10**9),
        labels=np.full((B, S), 10**9),
        puzzle_ids=np.full(B, 10**9),
    )


def act_step(
    weights: Weights,
    config: ReferenceConfig,
    carry: Carry,
    fresh_tokens: np.ndarray,
    fresh_labels: np.ndarray,
    fresh_puzzle_ids: np.ndarray,
    minimum_steps: np.ndarray,
) -> tuple[Carry, dict[str, np.ndarray]]:
    """One training call of the ACT wrapper: halt where q_halt > 0, no second forward pass, no target for q_continue."""
    new = carry.halted
    z_H = np.where(new[:, None, None], weights["H_init"], carry.z_H)
    z_L = np.where(new[:, None, None], weights["L_init"], carry.z_L)
    tokens = np.where(new[:, None], fresh_tokens, carry.tokens)
    labels = np.where(new[:, None], fresh_labels, carry.labels)
    puzzle_ids = np.where(new, fresh_puzzle_ids, carry.puzzle_ids)
    steps = np.where(new, 0, carry.steps) + 1

    z_H, z_L, logits, q_halt, q_continue = segment(weights, config, z_H, z_L, tokens, puzzle_ids)
    halted = (steps >= config.halt_max_steps) | (q_halt > 0)
    halted &= steps >= minimum_steps
    next_carry = Carry(z_H, z_L, steps, halted, tokens, labels, puzzle_ids)
    return next_carry, {"logits": logits, "q_halt": q_halt, "q_continue": q_continue}


def weight_shapes(
    config: ReferenceConfig, vocab: int, num_puzzles: int, S: int, inner: int, mixer_inner: int
) -> dict[str, tuple[int, ...]]:
    """Published name -> shape."""
    D, T = config.hidden, config.slots + S
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.embedding_weight": (vocab, D),
        "lm_head.weight": (vocab, D),
        "q_head.weight": (2, D),
        "q_head.bias": (2,),
        "puzzle_emb.weights": (num_puzzles, D),
        "H_init": (D,),
        "L_init": (D,),
    }
    if config.positions == "learned":
        shapes["embed_pos.embedding_weight"] = (T, D)
    for i in range(config.layers):
        layer = f"L_level.layers.{i}"
        if config.mixer:
            shapes[f"{layer}.mlp_t.gate_up_proj.weight"] = (2 * mixer_inner, T)
            shapes[f"{layer}.mlp_t.down_proj.weight"] = (T, mixer_inner)
        else:
            shapes[f"{layer}.self_attn.qkv_proj.weight"] = (3 * D, D)
            shapes[f"{layer}.self_attn.o_proj.weight"] = (D, D)
        shapes[f"{layer}.mlp.gate_up_proj.weight"] = (2 * inner, D)
        shapes[f"{layer}.mlp.down_proj.weight"] = (D, inner)
    return shapes


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> Weights:
    """Normal numbers everywhere, halting head and puzzle table included, so that a test sees them at work."""
    generator = np.random.default_rng(seed)
    vectors = ("H_init", "L_init", "q_head.bias")
    return {
        name: generator.standard_normal(shape) / (1.0 if name in vectors else np.sqrt(float(shape[-1])))
        for name, shape in shapes.items()
    }
