"""Answers that a model writes token by token, as the batch and the answers that a causal task's `correct` judges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from harness.errors import UserError
from harness.evaluation.generate import generate
from models.base import ReasoningModel
from tasks.base import PAD, Batch, Task


def as_answers(batch: Batch, tokens: Tensor) -> tuple[Batch, Tensor]:
    """(batch whose inputs are the prompts and what was written, answers [B, S]).

    batch.inputs [B, S] begin with the prompts (fact `prompt_length` [B]); tokens [B, W] were written behind them, W of
    at least S + 1 − the shortest prompt, so that every scored position has an answer. Answer t is the text's token
    t + 1, as labels are.
    """
    length = batch.facts["prompt_length"].long()
    S = batch.inputs.shape[1]
    if tokens.shape[1] < S + 1 - int(length.min()):
        raise UserError(f"{tokens.shape[1]} tokens written, {S + 1 - int(length.min())} are to be judged")
    place = torch.arange(S + 1, device=length.device) - length[:, None]  # in what was written; below 0: the prompt
    prompt = torch.nn.functional.pad(batch.inputs, (0, 1))
    text = torch.where(place < 0, prompt, tokens.gather(1, place.clamp(0, tokens.shape[1] - 1)).to(prompt.dtype))
    return replace(batch, inputs=text[:, :-1]), text[:, 1:]


def write_at(
    model: ReasoningModel, task: Task, batch: Batch, keys: Tensor, segments: int, guess: Tensor | None = None
) -> Tensor:
    """Tokens [B, W] that the model writes to the prompts, greedily, each with `segments` segments; W as `as_answers`
    needs it, or the task's limit. No label is looked at. guess: what it wrote with fewer, which saves time alone."""
    length = batch.facts["prompt_length"]
    S = batch.inputs.shape[1]
    with torch.compiler.set_stance("force_eager"):  # batches shrink as rows are done: each size would be compiled
        return generate(
            model,
            batch.inputs[:, : int(length.max())],
            length,
            min(_room(batch), task.most_written or S),
            segments=segments,
            keys=keys,
            stop=task.stop_tokens,
            puzzle_ids=batch.puzzle_ids,
            longest=S + 1,
            guess=guess,
        ).tokens


def _room(batch: Batch) -> int:
    """Places behind the shortest prompt."""
    return batch.inputs.shape[1] + 1 - int(batch.facts["prompt_length"].min())


def write_answers(
    model: ReasoningModel, task: Task, batch: Batch, keys: Tensor, depths: int
) -> Iterator[tuple[Batch, Tensor]]:
    """What the model itself writes to the prompts with 1 … `depths` segments per token, as `as_answers` gives it.

    Greedy; no label is looked at. Every token takes the same number of segments. A halting head reads the prompt alone
    (its last position), so that the answer of an arm that halts by its own rule after segment d is the one written with
    d segments. keys [B] are those of the rows' initial states.
    """
    tokens = None
    for segments in range(1, depths + 1):
        tokens = write_at(model, task, batch, keys, segments, tokens)
        yield as_answers(batch, torch.nn.functional.pad(tokens, (0, _room(batch) - tokens.shape[1]), value=PAD))
