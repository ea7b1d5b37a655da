"""Writing text from left to right with any causal model: greedily or by sampling, for a fixed number of segments."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

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
    longest: int | None = None,
    guess: Tensor | None = None,
) -> Generated:
    """Up to `new_tokens` tokens after each prompt; a row ends at its first token in `stop`. Padding is never written.

    prompts [B, P] tokens, padded on the right; prompt_length [B], from 1 to P. Each token comes from `segments`
    segments (1 in one-pass models), none cut short by the halting head. temperature 0 takes the likeliest token; above,
    tokens are drawn from softmax(logits / temperature), row r by the numbers of (seed, keys[r]) alone (keys [B], by
    default the row's number), so that a row is the same whatever its batch mates. longest: no text grows beyond so many
    tokens, prompt included.

    One-pass models keep keys and values of what they have read (`cache`). Recurrent ones compute every position anew:
    their states change from call to call, so a cache would hold one entry per layer application (384 for the paper's
    HRM) instead of one per layer. They write in rounds (see `_in_rounds`), which changes no token; `guess`
    [B, new_tokens], such as what the model wrote with fewer segments, saves rounds and changes none either.

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
    drawn = CounterRandom(seeds.key("generation", seed), keys).uniform(new_tokens) if temperature else None
    chooser = _Chooser(temperature, drawn, torch.tensor(sorted(stop), dtype=torch.int32, device=device))
    room = torch.full_like(length, new_tokens)
    if longest is not None:
        room = (longest - length).clamp(0, new_tokens)
    was_training = model.training
    model.eval()
    # a cache takes a column for each place of the widest prompt, more than learned positions may have
    if cache and isinstance(model, Remembering) and (longest is None or not model.length_problem(P + new_tokens)):
        written = _one_by_one(model, batch, new_tokens, room, chooser)
    else:
        if guess is None:
            guess = torch.full((B, new_tokens), PAD, dtype=torch.int32, device=device)
        written = _in_rounds(model, batch, keys, segments if model.recurrent else 1, room, chooser, guess)
    model.train(was_training)
    return Generated(written, (written != PAD).sum(1))


@dataclass(frozen=True)
class _Chooser:
    """Which token follows: the likeliest, or by a row's random number for each place, drawn [B, new_tokens]."""

    temperature: float
    drawn: Tensor | None
    stops: Tensor

    def __getitem__(self, rows: Tensor) -> _Chooser:
        return self if self.drawn is None else replace(self, drawn=self.drawn[rows])

    def choose(self, logits: Tensor, start: int) -> Tensor:
        """[B, T] int32 for logits [B, T, V] of the places from `start` on: the likeliest token, or the one in whose
        part of the cumulative distribution the row's number for that place falls. Never padding."""
        if self.drawn is None:
            return logits.index_fill(2, torch.tensor([PAD], device=logits.device), -torch.inf).argmax(2).int()
        logits = logits.double().index_fill(2, torch.tensor([PAD], device=logits.device), -torch.inf)
        below = torch.softmax(logits / self.temperature, dim=2).cumsum(2)
        number = self.drawn[:, start : start + logits.shape[1], None] * below[..., -1:]
        return (below <= number).sum(2).clamp(max=logits.shape[2] - 1).int()

    def ended(self, tokens: Tensor) -> Tensor:
        """[B, T] bool: a stop token stands before the place."""
        stop = torch.isin(tokens, self.stops)
        return (stop.cumsum(1) - stop.int()) > 0


def _in_rounds(
    model: ReasoningModel, batch: Batch, keys: Tensor, segments: int, room: Tensor, chooser: _Chooser, guess: Tensor
) -> Tensor:
    """[B, new_tokens]: what writing token by token gives, in as many passes as it takes rather than one per token.

    A pass reads prompt and guess, and chooses the token for every place, given the guess before it; the choices are the
    next guess. Where a pass changes nothing, each token is the model's choice after those before it: that is the text
    that token by token gives, whatever was guessed first, since no place sees a later one. Each pass settles one place
    at least, since the first k places are settled after k passes. (Jacobi decoding: Song et al. 2021, arXiv 2002.03629;
    Santilli et al. 2023, arXiv 2305.10427.) Rows that are done leave once half of those at work are, so that there are
    few different batch sizes.
    """
    new = guess.shape[1]
    device = guess.device
    P = batch.inputs.shape[1]
    width = max(P, int((batch.facts["prompt_length"] + room).max()) - 1)  # the last token is written, never read
    prompts = torch.nn.functional.pad(batch.inputs, (0, width - P))
    place = torch.arange(new, device=device)
    written = guess.clone()
    at_work = torch.arange(len(guess), device=device)
    for _ in range(new):
        length, fits = batch.facts["prompt_length"][at_work], place < room[at_work, None]
        columns = (length[:, None] + place).clamp(max=width - 1)
        before = written[at_work]
        read = place < room[at_work, None] - 1
        text = prompts[at_work].scatter_add(1, columns, torch.where(read, before, PAD))
        now = Batch(text, text, batch.puzzle_ids[at_work], {"prompt_length": length})
        source = (length[:, None] + place - 1).where(fits, length[:, None] - 1)
        state = model.initial_state(now, keys[at_work])
        for _ in range(segments - 1):
            state, _none = model.answer_at(state, now, source[:, :0])
        _state, logits = model.answer_at(state, now, source)
        choice = torch.where(fits, chooser[at_work].choose(logits, 0), PAD)
        matters = fits & ~chooser.ended(choice)
        done = ((choice == before) | ~matters).all(1)
        written[at_work] = choice
        if bool(done.all()):
            break
        if int(done.sum()) * 2 >= len(done):
            at_work = at_work[~done]
    return torch.where(chooser.ended(written), PAD, written)


def _one_by_one(model: Remembering, batch: Batch, new_tokens: int, room: Tensor, chooser: _Chooser) -> Tensor:
    """[B, new_tokens]: the prompts read once, then one token at a time: its column stands behind all prompts, its
    position behind its own, and a row does not look at the padding between."""
    B, P = batch.inputs.shape
    slots = model.config.slots  # type: ignore[attr-defined]
    device = batch.inputs.device
    length = batch.facts["prompt_length"].clone()
    columns = torch.arange(slots + P + new_tokens, device=device)
    visible = (columns < slots + length[:, None]) | (columns >= slots + P)
    written = torch.full((B, new_tokens), PAD, dtype=torch.int32, device=device)
    open_rows = room > 0
    logits, memory = model.read(batch, length[:, None] - 1)
    logits = logits[:, 0]
    for step in range(new_tokens):
        last = chooser.choose(logits[:, None], step)[:, 0]
        written[:, step] = torch.where(open_rows, last, PAD)
        open_rows = open_rows & ~torch.isin(last, chooser.stops) & (step + 1 < room)
        if step + 1 == new_tokens or not bool(open_rows.any()):
            break
        length.add_(1)
        logits = model.read_one(last, slots + length - 1, visible, memory)
    return written
