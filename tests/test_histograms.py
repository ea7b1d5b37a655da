"""Kinds of answers: every scored answer is counted once, beside the labels, in the table and in the report."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import FakeTask, build
from toys import SMALL_HRM, cell

from harness import data
from harness.analysis.collect import collect
from harness.analysis.results import read_tables
from harness.evaluation.evaluate import Count, Evaluation
from harness.evaluation.records import HISTOGRAM_ROWS, _histograms
from harness.files import read_json
from harness.report.histograms import histogram_tables
from harness.training import runner
from tasks.base import DataFolder, create_task


@pytest.mark.parametrize("settings", [{}, {"form": "causal", "labels": "random", "max_target": 60, "ood_targets": 5}])
def test_a_finished_cell_counts_every_scored_answer_once_and_its_labels(tmp_path: Path, settings: Any) -> None:
    name = "arithmetic-proofs" if settings else "proofs-memorisation"
    task = create_task(name, settings)
    known = data.prepare(task, 0, DataFolder(), tmp_path / "data")
    of_task = {"task": name, "registered_task": name, "settings": settings, "data_hash": known.digest}
    runner.run_cell(cell(config=SMALL_HRM, updates=2, **of_task), tmp_path / "run", known)
    assert read_json(tmp_path / "run/record.json")["data_sources"] is None
    with (tmp_path / "run/histograms.csv").open() as file:
        rows = list(csv.DictReader(file))
    for split, size in known.sizes.items():
        own = [row for row in rows if row["split"] == split]
        wanted = 0 if split in ("train", "validation") else size
        assert sum(int(row["predictions"]) for row in own) == sum(int(row["labels"]) for row in own) == wanted
    labels = {row["value"]: int(row["labels"]) for row in rows if row["histogram"] == "(a, c), odd T"}
    if not settings:
        assert {value: n for value, n in labels.items() if n} == {"(2, 1)": 20}


def test_rare_kinds_are_counted_together_and_none_is_lost() -> None:
    counts = [Count(f"kind {i}", 1000 - i, i) for i in range(HISTOGRAM_ROWS + 50)]
    blank = np.zeros((1, 1))
    rows = _histograms(Evaluation(1, blank.astype(bool), blank, None, None, histograms={"kinds": counts}))
    assert len(rows) == HISTOGRAM_ROWS + 1 and rows[-1]["value"] == "50 others"
    assert sum(row["predictions"] for row in rows) == sum(c.predictions for c in counts)
    assert sum(row["labels"] for row in rows) == sum(c.labels for c in counts)


def shown(tmp_path: Path, counts: dict[str, list[list[tuple[str, int, int]]]]) -> dict[str, list[Any]]:
    """The table's rows, by kind: arm → for each seed (kind, predictions, labels) of test."""
    build(tmp_path, {"proofs": FakeTask({"hrm": 0.9, "transformer": 0.5}, seeds=2, examples=10)})
    results = next(tmp_path.rglob("suite.json")).parent
    collect(results)
    tables = read_tables(results)
    assert histogram_tables(tables, "proofs") == []
    rows = [
        {"cell_id": f"{arm}{seed}", "task": "proofs", "arm": arm, "seed": seed, "split": split,
         "histogram": "(a, c)", "value": value, "predictions": n * times, "labels": m}
        for split, times in (("test", 1), ("ood-length", 7))
        for arm, of_seeds in counts.items()
        for seed, of_run in enumerate(of_seeds)
        for value, n, m in of_run
    ]  # fmt: skip
    (table,) = histogram_tables(replace(tables, histograms=pd.DataFrame(rows)), "proofs")
    return {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in table.rows}


def test_the_report_shows_the_share_of_labels_and_of_each_arms_answers(tmp_path: Path) -> None:
    hrm = [("(2, 1)", 1, 2), ("(3, 1)", 9, 8), ("never", 0, 0)]
    transformer = [("(2, 1)", 9, 2), ("(3, 1)", 1, 8)]
    assert shown(tmp_path, {"hrm": [hrm, hrm], "transformer": [transformer, transformer]}) == {
        "(3, 1)": ["80.0", "90.0", "10.0"],
        "(2, 1)": ["20.0", "10.0", "90.0"],
    }


def test_what_a_run_counts_among_its_others_is_no_share_of_0_and_labels_come_from_whoever_lists_them(
    tmp_path: Path,
) -> None:
    """hrm's runs list another kind each; its labels of (2, 1), and transformer's of (3, 1), stand elsewhere alone."""
    hrm = [
        [("(3, 1)", 6, 3), ("(4, 1)", 3, 1), ("2 others", 1, 6)],
        [("(3, 1)", 5, 3), ("(5, 1)", 5, 0), ("7 others", 0, 7)],
    ]
    transformer = [[("(2, 1)", 10, 6), ("(3, 1)", 0, 3), ("1 others", 0, 1)]] * 2
    assert shown(tmp_path, {"hrm": hrm, "transformer": transformer}) == {
        "(2, 1)": ["60.0", "≤ 5.0", "100.0"],
        "(3, 1)": ["30.0", "55.0", "0.0"],
        "(5, 1)": ["0.0", "≤ 30.0", "0.0"],
        "(4, 1)": ["10.0", "15.0", "0.0"],
        "all others": ["0.0", "≤ 5.0", "0.0"],
    }


def test_many_kinds_are_cut_at_the_most_frequent_and_the_rest_adds_up(tmp_path: Path) -> None:
    run = [(f"k{i:02d}", 20 - i, 1) for i in range(20)]
    rows = shown(tmp_path, {"hrm": [run, run], "transformer": [run, run]})
    assert list(rows) == [*(f"k{i:02d}" for i in range(12)), "all others"]
    total = sum(20 - i for i in range(20))
    assert rows["k00"] == ["5.0", f"{100 * 20 / total:.1f}", f"{100 * 20 / total:.1f}"]
    assert rows["all others"] == ["40.0", *[f"{100 * sum(range(1, 9)) / total:.1f}"] * 2]
