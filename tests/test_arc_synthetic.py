"""arc-synthetic: every label is what its family says, and the demonstrations leave no other answer."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.random import CounterRandom
from tasks.arc_symmetry import BLACK, pair_keys
from tasks.arc_synthetic import FAMILIES, ArcSynthetic, identifiable
from tasks.base import DataFolder, Examples, Splits, create_task

SETTINGS = {"train_examples": 500, "validation_examples": 50, "test_examples": 200, "ood_examples": 50}
TURNS = {
    "copy": [lambda g: g],
    "rotate": [lambda g, k=k: np.rot90(g, k) for k in (1, 2, 3)],
    "mirror": [np.flipud, np.fliplr],
}
ALL_TURNS = [lambda g, k=k, f=f: np.rot90(f(g), k) for k in range(4) for f in (lambda g: g, np.transpose)]


@pytest.fixture(scope="module", params=[4, 5])
def task(request: pytest.FixtureRequest) -> ArcSynthetic:
    made = create_task("arc-synthetic", {**SETTINGS, "side": request.param})
    assert isinstance(made, ArcSynthetic)
    return made


@pytest.fixture(scope="module")
def splits(task: ArcSynthetic) -> Splits:
    return task.splits(0, DataFolder())


def pairs_of(task: ArcSynthetic, inputs: np.ndarray, label: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(input, output) grids of colours 0-9, the query first."""
    grids = inputs.reshape(-1, task.side, task.side).astype(int) - BLACK
    answer = label.reshape(task.side, task.side).astype(int) - BLACK
    return [(grids[0], answer), *zip(grids[1::2], grids[2::2], strict=True)]


def renaming(before: np.ndarray, after: np.ndarray) -> dict[int, int] | None:
    """The one-to-one renaming of colours that keeps black, if there is one."""
    names: dict[int, int] = {0: 0}
    for a, b in zip(before.ravel().tolist(), after.ravel().tolist(), strict=True):
        if names.setdefault(a, b) != b:
            return None
    return names if len(set(names.values())) == len(names) else None


def repeated(grid: np.ndarray, motif: int) -> np.ndarray:
    side = len(grid)
    return np.tile(grid[:motif, :motif], (side, side))[:side, :side]


def follows(family: str, pairs: list[tuple[np.ndarray, np.ndarray]], motif: int) -> bool:
    if family == "pattern":
        bare = all(g[motif:].sum() == g[:, motif:].sum() == 0 for g, _ in pairs)
        return bare and all((repeated(g, motif) == out).all() for g, out in pairs)
    if family in TURNS:
        return any(all((t(g) == out).all() for g, out in pairs) for t in TURNS[family])
    before, after = (np.stack([pair[i] for pair in pairs]) for i in (0, 1))
    turns = ALL_TURNS if family == "composed" else TURNS["copy"]
    return any(renaming(np.stack([t(g) for g in before]), after) is not None for t in turns)


def test_every_label_is_what_its_family_says(task: ArcSynthetic, splits: Splits) -> None:
    for name, part in splits.items():
        assert part.groups is not None
        for inputs, label, family in zip(part.inputs, part.labels, part.groups, strict=True):
            assert follows(str(family), pairs_of(task, inputs, label), task.motif), (name, family)
    assert [int((splits["test"].groups == family).sum()) for family in FAMILIES] == [40] * 5
    assert set(splits["ood-composed"].groups.tolist()) == {"composed"}


def test_no_other_rule_explains_the_demonstrations_and_answers_otherwise(task: ArcSynthetic, splits: Splits) -> None:
    part = splits["test"]
    for inputs, label in zip(part.inputs, part.labels, strict=True):
        (query, answer), *shown = pairs_of(task, inputs, label)
        answers = []
        for turn in ALL_TURNS:
            names = renaming(np.stack([turn(g) for g, _ in shown]), np.stack([out for _, out in shown]))
            if names is not None:
                assert set(query.ravel().tolist()) <= names.keys(), "a colour whose new name nobody can know"
                answers.append(np.vectorize(names.get)(turn(query)))
        if all(g[3:].sum() == g[:, 3:].sum() == 0 and (repeated(g, 3) == out).all() for g, out in shown):
            answers.append(repeated(query, 3))
        assert answers and all((other == answer).all() for other in answers)


def test_symmetric_or_uninformative_demonstrations_are_refused() -> None:
    random = np.random.default_rng(0)
    query = random.integers(0, 4, (5, 5)) + BLACK
    plain = np.full((5, 5), BLACK + 1)
    bare = np.full((5, 5), BLACK)
    rich = random.integers(0, 4, (5, 5)) + BLACK
    cases = [
        ([(query, query[::-1]), (plain, plain)], False),  # any turn explains it
        ([(query, query[::-1]), (rich, rich[::-1])], True),
        ([(query + 4, (query + 4)[::-1]), (rich, rich[::-1])], False),  # the query's colours are not shown
        ([(query, query), (bare, bare)], False),
    ]
    for pairs, expected in cases:
        inputs, outputs = (np.stack([pair[i] for pair in pairs])[None] for i in (0, 1))
        assert identifiable(inputs, outputs, 3).tolist() == [expected]


def test_splits_share_no_query_and_answer_in_another_dress(task: ArcSynthetic, splits: Splits) -> None:
    task.check(splits)
    forms = {}
    for name, part in splits.items():
        found = []
        for inputs, label in zip(part.inputs, part.labels, strict=True):
            query, answer = pairs_of(task, inputs, label)[0]
            dresses = []
            for turn in ALL_TURNS:
                names = {0: 0}
                grids = np.concatenate([turn(query).ravel(), turn(answer).ravel()]).tolist()
                dresses.append(tuple(names.setdefault(colour, len(names)) for colour in grids))
            found.append(min(dresses))
        forms[name] = set(found)
        assert len(forms[name]) == len(part), f"{name} repeats itself"
    assert all(not forms[a] & forms[b] for a, b in combinations(forms, 2))


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_an_augmented_example_follows_the_same_family_and_keeps_its_key(key: int) -> None:
    task, part = small()
    batch = task.augment(part.batch().map(torch.from_numpy), CounterRandom(key, torch.arange(len(part))))
    inputs, labels = batch.inputs.numpy(), batch.labels.numpy()
    assert inputs.dtype == part.inputs.dtype and labels.dtype == part.labels.dtype
    for row, label, family in zip(inputs, labels, part.groups, strict=True):  # type: ignore[arg-type]
        assert follows(str(family), pairs_of(task, row, label), task.motif)
    shape = np.full((len(part), 2), 4)
    assert (pair_keys(inputs[:, :16], labels, shape, shape) == task.canonical(part)).all()


@cache
def small() -> tuple[ArcSynthetic, Examples]:
    task = create_task("arc-synthetic", {**SETTINGS, "side": 4, "train_examples": 60})
    assert isinstance(task, ArcSynthetic)
    return task, task.splits(0, DataFolder())["train"]


def test_input_constant_and_look_up_score_exactly_the_floor(task: ArcSynthetic, splits: Splits) -> None:
    train, test = splits["train"], splits["test"]
    floor = task.floor(splits)
    copied = test.inputs[:, : task.answer_length]
    assert np.mean(task.correct(test.batch(), copied)) == floor == 0.2  # the family copy
    table = {row.tobytes(): label for row, label in zip(train.inputs, train.labels, strict=True)}
    looked_up = np.array([table.get(row.tobytes(), copy) for row, copy in zip(test.inputs, copied, strict=True)])
    assert np.mean(task.correct(test.batch(), looked_up)) == floor


def test_families_may_be_chosen_and_too_many_examples_are_refused_by_name() -> None:
    task = create_task("arc-synthetic", {**SETTINGS, "side": 4, "families": ("mirror", "copy")})
    assert set(task.splits(0, DataFolder())["train"].groups.tolist()) == {"mirror", "copy"}
    with pytest.raises(UserError, match="examples of pattern for test are more than there are"):
        create_task("arc-synthetic", {**SETTINGS, "side": 4, "motif": 2, "test_examples": 800}).splits(0, DataFolder())
    with pytest.raises(UserError, match=r"motif: 6 must be below side 5"):
        create_task("arc-synthetic", {"motif": 6}).splits(0, DataFolder())
