"""The HRM of a public project for arithmetic proofs (Kayariyan28/Hierarchical-Reasoning-Machine), made to work here.

What it changes against `hrm`: pre-norm blocks with LayerNorm, biases and a GELU network; a LayerNorm of its own on each
operand of the injection; the Q head reads the mean over the positions; states start as small noise; one optimizer step
over the mean of four segments' losses. Its refinement, going on for up to twice the segments until the verifier
accepts, is `exact_oracle` in depth.csv at that depth, apart from its own score: `evaluation: {segments: [4, 8]}`.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from harness.random import CounterRandom
from models.base import ModelConfig, ModelShape, State, register_model
from models.classic import MLP, Affine, LayerNorm
from models.layers import HaltingHead, Layer, Linear, Stack, Surroundings
from models.recurrent import RecurrentModel
from tasks.base import PAD, Batch

NOISE_STD = 0.02
INITIAL_KEYS = {"z_H": 0x1417A1, "z_L": 0x1417A2}  # purposes of their own: the states' noise is independent


class HRMProofConfig(ModelConfig):
    hidden: int = Field(128, ge=1, description="width")
    expansion: float = Field(4.0, gt=0, description="inner width of the GELU network over the width")
    inner: int | None = Field(None, ge=1, description="inner width of the GELU network; null: expansion × hidden")
    positions: str = Field("sinusoidal", pattern="^(sinusoidal|learned)$", description="sinusoidal or learned")
    slots: int = Field(0, ge=0, description="positions before the sequence; they enter the mean that the Q head reads")
    puzzle_embedding: bool = Field(False, description="a puzzle vector in the first slot; needs slots 1 or more")
    rms_eps: float = Field(1e-5, gt=0, description="ε of the layer norms")
    H_layers: int = Field(2, ge=1, description="blocks in the H module")
    L_layers: int = Field(2, ge=1, description="blocks in the L module")
    H_cycles: int = Field(2, ge=1, description="H updates per segment, N in the source")
    L_cycles: int = Field(3, ge=1, description="L updates per H update, T in the source")

    @property
    def inner_width(self) -> int:
        """Inner width of the GELU network."""
        return round(self.expansion * self.hidden) if self.inner is None else self.inner


@register_model("hrm-proof", presets={"source": {"hidden": 128, "heads": 8, "dropout": 0.1}})
class HRMProof(RecurrentModel):
    """The preset `source` has the source's sizes and dropout; its training (4 segments, one step) is the default loop.

    The source has 809,788 parameters at its vocabulary of 58 (models/published_s0_s2.py); this one has 809,020 there,
    since numbers that no gradient can reach are left out: a third norm of H, 256 numbers, whose operand does not exist;
    and the keys' biases, 512, which add the same to all scores of a query, so that the softmax cancels them.

    Other differences: weights start as everywhere here (variance 1 over inputs), not as PyTorch's layers do. The two
    Q-values are the logits of HRM's Q-learning; the source regresses both towards one target, so they had to come out
    equal. The noise of the initial state is drawn from the row's key, so it is the same whatever stands beside the row.
    Dropout acts on the embedded input and on each block's two outputs. Where a task masks its padding or is causal,
    padding and what follows the prompt are hidden from attention and from the mean that the Q head reads; the source
    hides nothing.
    """

    Config = HRMProofConfig
    summary = "HRM of the arithmetic-proof project: pre-norm, LayerNorm on each operand, pooled Q head, noise at start"
    LOOP: ClassVar[dict[str, Any]] = {
        "segments": 4,
        "rollout": 4,
        "halting": "q_learning",
        "halting_weight": 0.05,
        "exploration": 0.0,
    }
    config: HRMProofConfig

    def __init__(
        self, config: HRMProofConfig, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, shape, dtype, generator)
        self.lm_head = Affine(config.hidden, shape.vocabulary, generator)
        self.H_level = InjectedModule(config, 2, config.H_layers, shape.causal, generator)
        self.L_level = InjectedModule(config, 3, config.L_layers, shape.causal, generator)
        self.q_head = HaltingHead(config.hidden, generator)

    @property
    def stochastic(self) -> bool:
        return True

    def initial_state(self, batch: Batch, keys: Tensor | None = None) -> State:
        """Noise N(0, 0.02²) by the row's key; a longer row's begins like a shorter one's."""
        start = self.start(batch, keys)
        shape = (self.slots + batch.inputs.shape[1], self.config.hidden)
        states = {
            name: (NOISE_STD * CounterRandom(purpose, start["key"]).normal(*shape)).to(self.dtype)
            for name, purpose in INITIAL_KEYS.items()
        }
        return {**states, **start}

    def embed(self, batch: Batch, puzzle: Tensor | None) -> Tensor:
        x = super().embed(batch, puzzle)
        return x + sinusoids(x.shape[1], x.shape[2], x) if self.config.positions == "sinusoidal" else x

    def update(self, states: State, x: Tensor, around: Surroundings) -> State:
        """H_cycles × L_cycles updates, of which only the last L and the last H carry gradient."""
        z_H, z_L = states["z_H"], states["z_L"]
        x = around.dropout(x, self.config.dropout, around.call(1))
        H_cycles, L_cycles = self.config.H_cycles, self.config.L_cycles
        with torch.no_grad():
            for h in range(H_cycles):
                last_h = h == H_cycles - 1
                for _ in range(L_cycles - last_h):
                    z_L = self.L_level((z_L, z_H, x), around)
                if not last_h:
                    z_H = self.H_level((z_H, z_L), around)
        z_L = self.L_level((z_L, z_H, x), around)
        z_H = self.H_level((z_H, z_L), around)
        return {"z_H": z_H, "z_L": z_L}

    def halting_vector(self, z: Tensor, batch: Batch) -> Tensor:
        """[B, D]: the mean over the positions, without padding where the task masks it; under a causal mask over the
        prompt."""
        z = z.to(self.q_head.weight.dtype)
        if self.shape.causal:
            places = torch.arange(batch.inputs.shape[1], device=z.device)
            seen = places < batch.facts["prompt_length"][:, None]
        elif self.shape.masked:
            seen = batch.inputs != PAD
        else:
            return z.mean(1)
        weight = F.pad(seen, (self.slots, 0), value=True).to(z.dtype)
        return (z * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1)

    @property
    def layers_per_segment(self) -> int:
        c = self.config
        return c.H_cycles * (c.L_cycles * c.L_layers + c.H_layers)


class InjectedModule(nn.Module):
    """stack(Σ norm(operand)): the sum of the normed operands [B, L, D] replaces the state; no norm at the end."""

    def __init__(
        self, config: HRMProofConfig, operands: int, layers: int, causal: bool, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm(config.hidden, config.rms_eps, generator) for _ in range(operands))
        self.stack = Stack(PreNormBlock(config, causal, generator) for _ in range(layers))

    def forward(self, operands: tuple[Tensor, ...], around: Surroundings) -> Tensor:
        normed = [norm(operand) for norm, operand in zip(self.norms, operands, strict=True)]
        mixed: Tensor = self.stack(sum(normed[1:], normed[0]), around)
        return mixed


class PreNormBlock(Layer):
    """x ← x + attention(norm(x)); x ← x + GELU network(norm(x))."""

    def __init__(self, config: HRMProofConfig, causal: bool, generator: torch.Generator | None) -> None:
        super().__init__(config)
        self.attn_norm = LayerNorm(config.hidden, config.rms_eps, generator)
        self.self_attn = BiasedAttention(config, causal, generator)
        self.mlp_norm = LayerNorm(config.hidden, config.rms_eps, generator)
        self.mlp = MLP(config.hidden, config.inner_width, config.hidden, generator)

    def body(self, x: Tensor, around: Surroundings, call: int) -> Tensor:
        x = x + around.dropout(self.self_attn(self.attn_norm(x), around), self.rate, call)
        return x + around.dropout(self.mlp(self.mlp_norm(x)), self.rate, call + 1)


class BiasedAttention(nn.Module):
    """Self-attention with biases on queries, values and output. One on keys would be cancelled by the softmax."""

    def __init__(self, config: HRMProofConfig, causal: bool, generator: torch.Generator | None) -> None:
        super().__init__()
        self.heads = config.heads
        self.causal = causal
        device = "meta" if generator is None else None
        self.qkv_proj = Linear(config.hidden, 3 * config.hidden, generator)
        self.q_bias = nn.Parameter(torch.zeros(config.hidden, device=device))
        self.v_bias = nn.Parameter(torch.zeros(config.hidden, device=device))
        self.o_proj = Affine(config.hidden, config.hidden, generator)

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        B, S, D = x.shape
        q, k, v = self.qkv_proj(x).chunk(3, dim=-1)
        q, v = q + self.q_bias.to(x.dtype), v + self.v_bias.to(x.dtype)
        q, k, v = (part.view(B, S, self.heads, D // self.heads).transpose(1, 2) for part in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=around.mask, is_causal=self.causal)
        return self.o_proj(out.transpose(1, 2).reshape(B, S, D))


def sinusoids(length: int, hidden: int, like: Tensor) -> Tensor:
    """[length, hidden]: sin and cos of p / 10000^(2i / hidden) in turn (arXiv 1706.03762), with type and device of
    `like`."""
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    frequency = torch.exp(torch.arange(0, hidden, 2, dtype=wide, device=like.device) * (-math.log(10000.0) / hidden))
    angle = torch.outer(torch.arange(length, dtype=wide, device=like.device), frequency)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1).to(like.dtype)
