"""What a model wrote, as the batch and the answers that a causal task's `correct` judges."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from harness.errors import UserError
from tasks.base import Batch


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
