"""An exact Sudoku solver for many puzzles at once: bit sets of candidates in NumPy, positions first, puzzles last.

It proves uniqueness and gives the difficulty of a puzzle, its number of guesses: after naked and hidden singles have
run to their end, the search takes the first open position with the fewest candidates and tries each of them; every
try is one guess, tries are followed until the whole tree is closed. So 0 guesses means that singles alone solve it,
and the number depends neither on the order of tries nor on the names of the digits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.sudoku_symmetry import geometry, side_of

AT_ONCE = 2048
"""Search states worked on together: at side 9, 81 x 2048 16-bit sets, so that the arrays stay in the cache."""


class Solved(NamedTuple):
    """What the search found for each puzzle.

    solutions [N, 2, S]: the first two solutions (0 where there is none); number [N]: 0, 1, or 2 for "two or more";
    guesses [N]; finished [N] bool: the tree was closed, so `number` is proven. Guesses are a difficulty where
    number is 1 and finished.
    """

    solutions: np.ndarray
    number: np.ndarray
    guesses: np.ndarray
    finished: np.ndarray

    @property
    def unique(self) -> np.ndarray:
        return self.finished & (self.number == 1)


def solve(puzzles: np.ndarray, max_guesses: int | None = None) -> Solved:
    """Search every puzzle [N, S] (0 = blank) for a second solution, giving up on one after `max_guesses`."""
    n, positions = puzzles.shape
    solutions = np.zeros((n, 2, positions), np.uint8)
    number, guesses, finished = np.zeros(n, np.int64), np.zeros(n, np.int64), np.ones(n, bool)
    states, owners = candidates(puzzles), np.arange(n)
    while len(owners):
        # the newest states first: depth-first, so memory stays bounded
        states, work = states[:, :-AT_ONCE], states[:, -AT_ONCE:]
        owners, owner = owners[:-AT_ONCE], owners[-AT_ONCE:]
        wanted = (number[owner] < 2) & finished[owner]
        work, owner = work[:, wanted], owner[wanted]
        work, alive = propagate(work)
        work, owner = work[:, alive], owner[alive]
        sizes = np.bitwise_count(work)
        done = (sizes == 1).all(0)
        for column in np.flatnonzero(done):
            puzzle = owner[column]
            if number[puzzle] < 2:
                solutions[puzzle, number[puzzle]] = digits(work[:, column])
                number[puzzle] += 1
        work, owner, sizes = work[:, ~done], owner[~done], sizes[:, ~done]
        children, parents = branch(work, sizes)
        owner = owner[parents]
        np.add.at(guesses, owner, 1)
        if max_guesses is not None:
            finished[guesses > max_guesses] = False
        states, owners = np.concatenate([states, children], 1), np.concatenate([owners, owner])
    return Solved(solutions, number, guesses, finished)


def candidates(puzzles: np.ndarray) -> np.ndarray:
    """[S, N] uint16: bit d−1 is set where digit d may stand; all bits where puzzles [N, S] are blank."""
    side = side_of(puzzles)
    table = np.concatenate([[(1 << side) - 1], 1 << np.arange(side)]).astype(np.uint16)
    return np.ascontiguousarray(table[puzzles.T])


def digits(sets: np.ndarray) -> np.ndarray:
    """The digit of each one-element set."""
    return np.asarray(np.bitwise_count(sets - np.uint16(1)) + 1, np.uint8)


def branch(work: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One child for each candidate of the first open position with the fewest; [S, M'] states and [M'] parents."""
    states = np.arange(work.shape[1])
    chosen = np.where(sizes > 1, sizes, 99).argmin(0)
    sets = work[chosen, states]
    children, parents = [work[:, :0]], [states[:0]]
    for bit in range(16):
        value = np.uint16(1 << bit)
        has = np.flatnonzero(sets & value)
        if len(has):
            child = work[:, has]
            child[chosen[has], np.arange(len(has))] = value
            children.append(child)
            parents.append(has)
    return np.concatenate(children, 1), np.concatenate(parents)


def propagate(work: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Naked and hidden singles to their end, for states [S, M]; returns the states and [M] bool "no contradiction"."""
    work = work.copy()
    alive = np.ones(work.shape[1], bool)
    busy = np.arange(work.shape[1])  # states that still change
    while len(busy):
        before = work[:, busy]
        after, sound = _sweep(before)
        work[:, busy] = after
        alive[busy] = sound
        busy = busy[sound & (after != before).any(0)]
    return work, alive


def _sweep(work: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One round of both rules in every unit. Sets of no digit, and digits without or with two places, are unsound."""
    side = round(float(work.shape[0]) ** 0.5)
    shape = geometry(side)
    full = np.uint16((1 << side) - 1)
    single = (work & (work - np.uint16(1))) == 0
    fixed_once, fixed_twice = _once_and_twice(np.where(single, work, np.uint16(0)), shape.units)
    sound = ~(fixed_twice != 0).any(0) & (work != 0).all(0)
    taken = _of_positions(fixed_once, side)
    work = np.where(single, work, work & ~taken)
    once, twice = _once_and_twice(work, shape.units)
    sound &= (once == full).all(0)
    hidden = work & _of_positions(once & ~twice, side)
    return np.where(hidden != 0, hidden, work), sound & ((hidden & (hidden - np.uint16(1))) == 0).all(0)


def _once_and_twice(sets: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[units, M] each: the digits that at least one, and at least two, of the unit's sets hold."""
    once = sets[units[:, 0]]
    twice = np.zeros_like(once)
    for place in units.T[1:]:
        these = sets[place]
        twice |= once & these
        once |= these
    return once, twice


def _of_positions(by_unit: np.ndarray, side: int) -> np.ndarray:
    """[S, M]: the union over the three units of each position."""
    shape = geometry(side)
    return np.asarray(by_unit[shape.row] | by_unit[side + shape.column] | by_unit[2 * side + shape.box])
