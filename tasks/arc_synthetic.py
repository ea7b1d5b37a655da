"""`arc-synthetic`: small grids by a rule that the demonstrations in the input show: copy, rotate, mirror, recolour,
pattern."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import Field

from harness import seeds
from harness.errors import UserError
from tasks.arc_symmetry import BLACK, FIRST, pair_keys, turn
from tasks.base import Batch, DataFolder, Examples, RowRandom, Splits, Task, register_task

Family = Literal["copy", "rotate", "mirror", "recolour", "pattern"]
FAMILIES: tuple[Family, ...] = get_args(Family)

TURNS = {"copy": (0,), "rotate": (3, 5, 6), "mirror": (2, 4)}
"""Turns (see tasks/arc_symmetry.py) of each family: 90°, 270° and 180°; upside down, and left and right exchanged."""

ATTEMPTS = 8
"""Rounds of drawing twice as many examples as are wanted, before they are taken to be exhausted."""


@register_task("arc-synthetic")
class ArcSynthetic(Task):
    """The five synthetic families of the project `hrm` (copy, rotate, mirror, recolour, pattern), made answerable.

    There the input was the grid alone, so that nobody could know which rule to apply. Here it is the query, then
    `demonstrations` pairs (input, output) by the same rule, all grids `side` × `side`; the answer: the query's output.
    Each example is checked to be identifiable: every rule of any family (and every recolouring after a turn) that
    explains all its demonstrations gives the same answer.

    recolour: the grid with its colours 1-9 permuted, black kept; the demonstrations show every colour of the query.
    pattern: a `motif` × `motif` motif at the top left of a black grid is repeated over the whole grid.
    ood-composed: a rotation or reflection and a recolouring at once, which training never shows together.
    """

    summary: ClassVar[str] = "copy, rotate, mirror, recolour or repeat a grid, as two demonstrations show"
    difficulty_unit: ClassVar[str] = "positions of the answer that differ from the query"

    contract_settings: ClassVar[dict[str, Any]] = {"train_examples": 1000, "test_examples": 200}

    families: tuple[Family, ...] = Field(FAMILIES, min_length=1, description="drawn from in equal shares")
    side: int = Field(5, ge=4, le=10, description="of every grid")
    demonstrations: int = Field(2, ge=1, le=4, description="pairs in the input")
    colours: int = Field(4, ge=2, le=9, description="colours of an example besides black")
    motif: int = Field(3, ge=2, le=9, description="side of the motif that `pattern` repeats")
    train_examples: int = Field(10_000, ge=1)
    validation_examples: int = Field(500, ge=5)
    test_examples: int = Field(1000, ge=5)
    ood_examples: int = Field(200, ge=1)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("_", "|", *"0123456789")  # ARC's: `|` marks ends there, and does not occur here

    @property
    def sequence_length(self) -> int:
        return self.answer_length * (1 + 2 * self.demonstrations)

    @property
    def answer_length(self) -> int:
        return self.side**2

    def splits(self, seed: int, data: DataFolder) -> Splits:
        if self.motif >= self.side:
            raise UserError(f"task {self.name}: settings.motif: {self.motif} must be below side {self.side}")
        test = self._draw("test", self.families, self.test_examples, np.empty(0, np.uint64))
        validation = self._draw("validation", self.families, self.validation_examples, self.canonical(test))
        composed = self._draw("ood-composed", ("composed",), self.ood_examples, self.canonical(test))
        held_out = np.concatenate([self.canonical(part) for part in (test, validation, composed)])
        train = self._draw("train", self.families, self.train_examples, held_out, seed)
        return {"train": train, "validation": validation, "test": test, "ood-composed": composed}

    def _draw(self, split: str, families: tuple[str, ...], count: int, held_out: np.ndarray, *key: int) -> Examples:
        """`count` examples, families in turn, none whose (query, answer) is in `held_out` up to turns and colours."""
        parts = []
        for i, family in enumerate(families):
            wanted = len(range(i, count, len(families)))
            random = seeds.generator(self.name, split, family, *key)
            found: list[Examples] = []
            for _ in range(ATTEMPTS):
                if sum(map(len, found)) >= wanted:
                    break
                part = self._examples(family, *self._grids(family, 2 * wanted + 8, random))
                fresh = ~np.isin(self.canonical(part), held_out)
                held_out = np.concatenate([held_out, self.canonical(part)])
                first = np.unique(self.canonical(part), return_index=True)[1]
                fresh &= np.isin(np.arange(len(part)), first)
                found.append(part[fresh])
            if sum(map(len, found)) < wanted:
                raise UserError(
                    f"task {self.name}: {wanted:,} examples of {family} for {split} are more than there are different "
                    f"ones at side {self.side} with {self.colours} colours; ask for fewer"
                )
            parts.append(Examples.joined(found)[slice(wanted)])
        whole = Examples.joined(parts)
        return whole[np.argsort(np.concatenate([np.arange(len(part)) for part in parts]), kind="stable")]

    def _grids(self, family: str, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Identifiable examples among n drawn: inputs and outputs [·, 1 + D, side, side] of tokens, query first."""
        pairs, side = 1 + self.demonstrations, self.side
        palette = random.permuted(np.broadcast_to(np.arange(9), (n, 9)), axis=1)[:, : self.colours]
        choice = random.integers(0, self.colours + 1, (n, pairs, side, side))  # the last is black
        coloured = np.take_along_axis(palette, np.minimum(choice, self.colours - 1).reshape(n, -1), 1)
        grids = np.where(choice < self.colours, coloured.reshape(choice.shape) + FIRST, BLACK)
        if family == "pattern":
            motif = np.indices((side, side)).max(0) < self.motif
            grids = np.where(motif, grids, BLACK)
            outputs = _repeated(grids, self.motif)
        else:
            turns = random.choice(TURNS.get(family, (0,) if family == "recolour" else (2, 3, 4, 5, 6)), n)
            order = np.broadcast_to(np.arange(9), (n, 9))
            if family in ("recolour", "composed"):
                order = random.permuted(order, axis=1)
            outputs = _turned(grids, turns, order)
        good = identifiable(grids, outputs, self.motif)
        return grids[good].astype(np.uint8), outputs[good].astype(np.uint8)

    def _examples(self, family: str, grids: np.ndarray, outputs: np.ndarray) -> Examples:
        n = len(grids)
        shown = np.stack([grids[:, 1:], outputs[:, 1:]], axis=2).reshape(n, -1)
        query, label = grids[:, 0].reshape(n, -1), outputs[:, 0].reshape(n, -1)
        return Examples(
            inputs=np.concatenate([query, shown], axis=1),
            labels=label,
            difficulty=(query != label).sum(1).astype(np.float32),
            groups=np.full(n, family),
        )

    def augment(self, batch: Batch, random: RowRandom) -> Batch:
        """Colours 1-9 renamed, in all grids of a row alike: the rule stays one of the same family."""
        order = random.permutation(9) + FIRST

        def rename(tokens: Any) -> Any:
            colours = order.gather(1, (tokens.long() - FIRST).clamp(min=0))
            return colours.to(tokens.dtype).where(tokens >= FIRST, tokens)

        return Batch(rename(batch.inputs), rename(batch.labels), batch.puzzle_ids, batch.facts)

    def canonical(self, examples: Examples) -> np.ndarray:
        """[N] uint64 keys of (query, answer) up to turns and colours."""
        shape = np.full((len(examples), 2), self.side)
        return pair_keys(examples.inputs[:, : self.answer_length], examples.labels, shape, shape)


def identifiable(inputs: np.ndarray, outputs: np.ndarray, motif: int) -> np.ndarray:
    """[N] bool: all rules that explain an example's demonstrations give its answer to the query.

    inputs and outputs: [N, 1 + D, side, side] tokens, the query first. Rules: each of the eight turns, followed by a
    permutation of the colours 1-9 (none: copy, rotate, mirror), and the repetition of the motif. A permutation is
    known from the demonstrations or not at all, so a query with a colour that they don't show is refused.
    """
    n, side = len(inputs), inputs.shape[-1]
    rows = np.arange(n)[:, None]
    good = np.ones(n, bool)
    after = outputs.reshape(n, -1, side * side).astype(np.int64) - BLACK
    for turns in range(8):
        before = _turned(inputs, np.full(n, turns), np.broadcast_to(np.arange(9), (n, 9))).reshape(after.shape) - BLACK
        seen = np.zeros((n, 10, 10), bool)
        seen[rows, before[:, 1:].reshape(n, -1), after[:, 1:].reshape(n, -1)] = True
        black = ~seen[:, 0, 1:].any(1) & ~seen[:, 1:, 0].any(1)
        explains = black & (seen.sum(1) <= 1).all(1) & (seen.sum(2) <= 1).all(1)
        known, new, query = seen.max(2), seen.argmax(2), before[:, 0]
        gives = (known[rows, query] & (new[rows, query] == after[:, 0])).all(1)
        good &= ~explains | gives
    within = np.indices((side, side)).max(0) < motif
    repeats: np.ndarray = ((_repeated(inputs, motif) == outputs) & (within | (inputs == BLACK))).all((2, 3))
    return np.asarray(good & (~repeats[:, 1:].all(1) | repeats[:, 0]))


def _repeated(grids: np.ndarray, motif: int) -> np.ndarray:
    """The top left motif × motif of each grid [..., side, side] all over it."""
    place = np.arange(grids.shape[-1]) % motif
    return grids[..., place[:, None], place]


def _turned(grids: np.ndarray, turns: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Grids [N, P, side, side], those of row i turned by turns[i] and recoloured by order[i]."""
    n, pairs, side, _ = grids.shape
    shape = np.full((n * pairs, 2), side)
    turned, _ = turn(grids.reshape(-1, side, side), shape, turns.repeat(pairs), order.repeat(pairs, 0))
    return np.asarray(turned).reshape(grids.shape)
