"""Votes: ask a model each test example in many variants, bring the answers back, and rank them by votes.

As in HRM's ARC evaluation: equal answers are counted together and ranked by count, then by the mean of σ(q_halt) at the
trained depth; pass@k asks whether a right answer is among the first k. Votes come from this one evaluation, whose
weights validation has chosen before; nothing is chosen by them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import seeds, tables
from harness.cell import Cell
from harness.evaluation.records import write_csv
from harness.files import write_text
from harness.recipe import Loop
from harness.training.act import detached
from harness.training.batches import DeviceData
from models.base import ReasoningModel
from tasks.base import Examples, Task

PASSES = (1, 2, 5, 10, 100)
"""The k of pass@k; ARC Prize counts two attempts."""

ATTEMPTS = 2
"""Answers kept per example after counting, for the submission."""


@dataclass(frozen=True)
class Count:
    """The votes on one example, counted."""

    votes: int
    distinct: int  # different answers
    rank: int | None  # of the best right answer, from 1; None: nobody gave one
    right_votes: int
    top_votes: int
    top_confidence: float | None  # mean σ(q_halt) of the first answer; None for arms without a halting head
    single: bool  # the example itself, variant 0, answered right
    attempts: list[np.ndarray]  # [A] tokens each, the best first

    def passed(self, k: int) -> bool:
        return self.rank is not None and self.rank <= k


@dataclass
class _Answer:
    first: int  # the vote that gave it first: decides between answers that are equal in all else
    right: bool
    votes: int = 0
    confidence: float = 0.0  # sum

    def order(self) -> tuple[float, float, int]:
        return -self.votes, -self.confidence / self.votes, self.first


@dataclass
class Urn:
    """The votes on one example so far: one copy of each different answer [A], under which its votes are counted."""

    answers: dict[bytes, _Answer] = field(default_factory=dict)
    votes: int = 0
    single: bool = False
    confident: bool = True  # the arm has a halting head
    dtype: np.dtype | None = None

    def add(self, answers: np.ndarray, right: np.ndarray, confidence: np.ndarray | None) -> None:
        """answers [n, A] in the example's own dress, right and confidence [n]. Variant 0 comes first."""
        if self.votes == 0:
            self.dtype, self.single = answers.dtype, bool(right[0])
        self.confident = confidence is not None
        for i, answer in enumerate(answers):
            known = self.answers.setdefault(answer.tobytes(), _Answer(self.votes, bool(right[i])))
            known.votes += 1
            known.confidence += float(confidence[i]) if confidence is not None else 0.0
            self.votes += 1

    def count(self) -> Count:
        ranked = sorted(self.answers.items(), key=lambda item: item[1].order())
        right = [(rank, answer) for rank, (_, answer) in enumerate(ranked, 1) if answer.right]
        best = ranked[0][1]
        return Count(
            votes=self.votes,
            distinct=len(ranked),
            rank=right[0][0] if right else None,
            right_votes=sum(answer.votes for _, answer in right),
            top_votes=best.votes,
            top_confidence=best.confidence / best.votes if self.confident else None,
            single=self.single,
            attempts=[np.frombuffer(tokens, self.dtype) for tokens, _ in ranked[:ATTEMPTS]],
        )


@torch.no_grad()
def poll(
    model: ReasoningModel,
    task: Task,
    loop: Loop,
    examples: Examples,
    *,
    votes: int,
    batch_size: int,
    base_ids: np.ndarray | None = None,
    blank: bool = False,
) -> Iterator[Count]:
    """One count per example, in order, of `votes` answers at the trained depth.

    base_ids [N]: puzzle ids to take for the examples' own; blank: id 0 for all. Examples come one after the other, each
    with all its variants, so that only the urns of one batch are in memory. Shapes are those of `evaluate`.
    """
    device = next(model.parameters()).device
    data = DeviceData(examples, device)
    ids = data.batch.puzzle_ids if base_ids is None else torch.from_numpy(base_ids).to(device)
    total = len(examples) * votes
    size = min(batch_size, total)
    tokens = np.min_scalar_type(len(task.vocabulary) - 1)
    was_training = model.training
    model.eval()
    urn = Urn()
    try:
        for start in range(0, total, size):
            place = torch.arange(start, start + size, device=device).clamp(max=total - 1)
            row, number = place // votes, place % votes
            own = data.rows(row)
            asked = task.variant(replace(own, puzzle_ids=ids[row]), number)
            if blank:
                asked = replace(asked, puzzle_ids=torch.zeros_like(asked.puzzle_ids))
            state = model.initial_state(asked, place)
            for _ in range(loop.segments if model.recurrent else 1):
                state, prediction = model(state, asked)
                state = detached(state)
            restored = task.restore(own, number, prediction.logits.argmax(-1))
            right = task.correct(own, restored).cpu().numpy()
            answers = restored.cpu().numpy().astype(tokens)
            q_halt = prediction.q_halt
            confidence = None if q_halt is None else q_halt.double().sigmoid().cpu().numpy()
            done = 0
            while done < min(size, total - start):
                part = slice(done, min(done + votes - urn.votes, size, total - start))
                urn.add(answers[part], right[part], None if confidence is None else confidence[part])
                done = part.stop
                if urn.votes == votes:
                    yield urn.count()
                    urn = Urn()
    finally:
        model.train(was_training)


def shuffled_ids(examples: Examples, task: str) -> np.ndarray | None:
    """[N] int32: each puzzle's id replaced by another's, the same for every arm and seed; None with a single puzzle."""
    own = examples.puzzle_ids
    known = np.unique(own) if own is not None else np.empty(0, np.int32)
    if own is None or len(known) < 2:
        return None
    order = seeds.generator(task, "shuffled puzzle ids").permutation(len(known))
    other = np.empty_like(known)
    other[order] = known[np.roll(order, 1)]  # around a circle, so that nobody keeps its own
    return np.asarray(other[np.searchsorted(known, own)])


# -- a cell's share of the tables ------------------------------------------------------------------------------------


def vote(
    cell: Cell,
    task: Task,
    model: ReasoningModel,
    examples: Examples,
    folder: Path,
    tick: Callable[[float], None] = lambda share: None,
) -> list[str]:
    """Write votes.csv, passes.csv and, where the task has one, submission.json into the run folder.

    `tick` is called with the share done, 0 to 1, and may raise to stop. Returns what there is to say about it.
    """
    settings = cell.recipe.evaluation
    key = {"cell_id": cell.id, "task": cell.task, "arm": cell.arm, "seed": cell.seed}
    puzzles, example_ids = task.puzzles(examples), examples.ids
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in tables.VOTE_TABLES}
    notes = []
    for done, mode in enumerate(settings.puzzle_ids):
        shuffled = shuffled_ids(examples, cell.task) if mode == "shuffled" else None
        if mode == "shuffled" and shuffled is None:
            notes.append("votes with shuffled puzzle ids: not cast, since there is but one puzzle")
            continue
        counts = []
        for count in poll(
            model,
            task,
            cell.loop,
            examples,
            votes=settings.votes,
            batch_size=settings.batch_size,
            base_ids=shuffled,
            blank=mode == "blank",
        ):
            counts.append(count)
            tick((done + len(counts) / len(examples)) / len(settings.puzzle_ids))
        rows["votes"] += [
            key | {"puzzle_ids": mode} | row for row in _votes(counts, example_ids.tolist(), puzzles.tolist())
        ]
        rows["passes"] += [key | {"puzzle_ids": mode} | row for row in passes(counts, puzzles, settings.votes)]
        if mode == "own":
            document = task.submission(examples, [count.attempts for count in counts])
            if document is not None:
                write_text(folder / "submission.json", json.dumps(document))
    for name, content in rows.items():
        tables.check_rows(name, content)
        write_csv(folder / f"{name}.csv", tables.names(name), content)
    return notes


def _votes(counts: Sequence[Count], ids: list[str], puzzles: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "puzzle": puzzle,
            "example_id": example,
            "votes": count.votes,
            "distinct": count.distinct,
            "rank": count.rank,
            "right_votes": count.right_votes,
            "top_votes": count.top_votes,
            "top_confidence": count.top_confidence,
            "single": count.single,
        }
        for count, example, puzzle in zip(counts, ids, puzzles, strict=True)
    ]


def passes(counts: Sequence[Count], puzzles: np.ndarray, votes: int) -> list[dict[str, Any]]:
    """pass@k for each k that the votes allow, by puzzle: all its examples right, and the share of them right."""
    single = _credit([count.single for count in counts], puzzles)
    rows = []
    for k in PASSES:
        if k > votes:
            continue
        whole, share = _credit([count.passed(k) for count in counts], puzzles)
        rows.append(
            {
                "votes": votes,
                "k": k,
                "all_or_nothing": whole,
                "fractional": share,
                "single_all_or_nothing": single[0],
                "single_fractional": single[1],
                "puzzles": len(set(puzzles.tolist())),
                "examples": len(counts),
            }
        )
    return rows


def _credit(right: Sequence[bool], puzzles: np.ndarray) -> tuple[float, float]:
    """Means over puzzles: of whether all its examples are right (HRM's rule), and of the share right (TRM's)."""
    _, index, sizes = np.unique(puzzles, return_inverse=True, return_counts=True)
    share = np.bincount(index, np.asarray(right, float)) / sizes
    return float(np.mean(share == 1)), float(np.mean(share))
