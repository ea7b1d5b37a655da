"""ARC's grids on a canvas, and their symmetries: eight turns of the grid and permutations of the colours 1-9.

The arithmetic uses only operators that NumPy arrays and torch tensors share, so that the data set is built and rows
are augmented on the device by the same lines. A turn is a number 0-7: bit 0 swaps rows and columns, bit 1 reverses
the rows, bit 2 the columns (of the grid as it was).
"""

from __future__ import annotations

import numpy as np

from tasks.base import PAD, Array
from tasks.ownership import row_hashes

EOS = 1
BLACK = 2
"""Token of colour 0, which augmentation keeps; colour c is token c + 2."""

FIRST = 3
"""Token of colour 1, the first of the nine that augmentation permutes."""

WORD = 0xFFFFFFFF


def draw(grid: np.ndarray, side: int) -> np.ndarray:
    """[side, side] uint8: the grid at the top left of a canvas, an L of end marks just below and right of it where
    they fit (the corner between them stays padding, as in HRM's dataset builder)."""
    height, width = grid.shape
    canvas = np.full((side, side), PAD, np.uint8)
    canvas[:height, :width] = grid + BLACK
    canvas[height : height + 1, :width] = EOS
    canvas[:height, width : width + 1] = EOS
    return canvas


def variant_symmetry(task: Array, variant: Array) -> tuple[Array, Array]:
    """The turn [B] and the colour order [B, 9] of each task's variant, a hash of (task, variant) [B] int64.

    Token 3 + c becomes 3 + order[c]. Variant 0 is the identity. Two variants of a task may coincide (8 · 9! = 2.9
    million symmetries, fewer that differ on a task with few colours), where the published builder drops repeats.
    """
    seed = _scramble(_scramble(task & WORD) ^ variant)
    colours = _like(range(1, 10), task)
    draws = _scramble((seed[:, None] + colours * 0x9E3779B1) & WORD)
    order = ((variant > 0)[:, None] * draws * 16 + colours).argsort(-1)
    return (variant > 0) * (_scramble(seed ^ WORD) & 7), order


def turn(canvas: Array, shape: Array, turns: Array, order: Array) -> tuple[Array, Array]:
    """Canvases [B, side, side] with grids of shape [B, 2], turned by turns [B] and recoloured by order [B, 9].

    Gives the canvases (int64), end marks drawn anew, and the new shapes.
    """
    lines, rows = _like(range(canvas.shape[1]), shape), _like(range(len(canvas)), shape)
    i, j, rows = lines[None, :, None], lines[None, None, :], rows[:, None, None]
    turns = turns[:, None, None]
    swap, flip_rows, flip_columns = turns & 1, (turns >> 1) & 1, (turns >> 2) & 1
    old_height, old_width = shape[:, 0, None, None], shape[:, 1, None, None]
    new_shape = shape + swap[:, :, 0] * (_flipped(shape) - shape)
    height, width = new_shape[:, 0, None, None], new_shape[:, 1, None, None]

    row, column = i + swap * (j - i), j + swap * (i - j)
    row = row + flip_rows * (old_height - 1 - 2 * row)
    column = column + flip_columns * (old_width - 1 - 2 * column)
    inside = (i < height) & (j < width)
    tokens = canvas[rows, row * inside, column * inside] + 0 * rows  # int64, so that differences may be negative
    recoloured = (tokens >= FIRST) * (order[rows, (tokens - FIRST) * (tokens >= FIRST)] + FIRST - tokens)
    marks = ((i == height) & (j < width)) | ((j == width) & (i < height))
    return inside * (tokens + recoloured) + marks * EOS, new_shape


def inverse(turns: Array, order: Array) -> tuple[Array, Array]:
    """The symmetry that undoes this one. Where rows and columns are swapped, their reversals are too."""
    swap = turns & 1
    exchanged = swap | ((turns >> 2) & 1) << 1 | ((turns >> 1) & 1) << 2
    return turns + swap * (exchanged - turns), order.argsort(-1)


def shift(canvas: Array, offset: Array) -> Array:
    """Canvases [B, side, side] moved down and right by offset [B, 2]; what leaves the canvas is lost."""
    lines, rows = _like(range(canvas.shape[1]), offset), _like(range(len(canvas)), offset)
    row = lines[None, :, None] - offset[:, 0, None, None]
    column = lines[None, None, :] - offset[:, 1, None, None]
    inside = (row >= 0) & (column >= 0)
    return inside * canvas[rows[:, None, None], row * inside, column * inside]


def crop(canvas: Array) -> Array:
    """[B, 2]: the shape of the largest rectangle at the top left of each canvas [B, side, side] that holds colours
    only; of equally large ones that with the fewest rows (as in HRM's evaluation). 0×0 where there is none."""
    lines = _like(range(1, canvas.shape[1] + 1), canvas)
    broken = (canvas < BLACK).cumsum(-1) > 0  # right of the first token in its row that is no colour
    widths = (broken.cumsum(-2) == 0).sum(-1)  # [B, side], of the rectangle with that many rows
    rows = (widths * lines).argmax(-1)  # the first of equal ones
    width = widths[_like(range(len(canvas)), canvas), rows]
    height = (rows + 1) * (width > 0)
    return height[:, None] + (width - height)[:, None] * _like(range(2), canvas)


def pair_keys(inputs: np.ndarray, labels: np.ndarray, input_shape: np.ndarray, label_shape: np.ndarray) -> np.ndarray:
    """[N] uint64: equal exactly for pairs (input, label) that are the same up to turns and colours 1-9, but for 64-bit
    collisions. The key is the least, over the eight turns, of a hash of the pair with its colours renamed in order of
    appearance. inputs and labels: [N, side²] tokens."""
    n, side = len(inputs), round(inputs.shape[1] ** 0.5)
    keep = np.broadcast_to(np.arange(9), (n, 9))
    best = np.full(n, np.iinfo(np.uint64).max, np.uint64)
    for k in range(8):
        turned = [
            turn(tokens.reshape(n, side, side), shape.astype(np.int64), np.full(n, k), keep)[0].reshape(n, -1)
            for tokens, shape in ((inputs, input_shape), (labels, label_shape))
        ]
        best = np.minimum(best, row_hashes(_by_appearance(np.concatenate(turned, 1).astype(np.uint8))))
    return best


def _by_appearance(tokens: np.ndarray) -> np.ndarray:
    """The rows with colours 1-9 renamed in order of appearance."""
    rows = np.arange(len(tokens))
    first = np.empty((len(tokens), 9), np.int64)
    for colour in range(9):
        here = tokens == FIRST + colour
        place = here.argmax(1)
        first[:, colour] = np.where(here[rows, place], place, tokens.shape[1] + colour)
    names = np.broadcast_to(np.arange(12, dtype=np.uint8), (len(tokens), 12)).copy()
    names[:, FIRST:] = FIRST + first.argsort(1).argsort(1)
    return np.asarray(names[rows[:, None], tokens])


def _scramble(x: Array) -> Array:
    """A bijection of 32-bit words (`lowbias32`, Wellons 2018), in 64-bit integers, whose upper half is cut off."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & WORD
    x = ((x ^ (x >> 15)) * 0x846CA68B) & WORD
    return x ^ (x >> 16)


def _like(values: range, array: Array) -> Array:
    """Consecutive whole numbers as int64 of the same library, made on the array's own device: no copy from the host."""
    if isinstance(array, np.ndarray):
        return np.arange(values.start, values.stop)
    import torch

    return torch.arange(values.start, values.stop, device=array.device)


def _flipped(shape: Array) -> Array:
    """[B, 2] with its columns exchanged, without an index array."""
    return shape[:, ::-1] if isinstance(shape, np.ndarray) else shape.flip(-1)
