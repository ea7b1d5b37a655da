"""Mazes as tokens: the rule that labels them, the check of any shortest path, and their eight symmetries.

Tokens are those of the HRM paper's data: 1 wall, 2 free, 3 start, 4 goal, 5 path, and 0 pads. Positions run row by row.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tasks.base import Array
from tasks.ownership import row_hashes

WALL, FREE, START, GOAL, PATH = 1, 2, 3, 4, 5
MOVES = ((1, 0), (0, -1), (0, 1), (-1, 0))
"""Down, Left, Right, Up: the order in which the labelled search of Maze-Hard tries the neighbours (all rows agree)."""

LARGEST_SIDE = 30
"""A row of a maze with a wall on either side is one 32-bit word."""

AT_ONCE = 1024
"""Mazes searched together; a search keeps 4 (side + 2) bytes of each per step, 27 MB in all at 200 steps."""


# -- the labelling rule --------------------------------------------------------------------------------------------


def answers(mazes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels [N, S] of mazes [N, S], and the steps [N] of their shortest paths, -1 where there is none.

    The rule is Maze-Hard's: breadth-first search from the start, neighbours in the order of MOVES, first parent kept.
    Its queue holds each wave in the lexicographic order of the moves that lead there, so the path it finds is the
    first of all shortest paths in that order: a walk from the start that always takes the first move that comes
    nearer to the goal.
    """
    labels, steps = mazes.copy(), np.full(len(mazes), -1)
    for first in range(0, len(mazes), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        labels[part], steps[part] = _answers(mazes[part])
    return labels, steps


def _answers(mazes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    side = side_of(mazes)
    start = (mazes == START).argmax(1)
    from_goal = waves(rows_of(mazes != WALL), rows_of(mazes == GOAL))
    row, column = start // side + 1, start % side + 1  # the border counted
    reached = _bit(from_goal[:, np.arange(len(mazes)), row], column)
    steps = np.where(reached.any(0), reached.argmax(0), -1)
    labels = mazes.copy()
    down, right = np.array(MOVES).T
    for left in range(int(steps.max(initial=0)) - 1, 0, -1):
        walking = np.flatnonzero(steps > left)  # those with so many steps left after the one that they take now
        rows, columns = row[walking] + down[:, None], column[walking] + right[:, None]
        move = _bit(from_goal[left, walking, rows], columns).argmax(0), np.arange(len(walking))
        row[walking], column[walking] = rows[move], columns[move]
        labels[walking, (rows[move] - 1) * side + columns[move] - 1] = PATH
    return labels, steps


def _bit(words: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The bit of each word at its place."""
    return (words >> place.astype(np.uint32)) & np.uint32(1)


def rows_of(marks: np.ndarray) -> np.ndarray:
    """[N, side + 2] uint32: the rows of marks [N, S] bool as words, bit c + 1 for column c, an empty row at either
    end."""
    side = side_of(marks)
    words = marks.reshape(-1, side, side) @ (np.uint32(2) << np.arange(side, dtype=np.uint32))
    return np.pad(words.astype(np.uint32), ((0, 0), (1, 1)))


def waves(free: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """[T, N, side + 2]: the positions exactly t steps from the origin, for free positions and origins as `rows_of`."""
    front, unseen = origin, free & ~origin
    found = [front]
    while True:
        near = front | (front << np.uint32(1)) | (front >> np.uint32(1))
        near[:, 1:] |= front[:, :-1]
        near[:, :-1] |= front[:, 1:]
        front = near & unseen
        if not front.any():
            return np.stack(found)
        unseen = unseen & ~front
        found.append(front)


# -- any shortest path ---------------------------------------------------------------------------------------------


def is_shortest_path(mazes: Array, labels: Array, prediction: Array) -> Array:
    """[B] bool: prediction [B, S] is the maze with some shortest path from start to goal drawn into it.

    Three things are necessary and together sufficient: nothing but free positions became path; there are as many path
    positions as in the label, which is a shortest path of k + 1 positions with its ends; every path position touches
    two of path, start and goal, and each end touches one. For then the positions form a path between the two ends
    and maybe circles; the path has at least k + 1 positions, so nothing is left for a circle, and it is a shortest
    one. And a shortest path has no position that touches a third, since that would be a shortcut.
    Uses only what NumPy arrays and torch tensors share.
    """
    side = side_of(mazes)
    path, ends = prediction == PATH, (mazes == START) | (mazes == GOAL)
    unchanged = ((prediction == mazes) | (path & (mazes == FREE))).all(-1)
    as_long = path.sum(-1) == (labels == PATH).sum(-1)
    used = ((path | ends) * 1).reshape(-1, side, side)
    touches = used * 0
    touches[:, 1:] += used[:, :-1]
    touches[:, :-1] += used[:, 1:]
    touches[:, :, 1:] += used[:, :, :-1]
    touches[:, :, :-1] += used[:, :, 1:]
    wanted = path * 2 + ends * 1
    fits = ((touches.reshape(wanted.shape) == wanted) | (wanted == 0)).all(-1)
    return unchanged & as_long & fits


# -- symmetries ----------------------------------------------------------------------------------------------------


def turned(turns: Array, positions: Array, side: int) -> Array:
    """[…, S]: where each position of a turned maze comes from, for turns 0-7 […, 1] and positions 0 … S − 1 [S].

    Bit 0 of a turn swaps rows and columns; bits 1 and 2 reverse the rows and the columns of what comes out.
    """
    swap, flip_rows, flip_columns = turns & 1, (turns >> 1) & 1, (turns >> 2) & 1
    row, column = positions // side, positions % side
    row = row + flip_rows * (side - 1 - 2 * row)
    column = column + flip_columns * (side - 1 - 2 * column)
    return row * (side + swap * (1 - side)) + column * (1 + swap * (side - 1))


@lru_cache
def all_turns(side: int) -> np.ndarray:
    """[8, S]: `turned` for every turn."""
    return np.asarray(turned(np.arange(8)[:, None], np.arange(side * side), side))


@lru_cache
def composition() -> np.ndarray:
    """[8, 8]: entry [g, h] is the turn that does what turn g and after it turn h do."""
    table = all_turns(2)
    both = table[:, table].astype(np.int64)  # [g, h, S]: turn g read at the places of turn h
    return np.asarray((both[:, :, None] == table).all(-1).argmax(-1))


def class_keys(mazes: np.ndarray) -> np.ndarray:
    """[N] uint64: equal exactly for mazes [N, S] that a turn makes equal, but for 64-bit collisions."""
    keys = np.full(len(mazes), np.iinfo(np.uint64).max, np.uint64)
    for source in all_turns(side_of(mazes)):
        keys = np.minimum(keys, row_hashes(mazes[:, source]))
    return keys


def side_of(mazes: Array) -> int:
    return round(float(mazes.shape[-1]) ** 0.5)
