"""The Hierarchical Reasoning Model of arXiv 2506.21734, as its public code defines it.

Two stacks of blocks pass one grid of states each to one another by addition: L sees the input and H's state, H sees
L's state only. In a segment, all but the last L call and the last H call run without gradient ("one-step gradient").
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from models.base import ModelConfig, ModelShape, State, register_model
from models.layers import Block, Stack, Surroundings
from models.recurrent import RecurrentModel


class HRMConfig(ModelConfig):
    H_layers: int = Field(4, ge=1, description="blocks in the H module")
    L_layers: int = Field(4, ge=1, description="blocks in the L module")
    H_cycles: int = Field(2, ge=1, description="H updates per segment")
    L_cycles: int = Field(2, ge=1, description="L updates per H update")


@register_model("hrm", presets={"paper": {"hidden": 512, "heads": 8, "H_layers": 4, "L_layers": 4}})
class HRM(RecurrentModel):
    """HRM as published. The preset `paper` is 512 wide with 4 + 4 layers: 27,275,266 parameters on Sudoku."""

    Config = HRMConfig
    summary = "HRM as published: two modules, 2 × 2 cycles, one-step gradient, Q-learning halting"
    config: HRMConfig

    def __init__(
        self, config: HRMConfig, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, shape, dtype, generator)
        self.H_level = Stack(Block(config, shape.causal, generator) for _ in range(config.H_layers))
        self.L_level = Stack(Block(config, shape.causal, generator) for _ in range(config.L_layers))
        self.own_states(generator)

    def update(self, states: State, x: Tensor, around: Surroundings) -> State:
        """H_cycles × L_cycles updates, of which only the last L and the last H carry gradient."""
        z_H, z_L = states["z_H"], states["z_L"]
        H_cycles, L_cycles = self.config.H_cycles, self.config.L_cycles
        with torch.no_grad():
            for h in range(H_cycles):
                last_h = h == H_cycles - 1
                for _ in range(L_cycles - last_h):
                    z_L = self.L_level(z_L + (z_H + x), around)
                if not last_h:
                    z_H = self.H_level(z_H + z_L, around)
        z_L = self.L_level(z_L + (z_H + x), around)
        z_H = self.H_level(z_H + z_L, around)
        return {"z_H": z_H, "z_L": z_L}

    @property
    def layers_per_segment(self) -> int:
        c = self.config
        return c.H_cycles * (c.L_cycles * c.L_layers + c.H_layers)
