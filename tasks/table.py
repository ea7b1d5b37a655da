"""`table`: a task from a CSV or Parquet file, or from a `datasets` data set, named in a suite; no Python needed.

    my-task:
      task: table
      settings: {train: mine/train.csv, test: mine/test.csv, symbols: abc, length: 12, classes: [yes, no]}

Names are relative to the data folder. What the columns hold is said in the settings and checked row by row, so that a
wrong character or a row too short is an error with file and row, never another task.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from harness.errors import did_you_mean
from tasks.base import DataFolder, Examples, Splits, Task, register_task
from tasks.custom import examples, with_all_splits
from tasks.table_files import Columns, read_columns, read_dataset

LISTED = 8
"""Symbols named in an error about one that is not among them."""


@register_task("table")
class Table(Task):
    """Inputs: one column of text, split into characters or words, or several columns of numbers. Answer: a class, or a
    text over the same symbols. Padding fills rows up to `length`; blanks are kept as they are.

    Without a test or validation file, a fifth and a tenth of the training rows are set apart by a hash of the inputs.
    """

    summary: ClassVar[str] = "Rows of a CSV or Parquet file, or of a `datasets` data set, that a suite names."
    source: ClassVar[str] = "the user's own files"
    licence: ClassVar[str] = "that of the files"
    real_data: ClassVar[bool] = True
    difficulty_unit: ClassVar[str] = "the column named as difficulty, else the input's length"

    train: str = Field(
        "table/train.csv", min_length=1, description="file ending in .csv or .parquet, or a split's name"
    )
    validation: str | None = Field(None, description="as train; null: carved from train")
    test: str | None = Field(None, description="as train; null: carved from train")
    dataset: str | None = Field(None, description="data set saved by `datasets` in the data folder, or one of the hub")
    revision: str | None = Field(None, description="of a data set of the hub: pins it")
    sha256: dict[str, str] = Field(default_factory=dict, description="file → SHA-256: pins it")
    inputs: tuple[str, ...] = Field(("input",), min_length=1, description="one column of text, or columns of numbers")
    label: str = Field("label", description="column of the answer")
    tokens: Literal["characters", "words", "numbers"] = Field("characters", description="how inputs are read")
    symbols: str | tuple[str, ...] = Field("01", description="every token that occurs; text: each of its characters")
    length: int = Field(16, ge=1, le=65_536, description="longest input in tokens; of numbers: how many columns")
    shortest: int = Field(1, ge=0, description="fewest tokens of an input")
    target: Literal["class", "sequence"] = Field("class", description="what the answer is")
    classes: tuple[str, ...] = Field(("0", "1"), description="every class, as it stands in the file")
    longest_answer: int | None = Field(None, ge=1, validate_default=True, description="of sequences; null: length")
    difficulty: str | None = Field(None, description="column of numbers")
    group: str | None = Field(None, description="column of words: accuracy by group")

    @field_validator("symbols", "classes")
    @classmethod
    def _distinct(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if len(set(value)) < len(value) or not all(value):
            raise ValueError("empty, or the same twice")
        return value

    @field_validator("length")
    @classmethod
    def _one_number_a_column(cls, value: int, info: ValidationInfo) -> int:
        columns = info.data.get("inputs", ())
        if info.data.get("tokens") == "numbers" and value != len(columns):
            raise ValueError(f"{len(columns)} columns of numbers are named in inputs; length must be that")
        if info.data.get("tokens") != "numbers" and len(columns) > 1:
            raise ValueError("several columns are read only as numbers; set tokens: numbers")
        return value

    @field_validator("sha256")
    @classmethod
    def _of_files_that_are_read(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        named = [name for split in ("train", "validation", "test") if (name := info.data.get(split))]
        for name in value:
            if name not in named:
                raise ValueError(f"{name} is not read{did_you_mean(name, named)}")
        return value

    @field_validator("longest_answer")
    @classmethod
    def _fits(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value > info.data.get("length", value):
            raise ValueError("answers are read at the input's positions, so they can't be longer than length")
        return value

    @property
    def features(self) -> bool:
        return self.tokens == "numbers"

    @property
    def masked(self) -> bool:  # type: ignore[override]  # a class variable of the base; numbers have no padding
        return not self.features

    @property
    def vocabulary(self) -> tuple[str, ...]:
        tokens = self.symbols if not self.features or self.target == "sequence" else ()
        return ("", *tokens, *(f"class {name}" for name in self.classes if self.target == "class"))

    @property
    def sequence_length(self) -> int:
        return self.length

    @property
    def answer_length(self) -> int:
        return 1 if self.target == "class" else self.longest_answer or self.length

    def splits(self, seed: int, data: DataFolder) -> Splits:
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return with_all_splits({split: self._load(name, data) for split, name in named.items() if name is not None})

    def _load(self, name: str, data: DataFolder) -> Examples:
        wanted = [*self.inputs, self.label, *filter(None, (self.difficulty, self.group))]
        if self.dataset is not None:
            columns = read_dataset(self.dataset, name, self.revision, wanted, data)
        else:
            columns = read_columns(name, wanted, data, self.sha256.get(name))
        inputs = (
            self._numbers(columns)
            if self.features
            else self._tokens(columns, self.inputs[0], self.length, self.shortest)
        )
        if self.target == "class":
            labels = self._class_tokens(columns)
        else:
            labels = self._tokens(columns, self.label, self.answer_length, 1)
        level = inputs.shape[1] - (inputs == 0).sum(1) if self.difficulty is None else columns.floats(self.difficulty)
        groups = None if self.group is None else columns.texts(self.group)
        return examples(inputs, labels, np.asarray(level), len(self.vocabulary), groups)

    def _numbers(self, columns: Columns) -> np.ndarray:
        return np.stack([columns.floats(name) for name in self.inputs], axis=1).astype(np.float32)

    def _tokens(self, columns: Columns, name: str, width: int, least: int) -> np.ndarray:
        """[N, width] int64, padded with 0."""
        token = {symbol: i for i, symbol in enumerate(self.symbols, start=1)}
        found = np.zeros((len(columns), width), np.int64)
        for row, text in enumerate(columns.texts(name)):
            parts = list(text) if self.tokens != "words" else text.split()
            if len(parts) > width:
                columns.fail(row, f"column {name} has {len(parts)} tokens, more than {width}")
            if len(parts) < least:
                columns.fail(row, f"column {name} has {len(parts)} tokens, fewer than {least}")
            for place, part in enumerate(parts):
                if part not in token:
                    few = " ".join(list(token)[:LISTED]) + (" …" if len(token) > LISTED else "")
                    columns.fail(row, f"column {name}: {part!r} is not among the symbols ({few})")
                found[row, place] = token[part]
        return found

    def _class_tokens(self, columns: Columns) -> np.ndarray:
        first = len(self.vocabulary) - len(self.classes)
        token = {name: first + i for i, name in enumerate(self.classes)}
        for row, text in enumerate(texts := columns.texts(self.label)):
            if text not in token:
                columns.fail(row, f"column {self.label}: {text!r} is no class{did_you_mean(text, self.classes)}")
        return np.array([[token[text]] for text in texts], np.int64)
