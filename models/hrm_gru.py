"""The HRM of a public project for parity (SusanketSarkar/hrm), made to work here: two GRU cells on one vector.

What it changes against `hrm`: no tokens and no attention. The whole input is one vector, each module is a GRU cell, and
concatenation takes the place of addition. The rest is HRM's: cycles, one-step gradient, segments, Q-learning halting.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from harness.errors import UserError
from models.base import ModelConfig, ModelShape, Prediction, ReasoningModel, State, register_model
from models.classic import Affine, LayerNorm
from models.layers import HaltingHead, PuzzleEmbedding, weights_cast_once
from tasks.base import Batch

WITHOUT_BLOCKS = ("expansion", "positions", "slots", "dropout", "segment_heads", "rope_theta")


class HRMGRUConfig(ModelConfig):
    hidden: int = Field(256, ge=1, description="width of both states")
    heads: int = Field(8, ge=1, description="a GRU has none: hidden / heads is the head size of arms matched to it")
    inner: int | None = Field(None, ge=1, description="width of the embedded input that L reads; null: hidden")
    positions: str = Field("none", description="none: every place of the input has weights of its own")
    slots: int = Field(0, description="none: the input is one vector")
    puzzle_embedding: bool = Field(False, description="a puzzle vector added to the input's linear map")
    rms_eps: float = Field(1e-5, gt=0, description="ε of the output's layer norm")
    H_cycles: int = Field(3, ge=1, description="H updates per segment, N in the source")
    L_cycles: int = Field(4, ge=1, description="L updates per H update, T in the source")

    @model_validator(mode="after")
    def _no_blocks(self) -> HRMGRUConfig:
        for name in WITHOUT_BLOCKS:
            only = type(self).model_fields[name].default
            if getattr(self, name) != only:
                raise ValueError(f"{name}: hrm-gru has no blocks that this could act on; leave it out or set {only}")
        return self

    @model_validator(mode="after")
    def _place_for_the_puzzle(self) -> HRMGRUConfig:
        return self  # the puzzle vector needs no slot

    @property
    def inner_width(self) -> int:
        """Width of the embedded input."""
        return self.hidden if self.inner is None else self.inner


@register_model("hrm-gru", presets={"source": {"hidden": 256, "H_cycles": 3, "L_cycles": 4}})
class HRMGRU(ReasoningModel):
    """The preset `source` has the source's sizes; its training (3 segments, one step each) is the default loop.

    On a vector of 32 numbers with 2 classes the source has 1,388,802 parameters, and 257 more with its halting head
    (models/published_s0_s2.py). This one has 1,389,316 there: the same, and 514 of a Q head with two outputs, which is
    trained; no loss ever reached the source's.

    A task of numbers gives its S numbers as they are. A task of tokens gives S·(V − 1): each token as a one-hot vector,
    padding as zeros, side by side, so every place has weights of its own and the length is fixed. The answer is one
    linear map to A·V numbers, for any A. Both maps mix places, as blocks do elsewhere, and grow with the grid, so they
    count as core; only the Q head is counted as a head. Weights start as everywhere here, not as PyTorch's cells do.
    """

    Config = HRMGRUConfig
    summary = "HRM of the parity project: two GRU cells on the whole input as one vector, 3 × 4 cycles"
    LOOP: ClassVar[dict[str, Any]] = {"segments": 3, "rollout": 1}
    GROUPS: ClassVar[dict[str, str]] = {"q_head": "heads", "puzzle_emb": "puzzle_table"}
    config: HRMGRUConfig

    def __init__(
        self, config: HRMGRUConfig, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, shape, dtype)
        if shape.causal:
            raise UserError("hrm-gru reads the whole input as one vector; it can't run a causal task")
        hidden, width = config.hidden, config.inner_width
        numbers = shape.sequence_length * (1 if shape.features else shape.vocabulary - 1)
        self.input_proj = Affine(numbers, width, generator)
        self.puzzle_emb = PuzzleEmbedding(shape.num_puzzles, width, generator) if config.puzzle_embedding else None
        self.L_cell = GRUCell(width + 2 * hidden, hidden, generator)
        self.H_cell = GRUCell(2 * hidden, hidden, generator)
        self.norm = LayerNorm(hidden, config.rms_eps, generator)
        self.lm_head = Affine(hidden, shape.answer_length * shape.vocabulary, generator)
        self.q_head = HaltingHead(hidden, generator)

    def initial_state(self, batch: Batch, keys: Tensor | None = None) -> State:
        zeros = torch.zeros((len(batch.inputs), self.config.hidden), dtype=self.dtype, device=batch.inputs.device)
        return {"z_H": zeros, "z_L": zeros, **self.start(batch, keys)}

    def forward(self, state: State, batch: Batch) -> tuple[State, Prediction]:
        # the lookup stands apart from the segment, since torch.compile can't take its sparse gradient
        return self.segment(state, batch, self.puzzle_emb(batch.puzzle_ids) if self.puzzle_emb is not None else None)

    def compile_segment(self) -> None:
        self.segment = torch.compile(self.segment, dynamic=False)  # type: ignore[method-assign]

    def segment(self, state: State, batch: Batch, puzzle: Tensor | None) -> tuple[State, Prediction]:
        """One segment, given the rows' puzzle vectors [B, inner] (None without puzzle embedding)."""
        with weights_cast_once(self, self.dtype):
            z_H, z_L = self.update(state["z_H"], state["z_L"], self.embed(batch, puzzle))
            logits = self.lm_head(self.norm(z_H)).view(len(z_H), self.shape.answer_length, self.shape.vocabulary)
            q_halt, q_continue = self.q_head(z_H)
        return {"z_H": z_H, "z_L": z_L, **self.following(state)}, Prediction(logits, q_halt, q_continue)

    def embed(self, batch: Batch, puzzle: Tensor | None) -> Tensor:
        """[B, inner]: GELU of a linear map of the whole input (and of the puzzle's vector)."""
        x = self.input_proj(self.vector(batch))
        return F.gelu(x if puzzle is None else x + puzzle.to(x.dtype))

    def length_problem(self, length: int) -> str | None:
        if length == self.shape.sequence_length:
            return None
        return f"hrm-gru is built for inputs of {self.shape.sequence_length} positions alone, these have {length}"

    def vector(self, batch: Batch) -> Tensor:
        """[B, S] numbers, or [B, S·(V − 1)] tokens as one-hot vectors side by side, scaled to a mean square of 1."""
        inputs = batch.inputs
        if (problem := self.length_problem(inputs.shape[1])) is not None:
            raise UserError(problem)
        if self.shape.features:
            return inputs.to(self.dtype)
        symbols = torch.arange(1, self.shape.vocabulary, device=inputs.device)
        one_hot = (inputs[..., None] == symbols).flatten(1).to(self.dtype)
        return one_hot * math.sqrt(self.shape.vocabulary - 1)

    def update(self, z_H: Tensor, z_L: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """H_cycles × L_cycles updates, of which only the last L and the last H carry gradient. L reads x, z_H and its
        own state (which the cell sees a second time), H reads z_L and its own."""
        H_cycles, L_cycles = self.config.H_cycles, self.config.L_cycles
        with torch.no_grad():
            for h in range(H_cycles):
                last_h = h == H_cycles - 1
                for _ in range(L_cycles - last_h):
                    z_L = self.L_cell(torch.cat((x, z_H, z_L), dim=1), z_L)
                if not last_h:
                    z_H = self.H_cell(torch.cat((z_L, z_H), dim=1), z_H)
        z_L = self.L_cell(torch.cat((x, z_H, z_L), dim=1), z_L)
        z_H = self.H_cell(torch.cat((z_L, z_H), dim=1), z_H)
        return z_H, z_L

    @property
    def layers_per_segment(self) -> int:
        """A cell's update counts as one layer application."""
        return self.config.H_cycles * (self.config.L_cycles + 1)


class GRUCell(nn.Module):
    """A gated recurrent unit as PyTorch defines it (reset gate after the product, arXiv 1406.1078 v1):

    r, u, n from x [B, inputs] and h [B, D]; h ← (1 − u)·n + u·h, n = tanh(x-part + r · h-part).
    """

    def __init__(self, inputs: int, hidden: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.input_proj = Affine(inputs, 3 * hidden, generator)
        self.state_proj = Affine(hidden, 3 * hidden, generator)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        x_r, x_u, x_n = self.input_proj(x).chunk(3, dim=1)
        h_r, h_u, h_n = self.state_proj(h).chunk(3, dim=1)
        r, u = torch.sigmoid(x_r + h_r), torch.sigmoid(x_u + h_u)
        n = torch.tanh(x_n + r * h_n)
        return (1 - u) * n + u * h
