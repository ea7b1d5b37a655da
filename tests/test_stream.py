"""Every arm of a task reads the same examples in the same order, and nothing is dropped."""

from __future__ import annotations

import numpy as np
import torch
from toys import Shifted, cell, trainer

from harness.training.batches import DeviceData, Feeder, Stream
from tasks.base import DataFolder


def feeder(drop_unused=False, window=3):
    task = Shifted()
    data = DeviceData(task.splits(0, DataFolder())["train"], torch.device("cpu"))
    return Feeder(task, "shifted", 0, data, 8, augmentation=True, drop_unused=drop_unused, window_updates=window)


def test_every_epoch_of_the_stream_visits_every_example_once_in_another_order():
    stream = Stream("t", 0, 10)
    first, second = stream.window(0, 10), stream.window(10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)


def test_windows_of_any_size_and_order_give_one_stream():
    whole = Stream("t", 3, 7).window(0, 50)
    pieces = Stream("t", 3, 7)
    assert np.array_equal(np.concatenate([pieces.window(0, 9), pieces.window(9, 1), pieces.window(10, 40)]), whole)
    assert np.array_equal(pieces.window(5, 3), whole[5:8])


def test_streams_of_two_seeds_differ():
    assert not np.array_equal(Stream("t", 0, 50).window(0, 50), Stream("t", 1, 50).window(0, 50))


def test_halted_rows_take_the_next_examples_and_none_is_dropped():
    feed = feeder()
    random = np.random.default_rng(0)
    taken = []
    for _ in range(20):
        halted = torch.from_numpy(random.random(8) < 0.4)
        _, positions = feed.next(halted)
        taken += positions[halted].tolist()
    assert taken == list(range(len(taken)))
    assert feed.drawn == len(taken)


def test_drop_unused_spends_a_whole_batch_per_update_as_the_published_code_does():
    feed = feeder(drop_unused=True)
    halted = torch.tensor([True] * 2 + [False] * 6)
    for update in range(5):
        _, positions = feed.next(halted)
        assert positions.tolist() == list(range(8 * update, 8 * update + 8))
    assert feed.drawn == 40
    assert feed.distinct == 10


def test_augmentation_of_a_stream_position_is_the_same_for_every_arm():
    """One arm refills all rows at each update, the other only some: the n-th example is the same bits for both."""
    eager, lazy = feeder(), feeder(window=1)
    seen: dict[int, torch.Tensor] = {}
    for _ in range(6):
        fresh, positions = eager.next(torch.ones(8, dtype=torch.bool))
        seen |= {int(p): row for p, row in zip(positions, fresh.inputs, strict=True)}
    halted = torch.tensor([True, False, True, False, False, False, True, False])
    for _ in range(10):
        fresh, positions = lazy.next(halted)
        for row in torch.nonzero(halted)[:, 0]:
            assert torch.equal(fresh.inputs[row], seen[int(positions[row])])


def test_recurrent_and_one_pass_arms_train_on_the_same_first_examples():
    recurrent, one_pass = trainer(cell()), trainer(cell("transformer", "transformer"))
    for t in (recurrent, one_pass):
        t.advance()
    assert torch.equal(recurrent.carry.batch.inputs, one_pass.carry.batch.inputs)


def test_distinct_examples_count_equal_rows_once():
    task = Shifted(count=16)
    part = task.splits(0, DataFolder())["train"]
    doubled = part[np.tile(np.arange(16), 2)]
    feed = Feeder(
        task, "shifted", 0, DeviceData(doubled, torch.device("cpu")), 8,
        augmentation=False, drop_unused=False, window_updates=1,
    )  # fmt: skip
    for _ in range(4):
        feed.next(torch.ones(8, dtype=torch.bool))
    assert feed.drawn == 32
    assert feed.distinct == 16
