"""A transformer of the same blocks that answers in one pass: the "direct prediction" baseline of the HRM paper."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from models.base import ModelConfig, ModelShape, Prediction, State, register_model
from models.embedded import TokenModel
from models.layers import Block, KeyValueMemory, Stack, Surroundings, weights_cast_once
from tasks.base import Batch


class TransformerConfig(ModelConfig):
    layers: int = Field(8, ge=1, description="blocks")


@register_model("transformer", presets={"paper": {"hidden": 512, "heads": 8, "layers": 8}})
class Transformer(TokenModel):
    """Embedding, blocks, head: one segment, no state, no halting. Everything else is HRM's own parts."""

    Config = TransformerConfig
    summary = "the same blocks in one pass: no recurrence, no halting"
    recurrent = False
    config: TransformerConfig

    def __init__(
        self, config: TransformerConfig, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, shape, dtype, generator)
        self.stack = Stack(Block(config, shape.causal, generator) for _ in range(config.layers))

    def initial_state(self, batch: Batch, keys: Tensor | None = None) -> State:
        return self.start(batch, keys)

    def segment(self, state: State, batch: Batch, puzzle: Tensor | None) -> tuple[State, Prediction]:
        with weights_cast_once(self, self.dtype):
            z = self.stack(self.embed(batch, puzzle), self.surroundings(state, batch))
            prediction = Prediction(self.answer(z, state))
        return self.following(state), prediction

    def read(self, batch: Batch) -> tuple[Tensor, KeyValueMemory]:
        state, memory = self.start(batch, None), KeyValueMemory()
        around = self.surroundings(state, batch)
        around.memory = memory
        with weights_cast_once(self, self.dtype):
            z = self.stack(self.embed(batch, self.puzzle_vectors(batch)), around)
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
            z = self.stack(x[:, None], around)
            return self.read_out_at(z, {"segment": torch.zeros_like(tokens)})[:, 0]

    @property
    def layers_per_segment(self) -> int:
        return self.config.layers
