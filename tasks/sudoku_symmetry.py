"""Sudoku's geometry and its symmetries: which puzzles are the same puzzle in another dress.

A symmetry relabels the digits, permutes the bands, the rows of a band, the stacks and the columns of a stack, and,
where boxes are square, may transpose: 128, 3,456 and 3,359,232 symmetries of position for sides 4, 6 and 9.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations, product
from typing import NamedTuple

import numpy as np

from tasks.ownership import mix, row_hashes

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Rows and columns of a box, by side."""

ROUNDS = 6
"""Refinement rounds of a class key. After 2 all 81 positions are told apart in each of 11,000 puzzles of
Sudoku-Extreme; the rest is margin for emptier patterns."""


class Geometry(NamedTuple):
    """Which row, column, box, band and stack each position is in ([S] each), and the units as [3·side, side]."""

    side: int
    row: np.ndarray
    column: np.ndarray
    box: np.ndarray
    band: np.ndarray
    stack: np.ndarray
    units: np.ndarray


@lru_cache
def geometry(side: int) -> Geometry:
    height, width = BOXES[side]
    row, column = (index.ravel() for index in np.indices((side, side)))
    band, stack = row // height, column // width
    box = band * (side // width) + stack
    units = np.stack([np.flatnonzero(kind == k) for kind in (row, column, box) for k in range(side)])
    return Geometry(side, row, column, box, band, stack, units)


def position_symmetries(side: int) -> np.ndarray:
    """[G, S]: for each symmetry of position, which position each position's digit comes from. For sides 4 and 6."""
    height, width = BOXES[side]
    rows, columns = line_orders(side, height), line_orders(side, width)
    places = (rows[:, None, :, None] * side + columns[None, :, None, :]).reshape(-1, side, side)
    if height == width:
        places = np.concatenate([places, places.transpose(0, 2, 1)])
    return places.reshape(-1, side * side)


def line_orders(side: int, size: int) -> np.ndarray:
    """[C, side]: every order of rows (or columns) that keeps bands (or stacks) of `size` together."""
    within = list(permutations(range(size)))
    return np.array([
        [block * size + line for block, inner in zip(blocks, inners, strict=True) for line in inner]
        for blocks in permutations(range(side // size))
        for inners in product(within, repeat=side // size)
    ])  # fmt: skip


def valid_solutions(grids: np.ndarray) -> np.ndarray:
    """[N] bool: every row, column and box of grids [N, S] (digits 1…side) holds every digit once."""
    side = side_of(grids)
    bits = np.left_shift(1, grids.astype(np.int32))
    seen = np.bitwise_or.reduce(bits[:, geometry(side).units], axis=2)
    everything: np.ndarray = (seen == (1 << (side + 1)) - 2).all(1)
    return everything


# -- class keys ----------------------------------------------------------------------------------------------------


def class_keys(puzzles: np.ndarray, solutions: np.ndarray) -> np.ndarray:
    """[N] uint64: equal for puzzles that are the same up to symmetry; puzzles [N, S] (0 = blank), solutions [N, S].

    Sides 4 and 6: a hash of the exact canonical form, so keys differ exactly where classes do (but for 64-bit
    collisions). Side 9: a hash of the colours that `refine` gives, an invariant. Equivalent puzzles always get the
    same key, so splits with disjoint keys share no class; and keys of other classes differ wherever refinement tells
    all 81 positions apart, as it does in 11,000 of 11,000 puzzles of Sudoku-Extreme.
    """
    side = side_of(puzzles)
    chunks = [(puzzles[i : i + 4096], solutions[i : i + 4096]) for i in range(0, len(puzzles), 4096)]
    if side != 9:
        keys = [row_hashes(canonical_forms(p, s)) for p, s in chunks]
    else:
        keys = [_colour_hash(p, s) + _colour_hash(_transpose(p), _transpose(s)) for p, s in chunks]
    return np.concatenate(keys) if keys else np.zeros(0, np.uint64)


def canonical_forms(puzzles: np.ndarray, solutions: np.ndarray) -> np.ndarray:
    """[N, S]: the canonical form of puzzles of side 4 or 6, equal exactly for equivalent puzzles.

    It is the puzzle whose solution is the lexicographically least among the equivalent ones, and among those the one
    with the least pattern of blanks. The choice of first row and of column order (64 or 432 with transposition) fixes
    everything: the first row is relabelled 1, 2, …, and the other rows and bands are sorted by their first digit.
    All choices are made at once for the second row; what is not least there is dropped before grids are built.
    """
    side = side_of(puzzles)
    height, width = BOXES[side]
    orders = line_orders(side, width)  # [C, side]: new column j shows old column orders[c, j]
    back = np.argsort(orders, axis=1)
    versions = [(puzzles, solutions)]
    if height == width:
        versions.append((_transpose(puzzles), _transpose(solutions)))
    givens = np.stack([p != 0 for p, _ in versions]).reshape(len(versions), -1, side, side)
    grids = np.stack([s for _, s in versions]).reshape(len(versions), -1, side, side).astype(np.int64) - 1
    where = np.argsort(grids, axis=3)  # column of each digit in each row
    partner = np.arange(side) ^ 1  # bands of two rows
    source = np.take_along_axis(where, grids[:, :, partner], 3)  # where the second row's digits stand in the first
    second = back[np.arange(len(orders))[:, None], source[..., orders]]  # [versions, N, side, C, side]
    code = second @ (side ** np.arange(side)[::-1])
    version, n, row, order = np.nonzero(code == code.min((0, 2, 3), keepdims=True))

    first = back[order[:, None], where[version, n, row]]  # new name of each digit
    columns = orders[order]
    grid = np.take_along_axis(first, np.take_along_axis(grids[version, n], columns[:, None], 2).reshape(len(n), -1), 1)
    grid = grid.reshape(len(n), side, side)
    given = np.take_along_axis(givens[version, n], columns[:, None], 2)
    head = grid[:, :, 0]
    band_head = head.reshape(len(n), -1, height).min(2).repeat(height, 1)
    rows = np.argsort(band_head * side + head, axis=1)[:, :, None]
    both = np.concatenate([np.take_along_axis(grid, rows, 1), np.take_along_axis(given, rows, 1)], 1)
    text = np.ascontiguousarray(both.reshape(len(n), -1).astype(np.uint8) + 1).view(f"S{2 * side * side}").ravel()
    ranked = np.lexsort((text, n))
    least = ranked[np.unique(n[ranked], return_index=True)[1]]
    solution, mask = both[least, :side], both[least, side:]
    return ((solution + 1) * mask).reshape(len(puzzles), -1).astype(np.uint8)


def side_of(grids: np.ndarray) -> int:
    return round(float(grids.shape[1]) ** 0.5)


def _transpose(grids: np.ndarray) -> np.ndarray:
    side = side_of(grids)
    return grids.reshape(-1, side, side).transpose(0, 2, 1).reshape(len(grids), -1)


def _colour_hash(puzzles: np.ndarray, solutions: np.ndarray) -> np.ndarray:
    return mix(mix(refine(puzzles, solutions)).sum(0))


def refine(puzzles: np.ndarray, solutions: np.ndarray, rounds: int = ROUNDS) -> np.ndarray:
    """[S, N] uint64 colours of the positions, without regard to transposition. Positions come first: it is faster."""
    side = side_of(puzzles)
    height, width = BOXES[side]
    n = len(puzzles)
    by_digit = np.argsort(solutions.T, axis=0, kind="stable")  # [S, N]: the positions of digit 1, then of digit 2 …
    digit = solutions.T.astype(np.int64) - 1
    colours = mix((puzzles.T != 0).astype(np.uint64))
    for _ in range(rounds):
        mixed = mix(colours).reshape(side, side, n)
        rows, columns = mixed.sum(1), mixed.sum(0)  # [side, N]
        bands = mix(rows).reshape(-1, height, n).sum(1)
        stacks = mix(columns).reshape(-1, width, n).sum(1)
        boxes = mixed.reshape(side // height, height, side // width, width, n).sum((1, 3))
        digits = np.take_along_axis(mixed.reshape(-1, n), by_digit, 0).reshape(side, side, n).sum(1)
        rows = mix(mix(rows) + np.uint64(3) * mix(bands).repeat(height, 0))
        columns = mix(mix(columns) + np.uint64(3) * mix(stacks).repeat(width, 0)) * np.uint64(5)
        boxes = (mix(boxes) * np.uint64(7)).repeat(height, 0).repeat(width, 1)
        around = rows[:, None] + columns[None] + boxes
        colours = mix(
            colours * np.uint64(11) + around.reshape(-1, n) + np.uint64(13) * np.take_along_axis(mix(digits), digit, 0)
        )
    return colours
