"""Planner and executor: source system S3's HRM for code, with a causal mask and without its dead parts.

The planner H is three times as wide as the executor L and reaches it through a gate. With z_L [B, S, d] and
z_H [B, S, 3d], x̃ the embedded input, projections P (d → 3d), Q (3d → d), R (3d → d) and n for norm, a segment is

    z_L ← z_L + x̃;  z_H ← z_H + P(x̃)
    H_cycles times:  g = Q(n(z_H));  z_L ← σ(W g)·z_L + (1 − σ(W g))·g
                     z_L ← L(z_L), L_cycles times;  z_H ← H(z_H + P(n(z_L)))
    answer = head of this segment (R(n(z_H)));  Q values = linear(mean over positions of R(n(z_H)))

What differs from the source:
* Projections read normalised states (root mean square, no learned scale). By the source's equations and our initial
  weights, z_H and the logits grow 3 times per segment at the size `tiny` and 5 times at `medium`, where a fresh model's
  logits have a standard deviation of 13 after the first segment and 290 after the third.
* Causal tasks get a causal mask. The source has none, and scores position t on a token that t can see.
* P, Q and R are trained (its optimizer leaves them out). Its two unused gates, 2 · (9d² + 3d) numbers, and the heads
  that get no gradient in its runs are absent. `published_s1_s3` counts the source with them.
* The three supervised segments (the default loop) answer through three heads: two of their own and `lm_head`, which
  answers all deeper ones, too. The source has a fourth, used from segment 4 on, which its curriculum hardly reaches.
* Halting is the harness's: per row, binary cross-entropy on whether the whole answer is right. The source regresses
  both values on the batch's mean token accuracy, so that stopping is never preferred, and stops all rows together.
* The number of H cycles is fixed; the source lowers it by the batch's mean confidence, so rows depend on one another.
* Inputs have the slot of the puzzle vector that all arms have (`slots: 0, puzzle_embedding: false` is the source's).
* Dropout is off, as in all arms; the source's is `dropout: 0.1`.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from models.base import ModelConfig, ModelShape, Prediction, State, register_model
from models.classic import Affine, ScaledNorm
from models.embedded import TokenModel
from models.layers import Attention, HaltingHead, Layer, Stack, Surroundings, SwiGLU, rms_norm, weights_cast_once
from tasks.base import PAD, Batch

FIRST_RESIDUAL, LAST_RESIDUAL = 0.8, 0.98
"""Factor of the residual branches at the start and at the end of training, linear in between (S3)."""


class PlannerConfig(ModelConfig):
    hidden: int = Field(128, ge=1, description="width of the executor L")
    heads: int = Field(8, ge=1, description="attention heads of the executor L; the planner H has heads of that size")
    expansion: float = Field(2.0, gt=0, description="SwiGLU inner width over the width, in both modules")
    inner: int | None = Field(
        None, ge=1, description="SwiGLU inner width of L, H's in proportion; null: from expansion"
    )
    segment_heads: int = Field(2, ge=0, description="first segments that answer through an output head of their own")
    planner_ratio: int = Field(3, ge=1, description="width and heads of H over those of L")
    H_layers: int = Field(2, ge=1, description="blocks in the planner H")
    L_layers: int = Field(2, ge=1, description="blocks in the executor L")
    H_cycles: int = Field(3, ge=1, description="H updates per segment")
    L_cycles: int = Field(2, ge=1, description="L updates per H update")

    @property
    def inner_width(self) -> int:
        return round(self.expansion * self.hidden) if self.inner is None else self.inner

    @property
    def typical_block(self) -> tuple[int, int, int]:
        """The block of which H_layers + L_layers have as many weights as both modules: an opponent of L's width would
        need an inner width 16 times as large. The size of a head is kept."""
        layers = self.H_layers + self.L_layers
        ratio = math.sqrt((self.planner_ratio**2 * self.H_layers + self.L_layers) / layers)
        heads = round(ratio * self.heads)
        return heads * (self.hidden // self.heads), heads, round(ratio * self.inner_width)

    def of_planner(self) -> PlannerConfig:
        """The sizes of H's blocks."""
        sizes = {"hidden": self.hidden, "heads": self.heads, "inner": self.inner_width}
        return self.model_copy(update={name: self.planner_ratio * size for name, size in sizes.items()})


class PreNormBlock(Layer):
    """x ← x + r · attention(norm(x)); x ← x + r · SwiGLU(norm(x)), r the surroundings' residual factor."""

    def __init__(self, config: ModelConfig, causal: bool, generator: torch.Generator | None) -> None:
        super().__init__(config)
        self.attention_norm = ScaledNorm(config.hidden, config.rms_eps, generator)
        self.self_attn = Attention(config, causal, generator)
        self.mlp_norm = ScaledNorm(config.hidden, config.rms_eps, generator)
        self.mlp = SwiGLU(config.hidden, config.inner_width, generator)

    def body(self, x: Tensor, around: Surroundings, call: int) -> Tensor:
        attended = around.dropout(self.self_attn(self.attention_norm(x), around), self.rate, call)
        x = x + around.residual * attended
        return x + around.residual * around.dropout(self.mlp(self.mlp_norm(x)), self.rate, call + 1)


@register_model(
    "hrm-planner",
    presets={
        "tiny": {"hidden": 64, "heads": 4, "H_layers": 1, "L_layers": 1, "H_cycles": 2, "L_cycles": 2},
        "small": {"hidden": 128, "heads": 8, "H_layers": 2, "L_layers": 2, "H_cycles": 3, "L_cycles": 2},
        "medium": {"hidden": 192, "heads": 8, "H_layers": 4, "L_layers": 4, "H_cycles": 3, "L_cycles": 2},
    },
)
class HRMPlanner(TokenModel):
    """S3's planner and executor; the file's first lines say what it does and where it departs from the source.

    The presets are the source's sizes. Gradient is full: through all cycles, and with the default loop through all
    three segments of an update. The embedding and the two own heads stand outside the core, as in every family.
    """

    Config = PlannerConfig
    summary = "planner three times as wide as the executor, gated guidance, full gradient through 3 segments (S3)"
    LOOP: ClassVar[dict[str, Any]] = {"segments": 3, "rollout": 3, "detach": False}
    config: PlannerConfig
    residual_scale: Tensor

    def __init__(
        self, config: PlannerConfig, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, shape, dtype, generator)
        d, wide = config.hidden, config.of_planner()
        self.H_level = Stack(PreNormBlock(wide, shape.causal, generator) for _ in range(config.H_layers))
        self.L_level = Stack(PreNormBlock(config, shape.causal, generator) for _ in range(config.L_layers))
        self.to_planner = Affine(d, wide.hidden, generator)  # P
        self.to_executor = Affine(wide.hidden, d, generator)  # Q
        self.to_heads = Affine(wide.hidden, d, generator)  # R
        self.gate = Affine(d, d, generator)  # W
        self.q_head = HaltingHead(d, generator)
        # saved with the weights, which were trained for this value
        device = "meta" if generator is None else None
        self.register_buffer("residual_scale", torch.tensor(FIRST_RESIDUAL, device=device))

    def set_progress(self, progress: float) -> None:
        self.residual_scale.fill_(FIRST_RESIDUAL + (LAST_RESIDUAL - FIRST_RESIDUAL) * progress)

    def initial_state(self, batch: Batch, keys: Tensor | None = None) -> State:
        """Zeros. The source starts from x̃ and P(x̃), and its first segment adds them again: ours adds them twice, which
        is the same and embeds the input only once."""
        B, S = batch.inputs.shape
        d = self.config.hidden
        widths = {"z_H": self.config.planner_ratio * d, "z_L": d}
        zeros = {
            name: torch.zeros((B, self.slots + S, width), dtype=self.dtype, device=batch.inputs.device)
            for name, width in widths.items()
        }
        return {**zeros, **self.start(batch, keys)}

    def surroundings(self, state: State, batch: Batch) -> Surroundings:
        around = super().surroundings(state, batch)
        around.residual = self.residual_scale
        return around

    def segment(self, state: State, batch: Batch, puzzle: Tensor | None) -> tuple[State, Prediction]:
        with weights_cast_once(self, self.dtype):
            around = self.surroundings(state, batch)
            times = torch.where(state["segment"] == 0, 2, 1)[:, None, None]
            x = self.embed(batch, puzzle)
            z_L = state["z_L"] + times * x
            z_H = state["z_H"] + times * self.to_planner(x)
            for _ in range(self.config.H_cycles):
                z_L = self.guided(z_L, self.to_executor(self.norm(z_H)))
                for _ in range(self.config.L_cycles):
                    z_L = self.L_level(z_L, around)
                z_H = self.H_level(z_H + self.to_planner(self.norm(z_L)), around)
            top = self.to_heads(self.norm(z_H))
            q_halt, q_continue = self.q_head(self.halting_vector(top, batch))
            prediction = Prediction(self.answer(top, state), q_halt, q_continue)
        return {"z_H": z_H, "z_L": z_L, **self.following(state)}, prediction

    def norm(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.config.rms_eps)

    def guided(self, z_L: Tensor, guidance: Tensor) -> Tensor:
        """σ(W g)·z_L + (1 − σ(W g))·g, all [B, S, d]."""
        kept = torch.sigmoid(self.gate(guidance))
        return kept * z_L + (1 - kept) * guidance

    def halting_vector(self, z: Tensor, batch: Batch) -> Tensor:
        """[B, d]: the mean over the sequence without slots; under a causal mask over the prompt, else without hidden
        padding."""
        z = z[:, self.slots :]
        if self.shape.causal:
            seen = torch.arange(z.shape[1], device=z.device) < batch.facts["prompt_length"][:, None]
        elif self.shape.masked:
            seen = batch.inputs != PAD
        else:
            return z.mean(1)
        return (z * seen[..., None]).sum(1) / seen.sum(1, keepdim=True).clamp(min=1)

    @property
    def layers_per_segment(self) -> int:
        c = self.config
        return c.H_cycles * (c.L_cycles * c.L_layers + c.H_layers)
