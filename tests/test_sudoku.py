"""Sudoku: one solution per puzzle, classes that symmetry can't split, dress that keeps puzzles valid, honest files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from tasks.base import Batch, DataFolder, create_task
from tasks.sudoku import dress
from tasks.sudoku_generator import classes_of_side_4, harder_puzzles, random_puzzles, solved_grids_of_side_4
from tasks.sudoku_solver import solve
from tasks.sudoku_symmetry import class_keys, geometry, position_symmetries, valid_solutions

NOWHERE = DataFolder()
SIDES = {4: (8, 11), 6: (14, 22), 9: (40, 50)}
SMALL = {"train_examples": 60, "validation_examples": 20, "test_examples": 30}
few = settings(max_examples=15, deadline=None)


class FakeRandom:
    """Row-wise random numbers from one torch generator: enough to test a symmetry."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.source = rows, torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(self.rows, *shape, generator=self.source)

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, (self.rows, *shape), generator=self.source)

    def permutation(self, n: int) -> torch.Tensor:
        return self.uniform(n).argsort(-1)


@pytest.fixture(scope="module")
def puzzles() -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return {side: random_puzzles(side, 60, blanks, np.random.default_rng(side)) for side, blanks in SIDES.items()}


def dressed(side: int, digits: np.ndarray, solutions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = [torch.from_numpy(a.astype(np.uint8) + 1) for a in (digits, solutions)]
    batch = Batch(*tokens, torch.zeros(len(digits), dtype=torch.int32))
    after = create_task(f"sudoku-{side}").augment(batch, FakeRandom(len(digits), seed))
    assert after.inputs.dtype == torch.uint8
    return after.inputs.numpy() - 1, after.labels.numpy() - 1


# -- golden facts about 4x4 ------------------------------------------------------------------------------------------


def test_there_are_288_solved_4x4_grids_in_two_classes_of_96_and_192() -> None:
    grids = solved_grids_of_side_4()
    assert len(np.unique(grids, axis=0)) == 288
    assert sorted(np.unique(class_keys(grids, grids), return_counts=True)[1]) == [96, 192]


def test_4x4_classes_are_counted_completely() -> None:
    found, solutions = classes_of_side_4((1, 15))
    blanks, counts = np.unique((found == 0).sum(1), return_counts=True)
    # 4,710 classes with the two that have no blank
    assert dict(zip(blanks.tolist(), counts.tolist(), strict=True)) == {
        1: 2, 2: 22, 3: 56, 4: 210, 5: 414, 6: 788, 7: 980, 8: 1040, 9: 711, 10: 376, 11: 96, 12: 13,
    }  # fmt: skip
    assert len(np.unique(class_keys(found, solutions))) == len(found) == 4708
    assert solve(found).unique.all()


# -- the solver ------------------------------------------------------------------------------------------------------


def reference_search(grid: list[int], side: int) -> tuple[int, int]:
    """(solutions, guesses) of one puzzle by the definition, with sets, one position at a time."""
    shape = geometry(side)
    peers = [set(np.flatnonzero((shape.row == shape.row[p]) | (shape.column == shape.column[p])
             | (shape.box == shape.box[p])).tolist()) - {p} for p in range(side * side)]  # fmt: skip

    units = [set(unit) for unit in shape.units.tolist()]
    runs = [(box, line, box & line) for box in units[2 * side :] for line in units[: 2 * side] if box & line]

    def simplify(options: list[set[int]]) -> bool:
        changed = True
        while changed:
            changed = False
            for p, mine in enumerate(options):
                if len(mine) == 1 and any(mine & options[q] for q in peers[p]):
                    for q in peers[p]:
                        options[q] = options[q] - mine
                    changed = True
            for unit in shape.units.tolist():
                for digit in range(1, side + 1):
                    places = [p for p in unit if digit in options[p]]
                    if not places:
                        return False
                    if len(places) == 1 and len(options[places[0]]) > 1:
                        options[places[0]], changed = {digit}, True
            for run in runs:
                for whole, other in ((0, 1), (1, 0)):  # alone in the box: not elsewhere in the line, and the other way
                    rest = [p for p in run[whole] if p not in run[2]]
                    for digit in range(1, side + 1):
                        if any(digit in options[p] for p in run[2]) and not any(digit in options[p] for p in rest):
                            for p in run[other]:
                                if p not in run[2] and digit in options[p]:
                                    options[p], changed = options[p] - {digit}, True
            if not all(options):
                return False
        return True

    def tie(options: list[set[int]], place: int) -> int:
        word, state = 2**32, sum(sum(1 << (d - 1) for d in mine) for mine in options)
        mixed = ((place + 1) * 2246822519 % word) ^ (state * 2654435769 % word)
        return (mixed * 3266489917 % word) >> 24

    def search(options: list[set[int]]) -> tuple[int, int]:
        if not simplify(options):
            return 0, 0
        open_positions = [p for p, mine in enumerate(options) if len(mine) > 1]
        if not open_positions:
            return 1, 0
        chosen = min(open_positions, key=lambda p: (len(options[p]), tie(options, p)))
        solutions = guesses = 0
        for digit in options[chosen]:
            s, g = search([{digit} if p == chosen else set(mine) for p, mine in enumerate(options)])
            solutions, guesses = solutions + s, guesses + g + 1
        return solutions, guesses

    return search([{d} if d else set(range(1, side + 1)) for d in grid])


@pytest.mark.parametrize("side", [pytest.param(9, marks=pytest.mark.slow) if side == 9 else side for side in SIDES])
def test_solver_proves_what_a_plain_search_finds(side: int, puzzles: dict) -> None:
    digits, _, guesses = (a[:8] for a in puzzles[side])
    for grid, n in zip(digits.tolist(), guesses, strict=True):
        assert reference_search(grid, side) == (1, n)
    thinner = np.where(np.random.default_rng(0).random(digits.shape) < 0.25, 0, digits)  # some with many solutions
    found = solve(thinner)
    for grid, number, n in zip(thinner.tolist(), found.number, found.guesses, strict=True):
        count, expected = reference_search(grid, side)
        assert min(count, 2) == number and (number == 2 or n == expected)
    assert valid_solutions(found.solutions[:, 0]).all()
    several = found.number == 2
    assert several.any()
    assert (found.solutions[several, 0] != found.solutions[several, 1]).any(1).all()


def test_solver_sees_contradictions_and_counts_guesses_of_a_hard_puzzle() -> None:
    impossible = np.zeros((1, 81), np.uint8)
    impossible[0, :2] = 5
    assert solve(impossible).number[0] == 0
    hard = "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."
    grid = np.array([[int(c) if c != "." else 0 for c in hard]], np.uint8)
    found = solve(grid)
    assert found.unique[0] and (1, int(found.guesses[0])) == reference_search(grid[0].tolist(), 9)
    assert not solve(grid, max_guesses=5).unique[0]  # given up, so nothing is proven


@given(pattern=st.integers(0, 2**16 - 1), which=st.integers(0, 287))
@few
def test_4x4_uniqueness_agrees_with_comparing_all_288_grids(pattern: int, which: int) -> None:
    grids = solved_grids_of_side_4()
    mask = (pattern >> np.arange(16)) & 1 == 1
    agree = (grids[:, mask] == grids[which, mask]).all(1).sum()
    assert solve((grids[which] * mask)[None].astype(np.uint8)).number[0] == min(agree, 2)


# -- classes ---------------------------------------------------------------------------------------------------------


def brute_force_form(puzzle: np.ndarray, places: np.ndarray) -> tuple[int, ...]:
    """The least image under every symmetry of position, digits renamed in order of appearance."""
    images = []
    for image in puzzle[places]:
        names = {0: 0}
        images.append(tuple(names.setdefault(d, len(names)) for d in image.tolist()))
    return min(images)


@pytest.mark.parametrize(("side", "n"), [(4, 120), (6, 12)])
def test_keys_of_sides_4_and_6_are_exact(side: int, n: int) -> None:
    places = position_symmetries(side)
    assert len(np.unique(places, axis=0)) == {4: 128, 6: 3456}[side]
    random = np.random.default_rng(1)
    solution = random_puzzles(side, 1, (1, 1), random)[1][0]
    # few blanks in one solved grid: many of these are equivalent, others nearly so
    blank = random.random((n, side * side)).argsort(1).argsort(1) < random.integers(1, 3, (n, 1))
    digits, solutions = np.where(blank, 0, solution), np.broadcast_to(solution, (n, side * side))
    keys = class_keys(digits, solutions)
    forms = [brute_force_form(puzzle, places) for puzzle in digits]
    same_key, same_form = keys[:, None] == keys, np.array([[a == b for b in forms] for a in forms])
    assert (same_key == same_form).all() and same_form.sum() > n


@pytest.mark.parametrize("side", SIDES)
@given(seed=st.integers(0, 2**31))
@few
def test_dress_keeps_a_puzzle_valid_solved_and_in_its_class(side: int, puzzles: dict, seed: int) -> None:
    digits, solutions, _ = puzzles[side]
    new_digits, new_solutions = dressed(side, digits, solutions, seed)
    assert valid_solutions(new_solutions).all()
    assert (((new_digits == 0) | (new_digits == new_solutions)).all(1)).all()
    assert ((new_digits == 0).sum(1) == (digits == 0).sum(1)).all()
    assert (class_keys(new_digits, new_solutions) == class_keys(digits, solutions)).all()
    assert (new_digits != digits).any(1).mean() > 0.9


@pytest.mark.parametrize("side", SIDES)
@given(seed=st.integers(0, 2**31))
@few
def test_the_inverse_symmetry_restores_puzzle_and_solution(side: int, puzzles: dict, seed: int) -> None:
    tokens = [torch.from_numpy(a.astype(np.uint8) + 1) for a in puzzles[side][:2]]
    batch = Batch(*tokens, torch.zeros(len(tokens[0]), dtype=torch.int32))
    names, source = create_task(f"sudoku-{side}").symmetry(FakeRandom(len(tokens[0]), seed))
    after = dress(dress(batch, names, source), names.argsort(1), source.argsort(1))
    assert (after.inputs == batch.inputs).all() and (after.labels == batch.labels).all()


def test_dress_reaches_transposition_only_where_boxes_are_square(puzzles: dict) -> None:
    """A corner's row mates end up in one row or, transposed, in one column; with names undone by the solution."""
    for side, expected in ((4, True), (6, False), (9, True)):
        solution = puzzles[side][1][:1].repeat(64, 0)
        marks = np.zeros_like(solution)
        marks[:, :side] = solution[:, :side]  # the first row given, the rest blank
        given, _ = dressed(side, marks, solution, seed=3)
        rows_used = (given.reshape(64, side, side) != 0).any(2).sum(1)
        assert set(rows_used) == ({1, side} if expected else {1})


def test_other_puzzles_have_other_keys(puzzles: dict) -> None:
    digits, solutions, _ = puzzles[9]
    assert len(np.unique(class_keys(digits, solutions))) == len(digits)
    fewer = digits.copy()
    fewer[np.arange(len(digits)), (digits != 0).argmax(1)] = 0
    assert not (class_keys(fewer, solutions) == class_keys(digits, solutions)).any()


# -- the generated tasks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_splits_share_no_class_and_held_out_examples_are_one_per_class(side: int) -> None:
    task = create_task(f"sudoku-{side}", SMALL)
    splits, again, other = (task.splits(seed, NOWHERE) for seed in (0, 0, 1))
    task.check(splits)
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 60, "validation": 20, "test": 30, "ood-one-blank": 100
    }  # fmt: skip
    one_blank = splits.pop("ood-one-blank")
    assert ((one_blank.inputs == 1).sum(1) == 1).all() and one_blank.digest() == other["ood-one-blank"].digest()
    assert valid_solutions(one_blank.labels - 1).all()
    for name, part in splits.items():
        assert part.digest() == again[name].digest()
        assert (part.digest() == other[name].digest()) == (name != "train")
        assert len(np.unique(task.canonical(part))) == len(part)
        found = solve(part.inputs - 1)
        assert found.unique.all() and (found.solutions[:, 0] == part.labels - 1).all()
        fine = solve(part.inputs - 1, one_rule=True)
        assert (fine.rounds == part.difficulty).all() and (fine.guesses == found.guesses).all()
        assert (fine.rounds >= found.rounds).all() and fine.rounds.min() >= 1
        blanks = (part.inputs == 1).sum(1)
        assert blanks.min() >= SIDES[side][0] and blanks.max() <= SIDES[side][1]
        assert all(int(g[:2]) <= b <= int(g.split()[0][-2:]) for g, b in zip(part.groups, blanks, strict=True))
    assert task.notes(splits)[0] == "train: 60 puzzles of 60 symmetry classes"
    assert task.decode(splits["test"].labels[0]).count("\n") == side - 1
    assert "_" not in task.decode(splits["test"].inputs[0])


def test_training_repeats_classes_only_when_it_has_used_all() -> None:
    task = create_task("sudoku-4", {"min_blanks": 10, "max_blanks": 10, **SMALL, "train_examples": 600})
    splits = task.splits(0, NOWHERE)
    task.check(splits)
    keys, counts = np.unique(task.canonical(splits["train"]), return_counts=True)
    assert len(splits["train"]) == 600 and set(counts.tolist()) == {600 // len(keys), 600 // len(keys) + 1}


def test_difficulty_tells_apart_4x4_puzzles_that_need_no_guess() -> None:
    found = solve(classes_of_side_4((8, 11))[0], one_rule=True)
    assert np.bincount(found.rounds).tolist() == [0, 23, 1381, 653, 155, 11] and not found.guesses.any()


def test_harder_puzzles_need_the_guesses_asked_for_and_keep_one_solution() -> None:
    digits, solutions, guesses = harder_puzzles(60, (48, 52), 2, np.random.default_rng(0))
    found = solve(digits)
    assert len(digits) and found.unique.all() and (found.solutions[:, 0] == solutions).all()
    assert (found.guesses == guesses).all() and guesses.min() >= 2


@pytest.mark.parametrize(
    ("band", "least", "most"),
    [
        ("easy", 0, 0),
        *(pytest.param(*band, marks=pytest.mark.slow) for band in (("hard", 1, 9), ("extreme", 10, 9999))),
    ],
)
def test_bands_hold_puzzles_of_their_guesses_with_one_solution(band: str, least: int, most: int) -> None:
    few_examples = {"train_examples": 3, "validation_examples": 1, "test_examples": 2}
    task = create_task("sudoku-9", {"min_blanks": 48, "max_blanks": 52, "band": band, **few_examples})
    splits = task.splits(0, NOWHERE)
    task.check(splits)
    for name in ("train", "validation", "test"):
        found = solve(splits[name].inputs - 1)
        assert found.unique.all() and (found.solutions[:, 0] == splits[name].labels - 1).all()
        assert least <= found.guesses.min() and found.guesses.max() <= most
    if band == "extreme":  # as its description says, and no further
        assert 10 <= np.mean([solve(part.inputs - 1).guesses.mean() for part in list(splits.values())[:3]]) <= 16
    assert any("mean guesses" in note and "Sudoku-Extreme" in note for note in task.notes(splits))


def test_one_blank_is_left_out_where_training_has_such_puzzles_or_nobody_wants_it() -> None:
    for settings_ in ({"min_blanks": 1}, {"one_blank_examples": 0}):
        assert "ood-one-blank" not in create_task("sudoku-4", {**SMALL, **settings_}).splits(0, NOWHERE)


def test_a_table_of_the_training_puzzles_scores_the_floor(puzzles: dict) -> None:
    for side in SIDES:
        task = create_task(f"sudoku-{side}", SMALL)
        splits = task.splits(0, NOWHERE)
        train, test = splits["train"], splits["test"]
        table = {x.tobytes(): y for x, y in zip(train.inputs, train.labels, strict=True)}
        answers = np.stack([table.get(x.tobytes(), train.labels[0]) for x in test.inputs])
        for guess in (answers, test.inputs):
            assert task.correct(test.batch(), guess).mean() == task.floor(splits) == 0


@pytest.mark.parametrize("name", ["sudoku-4", "sudoku-6"])
def test_more_held_out_examples_than_classes_are_refused_by_name(name: str) -> None:
    blanks = {"sudoku-4": 4, "sudoku-6": 1}[name]
    task = create_task(
        name, {"min_blanks": blanks, "max_blanks": blanks, "test_examples": 200, "validation_examples": 1}
    )
    with pytest.raises(UserError, match=rf"test_examples is 200.*{blanks} to {blanks} blanks"):
        task.splits(0, NOWHERE)


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("sudoku-4", {"min_blanks": 11, "max_blanks": 10}, r"min_blanks \(11\) is above max_blanks \(10\)"),
        ("sudoku-4", {"max_blanks": 13}, "at most 12 at side 4"),
        ("sudoku-6", {"max_blanks": 27}, "at most 26 at side 6"),
        ("sudoku-9", {"max_blanks": 55}, "at most 54 at side 9"),
        ("sudoku-9", {"side": 4}, "use sudoku-4"),
        ("sudoku-6", {"band": "extreme"}, "band extreme has side 9 only"),
        ("sudoku-9", {"side": 5}, "side"),
        ("sudoku-4", {"test_examples": 0}, "test_examples"),
        ("sudoku-4", {"blanks": 3}, "did you mean"),
        ("sudoku-extreme", {"validation_rows": 0}, "validation_rows"),
        ("sudoku-extreme", {"train_rows": "1k"}, "train_rows"),
    ],
)
def test_impossible_settings_are_refused(name: str, bad: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_task(name, bad)
