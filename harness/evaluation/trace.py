"""How answers form: what a model says after each segment to a few examples, for the report and for `solve`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from harness.evaluation.states import StateRecorder
from harness.evaluation.written import write_answers
from harness.recipe import Loop
from harness.training.act import detached, wants_to_halt
from harness.training.batches import DeviceData
from models.base import ReasoningModel
from tasks.base import PAD, Examples, Task

MOST_EXAMPLES = 24
MOST_POSITIONS = 6000
"""Examples shown per run: 24, or as many as hold 6,000 positions (6 mazes of side 30), so that a report stays small."""


@dataclass
class Trace:
    """N examples × M segments."""

    trained: int  # segments in training
    answers: np.ndarray  # [N, M, A] tokens, padding where no answer is asked for
    correct: np.ndarray  # [N, M] bool
    q_halt: np.ndarray | None  # [N, M] logits
    halt: np.ndarray | None  # [N, M] bool: the arm's own wish to stop
    states: dict[str, np.ndarray] = field(default_factory=dict)  # name → [N, M, …], where asked for
    attention: np.ndarray | None = None  # [M, calls, N, Q, K] float16, mean over heads, where asked for

    def halting_step(self) -> np.ndarray | None:
        """[N] the segment after which the arm itself stops, at most `trained`; None for an arm that never decides."""
        if self.halt is None:
            return None
        wish = self.halt[:, : self.trained].copy()
        wish[:, -1] = True
        return np.asarray(wish.argmax(1) + 1)


def chosen(examples: Examples) -> Examples:
    """The first examples of a split, of which there are few enough to be shown."""
    length = examples.labels.shape[1]
    return examples[: max(1, min(MOST_EXAMPLES, MOST_POSITIONS // length))]


@torch.no_grad()
def trace(
    model: ReasoningModel,
    task: Task,
    loop: Loop,
    examples: Examples,
    segments: int,
    *,
    inside: bool = False,
    first: int = 0,
    states: StateRecorder | None = None,
) -> Trace:
    """Run `segments` segments (1 for one-pass arms) on all examples at once and keep what each says.

    Answers that must be written token by token are, with as many segments per token. inside: keep states and attention
    of the reading of the whole text, too; `states` sees them as they pass. Random initial states are those of a split's
    rows from `first` on. A compiled model runs eagerly here: this size of batch comes once.
    """
    device = next(model.parameters()).device
    index = torch.arange(len(examples), device=device)
    batch = DeviceData(examples, device).rows(index)
    index = index + first
    depth = segments if model.recurrent else 1
    kept: dict[str, list[Tensor]] = {}
    attention: list[Tensor] = []
    was_training = model.training
    model.eval()
    state = model.initial_state(batch, index)
    if states is not None:
        states.see(state, 0)
    own_text = None
    asked = batch.labels != PAD
    if task.generated:
        own_text = write_answers(model, task, batch, index, depth)
        places = torch.arange(batch.inputs.shape[1], device=device)
        asked = places >= batch.facts["prompt_length"][:, None] - 1  # the prompt is no part of the answer
    for segment in range(1, depth + 1):
        recorder = AttentionRecorder()
        with torch.compiler.set_stance("force_eager"), recorder if inside else nullcontext():
            state, prediction = model(state, batch)
        state = detached(state)
        if states is not None:
            states.see(state, segment)
        judged, answer = (batch, prediction.logits.argmax(-1)) if own_text is None else next(own_text)
        values = {"correct": task.correct(judged, answer), "answer": answer.masked_fill(~asked, PAD)}
        halt = wants_to_halt(loop, prediction)
        if halt is not None and prediction.q_halt is not None:
            values |= {"halt": halt, "q_halt": prediction.q_halt.float()}
        if inside:
            values |= {f"state {name}": value.float() for name, value in state.items()}
            if recorder.weights:
                attention.append(torch.stack(recorder.weights))
        for name, value in values.items():
            kept.setdefault(name, []).append(value)
    model.train(was_training)
    whole = {name: torch.stack(parts, 1).cpu().numpy() for name, parts in kept.items()}
    if task.executes:
        by_depth = [task.verdicts(examples, whole["answer"][:, m]) for m in range(depth)]
        whole["correct"] = np.stack(by_depth, axis=1)
    return Trace(
        trained=min(loop.segments, depth),
        answers=whole["answer"],
        correct=whole["correct"],
        q_halt=whole.get("q_halt"),
        halt=whole.get("halt"),
        states={name.removeprefix("state "): value for name, value in whole.items() if name.startswith("state ")},
        attention=torch.stack(attention).cpu().numpy() if attention else None,
    )


class AttentionRecorder(TorchFunctionMode):
    """While active, keeps the weights of every scaled_dot_product_attention call, mean over heads, [B, Q, K] float16.

    It listens to the one function through which all families attend, the library's included, and changes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.weights.append(_attention_weights(*args, **kwargs).mean(1).half())
        return func(*args, **kwargs)


def _attention_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **other: Any,
) -> Tensor:
    """[B, heads, Q, K] softmax(q·k / √d + mask), as the documentation of the function defines it."""
    if key.shape[1] != query.shape[1]:  # grouped queries
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query.float() @ key.float().transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        below = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~below, -torch.inf)
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
    return scores.softmax(-1)


def asked(task: Task, examples: Examples, row: int) -> np.ndarray:
    """The question of an example: its inputs, and of a text its prompt alone, behind which the answer stands."""
    tokens = examples.inputs[row]
    return tokens[: int(examples.facts["prompt_length"][row])] if task.causal else tokens


def _number(value: Any) -> float | None:
    """For JSON, which knows no infinities."""
    return round(float(value), 3) if np.isfinite(value) else None


def document(task: Task, examples: Examples, found: Trace) -> dict[str, Any]:
    """The trace as JSON for the example browser. An answer that stays as it was after the segment before is null.

    Grids (Task.columns above 0) are lists of tokens, to be shown with `symbols`; anything else is text.
    """
    grid = task.columns > 0
    steps = found.halting_step()

    def shown(tokens: np.ndarray) -> Any:
        return tokens.tolist() if grid else task.decode(tokens)

    rows = []
    groups = examples.groups if examples.groups is not None else [""] * len(examples)
    for i, name in enumerate(examples.ids):
        answers: list[Any] = []
        for m, answer in enumerate(found.answers[i]):
            same = m > 0 and (answer == found.answers[i, m - 1]).all()
            answers.append(None if same else shown(answer))
        rows.append(
            {
                "id": str(name),
                "difficulty": _number(examples.difficulty[i]),
                "group": str(groups[i]),
                "input": shown(asked(task, examples, i)),
                "label": shown(examples.labels[i]),
                "answers": answers,
                "right": found.correct[i].astype(int).tolist(),
                "q_halt": None if found.q_halt is None else [_number(q) for q in found.q_halt[i]],
                "halts": None if steps is None else int(steps[i]),
            }
        )
    return {
        "columns": task.columns,
        "symbols": list(task.vocabulary) if grid else [],
        "trained": found.trained,
        "examples": rows,
    }
