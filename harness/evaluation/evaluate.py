"""Score a model on a split at every depth in one pass, under three stopping rules.

`fixed` stops at the trained number of segments, `model` where the arm's own halting rule says so, and `oracle` as soon
as the verifier accepts (an upper bound, never the model's own score).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from harness import spill
from harness.evaluation.written import write_answers
from harness.recipe import Loop
from harness.spacing import evenly
from harness.spill import blocks, empty, release
from harness.training.act import detached, wants_to_halt
from harness.training.batches import DeviceData
from models.base import ReasoningModel
from tasks.base import PAD, Examples, Task


class Count(NamedTuple):
    """How often a kind of answer was given, and how often it is the label."""

    value: str
    predictions: int
    labels: int


@dataclass
class Evaluation:
    """N examples × M segments. Depth d stands in column d − 1.

    What is [N, M] may lie on disk (harness/spill.py), so it is read a block of rows at a time.
    """

    trained: int  # segments in training: the depth of `fixed`
    correct: np.ndarray  # [N, M] bool
    token: np.ndarray  # [N, M] float32, share of scored positions right; of a causal task, the label's tokens before
    q_halt: np.ndarray | None  # [N, M] float32 logits
    halt: np.ndarray | None  # [N, M] bool, the arm's own decision after each segment
    metrics: dict[str, np.ndarray] = field(default_factory=dict)  # [N] at the trained depth, bool or float
    answers: np.ndarray | None = None  # [N, A] at the trained depth, where they were written token by token
    judgements: list[str] | None = None  # [N] what became of them, where they were run
    histograms: dict[str, list[Count]] = field(default_factory=dict)  # at the trained depth

    def __len__(self) -> int:
        return len(self.correct)

    @property
    def depth(self) -> int:
        return self.correct.shape[1]

    def blocks(self) -> Iterator[slice]:
        """Rows, so many at a time that their figures fit into memory."""
        for rows in blocks(len(self)):
            yield rows
            release((self.correct, self.token, self.q_halt, self.halt, *self.metrics.values()))

    def rows(self, rows: slice) -> Evaluation:
        """Some examples, [rows, M]: right or wrong, token shares and halting alone, without metrics and answers."""
        q_halt, halt = (None if array is None else array[rows] for array in (self.q_halt, self.halt))
        return Evaluation(self.trained, self.correct[rows], self.token[rows], q_halt, halt)

    def halting_step(self, most: int | None = None) -> np.ndarray:
        """[N] int32: first segment after which the arm halts, `most` (default: the trained depth) if it never does."""
        most = min(most or self.trained, self.depth)
        steps = np.full(len(self), most, np.int32)
        if self.halt is not None:
            for rows in self.blocks():
                wish = np.array(self.halt[rows, :most])
                wish[:, -1] = True
                steps[rows] = wish.argmax(1) + 1
        return steps

    def correct_at(self, steps: np.ndarray | int) -> np.ndarray:
        """[N] bool after the given number of segments per example."""
        columns, right = np.broadcast_to(np.asarray(steps) - 1, len(self)), np.empty(len(self), bool)
        for rows in self.blocks():
            own = columns[rows]
            right[rows] = self.correct[rows][np.arange(len(own)), own]
        return right

    def fixed(self) -> np.ndarray:
        """[N] bool at the trained depth."""
        return self.correct_at(min(self.trained, self.depth))

    def model(self, most: int | None = None) -> np.ndarray:
        """[N] bool where the arm itself stops."""
        return self.correct_at(self.halting_step(most))

    def oracle(self, most: int | None = None) -> np.ndarray:
        """[N] bool: right after any segment up to `most` (default: the trained depth)."""
        right = np.empty(len(self), bool)
        for rows in self.blocks():
            right[rows] = self.correct[rows, : most or self.trained].any(1)
        return right

    def token_at(self, segments: int) -> np.ndarray:
        """[N] float32 after so many segments."""
        share = np.empty(len(self), np.float32)
        for rows in self.blocks():
            share[rows] = self.token[rows, segments - 1]
        return share

    def token_fixed(self) -> np.ndarray:
        return self.token_at(min(self.trained, self.depth))


def limited(examples: Examples, limit: int | None) -> Examples:
    """At most `limit` examples, the same for every arm and seed: evenly spaced, so that ordered splits stay covered."""
    if limit is None or len(examples) <= limit:
        return examples
    return examples[evenly(len(examples), limit)]


def readable(model: ReasoningModel, splits: Mapping[str, Examples]) -> tuple[dict[str, Examples], list[str]]:
    """The splits whose inputs the model can read, and a sentence on each of the others."""
    problems = {name: model.length_problem(part.inputs.shape[1]) for name, part in splits.items()}
    scored = {name: part for name, part in splits.items() if problems[name] is None}
    return scored, [f"not scored on {name}: {why}" for name, why in problems.items() if why]


@torch.no_grad()
def evaluate(
    model: ReasoningModel,
    task: Task,
    loop: Loop,
    examples: Examples,
    *,
    segments: int,
    batch_size: int,
    write: bool = False,
    folder: Path | None = None,
    tick: Callable[[float], None] = lambda share: None,
) -> Evaluation:
    """Run `segments` segments on every example (1 for one-pass arms) and judge each.

    write: for a task whose answers are `generated`, let the model write them token by token, once for every depth, and
    judge what it wrote; without, all positions are asked at once, given the label's tokens before each, which is a
    lower bound. Token accuracy is always of the latter kind, and halting decisions come from the prompt alone.

    Unless text is written, shapes are constant (the last batch is filled up with repeats), the trip count is fixed, and
    results leave the device once per batch. `tick` is called with the share done, 0 to 1, after each batch, and may
    raise to stop. folder: where the figures of very many examples lie meanwhile; None: in memory.
    """
    device = next(model.parameters()).device
    n = len(examples)
    size = min(batch_size, n)
    depth = segments if model.recurrent else 1
    trained = min(loop.segments, depth)
    block = size * max(1, spill.BLOCK_ROWS // size)
    whole: dict[str, np.ndarray] = {}
    was_training = model.training
    model.eval()
    for start in range(0, n, size):
        if start % block == 0:
            release(whole.values())
            data = DeviceData(examples[start : start + block], device)
        index = torch.arange(start, start + size, device=device).clamp(max=n - 1)
        batch = data.rows(index - start // block * block)
        state = model.initial_state(batch, index)  # what is random in a row depends on its place in the split
        scored = batch.labels != PAD
        per_segment: dict[str, list[torch.Tensor]] = {}
        own_text = write_answers(model, task, batch, index, depth) if write and task.generated else None
        for segment in range(1, depth + 1):
            state, prediction = model(state, batch)
            state = detached(state)
            answer = prediction.logits.argmax(-1)
            values = {"token": ((answer == batch.labels) & scored).sum(-1) / scored.sum(-1).clamp(min=1)}
            judged = batch
            if own_text is not None:
                judged, answer = next(own_text)
                values["answer"] = answer
            values["correct"] = task.correct(judged, answer)
            halt = wants_to_halt(loop, prediction)
            if halt is not None and prediction.q_halt is not None:
                values |= {"halt": halt, "q_halt": prediction.q_halt.float()}
            if segment == trained:
                values |= {f"metric {name}": value for name, value in task.metrics(judged, answer).items()}
                for kind, given in (("prediction", (judged, answer)), ("label", (batch, batch.labels))):
                    values |= {f"{kind} {name}": codes for name, codes in task.histograms(*given).items()}
            for name, value in values.items():
                per_segment.setdefault(name, []).append(value)
        for name, parts in per_segment.items():
            rows = torch.stack(parts, dim=1)[: n - start].cpu().numpy()
            if name == "token":
                rows = rows.astype(np.float32, copy=False)
            if name not in whole:  # in place: parts and their concatenation would take twice the memory
                whole[name] = empty((n, *rows.shape[1:]), rows.dtype, folder)
            whole[name][start : start + len(rows)] = rows
        tick(min(start + size, n) / n)
    model.train(was_training)
    answers, judgements = whole.get("answer"), None  # [N, M, A]
    if answers is not None and task.executes:
        by_depth = []
        for i in range(depth):
            by_depth.append(task.judgements(examples, answers[:, i]))
            tick(1.0)
        whole["correct"] = np.array(by_depth).T == "passed"
        judgements = by_depth[trained - 1]
    return Evaluation(
        trained=trained,
        correct=whole["correct"],
        token=whole["token"],
        q_halt=whole.get("q_halt"),
        halt=whole.get("halt"),
        metrics={
            name.removeprefix("metric "): value[:, 0] for name, value in whole.items() if name.startswith("metric ")
        },
        histograms=_counted(task, whole),
        answers=None if answers is None else answers[:, trained - 1],
        judgements=judgements,
    )


def _counted(task: Task, whole: dict[str, np.ndarray]) -> dict[str, list[Count]]:
    """Each histogram's kinds of answers, the most frequent prediction first."""
    found: dict[str, list[Count]] = {}
    for name in (key.removeprefix("prediction ") for key in whole if key.startswith("prediction ")):
        predictions, labels = (_counts(whole[f"{kind} {name}"]) for kind in ("prediction", "label"))
        codes = sorted({*predictions, *labels} - {-1}, key=lambda code: (-predictions[code], -labels[code], code))
        found[name] = [Count(task.histogram_value(name, code), predictions[code], labels[code]) for code in codes]
    return found


def _counts(codes: np.ndarray) -> Counter[int]:
    """How often each of codes [N, 1] occurs."""
    counts: Counter[int] = Counter()
    for rows in blocks(len(codes)):
        counts.update(codes[rows, 0].tolist())
    release([codes])
    return counts
