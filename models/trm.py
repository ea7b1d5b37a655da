"""The Tiny Recursive Model of arXiv 2510.04871, as its public code defines it, in both of its forms.

One small stack does what HRM's two modules do: z_L ← net(z_L + z_H + x), n = L_cycles times, then z_H ← net(z_H + z_L),
all of it T = H_cycles times. The first T − 1 cycles run without gradient, the whole last one with it.
`att` is made of HRM's blocks. `mlp` replaces attention by a SwiGLU along the sequence, for grids of one fixed size.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from harness.errors import UserError
from models.base import ModelConfig, ModelShape, State, published_inner_width, register_model
from models.layers import Block, Layer, Stack, Surroundings, SwiGLU, rms_norm
from models.recurrent import RecurrentModel


class TRMConfig(ModelConfig):
    slots: int = Field(16, ge=0, description="positions before the sequence; those behind the first are registers")
    positions: str = Field("rope", pattern="^(rope|learned|none)$", description="rope, learned or (mixer only) none")
    L_layers: int = Field(2, ge=1, description="blocks in the one module")
    H_cycles: int = Field(3, ge=1, description="z_H updates per segment, T in the paper")
    L_cycles: int = Field(6, ge=1, description="z_L updates per z_H update, n in the paper")
    mixer: bool = Field(False, description="a SwiGLU along the sequence in place of attention (published as mlp_t)")
    mixer_inner: int | None = Field(None, ge=1, description="its inner width; null: the published rule on slots + S")

    @model_validator(mode="after")
    def _positions_of_the_form(self) -> TRMConfig:
        if self.mixer and self.positions == "rope":
            raise ValueError("the mixer form has no attention for rope to act in; set positions: none or learned")
        if not self.mixer and self.positions == "none":
            raise ValueError("attention without positions can't tell one place from another; set rope or learned")
        return self


PAPER = {"hidden": 512, "heads": 8, "L_layers": 2, "H_cycles": 3, "L_cycles": 6}


@register_model("trm", presets={"att": PAPER, "mlp": {**PAPER, "mixer": True, "positions": "none"}})
class TRM(RecurrentModel):
    """TRM as published. On Sudoku `att` has 6,828,034 parameters and `mlp` 5,028,866, without the puzzle table.

    The published commands take L_cycles 6 for Sudoku and 4 for mazes and ARC; the paper says 6 throughout. The training
    that belongs to it: halt where q_halt > 0 (the default loop here), `ema: 0.999` in the recipe.
    """

    Config = TRMConfig
    summary = "TRM as published: one module of 2 layers, 3 × 6 cycles, the last with gradient; attention or mixer"
    LOOP: ClassVar[dict[str, Any]] = {"halting": "q_halt"}
    config: TRMConfig

    def __init__(
        self, config: TRMConfig, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, shape, dtype, generator)
        if config.mixer and shape.causal:
            raise UserError("the mixer form of TRM sees all positions at once; it can't run a causal task")

        def block() -> nn.Module:
            if config.mixer:
                return MixerBlock(config, config.slots + shape.sequence_length, generator)
            return Block(config, shape.causal, generator)

        self.L_level = Stack(block() for _ in range(config.L_layers))
        self.own_states(generator)

    def update(self, states: State, x: Tensor, around: Surroundings) -> State:
        """H_cycles full cycles, of which only the last carries gradient, in all its calls."""
        z_H, z_L = states["z_H"], states["z_L"]

        def cycle(z_H: Tensor, z_L: Tensor) -> tuple[Tensor, Tensor]:
            for _ in range(self.config.L_cycles):
                z_L = self.L_level(z_L + (z_H + x), around)
            return self.L_level(z_H + z_L, around), z_L

        with torch.no_grad():
            for _ in range(self.config.H_cycles - 1):
                z_H, z_L = cycle(z_H, z_L)
        z_H, z_L = cycle(z_H, z_L)
        return {"z_H": z_H, "z_L": z_L}

    def length_problem(self, length: int) -> str | None:
        if self.config.mixer and length != self.shape.sequence_length:
            return (
                f"the mixer form of TRM takes {self.shape.sequence_length} positions alone, inputs have {length}; "
                "its attention form takes any number"
            )
        return super().length_problem(length)

    @property
    def layers_per_segment(self) -> int:
        c = self.config
        return c.H_cycles * (c.L_cycles + 1) * c.L_layers


class MixerBlock(Layer):
    """x ← norm(x + SwiGLU(x)) along the sequence, norm included, then the same along the width. x [B, L, D].

    A weight belongs to each position, so L is fixed, and no mask can be applied: padding is mixed in like any token.
    """

    def __init__(self, config: TRMConfig, length: int, generator: torch.Generator | None) -> None:
        super().__init__(config)
        self.length = length
        inner = config.mixer_inner or published_inner_width(length, config.expansion)
        self.mlp_t = SwiGLU(length, inner, generator)
        self.mlp = SwiGLU(config.hidden, config.inner_width, generator)

    def body(self, x: Tensor, around: Surroundings, call: int) -> Tensor:
        if x.shape[1] != self.length:
            raise UserError(
                f"the mixer form of TRM is built for {self.length} positions, slots included; an input has {x.shape[1]}"
            )
        x = x.transpose(1, 2)
        x = rms_norm(x + around.dropout(self.mlp_t(x), self.rate, call), self.eps).transpose(1, 2)
        return rms_norm(x + around.dropout(self.mlp(x), self.rate, call + 1), self.eps)
