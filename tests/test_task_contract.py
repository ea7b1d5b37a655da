"""The task contract, for every registered task: what a plug-in author gets checked without writing a test.

Tasks are built with their default settings, or with `contract_settings` (a class variable) where those are slow.
Real data are looked for in HRM_BENCH_DATA; a task whose data are absent is skipped with its own reason. Plug-ins that
are installed take part, and files named in HRM_BENCH_PLUGINS (with the system's path separator between).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tasks
from harness.errors import MissingData, UserError
from harness.evaluation.answerers import floors, references
from harness.registry import load_entry_points, load_plugin
from tasks import TASKS, Batch, DataFolder, Task
from tasks.base import PAD, Splits, create_task
from tasks.predictors import LookupTable, MostFrequentAnswer

tasks.load_all()
load_entry_points()
for plugin in filter(None, os.environ.get("HRM_BENCH_PLUGINS", "").split(os.pathsep)):
    load_plugin(Path(plugin))


def forms() -> list[str]:
    """Every task, and `task:form` for each of its `contract_forms` (a class variable: form → settings)."""
    more = [f"{name}:{form}" for name in TASKS for form in getattr(TASKS.get(name), "contract_forms", {})]
    return sorted([*TASKS.names(), *more])


every_task = pytest.mark.parametrize("name", forms())

ROOT = Path(__file__).resolve().parent.parent
ROWS = 512  # as many test rows are enough to compare two implementations, and keep a large test set cheap


def build(name: str, seed: int) -> tuple[Task, Splits]:
    name, _, form = name.partition(":")
    cls = TASKS.get(name)
    settings = getattr(cls, "contract_forms", {})[form] if form else getattr(cls, "contract_settings", {})
    task = create_task(name, settings)
    folder = os.environ.get("HRM_BENCH_DATA")
    return task, task.splits(seed, DataFolder(Path(folder) if folder else None))


def digests(name: str, seed: int) -> dict[str, str]:
    return {split: part.digest() for split, part in build(name, seed)[1].items()}


@cache
def built_or_missing(name: str) -> tuple[Task, Splits] | str:
    try:
        return build(name, seed=0)
    except MissingData as error:
        return str(error)


def built(name: str) -> tuple[Task, Splits]:
    """One build of each task serves all tests."""
    result = built_or_missing(name)
    if isinstance(result, str):
        pytest.skip(f"{name}: {result}")
    return result


@cache
def digests_from_another_process() -> dict[str, Any]:
    """Every task built again where Python's own hashes are salted otherwise; the error's text where that failed."""
    code = "import sys; sys.path[:0] = ['.', 'tests']; import test_task_contract as t; t.print_digests()"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def print_digests() -> None:
    found: dict[str, Any] = {}
    for name in forms():
        try:
            found[name] = digests(name, seed=0)
        except Exception as error:  # one broken task must not hide the others
            found[name] = repr(error)
    print(json.dumps(found))


def as_torch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64) if array.dtype.kind in "iu" else np.array(array))


def answers_of_all_kinds(task: Task, batch: Batch) -> np.ndarray:
    """[B, A] predictions that are right, slightly wrong, random and blank, a quarter of the rows each."""
    random = np.random.default_rng(0)
    labels = np.asarray(batch.labels).astype(np.int64)
    rows, positions = labels.shape
    noise = random.integers(0, len(task.vocabulary), labels.shape)
    one_changed = labels.copy()
    at = np.arange(rows), random.integers(0, positions, rows)
    one_changed[at] = noise[at]
    kind = (np.arange(rows) % 4)[:, None]
    return np.select([kind == 0, kind == 1, kind == 2], [labels, one_changed, noise], PAD)


@every_task
def test_same_seed_gives_the_same_bytes_in_another_process(name: str) -> None:
    _, splits = built(name)
    assert digests_from_another_process()[name] == {split: part.digest() for split, part in splits.items()}


@every_task
def test_another_seed_changes_nothing_but_train(name: str) -> None:
    first = {split: part.digest() for split, part in built(name)[1].items()}
    second = digests(name, seed=1)
    assert second.keys() == first.keys()
    assert {split for split in first if first[split] != second[split]} <= {"train"}


@every_task
def test_splits_are_disjoint_filled_and_rightly_labelled(name: str) -> None:
    task, splits = built(name)
    task.check(splits)
    assert all(split in ("train", "validation", "test") or split.startswith("ood-") for split in splits)


@every_task
def test_shapes_and_types_are_the_declared_ones(name: str) -> None:
    task, splits = built(name)
    for split, part in splits.items():
        assert part.inputs.ndim == part.labels.ndim == 2, split
        assert part.inputs.dtype == np.float32 if task.features else part.inputs.dtype.kind == "u", split
        assert part.labels.dtype.kind == "u", split
        assert part.difficulty.dtype == np.float32 and np.isfinite(part.difficulty).all(), split
        assert part.groups is None or part.groups.shape == (len(part),), split
        if part.puzzle_ids is not None:
            assert part.puzzle_ids.dtype == np.int32, split
            assert part.puzzle_ids.min() >= 0 and part.puzzle_ids.max() < task.num_puzzles, split
        if not split.startswith("ood-"):
            assert part.inputs.shape == (len(part), task.sequence_length), split
            assert part.labels.shape == (len(part), task.answer_length), split
        assert part.labels.shape[1] <= part.inputs.shape[1], f"{split}: answers are read at the first positions"
        assert ((part.labels != PAD).any(axis=1)).all(), f"{split}: a row has no scored position"


@every_task
def test_tokens_lie_in_the_vocabulary_and_decode_to_text(name: str) -> None:
    task, splits = built(name)
    symbols = task.vocabulary[1:]
    assert len(set(symbols)) == len(symbols) and all(symbols)
    for split, part in splits.items():
        assert task.features or part.inputs.max() < len(task.vocabulary), split
        assert not task.features or np.isfinite(part.inputs).all(), split
        assert part.labels.max() < len(task.vocabulary), split
        for i in range(min(3, len(part))):
            assert task.decode(part.inputs[i]).strip(), split
            assert task.decode(part.labels[i]).strip(), split


@every_task
def test_a_perfect_answer_scores_one(name: str) -> None:
    task, splits = built(name)
    for split, part in splits.items():
        assert np.asarray(task.correct(part.batch(), part.labels)).all(), split


@every_task
def test_no_constant_answer_beats_the_floor(name: str) -> None:
    task, splits = built(name)
    test, floor = splits["test"], task.floor(splits)
    for token in range(min(len(task.vocabulary), 64)):
        constant = np.full(test.labels.shape, token, test.labels.dtype)
        assert np.mean(task.correct(test.batch(), constant)) <= floor + 1e-9, f"always {task.vocabulary[token]!r}"


def by_hand(task: Task, splits: Splits, split: str) -> dict[str, float]:
    """Exact accuracy of each trivial predictor, found without NumPy's help (and without tasks/predictors.py)."""
    train, part = splits["train"], splits[split]
    answers, questions = train.labels.tolist(), train.inputs.tolist()
    ids = [0] * len(train) if train.puzzle_ids is None else train.puzzle_ids.tolist()
    asked = [0] * len(part) if part.puzzle_ids is None else part.puzzle_ids.tolist()
    length = part.labels.shape[1]

    def commonest(counts: Counter[Any]) -> Any:
        return min(thing for thing in counts if counts[thing] == max(counts.values()))

    def fitted(answer: Any) -> list[int]:
        return [*answer, *[filling] * length][:length]

    filling = commonest(Counter(token for row in answers for token in row if token != PAD))
    constant = commonest(Counter(map(tuple, answers)))
    scored = [Counter(token for token in column if token != PAD) for column in zip(*answers, strict=True)]
    table: dict[Any, list[int]] = {}
    for question, puzzle, answer in zip(questions, ids, answers, strict=True):
        table.setdefault((tuple(question), puzzle), answer)
    guesses = {
        "constant": [fitted(constant)] * len(part),
        "majority-token": [fitted([commonest(counts) if counts else filling for counts in scored])] * len(part),
        "lookup": [
            fitted(table.get((tuple(question), puzzle), constant))
            for question, puzzle in zip(part.inputs.tolist(), asked, strict=True)
        ],
    }
    if not task.features:
        guesses["copy-input"] = part.inputs[:, :length].tolist()
    return {
        name: float(np.mean(task.correct(part.batch(), np.array(guess, part.labels.dtype))))
        for name, guess in guesses.items()
    }


@every_task
def test_the_floor_is_exactly_what_a_constant_a_copy_the_commonest_tokens_and_a_look_up_score(name: str) -> None:
    task, splits = built(name)
    assert type(task).floor is Task.floor, "a trivial predictor of the task's own belongs into `predictors`"
    splits = {split: part if split == "train" else part[:ROWS] for split, part in splits.items()}
    rows = references(task, splits)
    for split in splits.keys() - {"train", "validation"}:
        found = {
            row["predictor"]: row["value"]
            for row in rows
            if (row["split"], row["kind"], row["metric"]) == (split, "floor", "exact") and row["reason"] is None
        }
        expected = by_hand(task, splits, split)
        assert found | expected == pytest.approx(found), split
        assert floors(rows)[split] == pytest.approx(max(found.values())), split
        assert floors(rows)[split] < 1 or split in task.in_sample, split
    assert task.floor(splits) == pytest.approx(floors(rows)["test"])


@every_task
def test_a_look_up_finds_nothing_where_splits_are_disjoint_and_everything_in_training(name: str) -> None:
    task, splits = built(name)
    lookup, constant = LookupTable(splits["train"]), MostFrequentAnswer(splits["train"])
    for split, part in splits.items():
        if split != "train" and split not in task.in_sample:
            assert np.array_equal(lookup.answer(part), constant.answer(part)), split
    train = splits["train"][:ROWS]
    assert np.mean(task.correct(train.batch(), lookup.answer(train))) > 0.99


@every_task
def test_the_exact_solver_is_right_on_every_split_and_reads_no_label(name: str) -> None:
    task, splits = built(name)
    for split, part in splits.items():
        few = part[np.unique(np.linspace(0, len(part) - 1, 64).astype(int))]
        blind = replace(few, labels=np.zeros_like(few.labels))
        answers = task.solve(blind)
        if answers is None:
            assert all(row["reason"] for row in references(task, splits) if row["kind"] == "ceiling")
            return
        assert answers.shape == few.labels.shape, split
        assert np.asarray(task.correct(few.batch(), answers)).all(), split


@every_task
def test_numpy_and_torch_agree_on_what_is_right(name: str) -> None:
    task, splits = built(name)
    batch = splits["test"].batch(slice(ROWS))
    answers = answers_of_all_kinds(task, batch)
    by_numpy = np.asarray(task.correct(batch, answers))
    by_torch = task.correct(batch.map(as_torch), torch.from_numpy(answers))
    assert by_numpy.shape == (len(answers),) and by_numpy.dtype == bool
    assert isinstance(by_torch, torch.Tensor) and by_torch.dtype == torch.bool
    assert by_torch.tolist() == by_numpy.tolist()
    assert by_numpy[::4].all() and not by_numpy.all()


@every_task
def test_a_causal_task_labels_what_follows_and_takes_no_answer_that_it_was_only_led_to(name: str) -> None:
    task, splits = built(name)
    if not task.causal:
        assert not task.generated
        return
    for split, part in splits.items():
        scored = part.labels != PAD
        length = part.facts["prompt_length"]
        followed = scored[:, :-1] & scored[:, 1:]  # the answer's last token need not be read
        assert ((part.labels[:, :-1] == part.inputs[:, 1:]) | ~followed).all(), split
        assert (scored.argmax(1) == length - 1).all(), f"{split}: the answer begins where the prompt ends"
        changed = part.labels.copy()
        last = part.labels.shape[1] - 2 - scored[:, ::-1][:, 1:].argmax(1)  # a place after which others follow
        rows = np.arange(len(part))
        changed[rows, last] = changed[rows, last] % (len(task.vocabulary) - 1) + 1
        assert not np.asarray(task.correct(part.batch(), changed)).any(), split


@every_task
def test_histograms_count_every_row_at_most_once_and_agree_between_numpy_and_torch(name: str) -> None:
    task, splits = built(name)
    batch = splits["test"].batch(slice(ROWS))
    answers = answers_of_all_kinds(task, batch)
    by_torch = task.histograms(batch.map(as_torch), torch.from_numpy(answers))
    for histogram, codes in task.histograms(batch, answers).items():
        assert np.asarray(codes).shape == (len(answers),)
        assert by_torch[histogram].tolist() == np.asarray(codes).tolist()
        assert all(task.histogram_value(histogram, int(code)) for code in np.unique(codes))


@every_task
def test_every_metric_is_explained_and_agrees_between_numpy_and_torch(name: str) -> None:
    task, splits = built(name)
    batch = splits["test"].batch(slice(ROWS))
    answers = answers_of_all_kinds(task, batch)
    by_numpy = task.metrics(batch, answers)
    by_torch = task.metrics(batch.map(as_torch), torch.from_numpy(answers))
    assert by_numpy.keys() == by_torch.keys() == task.metric_notes().keys()
    for metric, values in by_numpy.items():
        assert np.asarray(values).shape == (len(answers),), metric
        np.testing.assert_allclose(by_torch[metric].numpy().astype(float), np.asarray(values, float), err_msg=metric)


@every_task
def test_an_unknown_setting_is_refused_by_name(name: str) -> None:
    unknown: dict[str, Any] = {"no_such_setting": 1}
    name = name.partition(":")[0]
    with pytest.raises(UserError, match=rf"{name}: settings\.no_such_setting"):
        create_task(name, unknown)


@every_task
def test_the_task_says_who_it_is(name: str) -> None:
    name = name.partition(":")[0]
    cls: Any = TASKS.get(name)
    assert cls.name == name
    assert all((cls.summary, cls.source, cls.licence, cls.exact_means, cls.difficulty_unit, cls.floor_note))
