"""Data on the device, and the stream of examples that every arm of a task reads in the same order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from harness import seeds
from harness.random import CounterRandom
from harness.recipe import DifficultyRamp
from tasks.base import Batch, Examples, Task


class DeviceData:
    """One split's arrays on the device, for the whole run: batches are gathered there, nothing is copied per update."""

    def __init__(self, examples: Examples, device: torch.device) -> None:
        host = examples.batch()
        self.examples = examples
        self.batch = host.map(lambda array: _tensor(array).to(device))

    def __len__(self) -> int:
        return len(self.batch.inputs)

    def rows(self, index: Tensor) -> Batch:
        """The rows at index [B]; tokens come as int32, features as they are."""
        part = self.batch.map(lambda tensor: tensor[index])
        inputs = part.inputs if part.inputs.is_floating_point() else part.inputs.int()
        return Batch(inputs, part.labels.int(), part.puzzle_ids, part.facts)


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype in (np.uint16, np.uint32):  # torch has few kernels for these
        array = array.astype(np.int64)
    if not array.flags.writeable:  # memory-mapped: the run must not depend on what becomes of the file
        array = array.copy()
    return torch.from_numpy(np.ascontiguousarray(array))


class Stream:
    """The endless order in which a (task, seed) draws its n training examples: a new permutation every epoch.

    With a ramp over difficulty [n], the first `until_examples` are drawn with replacement from a growing easiest share.
    """

    BLOCK = 4096  # draws of a ramp that one generator gives

    def __init__(
        self, task: str, seed: int, n: int, ramp: DifficultyRamp | None = None, difficulty: np.ndarray | None = None
    ) -> None:
        self.task, self.seed, self.n, self.ramp = task, seed, n, ramp
        self._epoch = -1
        self._order = np.empty(0, np.int64)
        if ramp is not None:
            assert difficulty is not None, "a ramp needs difficulties"
            shuffled = seeds.generator(task, "ramp order", seed).permutation(n)  # of equally easy ones, any
            self._easiest = shuffled[np.argsort(difficulty[shuffled], kind="stable")]

    def window(self, start: int, count: int) -> np.ndarray:
        """[count] int64: which example stands at each of the positions start … start + count − 1."""
        parts = []
        position, end = start, start + count
        ramped = self.ramp.until_examples if self.ramp is not None else 0
        while position < min(end, ramped):
            parts.append(self._ramp(position, min(end, ramped)))
            position += len(parts[-1])
        while position < end:
            epoch, offset = divmod(position - ramped, self.n)
            if epoch != self._epoch:
                self._order = seeds.generator(self.task, "stream", self.seed, epoch).permutation(self.n)
                self._epoch = epoch
            part = self._order[offset : offset + end - position]
            parts.append(part)
            position += len(part)
        return np.concatenate(parts)

    def _ramp(self, start: int, end: int) -> np.ndarray:
        """Draws at positions from `start` to `end` or the end of its block."""
        assert self.ramp is not None
        block, offset = divmod(start, self.BLOCK)
        uniform = seeds.generator(self.task, "ramp", self.seed, block).random(self.BLOCK)[offset : offset + end - start]
        share = (
            self.ramp.start + (1 - self.ramp.start) * np.arange(start, start + len(uniform)) / self.ramp.until_examples
        )
        return np.asarray(self._easiest[(uniform * np.ceil(share * self.n)).astype(np.int64)])


class Feeder:
    """Hands halted rows the next examples of the stream, without a host synchronisation per update.

    batch_size counts the rows of all ranks; `own` are those handed out here. Every rank goes by one cursor.
    `drop_unused` follows the published code, in which every update brings a fresh row for every place and those of
    rows that go on are dropped; by default nothing is dropped.
    """

    def __init__(
        self,
        task: Task,
        name: str,
        seed: int,
        data: DeviceData,
        batch_size: int,
        *,
        augmentation: bool,
        drop_unused: bool,
        window_updates: int,
        difficulty: DifficultyRamp | None = None,
        own: slice = slice(None),
    ) -> None:
        self.task, self.data, self.batch_size, self.own = task, data, batch_size, own
        self.stream = Stream(name, seed, len(data), difficulty, data.examples.difficulty)
        self.key = seeds.key(name, "augmentation", seed)
        self.augmentation, self.drop_unused = augmentation, drop_unused
        self.window_updates = window_updates
        device = data.batch.inputs.device
        self.cursor = torch.zeros((), dtype=torch.int64, device=device)  # examples drawn so far
        self.uses = torch.zeros(len(data), dtype=torch.int32, device=device)  # how often each example was trained on
        self._start, self._left = 0, 0

    @property
    def drawn(self) -> int:
        """Examples drawn so far. Synchronises."""
        return int(self.cursor)

    @property
    def distinct(self) -> int:
        """Different examples trained on so far, before augmentation; equal rows count once. Synchronises."""
        return len(np.unique(self.data.examples.ids[self.uses.cpu().numpy() > 0]))

    def resume(self, cursor: Tensor, uses: Tensor) -> None:
        """Go on where another feeder of the same stream stopped."""
        self.cursor, self.uses, self._left = cursor, uses, 0

    def next(self, halted: Tensor) -> tuple[Batch, Tensor]:
        """(fresh batch, positions [own rows]): the row of a halted place is its next example; others hold an arbitrary
        one. halted: [B] of all ranks."""
        if self._left == 0:
            self._start = self.drawn  # the only synchronisation, once per `window_updates`
            order = self.stream.window(self._start, self.window_updates * self.batch_size)
            self._window = torch.from_numpy(order).to(self.cursor.device)
            self._left = self.window_updates
        self._left -= 1
        wanted = torch.ones_like(halted) if self.drop_unused else halted
        rank = (wanted.cumsum(0) - 1).clamp(min=0)
        positions = self.cursor + rank
        index = self._window[positions - self._start]
        self.uses.index_add_(0, index, halted.to(torch.int32))
        self.cursor = self.cursor + wanted.sum()
        fresh, positions = self.data.rows(index[self.own]), positions[self.own]
        if self.augmentation:
            fresh = self.task.augment(fresh, CounterRandom(self.key, positions))
        return fresh, positions
