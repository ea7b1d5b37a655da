"""A long evaluation: examples go to the device a block at a time, and their table to disk a row at a time."""

from __future__ import annotations

import gzip
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_running import rows
from toys import Shifted, cell, trainer

from harness.analysis import compare, results
from harness.evaluation import evaluate as evaluation
from harness.evaluation import records, spill
from harness.evaluation.evaluate import Evaluation
from tasks.base import DataFolder, Examples


@pytest.mark.parametrize("batch_size", [4, 5, 64])
def test_neither_blocks_nor_figures_on_disk_change_an_answer(tmp_path, monkeypatch, batch_size):
    t = trainer(cell())
    part = Shifted().splits(0, DataFolder())["train"]
    settings = {"segments": 6, "batch_size": batch_size}
    whole = evaluation.evaluate(t.model, t.task, t.cell.loop, part, **settings)
    monkeypatch.setattr(spill, "BLOCK_ROWS", 10)
    blocks = evaluation.evaluate(t.model, t.task, t.cell.loop, part, folder=tmp_path, **settings)
    assert isinstance(blocks.correct, np.memmap) and not list(tmp_path.iterdir())
    for name in ("correct", "token", "q_halt", "halt"):
        assert np.array_equal(getattr(whole, name), getattr(blocks, name)), name
    for name in ("fixed", "model", "oracle", "halting_step", "token_fixed"):
        assert np.array_equal(getattr(whole, name)(), getattr(blocks, name)()), name
    assert list(records._examples(whole, part)) == list(records._examples(blocks, part))


def scored(n: int, depth: int = 16) -> tuple[Examples, Evaluation]:
    random = np.random.default_rng(n)
    tokens = random.integers(1, 10, (n, 9), dtype=np.uint8)
    right = random.random((n, depth)) < 0.5
    halt = random.random((n, depth))
    return (
        Examples(tokens, tokens, np.zeros(n, np.float32)),
        Evaluation(depth, right, right.astype(np.float32), halt.astype(np.float32), halt > 0.9),
    )


def peak(n: int, folder) -> int:
    """Bytes that writing the tables of n examples takes at the most."""
    examples, result = scored(n)
    key = {"cell_id": "0" * 12, "task": "t", "arm": "a", "seed": 0}
    tracemalloc.start()
    records.write_score_tables(folder, key, Shifted(), (1, 16), 1.0, {"test": examples}, {"test": result})
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_for_the_table_of_examples_does_not_grow_by_its_rows(tmp_path, monkeypatch):
    """Held as rows they would take 1.6 kB each; what is left are a few numbers per example for the other tables."""
    monkeypatch.setattr(spill, "BLOCK_ROWS", 500)
    few, many = peak(1000, tmp_path / "few"), peak(5000, tmp_path / "many")
    assert (many - few) / 4000 < 60
    assert len(rows(tmp_path / "many/examples.csv.gz")) == 5000


def test_memory_of_an_evaluation_does_not_grow_by_rows_times_segments(tmp_path, monkeypatch):
    """In memory 16 segments would take 160 bytes of each row."""
    monkeypatch.setattr(spill, "BLOCK_ROWS", 200)
    t = trainer(cell())

    def most(n: int) -> int:
        tokens = np.random.default_rng(n).integers(1, 5, (n, 5), dtype=np.uint8)
        examples = Examples(tokens, tokens, np.zeros(n, np.float32))
        tracemalloc.start()
        evaluation.evaluate(t.model, t.task, t.cell.loop, examples, segments=16, batch_size=200, folder=tmp_path)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    most(200)  # what a first call imports and keeps
    assert (most(2000) - most(400)) / 1600 < 20


def test_the_streamed_table_says_what_the_evaluation_says(tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "BLOCK_ROWS", 7)
    examples, result = scored(50, 4)
    key = {"cell_id": "0" * 12, "task": "t", "arm": "a", "seed": 0}
    records.write_score_tables(tmp_path, key, Shifted(), (1, 4), 1.0, {"test": examples}, {"test": result})
    found = rows(tmp_path / "examples.csv.gz")
    assert [row["example_id"] for row in found] == examples.ids.tolist()
    assert [row["correct"] for row in found] == [str(int(right)) for right in result.fixed()]
    assert [row["halting_step"] for row in found] == [str(step) for step in result.halting_step()]
    content = (tmp_path / "examples.csv.gz").read_bytes()
    assert content[4:8] == bytes(4), "no time stamp"
    assert gzip.decompress(content).count(b"\r") == 0


def test_only_the_table_of_examples_is_packed(tmp_path):
    examples, result = scored(20, 4)
    key = {"cell_id": "0" * 12, "task": "t", "arm": "a", "seed": 0}
    records.write_score_tables(tmp_path, key, Shifted(), (1, 4), 1.0, {"test": examples}, {"test": result})
    assert {path.name for path in tmp_path.iterdir() if path.read_bytes()[:2] == b"\x1f\x8b"} == {"examples.csv.gz"}
    assert [row["segments"] for row in rows(tmp_path / "depth.csv")] == ["1", "4"]


def test_groups_come_by_their_easiest_example_whatever_the_blocks(monkeypatch):
    examples, _ = scored(60)
    random = np.random.default_rng(1)
    difficulty = random.integers(0, 5, 60).astype(np.float32)
    difficulty[:3] = np.nan
    names = np.array(["d", "b", "a", "c"])[random.integers(0, 4, 60)]
    examples = replace(examples, difficulty=difficulty, groups=names)
    wanted = list(dict.fromkeys(names[np.argsort(difficulty, kind="stable")].tolist()))
    for size in (1, 7, 1000):
        monkeypatch.setattr(spill, "BLOCK_ROWS", size)
        found = dict(records._groups(examples))
        assert list(found) == ["all", *wanted]
        assert all(np.array_equal(found[name], names == name) for name in wanted)


def test_a_full_disk_is_an_error_and_not_a_dead_process(tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "BLOCK_ROWS", 1)
    with pytest.raises(OSError):
        spill.empty((1 << 55, 16), np.dtype(bool), tmp_path)


def test_a_long_table_read_in_parts_says_what_it_says_whole(tmp_path, monkeypatch):
    examples, result = scored(50, 4)
    key = {"cell_id": "0" * 12, "task": "t", "arm": "a", "seed": 0}
    splits = {"test": (examples, result), "ood-later": (examples[:9], result.rows(slice(9)))}
    both = [{split: pair[i] for split, pair in splits.items()} for i in (0, 1)]
    records.write_score_tables(tmp_path, key, Shifted(), (1, 4), 1.0, *both)
    path = tmp_path / "examples.csv.gz"
    whole, parts = results.read_table(path, "examples"), list(results.read_parts(path, "examples", rows=7))
    assert [len(part) for part in parts] == [7] * 8 + [3]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)
    run = {"arm": "a", "seed": "0", "cell_id": "0" * 12, "run_folder": "."}
    once = compare.read_answers(tmp_path, [run])
    monkeypatch.setattr(results.read_parts, "__defaults__", (None, 7))
    again = compare.read_answers(tmp_path, [run])
    assert once.scores.keys() == again.scores.keys() and len(once.ids) == 2
    for key_of, by_seed in once.scores.items():
        assert np.array_equal(by_seed[0], again.scores[key_of][0])
    assert all(np.array_equal(once.ids[split][0], again.ids[split][0]) for split in once.ids)


def test_a_table_without_rows_has_one_part(tmp_path):
    records.write_score_tables(tmp_path, {}, Shifted(), (1,), 1.0, {}, {})
    assert [len(part) for part in results.read_parts(tmp_path / "examples.csv.gz", "examples")] == [0]
