"""Trivial predictors and solvers as answerers: what they answer, and that every table row has a figure or a reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import Shifted

from harness import data
from harness.evaluation.answerers import ExactSolver, floors, references, score
from tasks.base import DataFolder, Examples, create_task
from tasks.predictors import CopyInput, LookupTable, MostFrequentAnswer, MostFrequentTokens, most_frequent_row, row_keys

rows_of_tokens = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 3), min_size=width, max_size=width), min_size=1, max_size=12)
)


def examples(inputs: list[list[int]], labels: list[list[int]], puzzle_ids: list[int] | None = None) -> Examples:
    ids = None if puzzle_ids is None else np.array(puzzle_ids, np.int32)
    zeros = np.zeros(len(inputs), np.float32)
    return Examples(np.array(inputs, np.uint8), np.array(labels, np.uint8), zeros, puzzle_ids=ids)


@given(rows_of_tokens, st.sampled_from([np.uint8, np.uint16, np.float32]))
def test_keys_are_equal_exactly_for_equal_rows(rows, kind):
    array = np.array(rows, kind)
    keys = row_keys(array)
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            assert (keys[i] == keys[j]) == (one == other)


@given(rows_of_tokens)
def test_the_most_frequent_row_is_the_first_of_the_commonest(rows):
    counts = Counter(map(tuple, rows))
    assert tuple(most_frequent_row(np.array(rows, np.uint8))) == min(
        row for row in counts if counts[row] == max(counts.values())
    )


def test_a_fitted_answer_is_cut_or_continued_to_the_length_of_a_split():
    train = examples([[1, 1, 1]] * 3, [[1, 2, 2], [1, 2, 2], [3, 0, 2]])
    longer, shorter = examples([[1] * 5], [[0] * 5]), examples([[1, 1]], [[0, 0]])
    for fit, full in ((MostFrequentAnswer, [1, 2, 2, 2, 2]), (MostFrequentTokens, [1, 2, 2, 2, 2])):
        assert fit(train).answer(longer).tolist() == [full]
        assert fit(train).answer(shorter).tolist() == [full[:2]]
        assert LookupTable(train).answer(longer).tolist() == [full]


def test_positions_that_training_never_scores_get_the_commonest_token():
    assert MostFrequentTokens(examples([[1, 1]] * 2, [[0, 3], [0, 3]])).answer(
        examples([[1, 1]], [[1, 1]])
    ).tolist() == [[3, 3]]


def test_the_look_up_answers_as_training_does_by_input_and_puzzle_and_else_as_the_constant():
    train = examples([[1, 2], [1, 2], [3, 3], [3, 3]], [[1, 1], [2, 2], [3, 3], [3, 3]], [1, 2, 1, 1])
    asked = examples([[1, 2], [1, 2], [1, 2], [2, 2]], [[0, 0]] * 4, [2, 1, 3, 1])
    assert LookupTable(train).answer(asked).tolist() == [[2, 2], [1, 1], [3, 3], [3, 3]]


def test_a_collision_of_keys_is_no_find(monkeypatch):
    monkeypatch.setattr("tasks.predictors.row_keys", lambda rows: np.zeros(len(rows), np.uint64))
    train = examples([[1, 2]], [[1, 1]])
    table = LookupTable(train)
    table.train = replace(train, labels=train.labels + 1)
    assert table.answer(examples([[1, 2], [2, 2]], [[0, 0]] * 2)).tolist() == [[2, 2], [1, 1]]


def test_the_copy_takes_the_first_positions_of_tokens_alone():
    wide = examples([[1, 2, 3]], [[0, 0]])
    assert CopyInput().answer(wide).tolist() == [[1, 2]]
    assert CopyInput().answer(replace(wide, inputs=wide.inputs.astype(np.float32))) is None


def test_every_row_has_a_figure_or_a_reason_and_names_metrics_of_the_task():
    task = create_task("arithmetic-proofs", {"max_target": 99, "ood_targets": 9})
    rows = references(task, task.splits(0, DataFolder()))
    assert {row["split"] for row in rows} == {"test", "ood-targets"}
    assert {row["metric"] for row in rows} == {"exact", "token", "label", "grammatical", "shortcut"}
    assert all((row["value"] is None) == bool(row["reason"]) for row in rows)
    solver = {(row["split"], row["metric"]): row["value"] for row in rows if row["predictor"] == "exact-solver"}
    assert solver["test", "label"] == solver["ood-targets", "exact"] == 1 and solver["test", "shortcut"] == 0
    toy = Shifted()
    (ceiling,) = [row for row in references(toy, toy.splits(0, DataFolder())) if row["kind"] == "ceiling"][:1]
    assert (ceiling["value"], ceiling["reason"]) == (None, "this task has no exact solver")


def test_an_in_sample_split_is_known_to_the_look_up():
    """A split that training contains, as parity of short lengths would be: the look-up's score is its floor."""
    task = Shifted()
    splits = task.splits(0, DataFolder())
    rows = references(task, splits | {"ood-seen": splits["train"][:8]})
    assert floors(rows)["ood-seen"] == 1 and floors(rows)["test"] < 0.1


def test_scores_do_not_depend_on_how_many_rows_are_judged_at_once(monkeypatch):
    task = create_task("parity", {"ood_lengths": []})
    part = task.splits(0, DataFolder())["test"]
    whole = score(task, part, CopyInput()), score(task, part, ExactSolver(task))
    monkeypatch.setattr("harness.evaluation.answerers.AT_ONCE", 7)
    assert (score(task, part, CopyInput()), score(task, part, ExactSolver(task))) == whole


def test_references_are_stored_with_the_data_and_not_scored_again(tmp_path, monkeypatch):
    first = data.prepare(Shifted(), 0, DataFolder(), tmp_path)
    assert floors(list(first.references))["test"] == first.floor
    assert first.lengths == {"train": 5, "validation": 5, "test": 5, "ood-later": 5}
    monkeypatch.setattr("harness.evaluation.answerers.references", lambda task, splits: pytest.fail("scored again"))
    assert data.prepare(Shifted(), 0, DataFolder(), tmp_path) == first
