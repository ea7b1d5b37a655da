"""Two levels that speak through pooled vectors: source system S1's HRM, made to work.

H and L are stacks over the sequence whose outputs are averaged; what lasts is one vector each, z_H and z_L. A cycle is

    p = mean of H(x_H + z_H);  z_H ← cell(MLP[p, z_L], z_H);  guidance g = tanh(linear(norm(z_H)))
    L_cycles times:  y = L(x_L + z_L);  p = mean of y
                     z_L ← cell(attention of p to {g, z_L, p}, cell(p, z_L));  two residual MLPs on z_L
    z_H and z_L attend to both; each is fused with what it read by an MLP

with x_H and x_L linear maps of the embedded tokens, z_H and z_L added at all positions. A segment is H_cycles of them.

What differs from the source:
* It reads a flat vector of floats and regresses floats on its pooled vector. Ours embeds tokens with rotary positions
  and answers with logits per position, from L's last output there and from both states. Tokens are added before every
  pass; the source's low steps after the first see only the vector broadcast back, the same at every position.
* Its attention has one key, so its weights are 1 and the query does nothing. Ours has the pooled states as its keys.
* H's stack sees z_H. In the source it sees the input alone, and so gives the same in every cycle.
* The halting controller is trained: an MLP on both states gives q_halt and q_continue, which have the harness's losses,
  per row. The source's controller gets no gradient, and stops all rows together. Its predictors of progress and of
  computation time, which get none either, are absent.
* Gradient reaches back `gradient_cycles` H cycles. The source's is full through all cycles: that is `gradient_cycles:
  null` with the loop's `detach: false` and as large a `rollout` as `segments`.
* The blocks are those of all families here (RMSNorm, SwiGLU), not LayerNorm and GELU, so that comparisons are of the
  coupling. Counted parameters therefore differ: 10.43 million in the core of the presets, 10.6 in the whole source
  (`published_s1_s3`).
* Its three further losses are switches, off by default. Its weights: ponder 0.01 (from constants, without gradient),
  consistency 0.1, diversity 0.05 (never active in its training).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from harness.errors import UserError
from models.base import ModelConfig, ModelShape, Prediction, State, register_model
from models.classic import MLP, Affine
from models.embedded import TokenModel
from models.layers import Block, HaltingHead, Linear, Stack, Surroundings, rms_norm, weights_cast_once
from tasks.base import Batch

SIMILAR = 0.3
"""Cosine similarity of two low-level traces above which the diversity loss sets in (S1)."""


class PooledConfig(ModelConfig):
    hidden: int = Field(256, ge=1, description="width")
    H_layers: int = Field(4, ge=1, description="blocks in the H module")
    L_layers: int = Field(4, ge=1, description="blocks in the L module")
    H_cycles: int = Field(1, ge=1, description="H updates per segment")
    L_cycles: int = Field(4, ge=1, description="L updates per H update")
    gradient_cycles: int | None = Field(
        1, ge=1, description="last H cycles of a segment that carry gradient, with all their L updates; null: all"
    )
    ponder_weight: float = Field(
        0.0, ge=0, description="weight of the expected number of segments, each halting at σ(q_halt)"
    )
    consistency_weight: float = Field(0.0, ge=0, description="weight of h's squared change between cycles")
    diversity_weight: float = Field(0.0, ge=0, description="weight of the likeness of a cycle's low-level states")

    @model_validator(mode="after")
    def _losses_have_something_to_compare(self) -> PooledConfig:
        if self.diversity_weight > 0 and self.L_cycles < 2:
            raise ValueError("diversity_weight compares the low-level states of a cycle; set L_cycles to 2 or more")
        return self


class GatedCell(nn.Module):
    """The GRU's update of a state s [B, D] by an input x [B, D]: s ← (1 − u)·s + u·tanh(A[x, r·s]).

    u and r are sigmoids of affine maps of [x, s] (Cho et al. 2014).
    """

    def __init__(self, hidden: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.gates = Affine(2 * hidden, 2 * hidden, generator)
        self.candidate = Affine(2 * hidden, hidden, generator)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        update, reset = torch.sigmoid(self.gates(torch.cat((x, state), -1))).chunk(2, -1)
        candidate = torch.tanh(self.candidate(torch.cat((x, reset * state), -1)))
        return (1 - update) * state + update * candidate


class PooledAttention(nn.Module):
    """Multi-head attention of Q vectors to K pooled states: [B, Q, D], [B, K, D] → [B, Q, D]."""

    def __init__(self, config: ModelConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj = Linear(config.hidden, config.hidden, generator)
        self.kv_proj = Linear(config.hidden, 2 * config.hidden, generator)
        self.o_proj = Linear(config.hidden, config.hidden, generator)

    def forward(self, queries: Tensor, states: Tensor) -> Tensor:
        q = self.q_proj(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv_proj(states).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        read = F.scaled_dot_product_attention(q, k, v)
        return self.o_proj(read.transpose(1, 2).flatten(-2))


@register_model(
    "hrm-pooled",
    presets={
        "sudoku": {"hidden": 256, "H_layers": 4, "L_layers": 4, "L_cycles": 25},
        "maze": {"hidden": 256, "H_layers": 4, "L_layers": 4, "L_cycles": 30},
        "arc": {"hidden": 256, "H_layers": 4, "L_layers": 4, "L_cycles": 35},
    },
    loops={"sudoku": {"segments": 15}, "maze": {"segments": 20}, "arc": {"segments": 25}},
)
class HRMPooled(TokenModel):
    """S1's two levels with pooled states; the file's first lines say what it does and where it departs from the source.

    The presets are the source's sizes, low steps and largest numbers of cycles, one cycle to a segment. Means over the
    sequence see the future, so causal tasks are refused.
    """

    Config = PooledConfig
    summary = (
        "two levels that speak through pooled vectors: GRU cells, attention between states, trained controller (S1)"
    )
    config: PooledConfig

    def __init__(
        self, config: PooledConfig, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, shape, dtype, generator)
        if shape.causal:
            raise UserError(
                "hrm-pooled averages over the whole sequence, which shows the future; it can't run a causal task"
            )
        D = config.hidden
        self.H_input, self.L_input = Affine(D, D, generator), Affine(D, D, generator)
        self.H_level = Stack(Block(config, False, generator) for _ in range(config.H_layers))
        self.L_level = Stack(Block(config, False, generator) for _ in range(config.L_layers))
        self.H_feedback = MLP(2 * D, D, D, generator)
        self.H_cell = GatedCell(D, generator)
        self.guidance = Affine(D, D, generator)
        self.L_attention = PooledAttention(config, generator)
        self.L_cells = nn.ModuleList(GatedCell(D, generator) for _ in range(2))
        self.L_mlps = nn.ModuleList(MLP(D, 2 * D, D, generator) for _ in range(2))
        self.communication = PooledAttention(config, generator)
        self.H_fusion, self.L_fusion = MLP(2 * D, D, D, generator), MLP(2 * D, D, D, generator)
        self.read_states = Affine(2 * D, D, generator)
        self.read_out = MLP(D, 2 * D, D, generator)
        self.controller = MLP(2 * D, D, D, generator)
        self.q_head = HaltingHead(D, generator)

    def initial_state(self, batch: Batch, keys: Tensor | None = None) -> State:
        B, device = len(batch.inputs), batch.inputs.device
        zeros = {name: torch.zeros((B, self.config.hidden), dtype=self.dtype, device=device) for name in ("z_H", "z_L")}
        ones = torch.ones(B, dtype=self.q_head.weight.dtype, device=device)
        running = {"running": ones} if self.config.ponder_weight else {}  # probability that it has not halted yet
        return {**zeros, **running, **self.start(batch, keys)}

    def segment(self, state: State, batch: Batch, puzzle: Tensor | None) -> tuple[State, Prediction]:
        c = self.config
        with weights_cast_once(self, self.dtype):
            x, around = self.embed(batch, puzzle), self.surroundings(state, batch)
            x_H, x_L = self.H_input(x), self.L_input(x)
            z_H, z_L = state["z_H"], state["z_L"]
            carrying = min(c.gradient_cycles or c.H_cycles, c.H_cycles)
            with torch.no_grad():
                for _ in range(c.H_cycles - carrying):
                    z_H, z_L, _, _ = self.cycle(z_H, z_L, x_H, x_L, around)
            heights, traces = [z_H], []
            for _ in range(carrying):
                z_H, z_L, y, trace = self.cycle(z_H, z_L, x_H, x_L, around)
                heights.append(z_H)
                traces.append(trace)
            both = torch.cat((z_H, z_L), -1)
            q_halt, q_continue = self.q_head(self.controller(both))
            z = self.norm(y + self.read_states(both)[:, None])
            z = self.norm(z + self.read_out(z))
            prediction = Prediction(self.answer(z, state), q_halt, q_continue)
        new = {"z_H": z_H, "z_L": z_L, **self.following(state)}
        if c.consistency_weight:
            first = (state["segment"] == 0) & (carrying == c.H_cycles)  # its change is from zeros, not between cycles
            prediction.extra["consistency_loss"] = c.consistency_weight * consistency(heights, first)
        if c.diversity_weight:
            likeness = torch.stack([diversity(trace) for trace in traces]).mean(0)
            prediction.extra["diversity_loss"] = c.diversity_weight * likeness
        if c.ponder_weight:
            new["running"] = state["running"] * torch.sigmoid(-q_halt)
            prediction.extra["ponder_loss"] = c.ponder_weight * new["running"]
        return new, prediction

    def cycle(
        self, z_H: Tensor, z_L: Tensor, x_H: Tensor, x_L: Tensor, around: Surroundings
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One H update with its L updates: new z_H and z_L [B, D], L's last output [B, slots + S, D], and the low-level
        states on the way [B, L_cycles, D]."""
        pooled = self.mean(self.H_level(x_H + z_H[:, None], around), around)
        z_H = self.H_cell(self.H_feedback(torch.cat((pooled, z_L), -1)), z_H)
        g = torch.tanh(self.guidance(self.norm(z_H)))
        trace = []
        for _ in range(self.config.L_cycles):
            y = self.L_level(x_L + z_L[:, None], around)
            pooled = self.mean(y, around)
            read = self.L_attention(pooled[:, None], torch.stack((g, z_L, pooled), 1))[:, 0]
            for cell, seen in zip(self.L_cells, (pooled, read), strict=True):
                z_L = cell(seen, z_L)
            for mlp in self.L_mlps:
                z_L = self.norm(z_L + mlp(z_L))
            trace.append(z_L)
        states = torch.stack((z_H, z_L), 1)
        read_H, read_L = self.communication(states, states).unbind(1)
        z_H = self.norm(z_H + self.H_fusion(torch.cat((z_H, read_H), -1)))
        z_L = self.norm(z_L + self.L_fusion(torch.cat((z_L, read_L), -1)))
        return z_H, z_L, y, torch.stack(trace, 1)

    def norm(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.config.rms_eps)

    def mean(self, x: Tensor, around: Surroundings) -> Tensor:
        """[B, D]: the mean of x [B, slots + S, D] over all places but hidden padding."""
        if around.mask is None:
            return x.mean(1)
        seen = around.mask[:, 0, 0, :, None]
        return (x * seen).sum(1) / seen.sum(1).clamp(min=1)

    @property
    def layers_per_segment(self) -> int:
        c = self.config
        return c.H_cycles * (c.L_cycles * c.L_layers + c.H_layers)


def consistency(heights: list[Tensor], first: Tensor) -> Tensor:
    """[B]: mean squared change from each state z_H to the next; rows marked `first` [B] leave out the first change."""
    changes = torch.stack([(b - a).square().mean(-1) for a, b in pairwise(map(widened, heights))], 1)
    counted = torch.ones_like(changes)
    counted[:, 0] = (~first).to(changes.dtype)
    return (changes * counted).sum(1) / counted.sum(1).clamp(min=1)


def diversity(trace: Tensor) -> Tensor:
    """[B]: the cosine similarity's excess over SIMILAR, mean over the pairs of states in trace [B, T, D], T > 1."""
    unit = F.normalize(widened(trace), dim=-1)
    excess = F.relu(unit @ unit.transpose(1, 2) - SIMILAR)
    T = trace.shape[1]
    return (excess.sum((1, 2)) - excess.diagonal(dim1=1, dim2=2).sum(1)) / (T * (T - 1))


def widened(x: Tensor) -> Tensor:
    """In at least float32."""
    return x if x.dtype == torch.float64 else x.float()
