"""Arithmetic proofs: given T, write T = a·b + c as the text `[LEMMA] a * b = I [LEMMA] I + c = T [END]`.

The verifier is strict, and it decides. A proof is right when

* its tokens are exactly that text, the two I agree, and nothing but more [END] follows the first [END];
* every number is written without leading zeros and is at least 1, with at most MAX_DIGITS digits;
* a, b ≥ 2 and 1 ≤ c ≤ a, so that c − 1 is the remainder of T − 1 divided by a. Were c unbounded, 2·2 + (T − 4) would
  do for every T. With the bound each a from 2 to ⌊(T − 1) / 2⌋ gives exactly one proof: T = 899 has 448;
* I = a·b, I + c = T, and T is the number that was asked for.

One proof per T is the training label, although many are right: a decoder that writes all positions at once learns a
position's marginal distribution, and a mixture of 448 proofs is no proof. The canonical proof takes a by a rule that
the suite names, then b = ⌊(T − 1) / a⌋ and c = T − a·b, so c − 1 is the remainder and the proof is valid for T ≥ 10:

* `square`: a = ⌊√(T − 1)⌋. The factors are as equal as they get: b − a is 0, 1 or 2. Targets 10 to 899 have 432
  distinct (a, c), none on more than 3 targets. Hard: 0.2 M parameters were right on 3 % of held-out T after 2,500
  updates on 6,900 targets.
* `short`: a = 4 where T's first digit is odd, 5 where it is even. Since 4 and 5 divide 100, a digit of b depends on two
  digits of T − 1 and on whether the one above is odd; the same model was right on 94 % of held-out T after 800 updates
  on 2,800 targets.

(a, c) = (2, 1), the shortcut that one published system was said to have learned, is a label of neither for T ≥ 10:
where it is written, the model has found it.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from math import isqrt
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from tasks.base import PAD, Array, Batch, DataFolder, Examples, Splits, Task, register_task

VOCABULARY = ("", *"0123456789", "[LEMMA]", "*", "=", "+", "[END]")
TOKEN = {symbol: token for token, symbol in enumerate(VOCABULARY)}
ZERO, NINE, END = TOKEN["0"], TOKEN["9"], TOKEN["[END]"]

MARKS = ("[LEMMA]", "*", "=", "[LEMMA]", "+", "=", "[END]")
"""The proof without its numbers; number i stands between marks i and i + 1: a, b, I, I, c, T."""

MAX_DIGITS = 9
"""A longer number is refused unread, so that a·b stays below 10^18 and int64 never wraps."""


class Reading(NamedTuple):
    """What a batch of answers says: grammatical [B] bool, and six numbers [B] int64, of use only where grammatical."""

    grammatical: Array
    a: Array
    b: Array
    product: Array
    product_again: Array
    c: Array
    total: Array


@register_task("arithmetic-proofs")
class ArithmeticProofs(Task):
    """Grid: T's digits, then padding; the answer is the proof over the same positions, filled up with [END].

    The fill is scored: a model that babbles after its proof is wrong. Train holds every target that the other splits
    don't, so no split depends on the seed.
    """

    version: ClassVar[int] = 1
    summary: ClassVar[str] = "Given T, write a proof that T = a·b + c; a strict verifier decides."
    exact_means: ClassVar[str] = "accepted by the strict verifier, whichever valid a, b and c it uses"
    difficulty_unit: ClassVar[str] = "target"  # T itself: a is one of about √T numbers, and digits alone make 2 classes

    rule: Literal["square", "short"] = Field("square", description="which canonical a is trained")
    min_target: int = Field(10, ge=10, le=99_999, description="smallest T; below 10 a rule may have no valid proof")
    max_target: int = Field(899, ge=10, le=99_999, validate_default=True, description="largest T in training")
    ood_targets: int = Field(100, ge=0, le=100_000, description="number of targets above max_target, never trained on")
    test_share: float = Field(0.2, gt=0, lt=1, description="share of the targets held out for test")
    validation_share: float = Field(0.1, gt=0, lt=1, validate_default=True)

    @field_validator("max_target")
    @classmethod
    def _in_order(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("min_target", value):
            raise ValueError(f"max_target = {value} is less than min_target = {info.data['min_target']}")
        return value

    @field_validator("validation_share")
    @classmethod
    def _leaves_training(cls, value: float, info: ValidationInfo) -> float:
        if value + info.data.get("test_share", 0) >= 1:
            raise ValueError(f"with test_share = {info.data['test_share']} nothing is left for training")
        return value

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return VOCABULARY

    @property
    def sequence_length(self) -> int:
        return _longest_proof(self.min_target, self.max_target + self.ood_targets, self.rule)

    def splits(self, seed: int, data: DataFolder) -> Splits:
        # in the order of their hashes, so that the first rows of a split are a fair sample
        share = {t: _hash(t) for t in range(self.min_target, self.max_target + self.ood_targets + 1)}
        ordered = sorted(share, key=share.__getitem__)
        seen = [t for t in ordered if t <= self.max_target]
        held_out = self.test_share + self.validation_share
        parts = {
            "train": self._examples([t for t in seen if share[t] >= held_out]),
            "validation": self._examples([t for t in seen if self.test_share <= share[t] < held_out]),
            "test": self._examples([t for t in seen if share[t] < self.test_share]),
        }
        if self.ood_targets:
            parts["ood-targets"] = self._examples([t for t in ordered if t > self.max_target])
        return parts

    def _examples(self, targets: list[int]) -> Examples:
        shape = (len(targets), self.sequence_length)
        inputs, labels = np.full(shape, PAD, np.uint8), np.full(shape, END, np.uint8)
        for row, target in enumerate(targets):
            digits, proof = tokenise(str(target)), tokenise(write(target, *decompose(target, self.rule)))
            inputs[row, : len(digits)] = digits
            labels[row, : len(proof)] = proof
        return Examples(
            inputs=inputs,
            labels=labels,
            difficulty=np.array(targets, np.float32),
            groups=np.array([f"{len(str(t))} digits" for t in targets], dtype=str),
            facts={"target": np.array(targets, np.int64)},
        )

    def correct(self, batch: Batch, prediction: Array) -> Array:
        """[B] bool: the strict verifier (see the top of this file)."""
        asked = batch.facts["target"]
        p = read(prediction)
        valid = (p.a >= 2) & (p.b >= 2) & (p.c >= 1) & (p.c <= p.a)
        adds_up = (p.product == p.a * p.b) & (p.product_again == p.product) & (p.product + p.c == p.total)
        return p.grammatical & valid & adds_up & (p.total == asked)

    def metrics(self, batch: Batch, prediction: Array) -> dict[str, Array]:
        p = read(prediction)
        return {
            "canonical": super().correct(batch, prediction),
            "grammatical": p.grammatical,
            "shortcut": p.grammatical & (p.a == 2) & (p.c == 1),
        }

    def metric_notes(self) -> dict[str, str]:
        return {
            "canonical": "the answer is the canonical proof, the one that was trained",
            "grammatical": "the answer has the form of a proof, whether its numbers are right or not",
            "shortcut": "the answer has the form of a proof with a = 2 and c = 1, right or not",
        }

    def solve(self, examples: Examples) -> np.ndarray:
        """The canonical proof by its rule, of the number that stands in the input."""
        numbers = ["".join(VOCABULARY[token] for token in row if token != PAD) for row in examples.inputs]
        return self._examples([int(number) for number in numbers]).labels

    def decode(self, tokens: np.ndarray) -> str:
        """Numbers written together, and the fill of [END] at the end shown as one."""
        spaced = "".join(s if s.isdigit() else f" {s} " for s in (VOCABULARY[int(t)] for t in tokens if t != PAD))
        return re.sub(r"( \[END\])+$", " [END]", " ".join(spaced.split()))


def decompose(target: int, rule: str) -> tuple[int, int, int]:
    """The canonical (a, b, c) of a target ≥ 10."""
    a = isqrt(target - 1) if rule == "square" else 5 - int(str(target)[0]) % 2
    b = (target - 1) // a
    return a, b, target - a * b


def write(target: int, a: int, b: int, c: int) -> str:
    """The proof text of a decomposition."""
    return f"[LEMMA] {a} * {b} = {a * b} [LEMMA] {a * b} + {c} = {target} [END]"


def tokenise(text: str) -> list[int]:
    """Token ids of a proof text; digits are single tokens, blanks separate and stand for nothing."""
    return [TOKEN[symbol] for symbol in re.findall(r"\[\w+\]|\S", text)]


def read(token: Array) -> Reading:
    """Parse answers [B, A] of any integer type, as NumPy or torch: no loop over rows, only what both libraries have.

    Sums and counts of booleans are int64 in both, and they widen whatever they meet: no byte ever overflows.
    """
    digit = (token >= ZERO) & (token <= NINE)
    mark = ~digit
    field = mark.cumsum(-1)  # [B, A] marks so far: number i stands where it is i, and the fill where it is ≥ 7
    last = len(MARKS)
    legal = (digit & (field >= 1) & (field < last)) | (mark & (field > last) & (token == END))
    for i, symbol in enumerate(MARKS, start=1):
        legal = legal | (mark & (field == i) & (token == TOKEN[symbol]))
    grammatical = legal.all(-1) & (field[:, -1] >= last)
    seen = digit.cumsum(-1)
    numbers = []
    for i in range(1, last):
        here = digit & (field == i)
        length = here.sum(-1)
        fits = length <= MAX_DIGITS
        digits_after = (digit & (field <= i)).sum(-1)[:, None] - seen  # of this number, to the right of each digit
        power = 10 ** (digits_after * here * fits[:, None])  # int64
        number = ((token - ZERO) * here * power).sum(-1)
        # n digits without a leading zero are at least 10^(n−1); no digit at all fails too, as 0 < 10^0
        grammatical = grammatical & fits & (10 * number >= 10 ** (length * fits))
        numbers.append(number)
    return Reading(grammatical, *numbers)


def _hash(target: int) -> float:
    """In [0, 1), the same for ever: which split a target belongs to."""
    return int.from_bytes(hashlib.sha256(f"arithmetic-proofs {target}".encode()).digest()[:6]) / 2**48


@cache
def _longest_proof(smallest: int, largest: int, rule: str) -> int:
    """Tokens of the longest canonical proof of a range. Other proofs that are longer still can't be written."""
    return max(len(tokenise(write(t, *decompose(t, rule)))) for t in range(smallest, largest + 1))
