"""What tasks of writing programs share: problems as token rows, solutions written token by token, verdicts by running.

A problem is a prompt, a solution and a hidden `check`, as in HumanEval. The loss is on the solution's tokens alone. An
answer is right when what the model wrote passes the check, run in a sandbox (harness/sandbox); where nothing is written
(training, with its halting target, and validation) the answer must equal the solution instead, a lower bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from harness.errors import MissingData, UserError, did_you_mean
from tasks.base import PAD, Array, Batch, DataFolder, Examples, Task
from tasks.code_text import BYTES, END, SPECIAL, Coder, gpt2
from tasks.predictors import Predictor

if TYPE_CHECKING:
    from harness.sandbox.pool import Problem


HUMANEVAL = "humaneval"
"""Group of HumanEval's problems, in whatever task they are asked."""


@dataclass(frozen=True)
class Item:
    """A problem with what a table says of it."""

    problem: Problem
    group: str


class CodeTask(Task):
    """Subclasses give `splits` (by `rows`); all of them share one vocabulary, so that an arm can be asked for each."""

    exact_means: ClassVar[str] = "on test the written program passes the hidden check, run in a sandbox"
    difficulty_unit: ClassVar[str] = "tokens of the solution"
    whole_program: ClassVar[bool] = False  # the answer stands alone, rather than going on from the prompt's function
    floor_note: ClassVar[str] = (
        "the best of: most frequent solution, solution of the training prompt with the most tokens in common, and what "
        "every task has; each run in the sandbox"
    )

    tokenizer: Literal["bpe", "gpt2"] = Field("bpe", description="byte pairs trained on synthetic-code, or GPT-2's")
    vocabulary_size: int = Field(512, ge=BYTES + SPECIAL, le=20_000, description="of bpe; 258: bytes alone")
    max_tokens: int = Field(128, ge=8, le=4096, description="longest prompt with solution; longer ones are left out")
    answer_tokens: int = Field(64, ge=1, le=4096, description="tokens after which a written program is cut off")
    timeout: float = Field(3.0, gt=0, le=60, description="seconds that a program's check may take")

    @property
    def causal(self) -> bool:
        return True

    @property
    def generated(self) -> bool:
        return True

    @property
    def executes(self) -> bool:
        return True

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        return (END,)

    @property
    def most_written(self) -> int:
        return self.answer_tokens

    @property
    def coder(self) -> Coder:
        if self.tokenizer == "gpt2":
            return gpt2()
        from tasks.synthetic_code import trained_coder

        return trained_coder(self.vocabulary_size)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return self.coder.symbols

    @property
    def sequence_length(self) -> int:
        return self.max_tokens

    # -- rows --------------------------------------------------------------------------------------------------
    def rows(self, items: Sequence[Item], width: int | None = None) -> Examples:
        """The problems as examples of `width` positions (default: max_tokens), without those that are longer."""
        width, coder = width or self.max_tokens, self.coder
        coded = [
            (item, coder.encode(item.problem.prompt), [*coder.encode(item.problem.canonical_solution), END])
            for item in items
        ]
        coded = [row for row in coded if len(row[1]) + len(row[2]) <= width + 1]
        inputs = np.full((len(coded), width), PAD, np.uint16)
        labels = np.full((len(coded), width), PAD, np.uint16)
        for row, (_, prompt, solution) in enumerate(coded):
            text = [*prompt, *solution]
            inputs[row, : len(text) - 1] = text[:-1]
            labels[row, len(prompt) - 1 : len(text) - 1] = solution
        problems = [item.problem for item, _, _ in coded]
        return Examples(
            inputs=inputs,
            labels=labels,
            difficulty=np.array([len(solution) for _, _, solution in coded], np.float32),
            groups=np.array([item.group for item, _, _ in coded], dtype=str),
            facts={
                "prompt_length": np.array([len(prompt) for _, prompt, _ in coded], np.int64),
                "entry": _as_bytes([problem.entry_point for problem in problems]),
                "check": _as_bytes([problem.test for problem in problems]),
            },
        )

    def items(self, split: str, data: DataFolder) -> Sequence[Item]:
        """All problems of a scored split, of any length, each with a task id. UserError for a split that has none."""
        raise UserError(f"task {self.name}: pass@k is of humaneval, mbpp and synthetic-code")

    def whole_problems(self, split: str, data: DataFolder) -> list[Problem]:
        """What `items` holds, for whoever has a tokenizer of its own."""
        return [item.problem for item in self.items(split, data)]

    def problems(self, examples: Examples) -> list[Problem]:
        """The problems of rows, their solutions as they stand in the labels; task ids are example ids."""
        from harness.sandbox.pool import Problem

        length, coder = examples.facts["prompt_length"], self.coder
        return [
            Problem(
                task_id=f"{self.name}/{example_id}",
                prompt=coder.decode(examples.inputs[i, : length[i]]),
                entry_point=_text(examples.facts["entry"][i]),
                test=_text(examples.facts["check"][i]),
                canonical_solution=coder.written(examples.labels[i, length[i] - 1 :]),
            )
            for i, example_id in enumerate(examples.ids)
        ]

    def written(self, examples: Examples, answers: np.ndarray) -> list[str]:
        """The programs' texts behind their prompts, of answers [N, A]."""
        starts = examples.facts["prompt_length"] - 1
        return [self.coder.written(row[start:]) for row, start in zip(answers, starts, strict=True)]

    # -- what is right -----------------------------------------------------------------------------------------
    def get_ready(self) -> None:
        from harness.sandbox import probe, shared

        try:
            shared.ready()
        except probe.NoSandbox as refused:
            why, _, remedy = str(refused).partition(" Remedy: ")
            raise MissingData(why, remedy) from None

    def judgements(self, examples: Examples, answers: np.ndarray) -> list[str]:
        """[N] `passed`, `timed out` or `failed: reason`. Refuses where reference solutions do not pass here."""
        problems = self.problems(examples)
        self.check_references(problems, bool(np.any(examples.groups == HUMANEVAL)))
        return _judged(self, problems, self.written(examples, answers))

    def check_references(self, problems: Sequence[Problem], humaneval: bool) -> None:
        """Raises ReferenceFailed unless the solution of each problem passes here; humaneval: those of all its 164 too,
        however few are asked."""
        from harness.sandbox.scoring import ReferenceFailed

        if humaneval:
            from tasks.humaneval import human_eval_items

            problems = [*problems, *(item.problem for item in human_eval_items())]
        references = _judged(self, problems, [problem.canonical_solution for problem in problems])
        failed = [(p.prompt, why) for p, why in zip(problems, references, strict=True) if why != "passed"]
        if failed:
            prompt, why = failed[0]
            raise ReferenceFailed(
                f"task {self.name}: {len(failed)} of {len(problems)} reference solutions do not pass here within "
                f"{self.timeout:g} s, so no score is reported; the first ({why}): {prompt[:80]!r}"
            )

    def metrics(self, batch: Batch, prediction: Array) -> dict[str, Array]:
        return {"exact-match": super().correct(batch, prediction)}

    def metric_notes(self) -> dict[str, str]:
        return {"exact-match": "the answer equals the solution that stands as the label, token by token"}

    def predictors(self, train: Examples) -> dict[str, Predictor]:
        """The usual ones, none of which may read the solution behind a prompt, and two that copy solutions."""
        usual = {name: _PromptsOnly(predictor) for name, predictor in super().predictors(train).items()}
        return {**usual, "frequent-solution": FrequentSolution(train), "nearest-prompt": NearestPrompt(train)}

    def decode(self, tokens: np.ndarray) -> str:
        return self.coder.decode(tokens)


def known_split(name: str, split: str, known: Iterable[str]) -> None:
    """Raises UserError where a task has no such split of problems."""
    if split not in known:
        raise UserError(f'--split: task {name} has no problems in "{split}"{did_you_mean(split, known)}')


def _as_bytes(texts: Sequence[str]) -> np.ndarray:
    """[N, W] uint8: UTF-8, zeros behind."""
    coded = [text.encode() for text in texts]
    rows = np.zeros((len(coded), max(map(len, coded), default=1)), np.uint8)
    for row, text in zip(rows, coded, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    return rows


def _text(row: np.ndarray) -> str:
    return row.tobytes().rstrip(b"\0").decode()


_KNOWN: dict[tuple[str, str, str, float], str] = {}
"""Verdicts of this process by prompt, completion, check and time limit: most depths write the same programs."""


def _judged(task: CodeTask, problems: Sequence[Problem], completions: Sequence[str]) -> list[str]:
    from harness.sandbox import shared
    from harness.sandbox.pool import Program

    task.get_ready()
    pairs = list(zip(problems, completions, strict=True))
    keys = [(problem.prompt, completion, problem.test, task.timeout) for problem, completion in pairs]
    new = {key: Program(*pair) for key, pair in zip(keys, pairs, strict=True) if key not in _KNOWN}
    found = shared.judge(list(new.values()), task.timeout)
    results = {key: verdict.result for key, verdict in zip(new, found, strict=True)}
    # a loaded machine may time out what passes at another time
    _KNOWN.update({key: result for key, result in results.items() if result == "passed" or "failed" in result})
    return [_KNOWN.get(key) or results[key] for key in keys]


# -- floors --------------------------------------------------------------------------------------------------------


def _behind(examples: Examples) -> np.ndarray:
    """[N, S] bool: positions behind the prompt."""
    return np.arange(examples.inputs.shape[1]) >= examples.facts["prompt_length"][:, None]


@dataclass
class _PromptsOnly:
    """A predictor that sees prompts and padding."""

    predictor: Predictor

    def answer(self, examples: Examples) -> np.ndarray | None:
        blank = np.where(_behind(examples), PAD, examples.inputs).astype(examples.inputs.dtype)
        return self.predictor.answer(replace(examples, inputs=blank))


def _solutions(train: Examples) -> list[np.ndarray]:
    """Each training row's solution with its end."""
    starts = train.facts["prompt_length"] - 1
    return [row[start:][row[start:] != PAD] for row, start in zip(train.labels, starts, strict=True)]


def _placed(solutions: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
    """[N, A]: solutions where answers stand, cut to their length."""
    answers = np.full(examples.labels.shape, PAD, examples.labels.dtype)
    for row, solution, length in zip(answers, solutions, examples.facts["prompt_length"], strict=True):
        room = row[length - 1 :]
        room[: len(solution)] = solution[: len(room)]
    return answers


class FrequentSolution:
    """The solution that training has most often, behind every prompt; of several, the first."""

    def __init__(self, train: Examples) -> None:
        (most, _), *_ = Counter(solution.tobytes() for solution in _solutions(train)).most_common(1)
        self.solution = np.frombuffer(most, train.labels.dtype)

    def answer(self, examples: Examples) -> np.ndarray:
        return _placed([self.solution] * len(examples), examples)


class NearestPrompt:
    """The solution of the training prompt that has the largest share of its tokens in common (Jaccard)."""

    def __init__(self, train: Examples) -> None:
        self.solutions, self.train = _solutions(train), train
        self.symbols = int(train.inputs.max()) + 1

    def answer(self, examples: Examples) -> np.ndarray:
        known, asked = self._bags(self.train), self._bags(examples)
        nearest = []
        for row in asked:
            common = known @ row
            nearest.append(int((common / (known.sum(1) + row.sum() - common)).argmax()))
        return _placed([self.solutions[i] for i in nearest], examples)

    def _bags(self, examples: Examples) -> np.ndarray:
        """[N, V] float32: 1 where a prompt holds the token; tokens that training lacks are not looked at."""
        bags = np.zeros((len(examples), self.symbols), np.float32)
        prompts = np.where(_behind(examples), PAD, examples.inputs)
        rows, places = np.nonzero((prompts != PAD) & (prompts < self.symbols))
        bags[rows, prompts[rows, places]] = 1
        return bags
