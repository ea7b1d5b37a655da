"""Parity: what could make its figures worthless, attacked one by one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from harness.errors import BrokenData, UserError
from tasks import DataFolder, Examples
from tasks.base import create_task
from tasks.parity import Parity, _hash


def build(seed: int = 0, **settings: Any) -> tuple[Parity, dict[str, Examples]]:
    task = create_task("parity", settings)
    assert isinstance(task, Parity)
    return task, task.splits(seed, DataFolder())


def text_of(task: Parity, tokens: np.ndarray) -> str:
    return task.decode(tokens).removeprefix("?")


def strings(task: Parity, part: Examples) -> set[str]:
    return {text_of(task, row) for row in part.inputs}


def lengths(part: Examples) -> Counter[str]:
    assert part.groups is not None
    return Counter(part.groups.tolist())


def test_label_is_the_parity_of_the_written_bits() -> None:
    task, splits = build()
    for part in splits.values():
        for tokens, label in zip(part.inputs, part.labels, strict=True):
            text = task.decode(tokens)
            assert text[0] == "?" and set(text[1:]) <= {"0", "1"}
            assert task.decode(label) == ("odd" if text.count("1") % 2 else "even")


def test_the_vector_form_holds_the_same_strings_and_answers_as_numbers() -> None:
    _, tokens = build()
    task, vectors = build(form="vector")
    assert task.features and vectors["train"].inputs.dtype == np.float32
    for name, part in vectors.items():
        bits = part.inputs
        other = tokens[name].inputs[:, 1:].astype(int)
        assert (np.sign(bits) == np.select([other == 2, other == 3], [-1, 1], 0)).all()
        assert (part.labels == tokens[name].labels).all()
        assert ((bits > 0).sum(1) % 2 == part.labels[:, 0] - 4).all()


def test_padding_stands_behind_the_bits_only() -> None:
    for part in build()[1].values():
        length = part.difficulty.astype(int)
        used = np.arange(part.inputs.shape[1]) <= length[:, None]
        assert ((part.inputs != 0) == used).all()


def test_no_string_stands_in_two_splits_even_when_all_strings_are_used() -> None:
    task, splits = build(max_length=8, train_examples=10_000, validation_examples=10_000, test_examples=10_000)
    sets = {name: strings(task, part) for name, part in splits.items()}
    assert sum(map(len, sets.values())) == len(set().union(*sets.values()))
    assert all(len(sets[name]) == len(part) for name, part in splits.items() if name != "train")  # train repeats some


def test_training_rows_are_spread_evenly_over_the_lengths_and_short_strings_are_for_training_alone() -> None:
    _, splits = build(train_examples=4000)
    counts = np.unique(splits["train"].difficulty, return_counts=True)[1]
    assert len(counts) == 12 and counts.max() - counts.min() <= 2
    assert min(part.difficulty.min() for name, part in splits.items() if name != "train") > 5


def test_a_strings_split_does_not_depend_on_other_settings_or_the_seed() -> None:
    task, few = build(seed=3, max_length=9, test_examples=50)
    counts = {"train_examples": 20_000, "validation_examples": 3000, "test_examples": 3000}
    other, many = build(seed=4, max_length=17, ood_lengths=[], **counts)  # draws from 2^17 strings, doesn't list them
    other.check(many)
    held_out = strings(task, few["test"]) | strings(task, few["validation"])
    assert not held_out & strings(other, many["train"])
    assert not strings(task, few["train"]) & (strings(other, many["test"]) | strings(other, many["validation"]))


def test_the_hash_is_the_one_that_it_always_was() -> None:
    # first outputs of splitmix64 from state 0 and from state 1: 0xE220A8397B1DCDAF, 0x910A2DEC89025CC1
    expected = [0xE220A8397B1DCDAF / 2**64, 0x910A2DEC89025CC1 / 2**64]
    assert _hash(np.array([0, 1])) == pytest.approx(expected, abs=1e-15)


def test_the_hash_shares_out_strings_as_declared() -> None:
    share = _hash(2**16 + np.arange(2**16))
    assert np.mean(share < 0.25) == pytest.approx(0.25, abs=0.01)  # 5.9 standard errors
    odd = np.bitwise_count(np.arange(2**16)) % 2 == 1
    assert np.mean(share[odd] < 0.25) == pytest.approx(0.25, abs=0.012)  # says nothing about the answer


def test_classes_are_balanced_at_every_length_of_every_split() -> None:
    for part in build()[1].values():
        counts = Counter(zip(part.difficulty.tolist(), part.labels[:, 0].tolist(), strict=True))
        for length in set(part.difficulty.tolist()):
            assert counts[length, 4] == counts[length, 5]


def test_lengths_are_spread_evenly_and_only_scarce_ones_fall_short() -> None:
    _, splits = build(test_examples=600)
    per_length = lengths(splits["test"])
    largest = max(per_length.values())
    assert max(per_length[f"length {n}"] for n in (10, 11, 12)) - per_length["length 10"] <= 2
    assert sum(per_length.values()) == 600
    scarce = [n for n in range(1, 13) if per_length[f"length {n}"] < largest - 2]
    assert all(2**n * 0.25 < 1.3 * largest for n in scarce)


def test_seeds_draw_other_training_strings_where_more_exist_than_are_asked_for() -> None:
    task, first = build(seed=0, train_examples=1000)
    _, second = build(seed=1, train_examples=1000)
    shared = strings(task, first["train"]) & strings(task, second["train"])
    assert 200 < len(shared) < 700  # short strings are all in both; of 12 bits 172 out of some 2,560 are drawn


def test_asking_for_more_than_exists_gives_what_exists() -> None:
    task, splits = build(max_length=6, validation_examples=5000, test_examples=5000)
    assert 0 < len(splits["test"]) < 64
    assert len(strings(task, splits["test"])) == len(splits["test"])
    assert [note.split()[0] for note in task.notes(splits)] == ["validation", "test"]
    task, splits = build(train_examples=1001)
    assert task.notes(splits) == []


def test_first_rows_are_not_the_short_lengths() -> None:
    difficulty = build()[1]["test"].difficulty
    assert abs(difficulty[:100].mean() - difficulty.mean()) < 0.5


def test_longer_strings_have_wider_rows_and_their_own_groups() -> None:
    _, splits = build(max_length=10, ood_lengths=[11, 40], ood_examples=20)
    part = splits["ood-length"]
    assert part.inputs.shape == (40, 41)
    assert lengths(part) == {"length 11": 20, "length 40": 20}
    assert "ood-length" not in build(ood_lengths=[])[1]


def test_the_longest_strings_do_not_overflow() -> None:
    task, splits = build(min_length=59, max_length=59, ood_lengths=[60], train_examples=50)
    for part in splits.values():
        for tokens, label in zip(part.inputs, part.labels, strict=True):
            text = text_of(task, tokens)
            assert len(text) in (59, 60) and task.decode(label) == ("odd" if text.count("1") % 2 else "even")


def test_the_floor_is_one_half() -> None:
    task, splits = build()
    assert task.floor(splits) == 0.5


def test_lengths_too_short_to_hold_out_are_refused() -> None:
    task, splits = build(max_length=1)
    with pytest.raises(BrokenData, match="is empty"):
        task.check(splits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_length": 13}, r"settings\.max_length: .*max_length = 12 is less than min_length = 13"),
        ({"min_length": 5, "max_length": 4}, r"settings\.max_length: .*4 is less than min_length = 5"),
        ({"max_length": 16}, r"settings\.ood_lengths: .*16 is not a length from 17"),
        ({"ood_lengths": [12]}, r"settings\.ood_lengths: .*12 is not a length from 13"),
        ({"ood_lengths": [61]}, r"settings\.ood_lengths: .*61 is not a length"),
        ({"ood_lengths": [16, 16]}, r"settings\.ood_lengths: .*twice"),
        ({"train_examples": 0}, r"settings\.train_examples: "),
        ({"max_length": "12"}, r"settings\.max_length: "),
        ({"max_lenght": 12}, r'settings\.max_lenght: .*did you mean "max_length"'),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"task parity: {message}"):
        create_task("parity", settings)
