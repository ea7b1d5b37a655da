"""Transformers of one state in HRM's outer loop: the same blocks, segments and halting head, but no hierarchy.

`transformer-act` applies its stack once per segment, z ← stack(z + x); `looped`, a weight-tied "universal" transformer,
several times, with the input added before each. The first is a looped one with a single loop, to the bit, so they are
one class: the pair can't drift apart. It is registered under a name of its own, without the field `loops`, so that the
matching solver can't turn the one into the other.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from models.base import ModelShape, State, register_model
from models.layers import Block, Stack, Surroundings
from models.recurrent import RecurrentModel
from models.transformer import TransformerConfig

PAPER = {"hidden": 512, "heads": 8, "layers": 8}


@register_model("transformer-act", presets={"paper": PAPER})
class TransformerACT(RecurrentModel):
    """The one-pass transformer inside HRM's outer loop: state carried, deep supervision, halting, full gradient.

    With the loop's default halting, q_learning, every update runs the bootstrap pass, so q_continue is trained. Public
    baselines of this kind left that pass out, and their rows then halted at almost any predicted chance of success.
    """

    Config = TransformerConfig
    summary = "the one-pass transformer in HRM's outer loop: one stack per segment, state carried, Q head trained"
    STATES: ClassVar[dict[str, str]] = {"z": "z_init"}
    config: TransformerConfig

    def __init__(
        self, config: TransformerConfig, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, shape, dtype, generator)
        self.stack = Stack(Block(config, shape.causal, generator) for _ in range(config.layers))
        self.own_states(generator)

    @property
    def loops(self) -> int:
        """Passes through the stack per segment."""
        return 1

    @property
    def gradient_loops(self) -> int:
        """How many of them, the last ones, carry gradient."""
        return 1

    def update(self, states: State, x: Tensor, around: Surroundings) -> State:
        z = states["z"]
        with torch.no_grad():
            for _ in range(self.loops - self.gradient_loops):
                z = self.stack(z + x, around)
        for _ in range(self.gradient_loops):
            z = self.stack(z + x, around)
        return {"z": z}

    @property
    def layers_per_segment(self) -> int:
        return self.loops * self.config.layers


class LoopedConfig(TransformerConfig):
    loops: int = Field(3, ge=1, description="passes through the stack per segment")
    gradient_loops: int | None = Field(
        1,
        ge=1,
        description="last passes of a segment that carry gradient; null: all. In HRM's window, its last L and its last "
        "H call, every weight is used once with gradient per segment; here that is the last loop",
    )


@register_model("looped", presets={"paper": {**PAPER, "loops": 3}})
class Looped(TransformerACT):
    """A weight-tied transformer. The preset `paper` does HRM's work: 8 layers × 3 loops, 24 layer applications.

    Its gradient window is HRM's by default, so that neither layer work nor the training scheme tells the two apart.
    """

    Config = LoopedConfig
    summary = "weight-tied looped transformer: one state, input added before each loop, HRM's segments and gradient"
    config: LoopedConfig

    @property
    def loops(self) -> int:
        return self.config.loops

    @property
    def gradient_loops(self) -> int:
        return min(self.config.gradient_loops or self.loops, self.loops)
