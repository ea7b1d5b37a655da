"""Writing text from left to right with any causal model: greedily or by sampling, for a fixed number of segments."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from harness import seeds
from harness.errors import UserError
from harness.random import CounterRandom
from models.base import ReasoningModel, Remembering
from tasks.base import PAD, Batch


@dataclass(frozen=True)
class Generated:
    """tokens [B, new_tokens] int32: what was written, a stop token included, padding behind it; lengths [B] int64."""

    tokens: Tensor
    lengths: Tensor


@torch.no_grad()
def generate(
    model: ReasoningModel,
    prompts: Tensor,
    prompt_length: Tensor,
    new_tokens: int,
    *,
    segments: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    keys: Tensor | None = None,
    stop: Collection[int] = (),
    puzzle_ids: Tensor | None = None,
    cache: bool = True,
) -> Generated:
    """Up to `new_tokens` tokens after each prompt; a row ends at its first token in `stop`. Padding is never written.

    prompts [B, P] tokens, padded on the right; prompt_length [B], from 1 to P. Each token comes from `segments`
    segments (1 in one-pass models), none cut short by the halting head. temperature 0 takes the likeliest token; above,
    tokens are drawn from softmax(logits / temperature), row r by the numbers of (seed, keys[r]) alone (keys [B], by
    default the row's number), so that a row is the same whatever its batch mates.

    One-pass models keep keys and values of what they have read (`cache`). Recurrent ones compute every position anew
    for each token: their states change from call to call, so a cache would hold one entry per layer application
    (384 for the paper's HRM) instead of one per layer.

    Raises UserError where the model is not causal, does not answer at every position, or a length does not fit.
    """
    shape = model.shape
    if not shape.causal or shape.features or shape.answer_length != shape.sequence_length:
        raise UserError("generation needs a model of a causal task of tokens that answers at every position")
    B, P = prompts.shape
    device = prompts.device
    if len(prompt_length) != B or bool(((prompt_length < 1) | (prompt_length > P)).any()):
        raise UserError(f"prompt_length must give {B} numbers from 1 to {P}, the width of the prompts")
    if temperature < 0 or segments < 1 or new_tokens < 1:
        raise UserError("temperature must be at least 0, segments and new_tokens at least 1")
    rows = torch.arange(B, device=device)
    keys = rows if keys is None else keys
    length = prompt_length.long()
    ids = torch.zeros(B, dtype=torch.int32, device=device) if puzzle_ids is None else puzzle_ids
    # behind a prompt only padding, whatever the caller left there
    text = torch.where(torch.arange(P, device=device) < length[:, None], prompts.int(), PAD)
    batch = Batch(text, text, ids, {"prompt_length": length})
    remembers = cache and isinstance(model, Remembering)
    follow = _cached(model, batch, new_tokens) if remembers else _anew(model, batch, new_tokens, segments, keys)
    random = CounterRandom(seeds.key("generation", seed), keys)
    was_training = model.training
    model.eval()
    written = torch.full((B, new_tokens), PAD, dtype=torch.int32, device=device)
    open_rows = torch.ones(B, dtype=torch.bool, device=device)
    stops = torch.tensor(sorted(stop), dtype=torch.int32, device=device)
    last: Tensor | None = None
    for step in range(new_tokens):
        last = _chosen(follow(last), temperature, random.at(step))
        written[:, step] = torch.where(open_rows, last, PAD)
        open_rows = open_rows & ~torch.isin(last, stops)
        if not bool(open_rows.any()):
            break
    model.train(was_training)
    return Generated(written, (written != PAD).sum(1))


Follow = Callable[[Tensor | None], Tensor]
"""Logits [B, V] of the next token, given the one [B] that was chosen last; None at the first."""


def _anew(model: ReasoningModel, batch: Batch, new_tokens: int, segments: int, keys: Tensor) -> Follow:
    """Every position computed again for every token, at one width, so that a compiled segment is compiled once."""
    rows = torch.arange(len(batch.inputs), device=batch.inputs.device)
    length = batch.facts["prompt_length"].clone()
    text = torch.nn.functional.pad(batch.inputs, (0, new_tokens), value=PAD)

    def follow(last: Tensor | None) -> Tensor:
        if last is not None:
            text[rows, length] = last
            length.add_(1)
        now = Batch(text, text, batch.puzzle_ids, batch.facts)
        state = model.initial_state(now, keys)
        for _ in range(segments if model.recurrent else 1):
            state, prediction = model(state, now)
        return prediction.logits[rows, length - 1]

    return follow


def _cached(model: ReasoningModel, batch: Batch, new_tokens: int) -> Follow:
    """The prompts read once, then one token at a time: its column stands behind all prompts, its position behind its
    own, and a row does not look at the padding between."""
    assert isinstance(model, Remembering)
    B, P = batch.inputs.shape
    slots = model.config.slots
    device = batch.inputs.device
    rows = torch.arange(B, device=device)
    length = batch.facts["prompt_length"].clone()
    columns = torch.arange(slots + P + new_tokens, device=device)
    visible = (columns < slots + length[:, None]) | (columns >= slots + P)
    memory = None

    def follow(last: Tensor | None) -> Tensor:
        nonlocal memory
        if last is None:
            logits, memory = model.read(batch)
            return logits[rows, length - 1]
        length.add_(1)
        return model.read_one(last, slots + length - 1, visible, memory)

    return follow


def _chosen(logits: Tensor, temperature: float, random: CounterRandom) -> Tensor:
    """[B] int32 from logits [B, V]: the likeliest, or where a row's number falls in the cumulative distribution."""
    logits = logits.double() if logits.device.type != "mps" else logits.float()
    logits = logits.index_fill(1, torch.tensor([PAD], device=logits.device), -torch.inf)
    if temperature == 0:
        return logits.argmax(1).int()
    below = torch.softmax(logits / temperature, dim=1).cumsum(1)
    drawn = random.uniform(1) * below[:, -1:]
    return (below <= drawn).sum(1).clamp(max=logits.shape[1] - 1).int()
