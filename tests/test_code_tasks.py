"""Programs: checks are hidden, no program stands twice, and only running what was written decides."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BrokenData, MissingData, UserError
from harness.evaluation.evaluate import evaluate
from harness.recipe import ONE_PASS
from harness.sandbox import probe, shared
from harness.sandbox.scoring import ReferenceFailed
from models.base import ModelConfig, ModelShape, Prediction, ReasoningModel
from tasks.base import PAD, Batch, DataFolder, Task, create_task
from tasks.code_families import FAMILIES, HELD_OUT, canonical
from tasks.code_text import END
from tasks.humaneval import human_eval_items
from tasks.synthetic_code import problems_of, trained_coder

SMALL = {"train_examples": 200, "validation_examples": 20, "test_examples": 30, "ood_examples": 12}
TASK: Any = create_task("synthetic-code", SMALL)
SPLITS = TASK.splits(0, DataFolder())


def runs(prompt: str, solution: str, check: str, entry: str) -> bool:
    """Our own programs, run here."""
    space: dict[str, Any] = {}
    exec(prompt + solution, space)
    exec(check, space)
    try:
        space["check"](space[entry])
    except AssertionError:
        return False
    return True


# -- problems --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_solutions_pass_their_checks_and_those_of_neighbours_do_not(family: Any) -> None:
    items = problems_of(family.name)[:25]
    caught = 0
    for one, other in zip(items, [*items[1:], items[0]], strict=True):
        p = one.problem
        assert runs(p.prompt, p.canonical_solution, p.test, p.entry_point)
        names = [re.findall(r"(\w+):", i.problem.prompt.splitlines()[0]) for i in (one, other)]
        solution = other.problem.canonical_solution
        for old, new in zip(names[1], names[0], strict=True):
            solution = re.sub(rf"\b{old}\b", new, solution)
        caught += not runs(p.prompt, solution, p.test, p.entry_point)
    assert caught >= 0.85 * len(items), f"{caught} of {len(items)}"


def test_the_example_in_a_docstring_is_true_and_no_case_of_the_check() -> None:
    for item in problems_of("linear")[:50]:
        p = item.problem
        call, result = re.findall(r">>> (.*)\n    (.*)\n", p.prompt)[0]
        assert f"assert candidate{call.removeprefix(p.entry_point)} == {result}" not in p.test
        space: dict[str, Any] = {}
        exec(p.prompt + p.canonical_solution, space)
        assert eval(call, space) == ast.literal_eval(result)


@settings(max_examples=30, deadline=None)
@given(
    family=st.sampled_from([family.name for family in FAMILIES]),
    place=st.integers(0, 20),
    names=st.lists(
        st.sampled_from(["abc", "p", "q", "r", "foo", "bar", "baz", "items9"]), min_size=4, max_size=4, unique=True
    ),
)
def test_a_program_is_the_same_under_other_names_and_no_other(family: str, place: int, names: list[str]) -> None:
    p = problems_of(family)[place].problem
    source = p.prompt + p.canonical_solution
    tree = ast.parse(source)
    own = {a.arg for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for a in node.args.args}
    renamed = source
    for old, new in zip(sorted({p.entry_point, *own}), [f"{name}_x" for name in names], strict=False):
        renamed = re.sub(rf"(?<!')\b{old}\b(?!')", new, renamed)
    assert canonical(renamed) == canonical(source)
    assert canonical(source) != canonical(p.prompt + problems_of(family)[place + 1].problem.canonical_solution)


def test_no_program_stands_twice_in_any_split_and_held_out_families_stand_apart() -> None:
    keys = [key for part in SPLITS.values() for key in TASK.canonical(part)]
    assert len(set(keys)) == len(keys)
    assert set(SPLITS["ood-families"].groups) <= set(HELD_OUT)
    assert not set(SPLITS["train"].groups) & set(HELD_OUT)
    assert len(set(SPLITS["test"].groups)) > 15, "every family has test programs of other parameters"


@pytest.mark.parametrize("size", [258, 512])
@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_comes_back(size: int, text: str) -> None:
    coder = trained_coder(size)
    assert coder.decode(coder.encode(text)) == text
    assert coder.written([*coder.encode(text), END, *coder.encode("more")]) == text
    assert len(coder.symbols) == size


def test_only_the_solution_is_scored_and_it_comes_back_as_text() -> None:
    part = SPLITS["test"]
    for p, row, length in zip(TASK.problems(part), part.labels, part.facts["prompt_length"], strict=True):
        assert (row[: length - 1] == PAD).all()
        assert p.prompt.startswith("def ") and p.prompt.endswith('"""\n')
        assert runs(p.prompt, p.canonical_solution, p.test, p.entry_point)


# -- verdicts --------------------------------------------------------------------------------------------------------


def answers(part: Any, texts: list[str]) -> np.ndarray:
    rows = np.full(part.labels.shape, PAD, part.labels.dtype)
    for row, text, length in zip(rows, texts, part.facts["prompt_length"], strict=True):
        tokens = [*TASK.coder.encode(text), END][: len(row) - length + 1]
        row[length - 1 : length - 1 + len(tokens)] = tokens
    return rows


def test_running_decides_and_not_the_text() -> None:
    part = SPLITS["test"][:6]
    own = [p.canonical_solution for p in TASK.problems(part)]
    other = [text.replace("    return ", "    result = ").rstrip() + "\n    return result\n" for text in own]
    assert TASK.verdicts(part, part.labels).all()
    assert TASK.verdicts(part, answers(part, own)).all()
    rewritten = answers(part, other)
    one_line = np.array([text.count("\n") == 1 for text in own])
    assert TASK.verdicts(part, rewritten)[one_line].all() and one_line.any()
    assert not TASK.metrics(part.batch(), rewritten)["exact-match"].any()
    for wrong in ("", "    pass\n", "    return None\n", "    import os\n    os._exit(0)\n", "    retrun 1\n"):
        assert not TASK.verdicts(part, answers(part, [wrong] * 6)).any(), wrong


def test_a_reference_that_does_not_pass_refuses_every_score() -> None:
    part = SPLITS["test"][:3]
    check = part.facts["check"].copy()
    check[1] = 0
    false = b"def check(candidate):\n    assert candidate(1) == 'no'\n"
    check[1, : len(false)] = np.frombuffer(false, np.uint8)
    broken = replace(part, facts={**part.facts, "check": check})
    with pytest.raises(ReferenceFailed, match="1 of 3 reference solutions"):
        TASK.verdicts(broken, part.labels)


def test_where_no_sandbox_holds_the_task_is_missing_with_cause_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    shared.close()
    monkeypatch.setattr(probe, "failure", lambda tier: "forbidden here")
    with pytest.raises(MissingData, match=r"no sandbox for untrusted code here .*forbidden here.*--allow-unsafe"):
        TASK.get_ready()
    assert shared.provenance() == {}
    monkeypatch.undo()
    TASK.get_ready()
    assert shared.provenance()["sandbox"] in ("namespaces", "landlock")


def test_floors_see_prompts_alone_and_copies_of_solutions_are_run() -> None:
    train, test = SPLITS["train"], SPLITS["test"]
    scores = {}
    for name, predictor in TASK.predictors(train).items():
        given = predictor.answer(test)
        behind = np.arange(test.inputs.shape[1]) >= test.facts["prompt_length"][:, None]
        scrambled = replace(test, inputs=np.where(behind, 7, test.inputs).astype(np.uint16))
        assert np.array_equal(given, predictor.answer(scrambled)), name
        scores[name] = TASK.verdicts(test, given).mean()
    assert scores["copy-input"] == 0 and max(scores.values()) < 0.2
    assert TASK.verdicts(train[:20], TASK.predictors(train)["nearest-prompt"].answer(train[:20])).mean() > 0.8


class Rewriter(ReasoningModel):
    """Writes a program that is right and not the label: the solution of each prompt with a line before it."""

    recurrent = False

    def __init__(self, task: Any, part: Any) -> None:
        super().__init__(ModelConfig(), ModelShape.of(task), torch.float32)
        self.nothing = torch.nn.Parameter(torch.zeros(()))
        self.texts = {}
        for p in task.problems(part):
            prompt, line = task.coder.encode(p.prompt), task.coder.encode("    pass\n")
            self.texts[tuple(prompt)] = [*prompt, *line, *task.coder.encode(p.canonical_solution), END]

    def initial_state(self, batch: Batch, keys: Any = None) -> Any:
        return self.start(batch, keys)

    def forward(self, state: Any, batch: Batch) -> Any:
        B, S = batch.inputs.shape
        logits = torch.zeros(B, S, self.shape.vocabulary)
        for r, length in enumerate(batch.facts["prompt_length"].tolist()):
            text = self.texts[tuple(batch.inputs[r, :length].tolist())]
            for t in range(S):
                logits[r, t, text[t + 1] if t + 1 < len(text) else END] = 1.0
        return self.following(state), Prediction(logits)


def test_evaluation_runs_what_was_written() -> None:
    part = SPLITS["test"][:5]
    model = Rewriter(TASK, part)
    written = evaluate(model, TASK, ONE_PASS, part, segments=1, batch_size=4, write=True)
    assert written.fixed().all() and written.judgements == ["passed"] * 5
    assert not written.metrics["exact-match"].any()
    asked_at_once = evaluate(model, TASK, ONE_PASS, part, segments=1, batch_size=4)
    assert not asked_at_once.fixed().any(), "given the label's tokens, a lower bound"
    short: Any = create_task("synthetic-code", {**SMALL, "answer_tokens": 3})
    cut = evaluate(model, short, ONE_PASS, part, segments=1, batch_size=4, write=True)
    assert not cut.fixed().any() and cut.answers is not None and (cut.answers != PAD).sum() < 5 * 60


# -- real problems ---------------------------------------------------------------------------------------------------


def test_humaneval_is_for_testing_alone_and_its_problems_come_back_whole() -> None:
    items = human_eval_items()
    task: Any = create_task("humaneval", {"training": SMALL, "max_tokens": 512, "subset": 12})
    splits = task.splits(0, DataFolder())
    known = {item.problem.prompt: item.problem for item in items}
    assert len(items) == 164 and len(splits["test"]) == 11, "one of the twelve is longer"
    for p in task.problems(splits["test"]):
        assert (p.test, p.entry_point) == (known[p.prompt].test, known[p.prompt].entry_point)
        assert p.canonical_solution == known[p.prompt].canonical_solution
    for name in ("train", "validation"):
        assert not any(p.prompt in known for p in task.problems(splits[name]))
    assert task.vocabulary == TASK.vocabulary, "an arm trained on synthetic code can be asked"
    assert task.verdicts(splits["test"], splits["test"].labels).all()
    assert not task.verdicts(splits["test"], np.zeros_like(splits["test"].labels)).any()


def test_what_humaneval_shares_with_its_training_task_is_refused_there() -> None:
    """It used to be overridden, without a word."""
    for name, value in {"max_tokens": 64, "tokenizer": "gpt2", "answer_tokens": 9}.items():
        with pytest.raises(UserError, match=f'settings.training: "{name}" is a setting of every code task'):
            create_task("humaneval", {"training": {name: value}})
    with pytest.raises(UserError, match=r'unknown key .*"families"'):
        create_task("humaneval", {"training": {"familys": ["linear"]}}).splits(0, DataFolder())


def mbpp(settings: dict[str, Any] | None = None) -> tuple[Task, Any]:
    folder = os.environ.get("HRM_BENCH_DATA")
    if folder is None or not (Path(folder) / "mbpp").is_dir():
        pytest.skip("HRM_BENCH_DATA holds no mbpp/mbpp.jsonl")
    task = create_task("mbpp", settings or {"max_tokens": 700})
    return task, task.splits(0, DataFolder(Path(folder)))


def test_mbpp_has_its_official_splits() -> None:
    task, splits = mbpp({"max_tokens": 4000})
    assert {name: len(part) for name, part in splits.items()} == {"train": 369, "validation": 88, "test": 498}
    task.check(splits)


def test_a_broken_mbpp_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "mbpp").mkdir()
    (tmp_path / "mbpp" / "mbpp.jsonl").write_text('{"text": "x", "code": 3}\n')
    with pytest.raises(BrokenData, match=r'mbpp\.jsonl, line 1: "code" is missing or no str'):
        create_task("mbpp").splits(0, DataFolder(tmp_path))


@pytest.mark.slow
def test_every_mbpp_program_kept_passes_its_own_assertions() -> None:
    task, splits = mbpp({"max_tokens": 4000})
    for part in splits.values():
        assert task.verdicts(part, part.labels).all()
