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
from tasks.arithmetic_proofs import ArithmeticProofs
from tasks.base import PAD, create_task
from tasks.proof_text import END, VOCABULARY, canonical_a, largest_a, longest, read, rest, tokenise

TASK = create_task("arithmetic-proofs", {"max_target": 9999})
assert isinstance(TASK, ArithmeticProofs)
WIDTH = TASK.sequence_length

NUMBER = r"((?:[1-9])(?:[0-9]){0,8})"
PROOF = re.compile(rf"\[LEMMA\]{NUMBER}\*{NUMBER}={NUMBER}\[LEMMA\]{NUMBER}\+{NUMBER}={NUMBER}(?:\[END\])+")


def write(target: int, a: int, b: int, c: int) -> str:
    return f"[LEMMA] {a} * {b} = {a * b} [LEMMA] {a * b} + {c} = {target} [END]"


def decompose(target: int, rule: str, sign: int = 1) -> tuple[int, int, int]:
    a = canonical_a(target, rule)
    return a, *rest(target, a, sign)


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
        batch = Batch(labels, labels, target * 0, {"target": target, "sign": target * 0 + 1})
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
    batch = Batch(answer, answer, np.array([0]), {"target": np.array([17]), "sign": np.array([1])})
    assert TASK.correct(batch, answer).tolist() == [False]
    assert 0 <= int(read(answer).a[0]) < 10**9


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rule", ["square", "prime", "short"])
def test_canonical_proofs_are_valid_and_never_the_shortcut(rule: str, sign: int) -> None:
    for target in range(10, 8_000):
        a, b, c = decompose(target, rule, sign)
        assert a >= 3 and b >= 2 and 1 <= c <= a and a * b + sign * c == target


def test_square_rule_has_the_stated_properties() -> None:
    for target in range(10, 8_000):
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
    most = max(len(tokenise(write(t, *decompose(t, "square")))) for t in range(10, 1000))
    assert task.sequence_length == task.answer_length == most == 22


def test_the_prime_rule_takes_the_largest_prime_below_the_root() -> None:
    for target in range(10, 3000):
        a = canonical_a(target, "prime")
        assert all(a % d for d in range(2, a)) and a * a < target
        assert not any(all(p % d for d in range(2, p)) for p in range(a + 1, isqrt(target - 1) + 1))


def test_memorisation_preset_is_the_published_table_and_says_so() -> None:
    """Counts of a and c over the 41 rows as they were read off the published generator."""
    task = create_task("proofs-memorisation")
    splits = task.splits(0, DataFolder())
    assert {part.digest() for part in splits.values()} == {splits["train"].digest()} and len(splits["train"]) == 41
    rows = [decompose(t, "first-hit") for t in range(10, 51)]
    assert Counter(a for a, _, _ in rows) == {2: 31, 3: 7, 5: 2, 7: 1}
    assert Counter(c for _, _, c in rows) == {1: 30, 2: 11}
    assert "MEMORISATION" in task.summary and set(task.in_sample) == {"validation", "test"}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(10, 2500), st.sampled_from([1, -1]))
def test_the_room_for_random_proofs_holds_every_proof_and_each_a_gives_one(target: int, sign: int) -> None:
    room = longest(10, target, (sign,), None)
    for a in range(2, largest_a(target, sign) + 1):
        b, c = rest(target, a, sign)
        assert b >= 2 and 1 <= c <= a and a * b + sign * c == target
        assert len(tokenise(write(target, a, b, c))) <= room
    assert rest(target, largest_a(target, sign) + 1, sign)[0] < 2


def test_with_both_operations_the_prompt_names_the_one_that_is_asked_and_the_other_is_refused() -> None:
    task = create_task("arithmetic-proofs", {"operation": "both", "max_target": 99, "ood_targets": 0})
    splits = task.splits(0, DataFolder())
    task.check(splits)
    part = splits["train"]
    assert [task.decode(row)[-1] for row in part.inputs] == ["+" if s > 0 else "-" for s in part.facts["sign"]]
    batch = part.batch()
    assert task.correct(batch, part.labels).all()
    other = part.labels[np.arange(len(part)) ^ 1]  # rows alternate between + and - of one target
    assert not task.correct(batch, other).any()


class TestCausal:
    """Written from left to right: labels follow their positions, and only the model's own text counts."""

    task = create_task("arithmetic-proofs", {"form": "causal", "labels": "random", "proofs_per_target": 4})
    part = task.splits(0, DataFolder())["train"]

    def test_a_label_is_the_token_that_follows_and_the_prompt_is_not_scored(self) -> None:
        length = self.part.facts["prompt_length"]
        scored = self.part.labels != PAD
        assert (scored == (np.arange(self.part.inputs.shape[1]) >= length[:, None] - 1)).all()
        assert ((self.part.labels[:, :-1] == self.part.inputs[:, 1:]) | ~scored[:, :-1]).all()
        assert self.task.causal and self.task.generated

    def test_random_labels_spread_over_the_valid_a_and_depend_on_the_seed_in_training_alone(self) -> None:
        a = np.asarray(self.task.read(self.part.batch(), self.part.labels).a)
        share = (a - 2) / (np.array([largest_a(int(t), 1) for t in self.part.facts["target"]]) - 1)
        assert abs(share.mean() - 0.5) < 0.03 and abs((share < 0.25).mean() - 0.25) < 0.03
        other = self.task.splits(1, DataFolder())
        assert other["train"].digest() != self.part.digest()
        assert other["test"].digest() == self.task.splits(0, DataFolder())["test"].digest()

    def test_another_valid_proof_counts_only_where_the_model_wrote_it_by_itself(self) -> None:
        batch = self.part.batch()
        n = len(self.part) // 4  # the next quarter holds the same targets with other proofs
        rows = np.flatnonzero((self.part.labels[:n] != self.part.labels[n : 2 * n]).any(1))
        assert len(rows) > n / 2
        first, second = self.part[rows], self.part[rows + n]
        assert (first.facts["target"] == second.facts["target"]).all()
        assert not self.task.correct(first.batch(), second.labels).any()  # given the label's own tokens: not generated
        written = Batch(second.inputs, first.labels, batch.puzzle_ids[rows], first.facts)
        assert self.task.correct(written, second.labels).all()
        broken = second.labels.copy()
        broken[:, -1] = 3  # something behind the end
        assert not self.task.correct(written, broken).any()

    def test_what_was_written_behind_prompts_of_any_length_is_judged_as_it_stands(self) -> None:
        from harness.evaluation.written import as_answers

        task = create_task("arithmetic-proofs", {"form": "causal", "min_target": 90, "max_target": 120})
        part = task.splits(0, DataFolder())["train"]
        assert len(set(part.facts["prompt_length"].tolist())) == 2
        batch = part.batch().map(lambda array: torch.from_numpy(np.asarray(array).astype(np.int64)))
        width = part.inputs.shape[1]
        written = torch.full((len(part), width), END)
        for row, target in enumerate(part.facts["target"].tolist()):
            proof = tokenise(write(target, 2, *rest(target, 2, 1)))  # never the label
            written[row, : len(proof)] = torch.tensor(proof)
        judged, answers = as_answers(batch, written)
        assert task.correct(judged, answers).all()
        assert not task.metrics(judged, answers)["label"].any()
        written[:, -2:] = 1  # more than fits is cut, less than fits is refused
        assert task.correct(*as_answers(batch, written[:, : width - 1])).tolist() == [
            n > 2 for n in part.facts["prompt_length"].tolist()
        ]
        with pytest.raises(UserError, match="are to be judged"):
            as_answers(batch, written[:, :5])

    def test_a_mix_of_two_proofs_is_not_taken_for_one(self) -> None:
        """a from one proof, the rest from another that happens to agree, is nobody's text."""
        text = "[LEMMA] 2 * 8 = 16 [LEMMA] 16 + 1 = 17 [END]"
        label = "[LEMMA] 4 * 4 = 16 [LEMMA] 16 + 1 = 17 [END]"
        given, answer = [[*tokenise("17"), *tokenise(x)] for x in (label, text)]
        inputs, prediction = np.array([given[:-1]]), np.array([answer[1:]])
        labels = np.array([[PAD, *given[2:]]])
        facts = {"target": np.array([17]), "sign": np.array([1]), "prompt_length": np.array([2])}
        assert not self.task.correct(Batch(inputs, labels, np.zeros(1), facts), prediction).any()
        own = Batch(np.array([answer[:-1]]), labels, np.zeros(1), facts)
        assert self.task.correct(own, prediction).all()


def test_histogram_counts_each_answer_once_apart_by_parity_of_the_target() -> None:
    task = create_task("proofs-memorisation")
    part = task.splits(0, DataFolder())["test"]
    answers = part.labels.copy()
    answers[:5] = PAD
    found = task.histograms(part.batch(), answers)
    counts = {n: Counter(task.histogram_value(n, c) for c in codes.tolist() if c != -1) for n, codes in found.items()}
    assert sum(sum(c.values()) for c in counts.values()) == 41
    assert sum(c["no proof"] for c in counts.values()) == 5
    assert set(counts["(a, c), odd T"]) <= {"no proof", "(2, 1)"} and "(2, 1)" not in counts["(a, c), even T"]


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
