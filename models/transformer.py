"""Transformers of the same blocks in one pass: the HRM paper's "direct prediction", and one made for depth."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from models.base import ModelConfig, ModelShape, Prediction, State, register_model
from models.embedded import TokenModel
from models.layers import (
    Block,
    KeyValueMemory,
    PreNormBlock,
    Stack,
    Surroundings,
    rms_norm,
    weights_cast_once,
)
from tasks.base import Batch


class TransformerConfig(ModelConfig):
    layers: int = Field(8, ge=1, description="blocks")


@register_model("transformer", presets={"paper": {"hidden": 512, "heads": 8, "layers": 8}})
class Transformer(TokenModel):
    """Embedding, blocks, head: one segment, no state, no halting. Everything else is HRM's own parts."""

    Config = TransformerConfig
    summary = "the same blocks in one pass: no recurrence, no halting"
    recurrent = False
    block: ClassVar[type[Block]] = Block
    config: TransformerConfig

    def __init__(
        self, config: TransformerConfig, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, shape, dtype, generator)
        self.stack = Stack(self.block(config, shape.causal, generator) for _ in range(config.layers))

    def initial_state(self, batch: Batch, keys: Tensor | None = None) -> State:
        return self.start(batch, keys)

    def segment(self, state: State, batch: Batch, puzzle: Tensor | None) -> tuple[State, Prediction]:
        with weights_cast_once(self, self.dtype):
            z = self.settled(self.stack(self.embed(batch, puzzle), self.surroundings(state, batch)))
            prediction = Prediction(self.answer(z, state))
        return self.following(state), prediction

    def read(self, batch: Batch, places: Tensor) -> tuple[Tensor, KeyValueMemory]:
        state, memory = self.start(batch, None), KeyValueMemory()
        around = self.surroundings(state, batch)
        around.memory = memory
        with weights_cast_once(self, self.dtype), self.answering_at(places):
            z = self.settled(self.stack(self.embed(batch, self.puzzle_vectors(batch)), around))
            return self.answer(z, state), memory

    def read_one(self, tokens: Tensor, places: Tensor, visible: Tensor, memory: KeyValueMemory) -> Tensor:
        length = visible.shape[1]
        columns = memory.columns + 1
        around = Surroundings(mask=visible[:, None, None, :columns], memory=memory.start_pass())
        if self.rotary is not None:
            cos, sin = self.rotary(length, tokens.device, self.dtype)
            around.rotary = (cos[places][:, None, None], sin[places][:, None, None])
        with weights_cast_once(self, self.dtype):
            x = self.placed(self.embed_tokens(tokens), places, length)
            z = self.settled(self.stack(x[:, None], around))
            return self.read_out_at(z, {"segment": torch.zeros_like(tokens)})[:, 0]

    def settled(self, z: Tensor) -> Tensor:
        """What the answer is read from: the last block's output."""
        return z

    @property
    def layers_per_segment(self) -> int:
        return self.config.layers


@register_model("transformer-prenorm")
class PreNormTransformer(Transformer):
    """The transformer with its norms before attention and SwiGLU, as deep ones are built (GPT-2, Llama; Xiong et al.
    2020, arXiv 2002.04745), with as many parameters.

    HRM's own order, the norm after the sum, does not survive depth: 48 such blocks of width 64 on 4×4 Sudoku gave every
    position the same answer throughout 700 updates, at learning rates 1.5e-3 and 3e-4 alike.
    """

    summary = "the transformer with norms before each part, for many layers"
    block = PreNormBlock

    def settled(self, z: Tensor) -> Tensor:
        return rms_norm(z, self.config.rms_eps)
