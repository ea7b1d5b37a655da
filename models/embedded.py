"""What families share that take tokens (or numbers) in: slots with the puzzle vector, positions, output head."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from harness.errors import UserError
from models.base import ModelConfig, ModelShape, Prediction, ReasoningModel, State, at_places
from models.layers import (
    FeatureEmbedding,
    Linear,
    PuzzleEmbedding,
    Rotary,
    Surroundings,
    TokenEmbedding,
    attention_mask,
)
from tasks.base import Batch


class SlottedModel(ReasoningModel):
    """Places before the sequence, the puzzle vector in the first of them, and a segment that torch.compile can take."""

    slots: int
    puzzle_emb: PuzzleEmbedding | None
    places: Tensor | None = None  # [B, T]: where the answer is wanted; None: everywhere

    def forward(self, state: State, batch: Batch) -> tuple[State, Prediction]:
        return self.segment(state, batch, self.puzzle_vectors(batch))

    @contextlib.contextmanager
    def answering_at(self, places: Tensor) -> Iterator[None]:
        """The answer is computed at `places` [B, T] alone: over GPT-2's 50,257 symbols, the head at all 512 places of a
        text costs more than the layers of a small model."""
        self.places = places
        try:
            yield
        finally:
            self.places = None

    def answer_at(self, state: State, batch: Batch, places: Tensor) -> tuple[State, Tensor]:
        with self.answering_at(places):
            state, prediction = self(state, batch)
        return state, prediction.logits

    def puzzle_vectors(self, batch: Batch) -> Tensor | None:
        """[B, D]. Apart from the segment, since torch.compile can't take the lookup's sparse gradient."""
        return self.puzzle_emb(batch.puzzle_ids) if self.puzzle_emb is not None else None

    def segment(self, state: State, batch: Batch, puzzle: Tensor | None) -> tuple[State, Prediction]:
        """One segment, given the rows' puzzle vectors [B, D] (None without puzzle embedding)."""
        raise NotImplementedError

    def compile_segment(self) -> None:
        self.segment = torch.compile(self.segment, dynamic=False)  # type: ignore[method-assign]

    def with_slots(self, x: Tensor, puzzle: Tensor | None) -> Tensor:
        """[B, slots + S, D] from x [B, S, D]: the puzzle vector [B, D] first, zeros in the other slots."""
        before = [] if puzzle is None else [puzzle[:, None, :].to(x.dtype)]
        empty = self.slots - len(before)
        return torch.cat((*before, x.new_zeros((len(x), empty, x.shape[2])), x), dim=1)

    def answered(self, z: Tensor) -> Tensor:
        """The answer's positions of z [B, slots + S, …], or those of them that are wanted; where answers fill the grid,
        they are the batch's S."""
        if self.places is not None:
            return at_places(z, self.places + self.slots)
        fills_grid = self.shape.answer_length == self.shape.sequence_length
        end = z.shape[1] if fills_grid else self.shape.answer_length + self.slots
        return z[:, self.slots : end]


class TokenModel(SlottedModel):
    """Embeds tokens and reads answers; what happens between is the family's. See ReasoningModel for the contract."""

    def __init__(
        self, config: ModelConfig, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, shape, dtype)
        self.slots = config.slots
        self.embed_tokens: TokenEmbedding | FeatureEmbedding = (
            FeatureEmbedding(config.hidden, generator)
            if shape.features
            else TokenEmbedding(shape.vocabulary, config.hidden, generator)
        )
        self.lm_head = Linear(config.hidden, shape.vocabulary, generator)
        self.segment_head = nn.ModuleList(
            Linear(config.hidden, shape.vocabulary, generator) for _ in range(config.segment_heads)
        )
        if shape.causal and self.slots and not config.puzzle_embedding:
            raise UserError("under a causal mask an empty first slot sees nothing and holds nothing; set slots: 0")
        # a first slot that sees itself alone must not be zero: each norm would pass on 316 times its gradient, 1/√ε
        std = 1 / math.sqrt(config.hidden) if shape.causal else 0.0
        self.puzzle_emb = (
            PuzzleEmbedding(shape.num_puzzles, config.hidden, generator, std) if config.puzzle_embedding else None
        )
        self.embed_pos = (
            TokenEmbedding(shape.sequence_length + self.slots, config.hidden, generator)
            if config.positions == "learned"
            else None
        )
        self.rotary = Rotary(config.hidden // config.heads, config.rope_theta) if config.positions == "rope" else None

    def length_problem(self, length: int) -> str | None:
        if self.embed_pos is None or length + self.slots <= len(self.embed_pos.embedding_weight):
            return None
        most = len(self.embed_pos.embedding_weight) - self.slots
        return f"learned positions end at {most}, inputs have {length}; positions: rope has no end"

    def embed(self, batch: Batch, puzzle: Tensor | None) -> Tensor:
        """[B, slots + S, D]: slots (the puzzle vector first, zeros else), tokens, scaled by √D (with learned positions
        by 1/√2 before)."""
        x = self.with_slots(self.embed_tokens(batch.inputs), puzzle)
        return self.placed(x, slice(x.shape[1]), x.shape[1])

    def placed(self, x: Tensor, places: slice | Tensor, length: int) -> Tensor:
        """x with learned positions added at `places`, all below `length`, scaled, in the type of the activations."""
        if self.embed_pos is not None:
            positions = self.embed_pos.embedding_weight
            if length > positions.shape[0]:
                raise UserError(
                    f"learned positions end at {positions.shape[0]}, an input has {length}; use positions: rope"
                )
            x = (x + positions[places]) * math.sqrt(0.5)
        return (x * math.sqrt(self.config.hidden)).to(self.dtype)

    def surroundings(self, state: State, batch: Batch) -> Surroundings:
        """What the blocks of one segment need beside their input."""
        length = batch.inputs.shape[1] + self.slots
        rotary = self.rotary(length, batch.inputs.device, self.dtype) if self.rotary is not None else None
        # under a causal mask, padding stands behind all that is scored, so nothing scored can see it
        masked = self.shape.masked and not self.shape.causal
        mask = attention_mask(batch.inputs, self.slots) if masked else None
        dropping = self.training and self.config.dropout > 0
        return Surroundings(rotary, mask, self.noise(state) if dropping else None)

    def answer(self, z: Tensor, state: State) -> Tensor:
        """Logits [B, A, V] from z [B, slots + S, D] in the segment after `state`; where answers fill the grid, A is the
        batch's S."""
        return self.read_out_at(self.answered(z), state)

    def read_out_at(self, z: Tensor, state: State) -> Tensor:
        """Logits [B, …, V] of any positions z [B, …, D], by the head of the segment after `state`."""
        logits: Tensor = self.lm_head(z)
        for i, head in enumerate(self.segment_head):
            logits = torch.where((state["segment"] == i)[:, None, None], head(z), logits)
        return logits

    def halting_vector(self, z: Tensor, batch: Batch) -> Tensor:
        """[B, D]: what a Q head reads, the first slot. Under a causal mask that sees nothing, so the prompt's last."""
        if not self.shape.causal:
            return z[:, 0]
        last = batch.facts["prompt_length"].long() - 1 + self.slots
        return z[torch.arange(len(z), device=z.device), last]
