"""Counter-based random numbers on the device: a number is a function of (key, counter, lane) and of nothing else.

So a row's augmentation or exploration is the same on every device, at any batch size, after a resume, and beside any
other rows. The mixer is SplitMix64's finaliser (Steele, Lea & Flood 2014), run three times.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """A 64-bit pattern as the signed integer torch stores it in."""
    return value - (1 << 64) if value >= 1 << 63 else value


_MULTIPLY_1 = _signed(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = _signed(0x94D049BB133111EB)
_GOLDEN = _signed(0x9E3779B97F4A7C15)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's `>>` on int64 keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MULTIPLY_1
    x = (x ^ _shift_right(x, 27)) * _MULTIPLY_2
    return x ^ _shift_right(x, 31)


class CounterRandom:
    """One independent stream per row: row r draws from (key, counters[r]), a new lane at each call.

    key: a 63-bit purpose key (harness.seeds.key); counters [B] int64, such as positions in the example stream.
    """

    def __init__(self, key: int, counters: Tensor) -> None:
        self._rows = _mix(_mix(counters.to(torch.int64) * _GOLDEN + _signed(key)))
        self._lane = 0

    def bits(self, *shape: int) -> Tensor:
        """[B, *shape] int64, 64 random bits each."""
        count = 1
        for size in shape:
            count *= size
        lanes = torch.arange(self._lane, self._lane + count, device=self._rows.device, dtype=torch.int64)
        self._lane += count
        # the xor changes nothing; without it torch.compile takes what follows for index arithmetic, in which the
        # products don't wrap around at 64 bits, and fails
        lanes = lanes ^ 0
        mixed = _mix(self._rows[:, None] ^ _mix(lanes * _GOLDEN + 1))
        return mixed.view(len(self._rows), *shape)

    def at(self, lane: int) -> CounterRandom:
        """The same streams, read on from `lane`: what is drawn then does not depend on what was drawn before."""
        there = CounterRandom.__new__(CounterRandom)
        there._rows, there._lane = self._rows, lane
        return there

    def uniform(self, *shape: int) -> Tensor:
        """[B, *shape] float32 in [0, 1): 24 bits, so that 1.0 can't come out."""
        return _shift_right(self.bits(*shape), 40).to(torch.float32) * 2.0**-24

    def normal(self, *shape: int) -> Tensor:
        """[B, *shape] float32, standard normal, by the inverse of its distribution; at most 5.4 in size."""
        middle = 2 * self.uniform(*shape) - (1 - 2.0**-24)  # of each of the 2^24 steps, in (-1, 1); exact in float32
        return math.sqrt(2) * torch.erfinv(middle)

    def integers(self, high: int, *shape: int) -> Tensor:
        """[B, *shape] int64 in [0, high); the modulo bias is below high / 2⁶³."""
        return _shift_right(self.bits(*shape), 1) % high

    def permutation(self, n: int) -> Tensor:
        """[B, n] int64: a random order of 0 … n−1 per row (ties have probability n² / 2⁶⁴)."""
        return self.bits(n).argsort(dim=1, stable=True)
