"""The Hierarchical Reasoning Model of arXiv 2506.21734, as its public code defines it, and its ablations.

Two stacks of blocks pass one grid of states each to one another by addition: L sees the input and H's state, H sees
L's state only. In a segment, all but the last L call and the last H call run without gradient ("one-step gradient").
Each switch of HRMConfig takes away one thing of which the paper says that it matters; the defaults are the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from models.base import ModelConfig, ModelShape, State, register_model
from models.layers import Block, Stack, Surroundings
from models.recurrent import RecurrentModel


class Call(NamedTuple):
    """One L call of a segment and what goes with it."""

    ends_cycle: bool  # an H call follows
    injects: bool  # the input is added before
    carries: bool  # both run with gradient

    def gradient(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.carries else torch.no_grad()


class HRMConfig(ModelConfig):
    H_layers: int = Field(4, ge=1, description="blocks in the H module")
    L_layers: int = Field(4, ge=1, description="blocks in the L module")
    H_cycles: int = Field(2, ge=1, description="H updates per segment")
    L_cycles: int = Field(2, ge=1, description="L updates per H update")
    modules: Literal["both", "shared", "L"] = Field(
        "both", description="both; shared: one module of L_layers does H's work, too; L: no H at all, one state"
    )
    gradient: Literal["one_step", "last_cycle", "full"] = Field(
        "one_step",
        description="what of a segment carries gradient: the last L and the last H call; the last H cycle; all calls "
        "(with the loop's detach: false and rollout: segments, back-propagation through all time)",
    )
    inject: Literal["every", "first"] = Field(
        "every", description="the input is added before every L call, or only before the first of a segment"
    )
    H_to_L: bool = Field(True, description="L sees H's state")
    L_to_H: bool = Field(True, description="H sees L's state; without it heads read the sum of both states")

    @model_validator(mode="before")
    @classmethod
    def _one_module_is_as_deep_as_itself(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("modules", "both") != "both" and "H_layers" not in values:
            return {**values, "H_layers": values.get("L_layers", 4)}
        return values

    @model_validator(mode="after")
    def _switches_agree(self) -> HRMConfig:
        if self.inject == "first" and self.gradient != "full" and self.H_cycles * self.L_cycles > 1:
            raise ValueError("inject: first lets no gradient reach the embedding unless gradient is full; set it, too")
        if self.modules == "L" and not (self.H_to_L and self.L_to_H):
            raise ValueError("modules: L has no H to cut a link to; leave H_to_L and L_to_H alone")
        if self.modules != "both" and self.H_layers != self.L_layers:
            raise ValueError(f"modules: {self.modules} has one module, of L_layers blocks; leave H_layers out")
        return self


def _source_s4(hidden: int, layers: int, H_cycles: int, L_cycles: int) -> dict[str, Any]:
    """A size of S4's: its width, layers per module and cycles; heads of 64."""
    both = {"H_layers": layers, "L_layers": layers, "H_cycles": H_cycles, "L_cycles": L_cycles}
    return {"hidden": hidden, "heads": hidden // 64, **both}


S4_SEGMENTS = {"micro": 4, "tiny": 6, "small": 8, "base": 10, "large": 12, "xlarge": 16}
"""S4's largest numbers of segments, read off its layer applications per answer (48, 384, 960, 2,160, 5,120). For `tiny`
it states none; 6 is the step between its neighbours."""


@register_model(
    "hrm",
    presets={
        "paper": {"hidden": 512, "heads": 8, "H_layers": 4, "L_layers": 4},
        "s4-micro": _source_s4(256, 2, 2, 2),
        "s4-tiny": _source_s4(384, 4, 2, 2),
        "s4-small": _source_s4(512, 6, 2, 3),
        "s4-base": _source_s4(768, 8, 3, 3),
        "s4-large": _source_s4(1024, 12, 3, 4),
        "s4-xlarge": _source_s4(1536, 16, 4, 4),
    },
    loops={f"s4-{size}": {"segments": segments} for size, segments in S4_SEGMENTS.items()},
)
class HRM(RecurrentModel):
    """HRM as published. The preset `paper` is 512 wide with 4 + 4 layers: 27,275,266 parameters on Sudoku.

    The presets `s4-…` are the sizes of the Keras port (source system S4), which follows the published code. Its table
    of parameters is too low by 1.98 to 2.84 times; the cores are 3.4, 14.2, 40.9, 113.2, 308.3 and 906.0 million. Its
    blocks have norms with a learned scale, ours as published none: that is 2 · width numbers per block, at most 0.1 %.
    """

    Config = HRMConfig
    summary = "HRM as published: two modules, 2 × 2 cycles, one-step gradient, Q-learning halting; ablation switches"
    config: HRMConfig

    def __init__(
        self, config: HRMConfig, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, shape, dtype, generator)
        if config.modules == "both":
            self.H_level = Stack(Block(config, shape.causal, generator) for _ in range(config.H_layers))
        self.L_level = Stack(Block(config, shape.causal, generator) for _ in range(config.L_layers))
        self.own_states(generator)
        self.calls = tuple(self._calls())

    @property
    def buffers_of_states(self) -> dict[str, str]:
        # not super(): torch.compile would break the segment into seven pieces there
        return {"z_L": "L_init"} if self.config.modules == "L" else self.STATES

    def update(self, states: State, x: Tensor, around: Surroundings) -> State:
        """H_cycles × L_cycles L updates with an H update after each L_cycles; `gradient` says which carry gradient."""
        z_L = states["z_L"]
        if self.config.modules == "L":
            for call in self.calls:
                with call.gradient():
                    z_L = self.L_level(_plus(z_L, None, x if call.injects else None), around)
            return {"z_L": z_L}
        z_H = states["z_H"]
        H_level = self.H_level if self.config.modules == "both" else self.L_level
        for call in self.calls:
            with call.gradient():
                seen = z_H if self.config.H_to_L else None
                z_L = self.L_level(_plus(z_L, seen, x if call.injects else None), around)
                if call.ends_cycle:
                    z_H = H_level(z_H + z_L if self.config.L_to_H else z_H, around)
        return {"z_H": z_H, "z_L": z_L}

    def _calls(self) -> Iterator[Call]:
        c = self.config
        for h in range(c.H_cycles):
            for low in range(c.L_cycles):
                last_cycle, last_low = h == c.H_cycles - 1, low == c.L_cycles - 1
                carries = {"full": True, "last_cycle": last_cycle, "one_step": last_cycle and last_low}[c.gradient]
                yield Call(last_low, c.inject == "every" or (h == 0 and low == 0), carries)

    def read_out(self, states: State) -> Tensor:
        if self.config.modules != "L" and not self.config.L_to_H:
            return states["z_H"] + states["z_L"]
        return super().read_out(states)

    @property
    def layers_per_segment(self) -> int:
        c = self.config
        high = {"both": c.H_layers, "shared": c.L_layers, "L": 0}[c.modules]
        return c.H_cycles * (c.L_cycles * c.L_layers + high)


def _plus(z: Tensor, first: Tensor | None, second: Tensor | None) -> Tensor:
    """z + (first + second), in the published order of additions, without what is None."""
    if first is not None and second is not None:
        return z + (first + second)
    added = first if second is None else second
    return z if added is None else z + added
