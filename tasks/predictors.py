"""Trivial predictors: how far one gets on a task without learning it. The best of them is the task's floor.

Each is fitted on the training split and gives answers [N, A] for any other. Where a split's answers are longer than
those of training, the fitted answer is continued with the most frequent token; where they are shorter, it is cut.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from tasks.base import Examples

PADDING = 0  # tasks.base.PAD; a position whose label is padding is not scored


class Predictor(Protocol):
    def answer(self, examples: Examples) -> np.ndarray | None:
        """[N, A] token ids, or None where the predictor does not apply to such examples."""


class MostFrequentAnswer:
    """Always the whole answer that training has most often; of several, the first in the order of token ids."""

    def __init__(self, train: Examples) -> None:
        self.row = most_frequent_row(train.labels)
        self.filling = _most_frequent_token(train.labels)

    def answer(self, examples: Examples) -> np.ndarray:
        return _repeated(self.row, self.filling, examples)


class MostFrequentTokens:
    """At every position the token that is most often right there in training; the lowest id of several."""

    def __init__(self, train: Examples) -> None:
        labels = train.labels
        self.filling = _most_frequent_token(labels)
        tokens = [_most_frequent_token(column, self.filling) for column in labels.T]
        self.row = np.array(tokens, labels.dtype)

    def answer(self, examples: Examples) -> np.ndarray:
        return _repeated(self.row, self.filling, examples)


class CopyInput:
    """The first A positions of the input as the answer, where inputs are tokens."""

    def answer(self, examples: Examples) -> np.ndarray | None:
        tokens = examples.inputs.dtype.kind in "iu"
        return examples.inputs[:, : examples.labels.shape[1]] if tokens else None


class LookupTable:
    """What training answers to the same input (and puzzle id), the first time it has it; else the most frequent answer.

    Where splits are disjoint it finds nothing, and scores what the most frequent answer does.
    """

    def __init__(self, train: Examples) -> None:
        self.train = train
        self.otherwise = MostFrequentAnswer(train)
        self.keys, self.first = np.unique(_question_keys(train), return_index=True)

    def answer(self, examples: Examples) -> np.ndarray:
        answers = np.array(self.otherwise.answer(examples))
        train = self.train
        if (examples.inputs.shape[1:], answers.shape[1:]) != (train.inputs.shape[1:], train.labels.shape[1:]):
            return answers
        keys = _question_keys(examples)
        place = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        rows = self.first[place]
        found = np.flatnonzero(self.keys[place] == keys)
        found = found[(examples.inputs[found] == train.inputs[rows[found]]).all(1)]  # not by the hash alone
        answers[found] = train.labels[rows[found]]
        return answers


def trivial_predictors(train: Examples) -> dict[str, Predictor]:
    """The four that every task has, by the name that they have in tables."""
    return {
        "constant": MostFrequentAnswer(train),
        "majority-token": MostFrequentTokens(train),
        "copy-input": CopyInput(),
        "lookup": LookupTable(train),
    }


def row_keys(rows: np.ndarray) -> np.ndarray:
    """[N] uint64 for rows [N, …]: equal for equal rows, and else but by a chance of 2^-64 (Zobrist's hash, bytewise).

    np.unique over whole rows sorts them, which takes minutes for millions of grids.
    """
    size = math.prod(rows.shape[1:]) * rows.dtype.itemsize
    data = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    table = np.random.default_rng(0).integers(0, 2**64, (size, 256), np.uint64)
    keys = np.zeros(len(rows), np.uint64)
    for column, of_byte in zip(data.T, table, strict=True):
        keys ^= of_byte[column]
    return keys


def most_frequent_row(rows: np.ndarray) -> np.ndarray:
    """The row of rows [N, A] that occurs most often; of several, the first in lexicographic order."""
    _, first, counts = np.unique(row_keys(rows), return_index=True, return_counts=True)
    tied = rows[first[counts == counts.max()]]
    for column in range(rows.shape[1]):
        tied = tied[tied[:, column] == tied[:, column].min()]
    return np.asarray(tied[0])


def _question_keys(examples: Examples) -> np.ndarray:
    keys = row_keys(examples.inputs)
    return keys if examples.puzzle_ids is None else keys ^ row_keys(examples.puzzle_ids[:, None].astype(np.int64))


def _most_frequent_token(labels: np.ndarray, otherwise: int = 0) -> int:
    """The scored token that occurs most often; `otherwise` where nothing is scored."""
    counts = np.bincount(labels.reshape(-1), minlength=1)
    counts[PADDING] = 0
    return int(counts.argmax()) if counts.any() else otherwise


def _repeated(row: np.ndarray, filling: int, examples: Examples) -> np.ndarray:
    """`row` for every example, cut or continued to the length of its answers."""
    length = examples.labels.shape[1]
    fitted = np.full(length, filling, row.dtype)
    fitted[: len(row)] = row[:length]
    return np.broadcast_to(fitted, (len(examples), length))
