"""Counter-based random numbers: functions of key, counter and lane, and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from harness.random import CounterRandom


def test_a_rows_numbers_do_not_depend_on_the_other_rows():
    many = CounterRandom(7, torch.arange(100))
    few = CounterRandom(7, torch.tensor([42]))
    assert torch.equal(many.permutation(9)[42], few.permutation(9)[0])
    assert torch.equal(many.uniform(3, 2)[42], few.uniform(3, 2)[0])
    assert torch.equal(many.integers(1000)[42], few.integers(1000)[0])


@pytest.mark.slow
def test_a_compiled_function_draws_the_same_numbers():
    import shutil

    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("torch.compile needs a C compiler on CPU")

    def draw(counters):
        random = CounterRandom(2**62 + 5, counters)
        return random.at(7).uniform(5, 6), random.integers(9, 4), random.bits(3)

    counters = torch.tensor([1, 5, 2**40])
    for one, two in zip(draw(counters), torch.compile(draw, dynamic=False)(counters), strict=True):
        assert torch.equal(one, two)


def test_calls_keys_and_counters_all_give_other_numbers():
    counters = torch.arange(2000)
    random = CounterRandom(7, counters)
    first, second, other = random.bits(), random.bits(), CounterRandom(8, counters).bits()
    everything = torch.cat((first, second, other))
    assert len(everything.unique()) == len(everything)


@pytest.mark.parametrize("key", [0, 1, 2**62 + 5])
def test_uniform_numbers_are_uniform_over_counters_and_over_lanes(key):
    over_counters = CounterRandom(key, torch.arange(20_000)).uniform().numpy()
    over_lanes = CounterRandom(key, torch.tensor([3])).uniform(20_000)[0].numpy()
    for values in (over_counters, over_lanes):
        assert values.min() >= 0 and values.max() < 1
        assert stats.kstest(values, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


def test_normal_numbers_are_normal_and_the_rows_own():
    random = CounterRandom(7, torch.arange(200))
    values = random.normal(100)
    assert stats.kstest(values.flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.equal(CounterRandom(7, torch.tensor([42])).normal(100)[0], values[42])


def test_the_largest_and_the_smallest_normal_numbers_are_finite():
    class Edge(CounterRandom):
        def uniform(self, *shape):
            return torch.tensor([0.0, 1 - 2.0**-24, 0.5 - 2.0**-24, 0.5])

    low, high, below, above = Edge(7, torch.arange(1)).normal().tolist()
    assert -5.5 < low == -high < -5 and -1e-6 < below == -above < 0


def test_permutations_are_permutations_and_every_order_is_as_likely():
    orders = CounterRandom(11, torch.arange(24_000)).permutation(4)
    assert torch.equal(orders.sort(1).values, torch.arange(4).expand(24_000, 4))
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = codes.unique(return_counts=True)[1].numpy()
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_integers_cover_their_range_evenly():
    drawn = CounterRandom(5, torch.arange(30_000)).integers(7).numpy()
    assert stats.chisquare(np.bincount(drawn, minlength=7)).pvalue > 1e-3


def test_numbers_are_these_for_ever():
    """A change here changes every run: raise NUMERICS_VERSION with it."""
    assert CounterRandom(123, torch.tensor([0, 1, 2**40])).integers(10**6).tolist() == GOLDEN


GOLDEN = [468840, 390271, 444143]
