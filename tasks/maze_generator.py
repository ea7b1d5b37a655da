"""Random mazes with a shortest path of wanted length: walls strewn at random, as in Maze-Hard."""

from __future__ import annotations

import numpy as np

from tasks.maze_rule import FREE, GOAL, START, WALL, rows_of, waves

MOVES_OF_START = 1
"""How often a start without a goal far enough is moved to a position farthest from it. At side 30 with 37 % walls
0.17 % of the mazes then have a goal 109 steps away without a move, 1.4 % after one, 1.6 % after two, which is slower:
54, 133 and 100 mazes a second."""


def random_mazes(
    side: int, n: int, density: float, steps: tuple[int, int | None], random: np.random.Generator
) -> np.ndarray:
    """[M, S] mazes out of n drawn: those with a goal that lies at a wanted distance from the start.

    Every position is a wall with probability `density`. The wanted distance is drawn first, uniformly from steps[0] …
    steps[1]; where there is no upper bound, any distance of at least steps[0] will do. The start is uniform over free
    positions, but for those moved (see above), the goal uniform over the positions at a wanted distance; then both
    change places with probability 1/2, so that a moved start is as often the goal.
    """
    low, high = steps
    distance = np.full(n, low) if high is None else random.integers(low, high + 1, n)
    wall = random.random((n, side * side), np.float32) < density
    wall[wall.all(1), 0] = False
    start, goal = np.full(n, -1), np.full(n, -1)
    looking, origin = np.arange(n), _one_of(~wall, random)
    for move in range(MOVES_OF_START + 1):
        marks = np.zeros((len(looking), side * side), bool)
        marks[np.arange(len(looking)), origin] = True
        found = waves(rows_of(~wall[looking]), rows_of(marks))
        if high is None:
            there = np.bitwise_or.reduce(found[low:], axis=0)
        else:
            there = found[distance[looking].clip(max=len(found) - 1), np.arange(len(looking))]
            there[distance[looking] >= len(found)] = 0
        wanted = _marks(there, side)
        has = wanted.any(1)
        start[looking[has]] = origin[has]
        goal[looking[has]] = _one_of(wanted[has], random)
        if move < MOVES_OF_START:
            depth = (found != 0).any(2).sum(0) - 1
            origin = _one_of(_marks(found[depth, np.arange(len(looking))], side)[~has], random)
        looking = looking[~has]
        if not len(looking):
            break
    swap = random.random(n) < 0.5
    start, goal = np.where(swap, goal, start), np.where(swap, start, goal)
    good = np.flatnonzero(goal >= 0)
    mazes = np.where(wall[good], WALL, FREE).astype(np.uint8)
    mazes[np.arange(len(good)), start[good]] = START
    mazes[np.arange(len(good)), goal[good]] = GOAL
    return mazes


def _one_of(marks: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """[N]: one of the marked positions of each row [N, S] bool, uniformly."""
    return np.asarray((marks * random.random(marks.shape, np.float32)).argmax(1))


def _marks(words: np.ndarray, side: int) -> np.ndarray:
    """[N, S] bool from words [N, side + 2] (see `rows_of`)."""
    bits = (words[:, 1:-1, None] >> np.arange(1, side + 1, dtype=np.uint32)) & np.uint32(1)
    return np.asarray(bits.reshape(len(words), -1) == 1)
