"""`s3-code`: the coding data of a published comparison (source system S3), each of its faults a switch of its own.

With all switches on, the default, this is what was measured there: the share of next tokens guessed right by models
that see the next token, prompts included, on the rows that chose the checkpoint, after training on HumanEval. With all
off, the same programs make a test that means something. So the claim that the gap vanishes without the leak can be
tried, one switch at a time. This is the only task that can train on HumanEval.

The programs: HumanEval's 164 problems and four kinds of small functions (sum of two numbers, one of five words turned
round, largest of three to six numbers, parity of a number), written anew here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from harness import seeds
from tasks.base import PAD, Batch, DataFolder, Examples, Splits, register_task
from tasks.code import CodeTask, Item
from tasks.code_text import END
from tasks.humaneval import human_eval_items
from tasks.predictors import Predictor, trivial_predictors

WORDS = ("hello", "world", "python", "coding", "test")
LARGEST = 100
FAULTS = ("score_prompt", "humaneval_in_training", "duplicates", "score_validation")
SHARED = "a switch of the replica: rows stand in several splits, as in the source"


@register_task("s3-code")
class S3Code(CodeTask):
    """Positions are labelled with the token that follows. With `causal_mask` off a model sees it while it answers."""

    version: ClassVar[int] = 1
    summary: ClassVar[str] = "S3's coding rows: with its faults (token accuracy that sees the answer), or without them."
    source: ClassVar[str] = "package human-eval, and generated"
    licence: ClassVar[str] = "MIT"
    real_data: ClassVar[bool] = True
    package: ClassVar[str] = "human-eval"
    exact_means: ClassVar[str] = (
        "with causal_mask the written program passes its check in a sandbox; without, every scored token is right"
    )
    contract_settings: ClassVar[dict[str, Any]] = {"train_examples": 80, "validation_examples": 10, "test_examples": 12}
    contract_forms: ClassVar[dict[str, dict[str, Any]]] = {
        "corrected": {
            "causal_mask": True, "score_prompt": False, "humaneval_in_training": False, "duplicates": False,
            "score_validation": False, "train_examples": 80, "validation_examples": 10, "test_examples": 12,
            "timeout": 30.0,
        }
    }  # fmt: skip

    causal_mask: bool = Field(False, description="false: position t is scored on the token at t + 1, which it sees")
    score_prompt: bool = Field(True, description="loss and accuracy count the prompt's tokens, too")
    humaneval_in_training: bool = Field(True, description="HumanEval's problems are dealt over all splits at random")
    duplicates: bool = Field(True, description="small functions are drawn with replacement, over all splits")
    score_validation: bool = Field(True, description="test is the validation split, which chose the checkpoint")
    train_examples: int = Field(150, ge=8, le=10_000)
    validation_examples: int = Field(20, ge=2, le=1000)
    test_examples: int = Field(18, ge=2, le=1000)

    @property
    def causal(self) -> bool:
        return self.causal_mask

    @property
    def generated(self) -> bool:
        return self.causal_mask

    @property
    def executes(self) -> bool:
        return self.causal_mask

    @property
    def in_sample(self) -> dict[str, str]:
        both = {"validation": SHARED, "test": SHARED}
        return both if self.duplicates or self.score_validation else {}

    def splits(self, seed: int, data: DataFolder) -> Splits:
        random = Random(seeds.key("s3-code", "rows"))
        sizes = (self.train_examples, self.validation_examples, self.test_examples)
        data.package("human-eval")
        items = list(human_eval_items()) if self.humaneval_in_training else []
        wanted = max(0, sum(sizes) - len(items))
        items += self._small(random, wanted)
        random.shuffle(items)
        ends = np.cumsum(sizes)
        train, validation, test = (self.rows(items[end - size : end]) for end, size in zip(ends, sizes, strict=True))
        found = {"train": train, "validation": validation, "test": validation if self.score_validation else test}
        if self.causal_mask and not self.humaneval_in_training:
            found["ood-humaneval"] = self.rows(human_eval_items()[::20], width=512)
        return found

    def _small(self, random: Random, count: int) -> list[Item]:
        """`count` small functions, with replacement or each once."""
        found: list[Item] = []
        seen: set[str] = set()
        for item in _endless(random):
            if len(found) == count:
                break
            if self.duplicates or item.problem.prompt not in seen:
                seen.add(item.problem.prompt)
                found.append(item)
        return found

    def rows(self, items: Sequence[Item], width: int | None = None) -> Examples:
        """As in all code tasks; with `score_prompt` all tokens are scored. Without a causal mask, where nothing is run,
        longer rows are cut instead of left out, as in the source."""
        size = width or self.max_tokens
        longest = max(len(self._tokens(item)) for item in items)
        whole = super().rows(items, size if self.causal_mask else max(size, longest))
        if self.score_prompt:
            scored = np.concatenate((whole.inputs[:, 1:], np.zeros((len(whole), 1), np.uint16)), axis=1)
            whole = replace(whole, labels=np.where(whole.labels == PAD, scored, whole.labels).astype(np.uint16))
        facts = {**whole.facts, "prompt_length": np.minimum(whole.facts["prompt_length"], size)}
        cut = replace(whole, inputs=whole.inputs[:, :size], labels=whole.labels[:, :size], facts=facts)
        return cut[(cut.labels != PAD).any(1)]

    def _tokens(self, item: Item) -> list[int]:
        problem = item.problem
        return [*self.coder.encode(problem.prompt), *self.coder.encode(problem.canonical_solution), END]

    def metrics(self, batch: Batch, prediction: Any) -> dict[str, Any]:
        return super().metrics(batch, prediction) if self.causal_mask else {}

    def metric_notes(self) -> dict[str, str]:
        return super().metric_notes() if self.causal_mask else {}

    def predictors(self, train: Examples) -> dict[str, Predictor]:
        return super().predictors(train) if self.causal_mask else trivial_predictors(train)

    def notes(self, splits: Splits) -> list[str]:
        on = ["no causal_mask"] if not self.causal_mask else []
        on += [name for name in FAULTS if getattr(self, name)]
        train = {row.tobytes() for row in splits["train"].inputs}
        copies = np.mean([row.tobytes() in train for row in splits["validation"].inputs])
        return [
            f"Faults of the source that are on: {', '.join(on) or 'none'}.",
            f"{copies:.0%} of the validation rows stand in training, too.",
        ]


def _endless(random: Random) -> Iterator[Item]:
    """The source's four kinds in equal shares, drawn with replacement."""
    from harness.sandbox.pool import Problem

    result: Any
    while True:
        kind = random.randrange(4)
        if kind == 0:
            a, b = random.randint(1, LARGEST), random.randint(1, LARGEST)
            name, asks, result, body = "add_numbers", f"the sum of {a} and {b}", a + b, f"{a} + {b}"
        elif kind == 1:
            word = random.choice(WORDS)
            name, asks, result, body = "reverse_word", f"'{word}' turned round", word[::-1], f"'{word}'[::-1]"
        elif kind == 2:
            row = [random.randint(1, LARGEST) for _ in range(random.randint(3, 6))]
            name, asks, result, body = "largest", f"the largest of {row}", max(row), f"max({row})"
        else:
            n = random.randint(1, LARGEST)
            name, asks, result, body = "is_even", f"whether {n} is even", n % 2 == 0, f"{n} % 2 == 0"
        prompt = f'def {name}():\n    """Return {asks}."""\n'
        check = f"def check(candidate):\n    assert candidate() == {result!r}\n"
        yield Item(Problem("", prompt, name, check, f"    return {body}\n"), name)
