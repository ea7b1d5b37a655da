"""`mixture`: several registered tasks as one, each with a puzzle id of its own by which a model knows what is asked.

both:
  task: mixture
  settings: {members: {bits: {task: parity}, boxes: {task: sudoku-4, settings: {min_blanks: 4}}}}
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field, field_validator

from harness.errors import UserError
from harness.schema import STRICT
from tasks.base import PAD, Array, Batch, DataFolder, Examples, RowRandom, Splits, Task, create_task, register_task
from tasks.predictors import Predictor, trivial_predictors


class Member(BaseModel):
    model_config = STRICT

    task: str
    settings: dict[str, Any] = Field(default_factory=dict)


@register_task("mixture")
class Mixture(Task):
    """Rows of all members, padded to the longest. Member i (from 1, in the suite's order) has the puzzle id i.

    Symbols that members share are one token. Each row is judged, augmented and told apart by its own member. An
    out-of-distribution split of a member comes along as `ood-MEMBER-…` where its rows are no longer than the longest
    training rows; further figures of members are not shown.
    """

    version: ClassVar[int] = 1
    summary: ClassVar[str] = "Several tasks at once, told apart by a puzzle id each."
    source: ClassVar[str] = "its members"
    licence: ClassVar[str] = "those of its members"
    exact_means: ClassVar[str] = "right by the rule of the member that the row belongs to"
    difficulty_unit: ClassVar[str] = "each member's own"
    floor_note: ClassVar[str] = "mean of the members' floors over the test rows"
    masked: ClassVar[bool] = True

    members: dict[str, Member] = Field(
        {
            "parity": Member(task="parity", settings={"max_length": 9, "ood_lengths": [12]}),
            "sudoku-4": Member(task="sudoku-4", settings={"train_examples": 500, "test_examples": 200}),
        },
        min_length=1,
        description="name → task and settings",
    )

    @field_validator("members")
    @classmethod
    def _can_be_mixed(cls, members: dict[str, Member]) -> dict[str, Member]:
        for name, member in members.items():
            try:
                task = create_task(member.task, member.settings)
            except UserError as error:
                raise ValueError(f"{name}: {error}") from None
            for reason, holds in (
                ("has puzzle ids of its own", task.num_puzzles > 1),
                ("is written from left to right", task.causal),
                ("has numbers as inputs", task.features),
                ("sets axes of its own; set the mixture's", task.axes != type(task.axes)()),
            ):
                if holds:
                    raise ValueError(f"{name}: {member.task} {reason}, and so can't be mixed")
        return members

    @cached_property
    def tasks(self) -> dict[str, Task]:
        return {name: create_task(member.task, member.settings) for name, member in self.members.items()}

    @property
    def real_data(self) -> bool:  # type: ignore[override]  # a class variable of the base; here the members decide
        return any(task.real_data for task in self.tasks.values())

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(symbol for task in self.tasks.values() for symbol in task.vocabulary[1:]))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("", *self.symbols)

    @property
    def sequence_length(self) -> int:
        return max(task.sequence_length for task in self.tasks.values())

    @property
    def answer_length(self) -> int:
        return max(task.answer_length for task in self.tasks.values())

    @property
    def num_puzzles(self) -> int:
        return 1 + len(self.members)

    @property
    def in_sample(self) -> dict[str, str]:
        return {split: reason for task in self.tasks.values() for split, reason in task.in_sample.items()}

    # -- building ----------------------------------------------------------------------------------------------

    def splits(self, seed: int, data: DataFolder) -> Splits:
        own = {name: task.splits(seed, data) for name, task in self.tasks.items()}
        parts = {
            split: _interleaved([self._dressed(name, own[name][split], own) for name in own])
            for split in ("train", "validation", "test")
        }
        for name, splits in own.items():
            for split, part in splits.items():
                if split.startswith("ood-") and part.inputs.shape[1] <= self.tasks[name].sequence_length:
                    parts[f"ood-{name}-{split.removeprefix('ood-')}"] = self._dressed(name, part, own)
        return parts

    def _dressed(self, name: str, part: Examples, own: dict[str, Splits]) -> Examples:
        """A member's rows in the mixture's tokens, padded, with the facts of all members (zeros for the others)."""
        to_mixture, _ = self._translations[name]
        facts: dict[str, np.ndarray] = {}
        for member, splits in own.items():
            for fact, value in splits["train"].facts.items():
                absent = np.zeros((len(part), *value.shape[1:]), value.dtype)
                facts[f"{member} {fact}"] = part.facts[fact] if member == name else absent
        return Examples(
            inputs=_padded(to_mixture[part.inputs], self.sequence_length),
            labels=_padded(to_mixture[part.labels], self.answer_length),
            difficulty=part.difficulty,
            puzzle_ids=np.full(len(part), 1 + list(own).index(name), np.int32),
            groups=np.full(len(part), name),
            facts=facts,
        )

    @cached_property
    def _translations(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Member → (its tokens to the mixture's, the mixture's to its own; what it does not have becomes padding)."""
        number = {symbol: i for i, symbol in enumerate(self.vocabulary)}
        found = {}
        for name, task in self.tasks.items():
            forth = np.array([PAD, *(number[symbol] for symbol in task.vocabulary[1:])])
            back = np.zeros(len(self.vocabulary), np.int64)
            back[forth] = np.arange(len(forth))
            found[name] = forth.astype(np.min_scalar_type(len(number))), back
        return found

    # -- judging -----------------------------------------------------------------------------------------------

    def _view(self, name: str, batch: Batch) -> Batch:
        """The whole batch as the member sees it; of use only in the member's own rows."""
        task, prefix = self.tasks[name], f"{name} "
        facts = {fact.removeprefix(prefix): v for fact, v in batch.facts.items() if fact.startswith(prefix)}
        inputs = self._back(name, batch.inputs[:, : task.sequence_length])
        return Batch(inputs, self._back(name, batch.labels[:, : task.answer_length]), batch.puzzle_ids * 0, facts)

    def _back(self, name: str, tokens: Array) -> Array:
        back = self._translations[name][1]
        if isinstance(tokens, np.ndarray):
            return back[tokens]
        import torch

        return torch.as_tensor(back, device=tokens.device)[tokens.long()]

    def correct(self, batch: Batch, prediction: Array) -> Array:
        right = batch.puzzle_ids < 0
        for i, (name, task) in enumerate(self.tasks.items(), start=1):
            answer = self._back(name, prediction[:, : task.answer_length])
            right = right | ((batch.puzzle_ids == i) & task.correct(self._view(name, batch), answer))
        return right

    def augment(self, batch: Batch, random: RowRandom) -> Batch:
        import torch

        inputs, labels, facts = batch.inputs.clone(), batch.labels.clone(), dict(batch.facts)
        for i, (name, task) in enumerate(self.tasks.items(), start=1):
            mine = batch.puzzle_ids == i
            changed = task.augment(self._view(name, batch), random)
            forth = torch.as_tensor(self._translations[name][0].astype(np.int64), device=inputs.device)
            for old, new, width in (
                (inputs, changed.inputs, task.sequence_length),
                (labels, changed.labels, task.answer_length),
            ):
                part = forth[new.long()].to(old.dtype)
                old[:, :width] = torch.where(mine[:, None], part, old[:, :width])
            for fact, value in changed.facts.items():
                known = facts[f"{name} {fact}"]
                rows = mine.view(-1, *([1] * (known.dim() - 1)))
                facts[f"{name} {fact}"] = torch.where(rows, value, known)
        return Batch(inputs, labels, batch.puzzle_ids, facts)

    # -- members' own symmetries, floor and text ---------------------------------------------------------------

    def _own(self, name: str, examples: Examples) -> Examples:
        """A member's rows out of the mixture, as the member gave them."""
        rows = examples.puzzle_ids == 1 + list(self.members).index(name)
        part = examples[rows]
        batch = self._view(name, part.batch())
        token = np.min_scalar_type(len(self.tasks[name].vocabulary))
        return Examples(batch.inputs.astype(token), batch.labels.astype(token), part.difficulty, facts=batch.facts)

    def canonical_keys(self, examples: Examples) -> frozenset[bytes]:
        keys: set[bytes] = set()
        for name, task in self.tasks.items():
            if len(own := self._own(name, examples)):
                keys |= {name.encode() + key for key in task.canonical_keys(own)}
        return frozenset(keys)

    def predictors(self, train: Examples) -> dict[str, Predictor]:
        """The four of every task, fitted to all rows; and per member the one that does best, fitted to its own rows."""
        return trivial_predictors(train) | {"best-by-member": BestByMember(self, train)}


class BestByMember:
    """In every member's rows the answers of whichever trivial predictor scores best there: the members' own floors."""

    def __init__(self, task: Task, train: Examples) -> None:
        self.task = task
        self.predictors = {i: trivial_predictors(rows) for i, rows in _by_id(train).items()}

    def answer(self, examples: Examples) -> np.ndarray:
        answers = np.zeros_like(examples.labels)
        for i, rows in _by_id(examples).items():
            given = [predictor.answer(rows) for predictor in self.predictors[i].values()]
            possible = [answer for answer in given if answer is not None]
            scores = [float(np.mean(self.task.correct(rows.batch(), answer))) for answer in possible]
            answers[examples.puzzle_ids == i] = possible[int(np.argmax(scores))]
        return answers


def _by_id(examples: Examples) -> dict[int, Examples]:
    ids = examples.puzzle_ids
    assert ids is not None, "every row of a mixture has its member's id"
    return {int(i): examples[ids == i] for i in np.unique(ids)}


def _padded(tokens: np.ndarray, width: int) -> np.ndarray:
    return np.pad(tokens, ((0, 0), (0, width - tokens.shape[1])), constant_values=PAD)


def _interleaved(parts: list[Examples]) -> Examples:
    """The rows of all parts, mixed evenly, so that the first rows are a fair sample."""
    place = np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in parts])
    return Examples.joined(parts)[np.argsort(place, kind="stable")]
