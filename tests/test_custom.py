"""Tasks without a class: arrays and mixtures judge, split and refuse as a task of its own would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tasks
from harness import data
from harness.errors import UserError
from harness.random import CounterRandom
from tasks.base import TASKS, DataFolder, Splits, Task, create_task


@pytest.fixture
def mine() -> Any:
    def make(**arguments: Any) -> Task:
        tasks.from_arrays("mine", **arguments)
        return create_task("mine")

    yield make
    TASKS._items.pop("mine", None)


def rows(n: int = 400, width: int = 6, high: int = 4) -> np.ndarray:
    return np.unique(np.random.default_rng(0).integers(1, high, (n, width)), axis=0)


def test_classes_from_zero_become_tokens_behind_the_inputs_and_keep_their_names(mine: Any) -> None:
    x = rows()
    task = mine(train=(x, x.sum(1) % 2), classes=["even", "odd"], symbols=["a", "b", "c"])
    splits = task.splits(0, DataFolder())
    task.check(splits)
    assert task.vocabulary == ("", "a", "b", "c", "even", "odd") and task.answer_length == 1
    for part in splits.values():
        wanted = np.where(part.inputs.astype(int).sum(1) % 2, "odd", "even")
        assert [task.decode(label) for label in part.labels] == wanted.tolist()


def test_floats_are_features_and_sequences_are_answers(mine: Any) -> None:
    x = rows()
    task = mine(train=(x / 4, x[:, ::-1]))
    splits = task.splits(0, DataFolder())
    assert task.features and splits["train"].inputs.dtype == np.float32 and task.answer_length == 6
    task.check(splits)


def test_missing_splits_are_carved_so_that_equal_inputs_stay_together(mine: Any) -> None:
    x = np.repeat(rows(), 3, axis=0)
    task = mine(train=(x, x[:, 0] - 1))
    splits = task.splits(0, DataFolder())
    task.check(splits)
    assert sum(map(len, splits.values())) == len(x)
    assert len(splits["test"]) / len(x) == pytest.approx(0.2, abs=0.06)
    assert len(splits["validation"]) / len(x) == pytest.approx(0.1, abs=0.05)


def test_given_splits_are_taken_as_they_are_and_ood_ones_are_named_so(mine: Any) -> None:
    x = rows()
    pair = (x, x)
    task = mine(train=(x[:50], x[:50]), validation=(x[50:60], x[50:60]), test=(x[60:], x[60:]), ood={"same": pair})
    splits = task.splits(0, DataFolder())
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 50,
        "validation": 10,
        "test": len(x) - 60,
        "ood-same": len(x),
    }


def test_other_arrays_under_the_same_name_are_other_data_and_a_pinned_hash_refuses_them(
    mine: Any, tmp_path: Path
) -> None:
    x = rows()
    first = mine(train=(x, x))
    known = data.prepare(first, 0, DataFolder(), tmp_path)
    second = mine(train=(x, x[:, ::-1]))
    assert data.prepare(second, 0, DataFolder(), tmp_path).digest != known.digest
    with pytest.raises(UserError, match=r"settings\.content_hash: the arrays have the hash"):
        create_task("mine", {"content_hash": first.model_dump()["content_hash"]})


NAN = np.array([[0.5, np.nan]])
BAD = {
    "lengths differ": ({"train": (rows(), np.zeros(3, int))}, "split train: inputs .* and labels"),
    "no rows": ({"train": (np.zeros((0, 3), int), np.zeros(0, int))}, "split train: inputs"),
    "negative token": ({"train": (np.array([[1, 2], [1, -1]]), np.array([0, 1]))}, "row 1: a token is below 0"),
    "not finite": ({"train": (NAN, np.array([0]))}, "row 0: a feature is not a finite number"),
    "labels are text": ({"train": (rows(), np.array(["a"] * len(rows())))}, "labels <U1"),
    "longer answer": ({"train": (rows(), np.ones((len(rows()), 7), int))}, "7 answer positions"),
    "nothing scored": ({"train": (np.array([[1], [1]]), np.array([[1], [0]]))}, "row 1: no position of the label"),
    "too few classes": ({"train": (rows(), rows()[:, 0]), "classes": ["x"]}, "classes names 1, the arrays hold 4"),
    "too few symbols": ({"train": (rows(), rows()[:, 0]), "symbols": ["x"]}, "symbols names 1, the arrays hold 3"),
    "kinds differ": ({"train": (rows(), rows()), "test": (rows(), rows()[:, 0])}, "its splits differ in kind"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_arrays_are_refused_by_split_and_row(case: str, mine: Any) -> None:
    arguments, message = BAD[case]
    with pytest.raises(UserError, match=f"task mine: .*{message}|task mine.*{message}"):
        mine(**arguments)


# -- mixture ---------------------------------------------------------------------------------------------------------

MEMBERS = {
    "bits": {"task": "parity", "settings": {"max_length": 9, "ood_lengths": [], "train_examples": 200}},
    "proofs": {"task": "arithmetic-proofs", "settings": {"max_target": 150, "ood_targets": 20}},
    "boxes": {"task": "sudoku-4", "settings": {"train_examples": 60, "validation_examples": 20, "test_examples": 40}},
}


@pytest.fixture(scope="module")
def mixed() -> tuple[Any, Splits]:
    task = create_task("mixture", {"members": MEMBERS})
    return task, task.splits(0, DataFolder())


def test_every_row_of_every_member_comes_along_once_with_its_own_id(mixed: tuple[Any, Splits]) -> None:
    task, splits = mixed
    for i, (name, member) in enumerate(MEMBERS.items(), start=1):
        own = create_task(member["task"], member["settings"])
        for split, part in own.splits(0, DataFolder()).items():
            whole = splits[split if split in splits else f"ood-{name}-{split[4:]}"]
            mine = whole[whole.puzzle_ids == i]
            assert sorted(own.decode(row) for row in part.inputs) == sorted(task_text(task, own, mine.inputs)), split
            assert (mine.groups == name).all() and len(mine) == len(part)
    assert task.num_puzzles == 4


def task_text(task: Task, own: Task, inputs: np.ndarray) -> list[str]:
    """Rows of the mixture read in its vocabulary, written as the member writes them."""
    number = {symbol: i for i, symbol in enumerate(own.vocabulary)}
    back = np.array([number.get(symbol, 0) for symbol in task.vocabulary])
    return [own.decode(back[row][: own.sequence_length]) for row in inputs]


def test_each_row_is_judged_by_its_own_member_alone(mixed: tuple[Any, Splits]) -> None:
    task, splits = mixed
    test = splits["test"]
    assert task.correct(test.batch(), test.labels).all()
    other_proof = test.labels.copy()
    row = int(np.flatnonzero(test.groups == "proofs")[0])
    own = task.tasks["proofs"]
    target = int(test.facts["proofs target"][row])
    from tasks.proof_text import tokenise, write

    text = tokenise(write(target, 3, 1))
    forth = {symbol: i for i, symbol in enumerate(task.vocabulary)}
    end = forth["[END]"]
    answer = [forth[own.vocabulary[t]] for t in text]
    other_proof[row] = answer + [end] * (test.labels.shape[1] - len(answer))
    assert task.correct(test.batch(), other_proof).all(), "another valid proof is right"
    wrong = other_proof.copy()
    wrong[test.groups != "proofs", 0] += 1
    assert task.correct(test.batch(), wrong).tolist() == (test.groups == "proofs").tolist()


def test_augmentation_dresses_each_row_by_its_own_member_and_keeps_the_others(mixed: tuple[Any, Splits]) -> None:
    task, splits = mixed
    part = splits["train"]
    batch = part.batch().map(lambda array: torch.from_numpy(np.asarray(array).copy()))
    changed = task.augment(batch, CounterRandom(1, torch.arange(len(part))))
    moved = (changed.inputs != batch.inputs).any(1).numpy()
    assert moved[part.groups == "boxes"].mean() > 0.9 and not moved[part.groups != "boxes"].any()
    assert task.correct(changed, changed.labels).all()
    boxes = part.groups == "boxes"
    from tasks.sudoku_symmetry import valid_solutions

    own = task._back("boxes", changed.labels.numpy())[boxes][:, :16] - 1
    assert valid_solutions(own).all()


def test_the_floor_is_the_mean_of_the_members_floors(mixed: tuple[Any, Splits]) -> None:
    task, splits = mixed
    expected = 0.0
    for member in MEMBERS.values():
        own = create_task(member["task"], member["settings"])
        parts = own.splits(0, DataFolder())
        expected += own.floor(parts) * len(parts["test"])
    assert task.floor(splits) == pytest.approx(expected / len(splits["test"]))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a": {"task": "party"}}, "a: unknown task .party."),
        ({"a": {"task": "parity", "settings": {"max": 1}}}, "a: task parity: settings.max: unknown key"),
        ({"a": {"task": "arc-agi-1"}}, "a: arc-agi-1 has puzzle ids of its own"),
        ({"a": {"task": "parity", "settings": {"form": "vector"}}}, "a: parity has numbers"),
        ({"a": {"task": "arithmetic-proofs", "settings": {"form": "causal"}}}, "a: arithmetic-proofs is written"),
        ({"a": {"task": "parity", "settings": {"axes": {"base_examples": 3}}}}, "a: parity sets axes of its own"),
        ({}, "Dictionary should have at least 1 item"),
    ],
)
def test_members_that_cannot_be_mixed_are_refused_by_name(members: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"task mixture: settings.members: .*{message}"):
        create_task("mixture", {"members": members})
