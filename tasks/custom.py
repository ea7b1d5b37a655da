"""Custom tasks without a class: `from_arrays`, and what it shares with tasks read from a table.

Inputs are tokens (whole numbers, 0 is padding) or features (floats); answers are a class or a sequence of tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from harness.errors import UserError
from tasks.base import PAD, DataFolder, Examples, Splits, Task, register_task

Pair = tuple[Any, Any]
"""inputs [N, S] and labels, [N] classes from 0 or [N, A] tokens."""


class ArrayTask(Task):
    """A task whose splits are arrays in memory. `from_arrays` makes subclasses of it."""

    parts: ClassVar[Splits] = {}
    symbols: ClassVar[tuple[str, ...]] = ("",)
    are_features: ClassVar[bool] = False

    content_hash: str = Field("", description="hash of the arrays: pins them, and makes other arrays another task")

    @field_validator("content_hash")
    @classmethod
    def _same_arrays(cls, value: str) -> str:
        if value != content_of(cls.parts):
            raise ValueError(f"the arrays have the hash {content_of(cls.parts)}")
        return value

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return self.symbols

    @property
    def features(self) -> bool:
        return self.are_features

    @property
    def sequence_length(self) -> int:
        return int(self.parts["train"].inputs.shape[1])

    @property
    def answer_length(self) -> int:
        return int(self.parts["train"].labels.shape[1])

    def splits(self, seed: int, data: DataFolder) -> Splits:
        return dict(self.parts)


def from_arrays(
    name: str,
    *,
    train: Pair,
    validation: Pair | None = None,
    test: Pair | None = None,
    ood: Mapping[str, Pair] | None = None,
    symbols: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    difficulty: Mapping[str, Any] | None = None,
    summary: str = "",
    source: str = "arrays given in Python",
    licence: str = "not stated",
    version: int = 1,
) -> type[Task]:
    """Register the task `name` made of arrays; call it in a file given with --plugin.

    A split is (inputs [N, S], labels). Whole numbers are tokens, 0 is padding; floats are features. Labels are classes
    [N] from 0, or token sequences [N, A] with A ≤ S, where 0 is not scored. A tenth of train becomes validation and a
    fifth becomes test where these are not given, by a hash of the inputs, so equal inputs stay together. `symbols`
    names the tokens from 1, `classes` the classes, `difficulty` gives a number per row, by split. UserError names the
    split and the row of what is wrong.
    """
    given = {"train": train, "validation": validation, "test": test}
    pairs = {split: pair for split, pair in given.items() if pair is not None}
    pairs |= {f"ood-{key}": pair for key, pair in (ood or {}).items()}
    read = {split: _read(f"task {name}: split {split}", *pair) for split, pair in pairs.items()}
    is_class = {labels.ndim == 1 for _, labels in read.values()}
    are_features = {inputs.dtype == np.float32 for inputs, _ in read.values()}
    if len(is_class) > 1 or len(are_features) > 1:
        raise UserError(f"task {name}: its splits differ in kind; all need the same kind of inputs and of labels")
    texts = _vocabulary(name, read, symbols, classes, is_class.pop(), are_features.copy().pop())
    parts: Splits = {}
    for split, (inputs, labels) in read.items():
        if labels.ndim == 1:
            labels = (labels + (len(texts.symbols) - texts.classes))[:, None]
        levels = np.zeros(len(inputs)) if difficulty is None else np.asarray(difficulty[split])
        parts[split] = examples(inputs, labels, levels, len(texts.symbols))
    about: dict[str, Any] = {
        "__doc__": f"{summary or name}: {source}.",
        "__module__": __name__,
        "__annotations__": {"content_hash": str},
        "content_hash": Field(content_of(filled := with_all_splits(parts))),
        "parts": filled,
        "symbols": texts.symbols,
        "are_features": are_features.pop(),
        "summary": summary or f"{name}, given as arrays",
        "source": source,
        "licence": licence,
        "version": version,
    }
    cls = type(name, (ArrayTask,), about)
    register_task(name)(cls)
    return cls


class _Texts:
    """Symbols of every token, and how many of the last ones are classes."""

    def __init__(self, symbols: tuple[str, ...], classes: int) -> None:
        self.symbols, self.classes = symbols, classes


def _vocabulary(
    name: str, read: dict[str, Pair], symbols: Any, classes: Any, is_class: bool, are_features: bool
) -> _Texts:
    """Padding, then the tokens, then the classes; numbers stand for what has no name."""
    tokens = 0
    for inputs, labels in read.values():
        for array in ([] if are_features else [inputs]) + ([] if is_class else [labels]):
            tokens = max(tokens, int(array.max(initial=0)))
    count = max((int(labels.max(initial=0)) + 1 for _, labels in read.values()), default=0) if is_class else 0
    for what, names, needed in (("symbols", symbols, tokens), ("classes", classes, count)):
        if names is not None and len(names) < needed:
            raise UserError(f"task {name}: {what} names {len(names)}, the arrays hold {needed}")
    token_names = tuple(symbols or (str(i) for i in range(1, tokens + 1)))
    class_names = tuple(classes or (f"class {i}" for i in range(count))) if is_class else ()
    return _Texts(("", *token_names, *class_names), len(class_names))


def _read(where: str, inputs: Any, labels: Any) -> Pair:
    """Checked arrays: inputs int64 or float32 [N, S], labels int64 [N] or [N, A]."""
    inputs, labels = np.asarray(inputs), np.asarray(labels)
    if inputs.ndim != 2 or labels.ndim not in (1, 2) or len(inputs) != len(labels) or not len(inputs):
        raise UserError(f"{where}: inputs {inputs.shape} and labels {labels.shape} must be [N, S] and [N] or [N, A]")
    if labels.dtype.kind not in "iu" or inputs.dtype.kind not in "iuf":
        raise UserError(
            f"{where}: inputs are {inputs.dtype}, labels {labels.dtype}; whole numbers or floats, and whole"
        )
    if labels.ndim == 2 and labels.shape[1] > inputs.shape[1]:
        raise UserError(f"{where}: {labels.shape[1]} answer positions, but inputs of length {inputs.shape[1]}")
    if inputs.dtype.kind == "f":
        inputs = inputs.astype(np.float32)
        _refuse(where, ~np.isfinite(inputs).all(1), "a feature is not a finite number")
    else:
        inputs = inputs.astype(np.int64)
        _refuse(where, (inputs < 0).any(1), "a token is below 0")
    labels = labels.astype(np.int64)
    _refuse(where, (labels.reshape(len(labels), -1) < 0).any(1), "a label is below 0")
    if labels.ndim == 2:
        _refuse(where, (labels == PAD).all(1), "no position of the label is scored (all are 0)")
    return inputs, labels


def _refuse(where: str, bad: np.ndarray, problem: str) -> None:
    if bad.any():
        raise UserError(f"{where}, row {int(bad.argmax())}: {problem}")


# -- shared with tasks read from a table -----------------------------------------------------------------------------


def examples(
    inputs: np.ndarray, labels: np.ndarray, difficulty: np.ndarray, vocabulary: int, groups: Any = None
) -> Examples:
    """The arrays in the contract's types: the smallest unsigned type that holds the vocabulary, float32 features."""
    token = np.min_scalar_type(vocabulary - 1)
    return Examples(
        inputs=inputs if inputs.dtype == np.float32 else inputs.astype(token),
        labels=labels.astype(token),
        difficulty=difficulty.astype(np.float32),
        groups=None if groups is None else np.asarray(groups, dtype=str),
    )


def with_all_splits(parts: Splits, test_share: float = 0.2, validation_share: float = 0.1) -> Splits:
    """The splits; a test or validation that is missing is carved from train by a hash of each row's inputs."""
    train = parts["train"]
    place = np.array([int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:6]) / 2**48 for row in train.inputs])
    found, low = dict(parts), 0.0
    kept = np.ones(len(train), bool)
    for split, share in (("test", test_share), ("validation", validation_share)):
        if split not in parts:
            mine = (low <= place) & (place < low + share)
            found[split] = train[mine]
            kept &= ~mine
            low += share
    found["train"] = train[kept]
    return found


def content_of(parts: Splits) -> str:
    """Sixteen hex digits over every byte of the splits."""
    total = hashlib.sha256()
    for name in sorted(parts):
        total.update(f"{name}:{parts[name].digest()};".encode())
    return total.hexdigest()[:16]
