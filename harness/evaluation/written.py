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


def write_answers(
    model: ReasoningModel, task: Task, batch: Batch, keys: Tensor, depths: int
) -> Iterator[tuple[Batch, Tensor]]:
    """What the model itself writes to the prompts with 1 … `depths` segments per token, as `as_answers` gives it.

    Greedy; no label is looked at. Every token takes the same number of segments. A halting head reads the prompt alone
    (its last position), so that the answer of an arm that halts by its own rule after segment d is the one written with
    d segments. keys [B] are those of the rows' initial states.
    """
    length = batch.facts["prompt_length"]
    S = batch.inputs.shape[1]
    prompts = batch.inputs[:, : int(length.max())]
    most = room = S + 1 - int(length.min())
    if task.most_written is not None:
        most = min(room, task.most_written)
    tokens = None
    for segments in range(1, depths + 1):
        with torch.compiler.set_stance("force_eager"):  # batches shrink as rows are done: each size would be compiled
            tokens = generate(
                model,
                prompts,
                length,
                most,
                segments=segments,
                keys=keys,
                stop=task.stop_tokens,
                puzzle_ids=batch.puzzle_ids,
                longest=S + 1,
                guess=tokens,
            ).tokens
        yield as_answers(batch, torch.nn.functional.pad(tokens, (0, room - most), value=PAD))
