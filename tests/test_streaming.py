"""A long evaluation: examples go to the device a block at a time, their table to disk by rows and back in parts."""

from __future__ import annotations

import gzip
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import FakeTask, build
from test_running import rows
from toys import Shifted, cell, trainer

from harness import spill
from harness.analysis import compare, examples, results
from harness.analysis.by_segment import read_by_segment
from harness.analysis.collect import collect
from harness.analysis.evidence import Evidence
from harness.errors import BrokenData
from harness.evaluation import evaluate as evaluation
from harness.evaluation import records
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


def cut(monkeypatch, rows: int) -> None:
    """Let every table count as long: read so many rows at a time, columns of more rows on disk."""
    monkeypatch.setattr(results, "SMALL", 0)
    monkeypatch.setattr(results, "PART_ROWS", rows)
    monkeypatch.setattr(spill, "BLOCK_ROWS", rows)


def test_a_long_table_read_in_parts_says_what_it_says_whole(tmp_path, monkeypatch):
    examples, result = scored(50, 4)
    key = {"cell_id": "0" * 12, "task": "t", "arm": "a", "seed": 0}
    splits = {"test": (examples, result), "ood-later": (examples[:9], result.rows(slice(9)))}
    both = [{split: pair[i] for split, pair in splits.items()} for i in (0, 1)]
    records.write_score_tables(tmp_path, key, Shifted(), (1, 4), 1.0, *both)
    path = tmp_path / "examples.csv.gz"
    run = {"arm": "a", "seed": "0", "cell_id": "0" * 12, "run_folder": "."}
    whole, once = results.read_table(path, "examples"), compare.read_answers(tmp_path, [run])
    assert [len(part) for part in results.read_parts(path, "examples", list(whole))] == [59], "a small one whole"
    cut(monkeypatch, 7)
    parts = list(results.read_parts(path, "examples", list(whole)))
    assert [len(part) for part in parts] == [7] * 8 + [3]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)
    again = compare.read_answers(tmp_path, [run])
    assert once.scores.keys() == again.scores.keys() and len(once.ids) == 2
    for key_of, by_seed in once.scores.items():
        assert np.array_equal(by_seed[0], again.scores[key_of][0])
    assert all(np.array_equal(once.ids[split][0], again.ids[split][0]) for split in once.ids)


def test_a_table_without_rows_has_one_part(tmp_path, monkeypatch):
    records.write_score_tables(tmp_path, {}, Shifted(), (1,), 1.0, {}, {})
    path = tmp_path / "examples.csv.gz"
    for _ in ("small", "long"):
        assert [len(part) for part in results.read_parts(path, "examples", ["split", "token"])] == [0]
        assert read_by_segment(tmp_path) == []
        cut(monkeypatch, 7)


KEY = {"cell_id": "0" * 12, "task": "t", "arm": "a", "seed": 0}


def finished(folder: Path, n: int) -> list[dict]:
    """Two runs of the same n examples, as rows of runs.csv."""
    made, result = scored(n)
    records.write_score_tables(folder / "0", KEY, Shifted(), (1, 16), 1.0, {"test": made}, {"test": result})
    shutil.copytree(folder / "0", folder / "1")
    run = {"task": "t", "arm": "a", "status": "finished", "cell_id": "0" * 12, "segments": 16}
    return [run | {"seed": seed, "run_folder": str(seed)} for seed in (0, 1)]


@pytest.fixture(scope="module")
def long_runs(tmp_path_factory) -> dict[int, tuple[Path, list[dict]]]:
    """By number of examples: a folder and its runs. The shorter ones' text fills the buffers of reading, too."""
    folder = tmp_path_factory.mktemp("runs")
    return {n: (folder / str(n), finished(folder / str(n), n)) for n in (4000, 12000)}


@pytest.mark.parametrize(
    ("read", "most"),
    [
        (lambda folder, runs: [read_by_segment(folder / run["run_folder"]) for run in runs], 20),
        (lambda folder, runs: compare.read_answers(folder, runs), 30),
        (lambda folder, runs: [(of := Evidence(folder, None, runs, (), (), ())).test("t", "a"), of], 60),
    ],
    ids=["by segment", "answers", "evidence"],
)
def test_memory_of_reading_examples_does_not_grow_by_rows_times_segments(long_runs, monkeypatch, read, most):
    """As text a row takes 1.5 kB, as numbers of both runs 300 bytes; what is left are the ids and their order."""
    cut(monkeypatch, 200)

    def peak(n: int) -> int:
        folder, runs = long_runs[n]
        tracemalloc.start()
        kept = read(folder, runs)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert kept and {path.name for path in folder.iterdir()} == {"0", "1"}, "files on disk have no name"
        return found

    peak(4000)  # what a first call imports and keeps
    assert (peak(12000) - peak(4000)) / 8000 < most


@pytest.mark.parametrize("size", [1, 7, 64])
def test_parts_of_any_size_give_the_same_tables(tmp_path, monkeypatch, size):
    arms = {"hrm": 0.6, "transformer": 0.5}
    tasks = {"sudoku-4": FakeTask(arms, seeds=2, examples=40, ood=arms), "toy": FakeTask(arms, seeds=2, examples=20)}
    whole = build(tmp_path / "whole", tasks)
    turned = next(whole.glob("runs/sudoku-4/hrm/seed1-*/examples.csv.gz"))
    head, *lines = gzip.decompress(turned.read_bytes()).splitlines(keepends=True)
    turned.write_bytes(gzip.compress(b"".join([head, *reversed(lines)])))  # ids in another order than in other runs
    parts = Path(shutil.copytree(whole, tmp_path / "parts"))
    collect(whole)
    cut(monkeypatch, size)
    collect(parts)
    tables = {path.name for path in whole.glob("*.csv*")}
    assert {"claims.csv", "stopping.csv", "examples.csv.gz"} <= tables
    assert [name for name in tables if (whole / name).read_bytes() != (parts / name).read_bytes()] == []
    assert "points" in (whole / "claims.csv").read_text(), "claims were measured on the examples"


def test_columns_of_many_rows_lie_on_disk_where_the_folder_can_be_written(tmp_path, monkeypatch):
    finished(tmp_path, 50)
    (small,) = read_by_segment(tmp_path / "0")
    cut(monkeypatch, 20)
    (long,) = read_by_segment(tmp_path / "0")
    monkeypatch.setattr(examples.os, "access", lambda *_: False)
    (kept,) = read_by_segment(tmp_path / "0")
    for name in ("right", "q_halt", "halting_step", "difficulty"):
        one, on_disk, in_memory = (getattr(own, name) for own in (small, long, kept))
        assert isinstance(on_disk, np.memmap) and not isinstance(in_memory, np.memmap)
        assert one.dtype == on_disk.dtype and np.array_equal(one, on_disk) and np.array_equal(one, in_memory)


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize(
    ("column", "row", "text"),
    [("correct_by_segment", 1, "0" * 15), ("correct_by_segment", 9, "0" * 15), ("q_halt_by_segment", 9, ""),
     ("correct_by_segment", [3, 4], ["0" * 15, "0" * 17]),
     ("q_halt_by_segment", [3, 4], ["1" + ";1" * 14, "1" + ";1" * 16]),
     ("q_halt_by_segment", slice(6, 9), ""), ("q_halt_by_segment", slice(0, 10), ";".join("1" * 4)),
     ("q_halt_by_segment", 4, "a;" * 15 + "b")],
)  # fmt: skip
def test_rows_that_do_not_agree_on_their_segments_are_refused(tmp_path, monkeypatch, size, column, row, text):
    finished(tmp_path, 10)
    if size:
        cut(monkeypatch, size)
    path = tmp_path / "0/examples.csv.gz"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[frame.index[row], column] = text
    frame.to_csv(path, index=False)
    with pytest.raises(BrokenData, match=r"examples\.csv\.gz: split test: segments don't agree between rows"):
        read_by_segment(tmp_path / "0")


def test_runs_of_the_same_examples_keep_one_array_of_ids(tmp_path):
    answers = compare.read_answers(tmp_path, finished(tmp_path, 20))
    first, second = answers.ids["test", "a"].values()
    assert first is second
    (matrix,) = answers.matrices("test", ["a"], "correct", [0, 1])
    assert matrix.dtype == np.float32 and matrix.shape == (2, 20)
