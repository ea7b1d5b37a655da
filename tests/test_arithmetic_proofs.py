"""Arithmetic proofs: the vectorised verifier against a literal one, and the traps that other verifiers fell into."""

from __future__ import annotations

import re
from collections import Counter
from math import isqrt
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from tasks import Batch, DataFolder
from tasks.arithmetic_proofs import END, PAD, VOCABULARY, ArithmeticProofs, decompose, read, tokenise, write
from tasks.base import create_task

TASK = create_task("arithmetic-proofs", {"max_target": 9999})
assert isinstance(TASK, ArithmeticProofs)
WIDTH = TASK.sequence_length

NUMBER = r"((?:[1-9])(?:[0-9]){0,8})"
PROOF = re.compile(rf"\[LEMMA\]{NUMBER}\*{NUMBER}={NUMBER}\[LEMMA\]{NUMBER}\+{NUMBER}={NUMBER}(?:\[END\])+")


def literal_verdict(target: int, tokens: list[int]) -> tuple[bool, bool, bool]:
    """(right, grammatical, shortcut) by the letter of the rules, on the text of one answer; padding reads as `_`."""
    match = PROOF.fullmatch("".join(VOCABULARY[t] or "_" for t in tokens))
    if match is None:
        return False, False, False
    a, b, product, product_again, c, total = map(int, match.groups())
    right = a >= 2 and b >= 2 and 1 <= c <= a and product == a * b and product_again == product
    return right and product + c == total == target, True, a == 2 and c == 1


def filled(tokens: list[int], width: int = WIDTH) -> list[int]:
    return tokens + [END] * (width - len(tokens))


def verdicts(targets: list[int], answers: np.ndarray) -> list[tuple[bool, bool, bool]]:
    """The same three verdicts by the task, NumPy on unsigned bytes; torch on int64 and on bytes must agree."""
    found = []
    wide = torch.from_numpy(answers.astype(np.int64))
    for prediction in (answers.astype(np.uint8), wide, wide.to(torch.uint8)):
        target: Any = np.array(targets, np.int64)
        labels: Any = np.zeros_like(prediction)
        if isinstance(prediction, torch.Tensor):
            target, labels = torch.from_numpy(target), torch.zeros_like(prediction)
        batch = Batch(labels, labels, target * 0, {"target": target})
        metrics = TASK.metrics(batch, prediction)
        columns = (TASK.correct(batch, prediction), metrics["grammatical"], metrics["shortcut"])
        found.append(list(zip(*(column.tolist() for column in columns), strict=True)))
    assert found[0] == found[1] == found[2]
    return found[0]


def verdict(target: int, tokens: list[int]) -> tuple[bool, bool, bool]:
    return verdicts([target], np.array([tokens]))[0]


def alternatives(target: int) -> list[tuple[int, int, int]]:
    """Every valid (a, b, c), by trying them all."""
    return [
        (a, b, target - a * b) for a in range(2, target) for b in range(2, target // a + 1) if 1 <= target - a * b <= a
    ]


@st.composite
def targets_with_a_valid_proof(draw: st.DrawFn) -> tuple[int, list[int]]:
    target = draw(st.integers(5, 9999))
    a = draw(st.integers(2, (target - 1) // 2) | st.just(isqrt(target - 1)))
    b = (target - 1) // a
    return target, tokenise(write(target, a, b, target - a * b))


def mutated(draw: Any, tokens: list[int]) -> list[int]:
    kind = draw(st.sampled_from(["insert", "delete", "replace", "swap"]))
    at = draw(st.integers(0, len(tokens) - 1))
    token = draw(st.integers(0, len(VOCABULARY) - 1))
    if kind == "insert":
        return [*tokens[:at], token, *tokens[at:]]
    if kind == "delete":
        return tokens[:at] + tokens[at + 1 :]
    if kind == "replace":
        return [*tokens[:at], token, *tokens[at + 1 :]]
    return tokens[:at] + tokens[at : at + 2][::-1] + tokens[at + 2 :]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(targets_with_a_valid_proof())
def test_every_valid_proof_that_fits_is_accepted(case: tuple[int, list[int]]) -> None:
    target, proof = case
    if len(proof) <= WIDTH:
        assert literal_verdict(target, filled(proof))[0]
        assert verdict(target, filled(proof))[0]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.data())
def test_mutated_proofs_get_the_literal_verdict(data: st.DataObject) -> None:
    target, proof = data.draw(targets_with_a_valid_proof())
    for _ in range(data.draw(st.integers(1, 3))):
        proof = mutated(data.draw, proof)
    answer = filled(proof)[:WIDTH]
    assert verdict(target, answer) == literal_verdict(target, answer)


def test_many_random_mutations_get_the_literal_verdict_and_both_verdicts_occur() -> None:
    random = np.random.default_rng(0)
    targets = random.integers(10, 1000, 20_000).tolist()
    answers = np.array([filled(tokenise(write(t, *decompose(t, "square")))) for t in targets])
    for _ in range(2):
        hit = random.random(len(answers)) < 0.7
        at = random.integers(0, 20, len(answers))[hit]
        digits_mostly = np.where(random.random(hit.sum()) < 0.7, random.integers(1, 11, hit.sum()), 0)
        anything = random.integers(0, len(VOCABULARY), hit.sum())
        answers[np.flatnonzero(hit), at] = np.where(digits_mostly > 0, digits_mostly, anything)
    expected = [literal_verdict(t, row) for t, row in zip(targets, answers.tolist(), strict=True)]
    assert verdicts(targets, answers) == expected
    kinds = Counter((right, grammatical) for right, grammatical, _ in expected)
    assert min(kinds[True, True], kinds[False, True], kinds[False, False]) > 500


@pytest.mark.parametrize("target", [5, 6, 7, 10, 17, 37, 50, 100, 341, 899, 1000])
def test_all_other_decompositions_of_a_target_are_accepted_and_counted_as_stated(target: int) -> None:
    proofs = alternatives(target)
    assert len(proofs) == (target - 1) // 2 - 1  # one for each a from 2 to ⌊(T − 1) / 2⌋
    answers = np.array([filled(tokenise(write(target, *p))) for p in proofs])
    assert answers.shape == (len(proofs), WIDTH)
    found = verdicts([target] * len(proofs), answers)
    assert all(right for right, _, _ in found)
    assert [shortcut for _, _, shortcut in found] == [(a, c) == (2, 1) for a, _, c in proofs]


TRAPS = {
    "one as a factor": (17, "[LEMMA] 1 * 16 = 16 [LEMMA] 16 + 1 = 17 [END]"),
    "one as the other factor": (17, "[LEMMA] 16 * 1 = 16 [LEMMA] 16 + 1 = 17 [END]"),
    "one times T plus nothing": (17, "[LEMMA] 1 * 17 = 17 [LEMMA] 17 + 0 = 17 [END]"),
    "zero times something": (17, "[LEMMA] 0 * 7 = 0 [LEMMA] 0 + 17 = 17 [END]"),
    "nothing added": (16, "[LEMMA] 4 * 4 = 16 [LEMMA] 16 + 0 = 16 [END]"),
    "remainder above a": (17, "[LEMMA] 3 * 4 = 12 [LEMMA] 12 + 5 = 17 [END]"),
    "everything in the remainder": (899, "[LEMMA] 2 * 2 = 4 [LEMMA] 4 + 895 = 899 [END]"),
    "wrong product": (17, "[LEMMA] 4 * 4 = 15 [LEMMA] 15 + 2 = 17 [END]"),
    "products differ": (17, "[LEMMA] 4 * 4 = 16 [LEMMA] 15 + 2 = 17 [END]"),
    "wrong sum": (17, "[LEMMA] 4 * 4 = 16 [LEMMA] 16 + 2 = 17 [END]"),
    "another target": (17, "[LEMMA] 4 * 4 = 16 [LEMMA] 16 + 2 = 18 [END]"),
    "leading zero": (17, "[LEMMA] 04 * 4 = 16 [LEMMA] 16 + 1 = 17 [END]"),
    "leading zero in T": (17, "[LEMMA] 4 * 4 = 16 [LEMMA] 16 + 1 = 017 [END]"),
    "leading zeros only": (17, "[LEMMA] 4 * 4 = 16 [LEMMA] 16 + 000001 = 17 [END]"),
    "no first factor": (17, "[LEMMA] * 4 = 16 [LEMMA] 16 + 1 = 17 [END]"),
    "no target": (17, "[LEMMA] 4 * 4 = 16 [LEMMA] 16 + 1 = [END]"),
    "no first mark": (17, "4 * 4 = 16 [LEMMA] 16 + 1 = 17 [END]"),
    "digits before the proof": (17, "5 [LEMMA] 4 * 4 = 16 [LEMMA] 16 + 1 = 17 [END]"),
    "a third factor": (17, "[LEMMA] 2 * 2 * 4 = 16 [LEMMA] 16 + 1 = 17 [END]"),
    "plus for times": (17, "[LEMMA] 4 + 4 = 16 [LEMMA] 16 + 1 = 17 [END]"),
    "first lemma only": (16, "[LEMMA] 4 * 4 = 16 [END]"),
    "digits behind the end": (17, "[LEMMA] 4 * 4 = 16 [LEMMA] 16 + 1 = 17 [END] 7"),
    "a second proof behind the end": (17, "[LEMMA] 4 * 4 = 16 [LEMMA] 16 + 1 = 17 [END] [LEMMA]"),
    "end in the middle": (17, "[LEMMA] 4 * 4 = 16 [END] [LEMMA] 16 + 1 = 17 [END]"),
    "number of ten digits": (17, "[LEMMA] 4 * 4 = 16 [LEMMA] 16 + 1 = 1700000000 [END]"),
    # 2^32 · 2^32 wraps to 0 in 64 bits, so that 0 + 17 = 17 would hold
    "factors that wrap": (17, "[LEMMA] 4294967296 * 4294967296 = 0 [LEMMA] 0 + 17 = 17 [END]"),
    # 2^64 + 17 wraps to 17
    "target that wraps": (17, "[LEMMA] 4 * 4 = 16 [LEMMA] 16 + 1 = 18446744073709551633 [END]"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_trap_is_refused(trap: str) -> None:
    target, text = TRAPS[trap]
    answer = filled(tokenise(text), width=60)  # wider than the task's grid: room for the long ones
    assert verdict(target, answer)[0] is False
    assert verdict(target, answer) == literal_verdict(target, answer)


def test_missing_end_and_padded_fill_are_refused_and_a_full_grid_is_accepted() -> None:
    proof = tokenise(write(17, 4, 4, 1))
    no_end = proof[:-1]
    padded = proof + [PAD] * (WIDTH - len(proof))
    blank_then_end = [*no_end, PAD] + [END] * (WIDTH - len(proof))
    for answer in (no_end, padded, blank_then_end, [END] * 9, [PAD] * 9):
        assert verdict(17, answer)[0] is False
    assert verdict(17, proof)[0] is True


def test_a_number_of_hundreds_of_digits_neither_fails_nor_wraps() -> None:
    answer = np.array([[*tokenise("[LEMMA]"), *([10] * 400), END]], np.uint8)
    batch = Batch(answer, answer, np.array([0]), {"target": np.array([17])})
    assert TASK.correct(batch, answer).tolist() == [False]
    assert 0 <= int(read(answer).a[0]) < 10**9


@pytest.mark.parametrize("rule", ["square", "short"])
def test_canonical_proofs_are_valid_and_never_the_shortcut(rule: str) -> None:
    for target in range(10, 20_000):
        a, b, c = decompose(target, rule)
        assert a >= 3 and b >= 2 and 1 <= c <= a and a * b + c == target


def test_square_rule_has_the_stated_properties() -> None:
    for target in range(10, 20_000):
        a, b, _ = decompose(target, "square")
        assert b - a in (0, 1, 2)
    pairs = Counter((a, c) for a, _, c in (decompose(t, "square") for t in range(10, 900)))
    assert len(pairs) == 432 and max(pairs.values()) == 3


def test_short_rule_needs_two_digits_and_a_parity_at_a_time() -> None:
    """A digit of b is decided by a, T − 1's digit there, the one above, and whether the next above is odd."""
    seen: dict[tuple[int, ...], set[int]] = {}
    for target in range(1001, 9000):
        a, b, _ = decompose(target, "short")
        for place in (1, 10):
            three = (target - 1) // place % 1000
            seen.setdefault((a, three // 100 % 2, three % 100), set()).add(b // place % 10)
    assert all(len(digits) == 1 for digits in seen.values())


def test_train_holds_every_target_that_is_not_held_out_and_no_other() -> None:
    task = create_task("arithmetic-proofs")
    splits = task.splits(0, DataFolder())
    targets = {name: set(part.facts["target"].tolist()) for name, part in splits.items()}
    assert targets["train"] | targets["validation"] | targets["test"] == set(range(10, 900))
    assert targets["ood-targets"] == set(range(900, 1000))
    assert sum(map(len, targets.values())) == 990
    for name, share in (("test", 0.2), ("validation", 0.1)):
        assert len(targets[name]) / 890 == pytest.approx(share, abs=0.04)


def test_a_targets_split_does_not_depend_on_the_range() -> None:
    def test_targets(**changed: Any) -> set[int]:
        part = create_task("arithmetic-proofs", changed).splits(0, DataFolder())["test"]
        return set(part.facts["target"].tolist())

    assert {t for t in test_targets(max_target=2000) if t < 900} == test_targets()


def test_labels_fill_the_grid_and_inputs_show_the_target_alone() -> None:
    task = create_task("arithmetic-proofs")
    for part in task.splits(0, DataFolder()).values():
        for tokens, label, target in zip(part.inputs, part.labels, part.facts["target"].tolist(), strict=True):
            assert task.decode(tokens) == str(target)
            assert task.decode(label) == write(target, *decompose(target, "square"))
            assert (label != PAD).all()
    longest = max(len(tokenise(write(t, *decompose(t, "square")))) for t in range(10, 1000))
    assert task.sequence_length == task.answer_length == longest == 22


def test_decoding_hides_no_junk_behind_the_end() -> None:
    junk = [*tokenise(write(17, 4, 4, 1)), 3, END, END]
    assert TASK.decode(np.array(junk)) == "[LEMMA] 4 * 4 = 16 [LEMMA] 16 + 1 = 17 [END] 2 [END]"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"min_target": 4}, r"settings\.min_target: "),
        ({"min_target": 900}, r"settings\.max_target: .*max_target = 899 is less than min_target = 900"),
        ({"test_share": 0.95}, r"settings\.validation_share: .*nothing is left for training"),
        ({"test_share": 0.5, "validation_share": 0.5}, r"settings\.validation_share: .*nothing is left"),
        ({"max_target": 10**6}, r"settings\.max_target: "),
        ({"ood_targets": -1}, r"settings\.ood_targets: "),
    ],
)
def test_impossible_settings_are_refused_by_name(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"task arithmetic-proofs: {message}"):
        create_task("arithmetic-proofs", changed)
