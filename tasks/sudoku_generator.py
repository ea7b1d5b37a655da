"""Random Sudoku puzzles with exactly one solution, and every 4x4 puzzle class there is."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from tasks.sudoku_solver import candidates, digits, propagate, solve
from tasks.sudoku_symmetry import class_keys, geometry, position_symmetries, valid_solutions

REPAIRS = 25
"""Rounds in which a second solution is removed by a given. At side 9 with 52 blanks 87 % of the tries then succeed
(53 % after 12 rounds, 96 % after 40); with up to 50 blanks, 99 % and more."""

GIVE_UP_AFTER = 200
"""Guesses after which a candidate counts as not unique; the generated puzzles that remain need far fewer."""

CLIMB = 230
"""Changes tried on a puzzle that is to become harder. Then 45 % of 1,000 need 10 guesses, 23 a second on one core."""


def random_solutions(side: int, n: int, generator: np.random.Generator) -> np.ndarray:
    """[n, S] solved grids. Each is a walk: fill the open position with the fewest candidates at random, propagate,
    start afresh at a contradiction. Not exactly uniform over grids."""
    done: list[np.ndarray] = []
    missing = n
    start = np.repeat(candidates(np.zeros((1, side * side), np.uint8)), n, 1)
    work = start
    while missing:
        work, alive, _ = propagate(work)
        work[:, ~alive] = start[:, :1]
        sizes = np.bitwise_count(work)
        full = (sizes == 1).all(0)
        done.append(digits(work[:, full].T))
        missing -= int(full.sum())
        work, sizes = work[:, ~full], sizes[:, ~full]
        columns = np.arange(work.shape[1])
        chosen = np.where(sizes > 1, sizes + generator.random(sizes.shape, np.float32), 99).argmin(0)
        offered = (work[chosen, columns] >> np.arange(side, dtype=np.uint16)[:, None]) & 1
        pick = (offered * generator.random(offered.shape)).argmax(0)
        work[chosen, columns] = (1 << pick).astype(np.uint16)
    grids = np.concatenate(done)
    return grids[generator.permutation(n)]  # easy walks end first: mix


def random_puzzles(
    side: int, n: int, blanks: tuple[int, int], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Up to n puzzles [M, S] (0 = blank) with their solutions [M, S] and guesses [M]; those that failed are left out.

    The number of blanks is drawn first, uniformly, and blanks are strewn at random. While there is another solution,
    one position where it differs is locked as a given and the next position in the random order is blanked instead.
    """
    solutions = random_solutions(side, n, generator)
    wanted = generator.integers(blanks[0], blanks[1] + 1, n)
    priority = generator.random((n, side * side))
    guesses = np.full(n, -1)
    puzzles = np.zeros_like(solutions)
    open_rows = np.arange(n)
    for _ in range(REPAIRS):
        rank = priority[open_rows].argsort(1).argsort(1)
        blank = rank < wanted[open_rows, None]
        puzzles[open_rows] = np.where(blank, 0, solutions[open_rows])
        found = solve(puzzles[open_rows], GIVE_UP_AFTER)
        unique = found.unique
        guesses[open_rows[unique]] = found.guesses[unique]
        other = found.solutions[~unique]
        open_rows, blank = open_rows[~unique], blank[~unique]
        if not len(open_rows):
            break
        differs = ((other != solutions[open_rows, None]) & (other != 0)).any(1)
        differs = np.where(differs.any(1)[:, None], differs, blank)  # nothing found before giving up: any blank
        lock = (differs * generator.random(differs.shape)).argmax(1)
        priority[open_rows, lock] = 2.0
    good = guesses >= 0
    return puzzles[good], solutions[good], guesses[good]


def harder_puzzles(
    n: int, blanks: tuple[int, int], least: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Up to n puzzles of side 9 that need at least `least` guesses: puzzles [M, 81], solutions [M, 81], guesses [M].

    Each climbs by itself from a random puzzle: one or two givens are blanked and mostly another is given instead; the
    change stays if the solution stays the only one and the guesses don't become fewer. So `blanks` holds for the start
    only; most end with 54 to 58. Puzzles that don't arrive in CLIMB changes are left out.
    """
    puzzles, solutions, guesses = random_puzzles(9, n, blanks, generator)
    for _ in range(CLIMB):
        low = np.flatnonzero(guesses < least)
        if not len(low):
            break
        changed, rows = puzzles[low], np.arange(len(low))
        given = changed != 0
        order = generator.random(changed.shape, np.float32)
        first, second = (order * given).argsort(1)[:, :-3:-1].T
        new = (order * ~given).argmax(1)
        also, instead = generator.random(len(low)) < 0.2, generator.random(len(low)) < 0.9
        changed[rows, first] = 0
        changed[rows[also], second[also]] = 0
        changed[rows[instead], new[instead]] = solutions[low[instead], new[instead]]
        found = solve(changed, 5 * least)
        better = found.unique & (found.guesses >= guesses[low])
        puzzles[low[better]], guesses[low[better]] = changed[better], found.guesses[better]
    good = guesses >= least
    return puzzles[good], solutions[good], guesses[good]


def classes_of_side_4(blanks: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Puzzles [C, 16] and solutions [C, 16]: one for each class of 4x4 puzzles with so many blanks, all there are.

    Up to symmetry there are two solved grids, with 32 and 16 symmetries of their own. A class of puzzles is such a
    grid with a pattern of givens up to the grid's own symmetries. A pattern has one solution if it meets every set of
    positions where another of the 288 grids differs.
    """
    grids = solved_grids_of_side_4()
    places = position_symmetries(4)
    power = 1 << np.arange(16)
    patterns = np.arange(1 << 16)
    counts = 16 - np.bitwise_count(patterns)
    patterns = patterns[(counts >= blanks[0]) & (counts <= blanks[1])]
    given = (patterns[:, None] >> np.arange(16)) & 1
    _, firsts = np.unique(class_keys(grids, grids), return_index=True)
    puzzles, solutions = [], []
    for grid in grids[firsts]:
        differences = np.unique((grids != grid) @ power)
        unique = np.all([(patterns & d) != 0 for d in differences if d], axis=0)
        turned = grid[places]
        names = np.argsort(turned[:, :4], axis=1)  # the first row holds each digit once
        own = places[(np.take_along_axis(names, turned - 1, 1) == np.argsort(grid[:4])[grid - 1]).all(1)]
        least = np.min([given[unique][:, place] @ power for place in own], axis=0)
        given_of = (np.unique(least)[:, None] >> np.arange(16)) & 1
        puzzles.append(given_of * grid)
        solutions.append(np.broadcast_to(grid, given_of.shape))
    return np.concatenate(puzzles).astype(np.uint8), np.concatenate(solutions).astype(np.uint8)


def solved_grids_of_side_4() -> np.ndarray:
    """[288, 16]: every solved 4x4 grid."""
    rows = np.array(list(permutations(range(1, 5))))
    a, b = (index.ravel() for index in np.indices((24, 24)))
    halves = np.concatenate([rows[a], rows[b]], 1)
    box = geometry(4).units[8:10]
    bits = np.bitwise_or.reduce(1 << halves[:, box], axis=2)
    halves = halves[(bits == 30).all(1)]  # both boxes of the band hold 1…4
    upper, lower = (index.ravel() for index in np.indices((len(halves), len(halves))))
    grids = np.concatenate([halves[upper], halves[lower]], 1)
    return np.asarray(grids[valid_solutions(grids)], np.uint8)


def random_dress(
    puzzles: np.ndarray, solutions: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Each 4x4 puzzle under a random symmetry, with its solution."""
    places = position_symmetries(4)
    place = places[generator.integers(len(places), size=len(puzzles))]
    names = np.argsort(generator.random((len(puzzles), 4)), axis=1) + 1
    names = np.concatenate([np.zeros((len(puzzles), 1), np.int64), names], 1)
    return tuple(  # type: ignore[return-value]
        np.take_along_axis(names, np.take_along_axis(grids, place, 1).astype(np.int64), 1).astype(np.uint8)
        for grids in (puzzles, solutions)
    )
