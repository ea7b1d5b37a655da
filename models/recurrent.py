"""What families share that carry states as large as their input from segment to segment and halt by a Q head."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from models.base import Prediction, State
from models.embedded import TokenModel
from models.layers import HaltingHead, Surroundings, truncated_normal, weights_cast_once
from tasks.base import Batch


class RecurrentModel(TokenModel):
    """A segment embeds the input, updates the states, and reads answer and halting values from the first of them.

    Subclasses name their states, build their blocks, then call `own_states`, and give `update`.
    """

    # state → buffer with its initial vector
    STATES: ClassVar[dict[str, str]] = {"z_H": "H_init", "z_L": "L_init"}

    @property
    def buffers_of_states(self) -> dict[str, str]:
        """STATES, or fewer of them where a configuration has fewer."""
        return self.STATES

    def own_states(self, generator: torch.Generator | None) -> None:
        """Make the halting head and the initial vectors: drawn once, saved, never trained, one for all positions."""
        hidden = self.config.hidden
        self.q_head = HaltingHead(hidden, generator)
        for name in self.buffers_of_states.values():
            self.register_buffer(name, truncated_normal((hidden,), 1.0, generator))

    def initial_state(self, batch: Batch, keys: Tensor | None = None) -> State:
        B, S = batch.inputs.shape
        shape = (B, self.slots + S, self.config.hidden)
        states = {
            state: getattr(self, init).to(self.dtype).expand(shape) for state, init in self.buffers_of_states.items()
        }
        return {**states, **self.start(batch, keys)}

    def segment(self, state: State, batch: Batch, puzzle: Tensor | None) -> tuple[State, Prediction]:
        with weights_cast_once(self, self.dtype):
            x = self.embed(batch, puzzle)
            states = self.update(
                {name: state[name] for name in self.buffers_of_states}, x, self.surroundings(state, batch)
            )
            top = self.read_out(states)
            q_halt, q_continue = self.q_head(self.halting_vector(top, batch))
            prediction = Prediction(self.answer(top, state), q_halt, q_continue)
        return {**states, **self.following(state)}, prediction

    def read_out(self, states: State) -> Tensor:
        """The state that the heads read: the first."""
        return states[next(iter(self.buffers_of_states))]

    def update(self, states: State, x: Tensor, around: Surroundings) -> State:
        """The states after one segment; x [B, slots + S, D] is the embedded input. Decides what carries gradient."""
        raise NotImplementedError
