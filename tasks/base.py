"""The task contract. No torch here: `list` and `report` import tasks, and must answer at once.

A task is a pydantic model: its fields are the settings a suite may change, checked strictly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel
from pydantic import create_model as pydantic_create_model

from harness.axes import Axes
from harness.errors import BrokenData, MissingData, UserError
from harness.registry import Registry
from harness.schema import STRICT, validated
from tasks.predictors import Predictor, trivial_predictors

PAD = 0
"""Token 0 pads inputs, and label 0 marks a position that no loss and no metric counts (as in the HRM paper's data)."""

Array = Any
"""A NumPy array or a torch tensor. What is typed so must use only operators and methods that both have."""


@dataclass(frozen=True)
class Batch:
    """Rows on their way through a model: torch tensors in training, NumPy arrays where a floor is computed.

    inputs [B, S] tokens, or [B, S] float32 features where the task has `features`; labels [B, A] tokens (0 = position
    not scored), puzzle_ids [B], and `facts`: what else a verifier needs to know about each row ([B] or [B, …] each).
    A causal task labels position t with the token that follows it, and gives the fact `prompt_length` [B]: how many
    of the inputs the answer may depend on.
    """

    inputs: Array
    labels: Array
    puzzle_ids: Array
    facts: dict[str, Array] = field(default_factory=dict)

    def map(self, change: Callable[[Array], Array]) -> Batch:
        """The same batch with `change` applied to every array."""
        return Batch(
            change(self.inputs),
            change(self.labels),
            change(self.puzzle_ids),
            {name: change(value) for name, value in self.facts.items()},
        )


@dataclass(frozen=True)
class Examples:
    """One split as arrays; row i of each belongs to example i.

    inputs [N, S] unsigned tokens (or float32 features) and labels [N, A] unsigned tokens; difficulty [N] float32 (its
    unit is the task's `difficulty_unit`); puzzle_ids [N] int32, 0 where the task has none; groups [N] str, for accuracy
    by group (a length, a rating band);
    facts: arrays [N, …] for the verifier. `ids` are derived from the content, so they name an example in every run.
    """

    inputs: np.ndarray
    labels: np.ndarray
    difficulty: np.ndarray
    puzzle_ids: np.ndarray | None = None
    groups: np.ndarray | None = None
    facts: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.inputs)
        for name, array in self.arrays():
            if len(array) != n:
                raise ValueError(f"Examples.{name} has {len(array)} rows, inputs has {n}")

    def __len__(self) -> int:
        return len(self.inputs)

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every array that is there, with its name; a fact's begins with `facts.`."""
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, dict):
                yield from ((f"facts.{name}", value[name]) for name in sorted(value))
            elif value is not None:
                yield f.name, value

    def __getitem__(self, rows: Any) -> Examples:
        """The examples at an index array, a mask or a slice."""
        return Examples(
            inputs=self.inputs[rows],
            labels=self.labels[rows],
            difficulty=self.difficulty[rows],
            puzzle_ids=None if self.puzzle_ids is None else self.puzzle_ids[rows],
            groups=None if self.groups is None else self.groups[rows],
            facts={name: value[rows] for name, value in self.facts.items()},
        )

    def batch(self, rows: Any = slice(None)) -> Batch:
        """The rows as a NumPy batch."""
        part = self[rows]
        ids = part.puzzle_ids if part.puzzle_ids is not None else np.zeros(len(part), np.int32)
        return Batch(part.inputs, part.labels, ids, part.facts)

    @property
    def ids(self) -> np.ndarray:
        """[N] str: twelve hex digits of a hash of each example's content."""
        ids = self.puzzle_ids if self.puzzle_ids is not None else np.zeros(len(self), np.int32)
        return np.array([
            hashlib.sha256(x.tobytes() + b"|" + y.tobytes() + b"|" + p.tobytes()).hexdigest()[:12]
            for x, y, p in zip(self.inputs, self.labels, ids.astype(np.int64), strict=True)
        ])  # fmt: skip

    def digest(self) -> str:
        """A hash of every byte, with names, shapes and types: the data content hash of a cell's id."""
        total = hashlib.sha256()
        for name, array in self.arrays():
            total.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
            total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()

    def with_groups(self, groups: Sequence[str]) -> Examples:
        return replace(self, groups=np.asarray(groups))

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """The rows of all parts, one after the other; all must have the same arrays."""
        columns = [dict(part.arrays()) for part in parts]
        whole = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
        facts = {name.removeprefix("facts."): whole.pop(name) for name in list(whole) if name.startswith("facts.")}
        return cls(**whole, facts=facts)


class RowRandom(Protocol):
    """Random numbers for augmentation on the device, one independent stream per row (see harness/random.py).

    A row's numbers depend on (task, seed, position in the stream) alone, so every arm sees the same augmented example.
    """

    def uniform(self, *shape: int) -> Array: ...  # [B, *shape] float32 in [0, 1)

    def integers(self, high: int, *shape: int) -> Array: ...  # [B, *shape] int64 in [0, high)

    def permutation(self, n: int) -> Array: ...  # [B, n] int64, each row a permutation of 0 … n−1


@dataclass(frozen=True)
class DataFolder:
    """Where local copies of real data sets lie (`--data DIR`, HRM_BENCH_DATA), if anywhere; and what was read there.

    `used` maps what a task read to its fingerprint; it goes into runs.csv, and while all of it stays the same, data
    built before are used again. `cache` is where a task may keep what it parsed.
    """

    root: Path | None = None
    cache: Path | None = field(default=None, compare=False)
    used: dict[str, str] = field(default_factory=dict, compare=False)

    def file(self, name: str, *, remedy: str) -> Path:
        """The path of a file such as `sudoku-extreme/train.csv`; MissingData when it is not there."""
        if self.root is None:
            raise MissingData("no data folder is set (--data DIR or HRM_BENCH_DATA)", remedy)
        path = self.root / name
        if not path.is_file():
            raise MissingData(f"{path} is not there", remedy)
        self.used[f"file {name}"] = self.fingerprint(path)
        return path

    def package(self, name: str) -> None:
        """Note that data come with an installed package, whose version pins them."""
        self.used[f"package {name}"] = version(name)

    def hub(self, name: str, commit: str, sha256: str) -> None:
        """Note a data set of the Hugging Face hub, or a file of one: its commit, and the hash of what was read."""
        self.used[f"hub {name}"] = f"commit {commit} sha256 {sha256}"

    @staticmethod
    def fingerprint(path: Path) -> str:
        """The SHA-256 of a file, found once per process while its size and time stay the same."""
        state = path.stat()
        return _sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Splits = dict[str, Examples]
"""`train`, `validation`, `test`, and any number of out-of-distribution splits whose names start with `ood-`."""


class Task(BaseModel):
    """One task. Subclass it, give the class variables, `splits`, and whatever else differs from the defaults.

    Fields are settings: `max_length: int = Field(12, ge=1)`. A suite that names another key is refused.
    """

    model_config = STRICT

    # -- who it is ---------------------------------------------------------------------------------------------
    name: ClassVar[str] = ""  # set by register_task
    version: ClassVar[int] = 1  # raise it whenever the same settings give other data or another verdict
    summary: ClassVar[str] = ""  # one sentence for `list` and the report
    source: ClassVar[str] = "generated"  # where the data come from
    licence: ClassVar[str] = "generated here (MIT)"
    real_data: ClassVar[bool] = False
    files: ClassVar[tuple[str, ...]] = ()  # what real data are read from, below the data folder
    hub: ClassVar[str] = ""  # data set of the Hugging Face hub that is read where there is no data folder
    package: ClassVar[str] = ""  # installed package that carries real data; its version pins them
    exact_means: ClassVar[str] = "every position of the answer equals the label"
    difficulty_unit: ClassVar[str] = "difficulty"
    floor_note: ClassVar[str] = (
        "the best of: most frequent training answer, most frequent token per position, input copied, training looked up"
    )

    # -- what it looks like to a model -------------------------------------------------------------------------
    @property
    def causal(self) -> bool:
        """Whether position t may see positions up to t alone: text that is written from left to right."""
        return False

    @property
    def generated(self) -> bool:
        """Whether an answer must be written token by token to be judged: a causal task with several right answers.

        Elsewhere all positions may be asked at once: given the label's tokens before them, the likeliest tokens equal
        the label exactly where writing one by one gives the label. `correct` accepts another answer than the label only
        where the inputs hold it, too: whoever generates gives a batch whose inputs are what was written. Test and
        out-of-distribution splits are judged by what the model writes by itself; training and validation, where that
        would take too long, by a lower bound: answers that equal the label.
        """
        return False

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """Tokens that end a written answer; what would stand behind is padding. (): an answer fills all positions."""
        return ()

    @property
    def most_written(self) -> int | None:
        """Tokens after which the writing of an answer is cut off; None: as many as fit."""
        return None

    @property
    def features(self) -> bool:
        """Whether inputs are numbers rather than tokens; each of the S is then a position of its own."""
        return False

    masked: ClassVar[bool] = False  # hide padding from attention (sequences of several lengths)

    # -- suites that a plug-in adds itself to: {"tiny": {"seeds": 2, "settings": {…}, "recipe": {…}}} -------------
    suites: ClassVar[dict[str, dict[str, Any]]] = {}

    # -- settings that every task has ------------------------------------------------------------------------------
    axes: Axes = Axes()

    # -- splits that can't be disjoint from train, with the reason -----------------------------------------------
    @property
    def in_sample(self) -> dict[str, str]:
        return {}

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Symbol of each token id; [0] is padding."""
        raise NotImplementedError

    @property
    def sequence_length(self) -> int:
        """S of the training split. An out-of-distribution split may be longer."""
        raise NotImplementedError

    @property
    def answer_length(self) -> int:
        """A: a model's logits are read at the first A positions. S for grids (the default), 1 for a class."""
        return self.sequence_length

    @property
    def num_puzzles(self) -> int:
        """Rows of the puzzle-embedding table; id 0 is blank, so a task without puzzle ids has 1."""
        return 1

    def splits(self, seed: int, data: DataFolder) -> Splits:
        """All splits. Only `train` may depend on `seed`: every seed sees the same test set (seeds × examples cross).

        Raises MissingData when real data are absent, BrokenData when they are there but wrong.
        """
        raise NotImplementedError

    # -- what is right -----------------------------------------------------------------------------------------
    def correct(self, batch: Batch, prediction: Array) -> Array:
        """[B] bool: the one definition of a right answer, for halting targets, metrics and stopping alike.

        prediction [B, A] holds token ids. The default compares with the label wherever it is scored.
        Must work on torch tensors and on NumPy arrays: use operators and methods that both have.
        """
        return ((prediction == batch.labels) | (batch.labels == PAD)).all(-1)

    @property
    def executes(self) -> bool:
        """Whether written answers are judged by running them, so by `judgements`, on the host, and not by `correct`."""
        return False

    def get_ready(self) -> None:
        """Make sure that `judgements` can be had here, before anything is trained. Raises MissingData."""

    def judgements(self, examples: Examples, answers: np.ndarray) -> list[str]:
        """[N] what became of each written answer [N, A], `passed` where it is right; only where a task `executes`."""
        raise NotImplementedError

    def verdicts(self, examples: Examples, answers: np.ndarray) -> np.ndarray:
        """[N] bool: whether answers [N, A] that need no label before them are right."""
        if not self.executes:
            return np.asarray(self.correct(examples.batch(), answers))
        return np.array([judgement == "passed" for judgement in self.judgements(examples, answers)], bool)

    def metrics(self, batch: Batch, prediction: Array) -> dict[str, Array]:
        """Further figures per example, name → [B] (bool or float); their means go into metrics.csv."""
        return {}

    def metric_notes(self) -> dict[str, str]:
        """A sentence on each figure that `metrics` gives."""
        return {}

    def histograms(self, batch: Batch, prediction: Array) -> dict[str, Array]:
        """What kinds of answers are given, name → [B] integer codes of a kind each (−1: row not counted).

        Predictions and labels are counted side by side in histograms.csv: shortcuts show there.
        """
        return {}

    def histogram_value(self, name: str, code: int) -> str:
        """The kind of answer that a code stands for, for a reader."""
        return str(code)

    # -- symmetries --------------------------------------------------------------------------------------------
    def augment(self, batch: Batch, random: RowRandom) -> Batch:
        """A random equivalent of each row, as tensor operations on the device. Default: no augmentation."""
        return batch

    def canonical(self, examples: Examples) -> np.ndarray:
        """[N, …] or [N]: equal rows for inputs that are the same up to the task's symmetries. Default: the input."""
        return examples.inputs

    # -- votes: an example is asked in many variants, the answers are brought back and counted (evaluation/voting.py) --
    @property
    def most_votes(self) -> int:
        """Variants of an example that there are, itself included. Default: the example alone."""
        return 1

    def variant(self, batch: Batch, number: Array) -> Batch:
        """Each row as its variant `number` [B] int64, 0 being the row itself; with the puzzle id of that variant."""
        return batch

    def restore(self, batch: Batch, number: Array, prediction: Array) -> Array:
        """[B, A]: answers to variants of the rows of `batch`, turned back into answers to the rows themselves.

        Equal rows are votes for the same answer, so whatever is not part of an answer must be cleaned away.
        """
        return prediction

    def puzzles(self, examples: Examples) -> np.ndarray:
        """[N] str: the puzzle that each example is part of; credit is given by puzzle. Default: one each."""
        return examples.ids

    def submission(self, examples: Examples, attempts: list[list[np.ndarray]]) -> Any:
        """What to hand in elsewhere, as JSON, given each example's answers [A], the best first; None: nothing."""
        return None

    # -- text --------------------------------------------------------------------------------------------------
    @property
    def columns(self) -> int:
        """Positions per line where inputs and answers are grids to a reader; 0: they are a line of text."""
        return 0

    def parse(self, text: str) -> Examples:
        """One example from what a user typed (`solve`), with its right answer as the label; padding throughout where
        none is known. UserError says what is wrong with the text."""
        raise UserError(f"task {self.name} reads no puzzles from text; name one of a split instead, such as test:0")

    def decode(self, tokens: np.ndarray) -> str:
        """Tokens [L] as text for a reader, padding dropped; features [L] as numbers."""
        if tokens.dtype.kind == "f":
            return " ".join(f"{x:g}" for x in tokens)
        words = [self.vocabulary[int(t)] for t in tokens if t != PAD]
        return ("" if all(len(w) == 1 for w in words) else " ").join(words)

    # -- helpers -----------------------------------------------------------------------------------------------
    def predictors(self, train: Examples) -> dict[str, Predictor]:
        """Trivial predictors fitted on the training split, by name (tasks/predictors.py). A task may add its own."""
        return trivial_predictors(train)

    def floor(self, splits: Splits) -> float:
        """Exact accuracy on `test` of the best trivial predictor."""
        test, scores = splits["test"], [0.0]
        for predictor in self.predictors(splits["train"]).values():
            answers = predictor.answer(test)
            if answers is not None:
                scores.append(float(np.mean(self.verdicts(test, answers))))
        return max(scores)

    def solve(self, examples: Examples) -> np.ndarray | None:
        """[N, A] right answers by an exact solver that reads inputs (and facts) alone; None where a task has none."""
        return None

    def notes(self, splits: Splits) -> list[str]:
        """Sentences about the data for the report: classes per split, rows left out and why."""
        return []

    def canonical_keys(self, examples: Examples) -> frozenset[bytes]:
        """The canonical forms of a split as a set."""
        return frozenset(np.ascontiguousarray(row).tobytes() for row in self.canonical(examples))

    def check(self, splits: Splits, keys_of: Callable[[Task, Examples], frozenset[bytes]] | None = None) -> None:
        """Refuse data that would make a verdict worthless: empty splits, labels judged wrong, leaks between splits.

        Splits must be pairwise disjoint up to the task's symmetries, but for those declared `in_sample`. `keys_of`
        replaces `canonical_keys`, for callers that remember what it gave.
        """
        for name in ("train", "validation", "test"):
            if len(splits.get(name, ())) == 0:
                raise BrokenData(f"task {self.name}: the split {name} is empty; its settings leave no examples")
        for name, part in splits.items():
            right = np.asarray(self.correct(part.batch(), part.labels))
            if not right.all():
                row = int(np.flatnonzero(~right)[0])
                raise BrokenData(f"task {self.name}: split {name}, row {row}: the label is not a right answer")
        find = keys_of or type(self).canonical_keys
        keys = {name: find(self, part) for name, part in splits.items() if name not in self.in_sample}
        for a, b in combinations(keys, 2):
            shared = len(keys[a] & keys[b])
            if shared:
                raise BrokenData(f"task {self.name}: {shared} examples stand in both {a} and {b}, up to symmetry")


TASKS: Registry[type[Task]] = Registry("task")


def register_task(name: str, **preset: Any) -> Callable[[type[Task]], type[Task]]:
    """Class decorator: makes the task known as `name`. `preset` fixes other defaults (`side=6`), so that one class
    may serve several names; decorate once per name. What is no setting (`summary`) becomes a class variable."""

    def register(cls: type[Task]) -> type[Task]:
        settings = {key: value for key, value in preset.items() if key in cls.model_fields}
        known = _with_defaults(cls, settings) if preset else cls
        for key in preset.keys() - settings.keys():
            setattr(known, key, preset[key])
        known.name = name
        TASKS.add(name, known)
        return cls

    return register


def _with_defaults(cls: type[Task], preset: dict[str, Any]) -> type[Task]:
    """A subclass whose fields have other defaults."""
    changed: dict[str, Any] = {}
    for key, value in preset.items():
        info = cls.model_fields[key]._copy()
        info.default = value
        changed[key] = (info.annotation, info)
    derived = pydantic_create_model(cls.__name__, __base__=cls, __module__=cls.__module__, **changed)
    derived.__doc__ = cls.__doc__
    return derived


def create_task(name: str, settings: dict[str, Any] | None = None) -> Task:
    """The task `name` with settings. Raises UserError naming the key for a setting it does not have."""
    return validated(TASKS.get(name), settings or {}, f"task {name}", "settings")
