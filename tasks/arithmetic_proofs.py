"""Arithmetic proofs: given T, write T = a·b + c as the text `[LEMMA] a * b = I [LEMMA] I + c = T [END]`.

The verifier is strict, and it decides. A proof is right when

* its tokens are exactly that text, the two I agree, and nothing but more [END] follows the first [END];
* every number is written without leading zeros and is at least 1, with at most MAX_DIGITS digits;
* a, b ≥ 2 and 1 ≤ c ≤ a, so that c − 1 is the remainder of T − 1 divided by a. Were c unbounded, 2·2 + (T − 4) would
  do for every T. With the bound each a from 2 to ⌊(T − 1) / 2⌋ gives exactly one proof: T = 899 has 448;
* I = a·b, I + c = T, and T is the number that was asked for.

`operation: "-"` asks for T = a·b − c instead, `both` for the one that the prompt's sign names.

With `labels: canonical` one proof per T is the training label, although many are right: a decoder that writes all
positions at once learns a position's marginal distribution, and a mixture of 448 proofs is no proof. The rule that the
suite names takes a; b and c follow, and the proof is valid for T ≥ 10:

* `square`: a = ⌊√(T − 1)⌋. The factors are as equal as they get: b − a is 0, 1 or 2. Targets 10 to 899 have 432
  distinct (a, c), none on more than 3 targets. Hard: 0.2 M parameters were right on 3 % of held-out T after 2,500
  updates on 6,900 targets.
* `prime`: a is the largest prime up to √(T − 1), to be known by heart on top of it.
* `short`: a = 4 where T's first digit is odd, 5 where it is even. Since 4 and 5 divide 100, a digit of b depends on two
  digits of T − 1 and on whether the one above is odd; the same model was right on 94 % of held-out T after 800 updates
  on 2,800 targets.
* `first-hit`: the least c, then the least a. Its labels for T = 10 to 50 are the 41 rows that one published system had.

(a, c) = (2, 1), the shortcut that this system was said to have learned, is a label of the first three rules for no
T ≥ 10: where it is written, the model has found it.

With `labels: random` a is drawn anew for each training proof, which suits a decoder that writes from left to right:
`form: causal`. There a position is answered by the token that follows it, and an answer counts where the model wrote it
by itself: as the label, or as the text that stands in the inputs, too, which is so when it was generated.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from harness import seeds
from harness.errors import UserError
from tasks.base import PAD, Array, Batch, DataFolder, Examples, Splits, Task, register_task
from tasks.proof_text import (
    END,
    MINUS,
    PLUS,
    VOCABULARY,
    Reading,
    canonical_a,
    largest_a,
    longest,
    read,
    tokenise,
    write,
)

SIGNS = {"+": (1,), "-": (-1,), "both": (1, -1)}
NO_PROOF = 0
C_BELOW = 10**9  # c has at most nine digits, so (a, c) is one int64
RECALL = "every split is the same table of targets: a figure says what was memorised, and nothing of reasoning"


@register_task(
    "proofs-memorisation",
    rule="first-hit",
    min_target=10,
    max_target=50,
    ood_targets=0,
    held_out=False,
    contract_forms={},
    summary="MEMORISATION: the 41 rows, T = 10 to 50, on which a published system was trained and validated.",
)
@register_task("arithmetic-proofs")
class ArithmeticProofs(Task):
    """Form `grid`: T's digits, then padding; the answer is the proof over the same positions, filled up with [END].
    Form `causal`: T's digits, then the proof but for its last token; the answer is what follows each position.

    The fill is scored: a model that babbles after its proof is wrong. Train holds every target that the other splits
    don't, so no split depends on the seed but by random labels.
    """

    version: ClassVar[int] = 2
    summary: ClassVar[str] = "Given T, write a proof that T = a·b + c; a strict verifier decides."
    exact_means: ClassVar[str] = "accepted by the strict verifier, whichever valid a, b and c it uses"
    difficulty_unit: ClassVar[str] = "target"  # T itself: a is one of about √T numbers, and digits alone make 2 classes
    contract_forms: ClassVar[dict[str, dict[str, Any]]] = {
        "causal": {"form": "causal", "labels": "random"},
        "both operations": {"operation": "both", "rule": "prime"},
    }

    form: Literal["grid", "causal"] = Field("grid", description="all positions at once, or from left to right")
    operation: Literal["+", "-", "both"] = Field("+", description="T = a·b + c, a·b − c, or as the prompt says")
    labels: Literal["canonical", "random"] = Field("canonical", description="one proof per target, or any")
    proofs_per_target: int = Field(1, ge=1, le=1000, description="random proofs in training; canonical ones are single")
    rule: Literal["square", "prime", "short", "first-hit"] = Field("square", description="which canonical a is trained")
    min_target: int = Field(10, ge=10, le=99_999, description="smallest T; below 10 a rule may have no valid proof")
    max_target: int = Field(899, ge=10, le=99_999, validate_default=True, description="largest T in training")
    ood_targets: int = Field(100, ge=0, le=100_000, description="number of targets above max_target, never trained on")
    held_out: bool = Field(True, description="false: every target in every split, which measures memorisation alone")
    test_share: float = Field(0.2, gt=0, lt=1, description="share of the targets held out for test")
    validation_share: float = Field(0.1, gt=0, lt=1, validate_default=True, description="share held out for validation")

    @field_validator("max_target")
    @classmethod
    def _in_order(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("min_target", value):
            raise ValueError(f"max_target = {value} is less than min_target = {info.data['min_target']}")
        return value

    @field_validator("proofs_per_target")
    @classmethod
    def _canonical_is_single(cls, value: int, info: ValidationInfo) -> int:
        if value > 1 and info.data.get("labels") == "canonical":
            raise ValueError("there is one canonical proof per target; set labels: random")
        return value

    @field_validator("validation_share")
    @classmethod
    def _leaves_training(cls, value: float, info: ValidationInfo) -> float:
        if value + info.data.get("test_share", 0) >= 1:
            raise ValueError(f"with test_share = {info.data['test_share']} nothing is left for training")
        return value

    @property
    def causal(self) -> bool:
        return self.form == "causal"

    @property
    def generated(self) -> bool:
        return self.causal

    @property
    def in_sample(self) -> dict[str, str]:
        return {} if self.held_out else {"validation": RECALL, "test": RECALL}

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return VOCABULARY

    @property
    def signs(self) -> tuple[int, ...]:
        return SIGNS[self.operation]

    @property
    def sequence_length(self) -> int:
        rule = self.rule if self.labels == "canonical" else None
        most = self.max_target + self.ood_targets
        proof = longest(self.min_target, most, self.signs, rule)
        return proof + len(self.prompt(most, 1)) - 1 if self.causal else proof

    def splits(self, seed: int, data: DataFolder) -> Splits:
        # in the order of their hashes, so that the first rows of a split are a fair sample
        share = {t: _hash(t) for t in range(self.min_target, self.max_target + self.ood_targets + 1)}
        ordered = sorted(share, key=share.__getitem__)
        seen = [t for t in ordered if t <= self.max_target]
        held_out = self.test_share + self.validation_share
        parts = {
            "train": [t for t in seen if share[t] >= held_out or not self.held_out],
            "validation": [t for t in seen if self.test_share <= share[t] < held_out or not self.held_out],
            "test": [t for t in seen if share[t] < self.test_share or not self.held_out],
        }
        if self.ood_targets:
            parts["ood-targets"] = [t for t in ordered if t > self.max_target]
        return {name: self._examples(name, targets, seed) for name, targets in parts.items()}

    def prompt(self, target: int, sign: int) -> list[int]:
        """T's digits, and the sign where both operations are asked for."""
        asked = [PLUS if sign > 0 else MINUS] if self.operation == "both" else []
        return tokenise(str(target)) + asked

    def _examples(self, split: str, targets: list[int], seed: int) -> Examples:
        random = seeds.generator(self.name, split, *([seed] if split == "train" else []))
        copies = self.proofs_per_target if split == "train" else 1
        return self._of([(t, sign) for _ in range(copies) for t in targets for sign in self.signs], random)

    def _of(self, asked: list[tuple[int, int]], random: np.random.Generator) -> Examples:
        """Examples of (target, sign); `random` draws their proofs where labels are random."""
        shape = (len(asked), self.sequence_length)
        inputs, labels = np.full(shape, PAD, np.uint8), np.full(shape, END, np.uint8)
        prompt_length = np.zeros(len(asked), np.int64)
        for row, (target, sign) in enumerate(asked):
            a = canonical_a(target, self.rule)
            if self.labels == "random":
                a = int(random.integers(2, largest_a(target, sign) + 1))
            prompt_length[row] = len(self.prompt(target, sign))
            self._write(inputs[row], labels[row], target, sign, a)
        sign_of = np.array([sign for _, sign in asked], np.int64)
        target_of = np.array([target for target, _ in asked], np.int64)
        return Examples(
            inputs=inputs,
            labels=labels,
            difficulty=target_of.astype(np.float32),
            groups=np.array([self._group(*row) for row in asked], dtype=str),
            facts={"target": target_of, "sign": sign_of, "prompt_length": prompt_length},
        )

    def parse(self, text: str) -> Examples:
        """A target, such as 1234; followed by + or - where both operations are asked for."""
        found = re.fullmatch(r"\s*(\d+)\s*([+-]?)\s*", text)
        sign = {"+": 1, "-": -1}.get(found[2], self.signs[0]) if found else 0
        most = self.max_target + self.ood_targets
        if not found or sign not in self.signs or not 10 <= int(found[1]) <= most:
            operations = " or ".join("+" if s > 0 else "-" for s in self.signs)
            raise UserError(
                f"a target of {self.name} is a number from 10 to {most:,}, operation {operations}; not {text!r}"
            )
        return self._of([(int(found[1]), sign)], seeds.generator(self.name, "typed"))

    def _write(self, inputs: np.ndarray, labels: np.ndarray, target: int, sign: int, a: int) -> None:
        """Fill one row's inputs [S] (padding so far) and labels [S] (ends so far) with a question and its proof."""
        prompt, proof = self.prompt(target, sign), tokenise(write(target, a, sign))
        if self.causal:
            text = np.full(self.sequence_length + 1, END, np.uint8)
            text[: len(prompt) + len(proof)] = prompt + proof
            inputs[:], labels[:] = text[:-1], text[1:]
            labels[: len(prompt) - 1] = PAD
        else:
            inputs[: len(prompt)] = prompt
            labels[: len(proof)] = proof

    def _group(self, target: int, sign: int) -> str:
        words = f"{len(str(target))} digits"
        return f"{words}, {'+' if sign > 0 else '-'}" if self.operation == "both" else words

    def canonical(self, examples: Examples) -> np.ndarray:
        """A target belongs to one split, whatever its sign and its proof."""
        return examples.facts["target"]

    def read(self, batch: Batch, prediction: Array) -> Reading:
        """The answers as proofs; under a causal mask grammatical only where the model wrote them by itself."""
        found = read(prediction, batch.facts["prompt_length"] - 1 if self.causal else None)
        grammatical = found.grammatical & (found.sign == batch.facts["sign"])
        if self.causal:
            answered = batch.labels != PAD
            own = (batch.inputs[:, 1:] == prediction[:, :-1]) | ~answered[:, :-1]
            grammatical = grammatical & own.all(-1)
        return found._replace(grammatical=grammatical)

    def correct(self, batch: Batch, prediction: Array) -> Array:
        """[B] bool: the strict verifier (see the top of this file)."""
        p = self.read(batch, prediction)
        valid = (p.a >= 2) & (p.b >= 2) & (p.c >= 1) & (p.c <= p.a)
        adds_up = (p.product == p.a * p.b) & (p.product_again == p.product) & (p.product + p.sign * p.c == p.total)
        return p.grammatical & valid & adds_up & (p.total == batch.facts["target"])

    def metrics(self, batch: Batch, prediction: Array) -> dict[str, Array]:
        p = self.read(batch, prediction)
        return {
            "label": super().correct(batch, prediction),
            "grammatical": p.grammatical,
            "shortcut": p.grammatical & (p.a == 2) & (p.c == 1),
        }

    def metric_notes(self) -> dict[str, str]:
        return {
            "label": "the answer is the proof that stands as the label, not only a valid one",
            "grammatical": "the answer has the form of a proof, whether its numbers are right or not",
            "shortcut": "the answer has the form of a proof with a = 2 and c = 1, right or not",
        }

    def solve(self, examples: Examples) -> np.ndarray | None:
        """The proof by the rule's a. None where a proof is written from left to right and any may be the label."""
        if self.causal and self.labels == "random":
            return None
        answers = np.full(examples.labels.shape, END, np.uint8)
        for row, (target, sign) in enumerate(zip(examples.facts["target"], examples.facts["sign"], strict=True)):
            a = canonical_a(int(target), self.rule)
            self._write(np.zeros_like(answers[row]), answers[row], int(target), int(sign), a)
        return answers

    def histograms(self, batch: Batch, prediction: Array) -> dict[str, Array]:
        """(a, c) of what has the form of a proof, apart for even and odd targets: a·b + 1 = T is odd where a is 2."""
        p = self.read(batch, prediction)
        code = (p.a * C_BELOW + p.c) * p.grammatical
        odd = batch.facts["target"] % 2 == 1
        return {"(a, c), odd T": code * odd - 1 * ~odd, "(a, c), even T": code * ~odd - 1 * odd}

    def histogram_value(self, name: str, code: int) -> str:
        return "no proof" if code == NO_PROOF else str(divmod(code, C_BELOW))

    def decode(self, tokens: np.ndarray) -> str:
        """Numbers written together, and the fill of [END] at the end shown as one."""
        spaced = "".join(s if s.isdigit() else f" {s} " for s in (VOCABULARY[int(t)] for t in tokens if t != PAD))
        return re.sub(r"( \[END\])+$", " [END]", " ".join(spaced.split()))


def _hash(target: int) -> float:
    """In [0, 1), the same for ever: which split a target belongs to."""
    return int.from_bytes(hashlib.sha256(f"arithmetic-proofs {target}".encode()).digest()[:6]) / 2**48
