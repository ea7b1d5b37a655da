"""Parity: is the number of ones in a bit string even or odd? The smallest task that needs every input token.

Lengths are mixed in training, because short strings are what makes the long ones learnable: on strings of exactly 16
or 32 bits every model stayed at chance, while 1 to 12 bits mixed were learned within a minute (our own quick look).
A sanity check must be passable, or it cannot tell broken code from a hard task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from harness import seeds
from harness.errors import UserError
from tasks.base import PAD, DataFolder, Examples, Splits, Task, register_task

MAX_BITS = 60
"""A string is held as a 64-bit integer with a leading 1 that marks its length; random draws need a sign bit too."""

HASH_RANGE = {"train": (0.375, 1.0), "validation": (0.25, 0.375), "test": (0.0, 0.25), "ood-length": (0.0, 1.0)}
"""Which strings a split may hold, by the string's hash in [0, 1). Out-of-distribution lengths never meet training."""

TAUGHT = 5
"""Strings of up to 5 bits (62 of them) are for training alone: they teach what a bit does and are too few to test."""

QUERY, ZERO, EVEN = 1, 2, 4  # a bit is the token ZERO + bit, an answer is the token EVEN + parity


@register_task("parity")
class Parity(Task):
    """Sequence: an answer slot, the bits, padding. Answer: one token, even or odd, read at the slot.

    In the form `vector` (a minimal public HRM's) inputs are numbers: −1 and +1 for the bits 0 and 1, 0 beyond the
    string's end. There is no slot; the answer is read at the first place. Same strings, same labels.

    Training rows are spread evenly over the lengths, so short strings, of which few exist, repeat; up to TAUGHT bits
    all strings belong to training. The scored splits hold no string twice, and where fewer exist than asked for, those.
    """

    version: ClassVar[int] = 2
    summary: ClassVar[str] = "Is the number of ones in a bit string even or odd?"
    exact_means: ClassVar[str] = "the answer token names the right parity"
    difficulty_unit: ClassVar[str] = "bits"
    floor_note: ClassVar[str] = "one constant answer; both classes are equally frequent in test"
    masked: ClassVar[bool] = True
    contract_forms: ClassVar[dict[str, dict[str, Any]]] = {"vector": {"form": "vector"}}

    form: Literal["tokens", "vector"] = Field("tokens", description="bits as tokens, or as numbers")
    min_length: int = Field(1, ge=1, le=MAX_BITS, description="shortest string, in bits")
    max_length: int = Field(12, ge=1, le=MAX_BITS, validate_default=True, description="longest training string")
    train_examples: int = Field(4000, ge=1, le=1_000_000)
    validation_examples: int = Field(500, ge=2, le=100_000)
    test_examples: int = Field(1000, ge=2, le=100_000)
    ood_lengths: tuple[int, ...] = Field((16, 20, 24), validate_default=True, description="lengths never trained on")
    ood_examples: int = Field(200, ge=2, le=100_000, description="examples of each out-of-distribution length")

    @field_validator("max_length")
    @classmethod
    def _in_order(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("min_length", value):
            raise ValueError(f"max_length = {value} is less than min_length = {info.data['min_length']}")
        return value

    @field_validator("ood_lengths")
    @classmethod
    def _beyond_training(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        longest = info.data.get("max_length", 0)
        for n in value:
            if not longest < n <= MAX_BITS:
                raise ValueError(f"{n} is not a length from {longest + 1} (max_length + 1) to {MAX_BITS}")
        if len(set(value)) < len(value):
            raise ValueError("a length stands there twice")
        return value

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("", "?", "0", "1", "even", "odd")

    @property
    def features(self) -> bool:
        return self.form == "vector"

    @property
    def sequence_length(self) -> int:
        return self.max_length if self.features else 1 + self.max_length

    @property
    def answer_length(self) -> int:
        return 1

    def splits(self, seed: int, data: DataFolder) -> Splits:
        trained = range(self.min_length, self.max_length + 1)
        parts = {
            "train": self._examples("train", trained, self.train_examples, seed),
            "validation": self._examples("validation", trained, self.validation_examples),
            "test": self._examples("test", trained, self.test_examples),
        }
        if self.ood_lengths:
            asked = self.ood_examples * len(self.ood_lengths)
            parts["ood-length"] = self._examples("ood-length", self.ood_lengths, asked)
        return parts

    def parse(self, text: str) -> Examples:
        """A string of bits."""
        bits = "".join(text.split())
        if not bits or set(bits) - {"0", "1"} or len(bits) > MAX_BITS:
            raise UserError(f"a string of parity is 1 to {MAX_BITS} of the characters 0 and 1")
        return self._of(np.array([int(bits, 2)]), np.array([len(bits)]), max(len(bits), self.max_length))

    def solve(self, examples: Examples) -> np.ndarray:
        """The bits counted."""
        ones = (examples.inputs == (1 if self.features else ZERO + 1)).sum(1)
        return (EVEN + ones % 2)[:, None]

    def notes(self, splits: Splits) -> list[str]:
        asked = {"train": self.train_examples, "validation": self.validation_examples, "test": self.test_examples}
        return [
            f"{split} holds {len(splits[split])} of the {n} strings asked for; no more exist with both classes balanced"
            for split, n in asked.items()
            if len(splits[split]) < n - n % 2
        ]

    def _examples(self, split: str, lengths: Sequence[int], count: int, *seed: int) -> Examples:
        """Up to `count` strings: distinct ones, spread over the lengths as evenly as their numbers allow; in training
        exactly evenly, repeated where they must."""
        pools = [_pairs(split, n, count, seeds.generator(self.name, split, n, *seed)) for n in lengths]
        if split == "train":
            takes = _spread(count // 2, [count] * len(pools))
        else:
            takes = _spread(count // 2, [len(pool) for pool in pools])
        strings = np.concatenate([np.resize(pool, (k, 2)).reshape(-1) for pool, k in zip(pools, takes, strict=True)])
        bits = np.repeat(np.asarray(lengths), 2 * np.asarray(takes))  # [N] length of each string
        order = np.argsort(
            _hash(2**bits + strings), kind="stable"
        )  # lengths mixed, so that the first rows are a fair sample
        return self._of(strings[order], bits[order], max(lengths))

    def _of(self, strings: np.ndarray, bits: np.ndarray, longest: int) -> Examples:
        """Examples of strings [N] as integers with their lengths [N], padded to `longest` bits."""
        shift = bits[:, None] - 1 - np.arange(longest)  # the first bit is the highest; below 0 lies padding
        bit = (strings[:, None] >> np.maximum(shift, 0)) & 1
        if self.features:
            inputs = np.where(shift >= 0, 2 * bit - 1, 0).astype(np.float32)
        else:
            inputs = np.insert(np.where(shift >= 0, ZERO + bit, PAD), 0, QUERY, axis=1).astype(np.uint8)
        return Examples(
            inputs=inputs,
            labels=(EVEN + _parity(strings))[:, None].astype(np.uint8),
            difficulty=bits.astype(np.float32),
            groups=np.array([f"length {n}" for n in bits]),
        )


def _pairs(split: str, n: int, count: int, random: np.random.Generator) -> np.ndarray:
    """[K, 2] int64, (even, odd): strings of n bits that belong to a split, all or enough for `count`, in random order.

    Pairs make both classes equally frequent at every length, so that no constant answer scores above 0.5.
    """
    low, high = HASH_RANGE[split]
    if n <= TAUGHT:
        low, high = (0.0, 1.0) if split == "train" else (0.0, 0.0)
    # draw twice as many as are wanted, of which `high - low` belong to the split; short lengths have fewer altogether
    drawn = random.choice(2**n, min(2**n, int(2 * count / max(high - low, 0.1)) + 1000), replace=False)
    share = _hash(2**n + drawn)
    mine = drawn[(low <= share) & (share < high)]
    odd = _parity(mine) == 1
    k = min(odd.sum(), (~odd).sum())
    return np.stack([mine[~odd][:k], mine[odd][:k]], axis=1)


def _hash(marked: np.ndarray) -> np.ndarray:
    """[K] float64 in [0, 1): splitmix64 (Steele, Lea & Flood 2014), so a string's split is the same for ever."""
    x = marked.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53  # the 53 high bits, all that a float64 holds


def _parity(strings: np.ndarray) -> np.ndarray:
    return np.bitwise_count(strings).astype(np.int64) & 1


def _spread(count: int, available: list[int]) -> list[int]:
    """How many to take of each kind: equal numbers, where what a small kind lacks is made up by the larger ones."""
    take = [0] * len(available)
    smallest_first = sorted(range(len(available)), key=available.__getitem__)
    for done, i in enumerate(smallest_first):
        take[i] = min(available[i], count // (len(available) - done))
        count -= take[i]
    return take
