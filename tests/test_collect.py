"""`collect`: every planned cell has its row, tables are joined as they stand, and verdicts follow their rule."""

from __future__ import annotations

import csv
import gzip
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import FakeTask, build

from harness.analysis import compare
from harness.analysis.collect import collect
from harness.analysis.results import read_suite, read_table, read_tables, table_file
from harness.errors import BrokenData, UserError
from harness.report import html
from harness.tables import RUN_TABLES, TABLES, names

TWO = {"hrm": 0.9, "transformer": 0.5}


def collected(root: Path, tasks: dict[str, FakeTask], **suite: object) -> Path:
    results = build(root, tasks, **suite)
    collect(results)
    return results


def verdicts(results: Path) -> dict[str, dict[str, str]]:
    """Primary comparison by task, as text."""
    with (results / "comparisons.csv").open(encoding="utf-8") as file:
        return {row["task"]: row for row in csv.DictReader(file) if row["role"] == "primary"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wins, losses, twins, too few seeds, a task without data, lost runs: one of each."""
    three = TWO | {"transformer-flops": 0.88}
    return collected(
        tmp_path_factory.mktemp("results"),
        {
            "won": FakeTask(three, examples=120, ood={"hrm": 0.6, "transformer": 0.3, "transformer-flops": 0.6}),
            "lost": FakeTask({"hrm": 0.4, "transformer": 0.8}, examples=120, failed={("hrm", 2): "diverged"}),
            "twins": FakeTask({"hrm": 0.7, "transformer": 0.7}, examples=300, twins=True),
            "few": FakeTask(TWO, seeds=2, examples=80),
            "open": FakeTask({"hrm": 0.5, "transformer": 0.52}, examples=60, seed_sd=0.1),
            "solved": FakeTask({"hrm": 1.0, "transformer": 1.0}, examples=60),
            "unlearned": FakeTask({"hrm": 0.5, "transformer": 0.5}, examples=200, twins=True, floor=0.5, seed_sd=0.0),
            "absent": FakeTask(TWO, seeds=2, skipped="no data folder is set; pass --data"),
        },
    )


def test_clear_differences_are_called(results: Path) -> None:
    found = verdicts(results)
    assert (found["won"]["verdict"], found["lost"]["verdict"]) == ("better", "worse")
    assert "hrm is better than transformer (same core parameters) by" in found["won"]["sentence"]
    assert "hrm is worse than transformer" in found["lost"]["sentence"]
    for row in (found["won"], found["lost"]):
        assert float(row["low"]) * float(row["high"]) > 0 and float(row["p_adjusted"]) <= 0.05


@pytest.mark.parametrize(
    ("made", "minimum", "verdict"),
    [
        (FakeTask({"hrm": 0.7, "transformer": 0.7}, examples=300, twins=True), 5, "no difference"),
        (FakeTask(TWO, examples=120), 5, "better"),
        (FakeTask({"hrm": 0.75, "transformer": 0.6}, seeds=2, examples=120, seed_sd=0.08), 2, "cannot tell"),
        (FakeTask({"hrm": 0.75, "transformer": 0.6}, seeds=2, examples=120, seed_sd=0.08), 5, "shown, no verdict"),
    ],
    ids=["identical arms", "clearly different arms", "too few seeds", "fewer than the suite asks for"],
)
def test_hand_made_folders_give_their_verdicts(tmp_path: Path, made: FakeTask, minimum: int, verdict: str) -> None:
    row = verdicts(collected(tmp_path, {"toy": made}, minimum_seeds=minimum))["toy"]
    assert row["verdict"] == verdict, row["sentence"]


def test_a_loss_is_told_as_a_positive_number_of_points(results: Path) -> None:
    row = verdicts(results)["lost"]
    assert f"by {-100 * float(row['difference']):.1f} points [{-100 * float(row['high']):.1f}, " in row["sentence"]


def test_identical_arms_do_not_differ(results: Path) -> None:
    row = verdicts(results)["twins"]
    assert row["verdict"] == "no difference" and float(row["difference"]) == 0
    assert -0.01 < float(row["low"]) < 0 < float(row["high"]) < 0.01


def test_noise_is_not_called(results: Path) -> None:
    row = verdicts(results)["open"]
    assert row["verdict"] == "cannot tell"
    assert "this design sees" in row["sentence"] and float(row["smallest_detectable"]) > 0.05


def test_no_contrast_at_ceiling_or_floor(results: Path) -> None:
    found = verdicts(results)
    assert found["solved"]["verdict"] == found["unlearned"]["verdict"] == "cannot tell"
    assert "ceiling" in found["solved"]["sentence"]
    assert "above the floor of 50.0 %" in found["unlearned"]["sentence"]


def test_too_few_seeds_are_shown_without_verdict(results: Path) -> None:
    row = verdicts(results)["few"]
    assert row["verdict"] == "shown, no verdict" and row["p_adjusted"] == ""
    assert "at least 5 seeds" in row["sentence"]


def test_missing_seeds_are_named(results: Path) -> None:
    row = verdicts(results)["lost"]
    assert row["seeds"] == "5"
    assert "1 of 6 planned seeds missing (hrm: 1 diverged)" in row["sentence"]


def test_every_planned_cell_has_a_row_and_a_reason(results: Path) -> None:
    runs = pd.read_csv(results / "runs.csv", keep_default_na=False)
    cells = json.loads((results / "cells.json").read_text())
    assert sorted(runs["cell_id"]) == sorted(cell["cell_id"] for cell in cells)
    absent = runs[runs["task"] == "absent"]
    assert set(absent["status"]) == {"skipped"} and set(absent["reason"]) == {"no data folder is set; pass --data"}
    diverged = runs[runs["status"] == "diverged"]
    assert len(diverged) == 1 and "loss is not finite" in diverged["reason"].iloc[0]
    assert "absent" not in verdicts(results)


def test_order_is_that_of_the_suite(results: Path) -> None:
    runs = pd.read_csv(results / "runs.csv")
    suite = read_suite(results)
    order = [
        (list(suite.tasks).index(t), list(suite.arms).index(a), s) for t, a, s in runs[["task", "arm", "seed"]].values
    ]
    assert order == sorted(order)


@pytest.mark.parametrize("table", RUN_TABLES)
def test_joined_tables_hold_every_row_once(results: Path, table: str) -> None:
    whole = read_table(results / table_file(table), table)
    assert list(whole.columns) == names(table)
    shares = [read_table(path, table) for path in sorted(results.glob(f"runs/*/*/*/{table_file(table)}"))]
    assert len(whole) == sum(map(len, shares))
    assert not whole.duplicated().any()


def test_levels_stand_on_the_runs_they_name(results: Path) -> None:
    levels = read_table(results / "levels.csv", "levels")
    runs = read_table(results / "runs.csv", "runs").set_index("cell_id")
    for row in levels[(levels["split"] == "test") & (levels["stopping"] == "fixed")].to_dict("records"):
        behind = runs.loc[row["cells"].split()]
        assert row["mean"] == pytest.approx(behind["test_exact"].mean())
        assert (row["seed_min"], row["seed_max"]) == pytest.approx(
            (behind["test_exact"].min(), behind["test_exact"].max())
        )
        assert set(behind["arm"]) == {row["arm"]}
        assert 0 <= row["low"] <= row["mean"] <= row["high"] <= 1


def test_stopping_rules_are_told_apart_for_arms_of_several_segments_only(results: Path) -> None:
    levels = read_table(results / "levels.csv", "levels")
    won = levels[(levels["task"] == "won") & (levels["split"] == "test")].groupby("arm")["stopping"].agg(set)
    assert won["transformer"] == {"fixed"}
    assert won["hrm"] == {"fixed", "model", "oracle"}


def test_all_pairs_and_the_shifted_split_are_compared(results: Path) -> None:
    table = read_table(results / "comparisons.csv", "comparisons")
    won = table[table["task"] == "won"]
    assert [(r.role, r.split, r.stopping, r.arm_a, r.arm_b) for r in won.itertuples()] == [
        ("primary", "test", "fixed", "hrm", "transformer"),
        ("secondary", "test", "model", "hrm", "transformer"),
        ("secondary", "ood-length", "fixed", "hrm", "transformer"),
        ("secondary", "test", "fixed", "hrm", "transformer-flops"),
        ("secondary", "test", "fixed", "transformer", "transformer-flops"),
    ]
    assert list(won["matching_rule"]) == [*["params"] * 3, "params+inference_flops", "each to hrm"]
    assert won["p_adjusted"].notna().tolist() == [True, False, False, False, False]
    levels = read_table(results / "levels.csv", "levels").set_index(["task", "arm", "split", "stopping"])["mean"]
    assert won["mean_a"].iloc[1] == pytest.approx(levels["won", "hrm", "test", "model"])


def test_holm_runs_over_primary_comparisons_with_enough_seeds(results: Path) -> None:
    table = read_table(results / "comparisons.csv", "comparisons")
    primary = table[table["role"] == "primary"]
    family = primary[primary["p_adjusted"].notna()]
    assert set(primary["task"]) - set(family["task"]) == {"few"}
    smallest = family["p"].min()
    assert family["p_adjusted"].min() == pytest.approx(min(1, smallest * len(family)))


def test_collecting_twice_gives_the_same_bytes(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(results, copy)
    collect(copy)
    for table in TABLES:
        assert (copy / table_file(table)).read_bytes() == (results / table_file(table)).read_bytes(), table


def small(root: Path) -> Path:
    return build(root, {"toy": FakeTask(TWO, seeds=2, examples=20)})


def test_runs_of_an_earlier_plan_stay_out_of_the_tables(tmp_path: Path) -> None:
    results = small(tmp_path)
    cells = json.loads((results / "cells.json").read_text())
    (results / "cells.json").write_text(json.dumps([cell for cell in cells if cell["seed"] == 0]))
    collect(results)
    assert set(pd.read_csv(results / "runs.csv")["seed"]) == {0}
    assert set(pd.read_csv(results / "examples.csv.gz")["seed"]) == {0}
    assert all((results / cell["run_folder"] / "record.json").is_file() for cell in cells)


def test_cells_without_a_record_are_interrupted_or_not_started(tmp_path: Path) -> None:
    failed = {("hrm", 0): "interrupted", ("hrm", 1): "planned"}
    results = collected(tmp_path, {"toy": FakeTask(TWO, seeds=2, examples=20, failed=failed)})
    runs = pd.read_csv(results / "runs.csv", keep_default_na=False)
    assert list(runs[runs["arm"] == "hrm"]["status"]) == ["interrupted", "planned"]
    row = verdicts(results)["toy"]
    assert row["verdict"] == "cannot tell" and row["seeds"] == "0" and row["difference"] == ""
    assert "hrm: 1 interrupted, hrm: 1 not run yet" in row["sentence"]
    assert math.isnan(read_tables(results).comparisons["low"].iloc[0])


def test_pairs_are_matched_by_example_not_by_row(tmp_path: Path) -> None:
    """A share in another order, with an example more, pairs the same examples."""
    results = collected(tmp_path, {"toy": FakeTask({"hrm": 0.7, "transformer": 0.7}, seeds=2, examples=30, twins=True)})
    path = next(results.glob("runs/toy/hrm/seed0-*/examples.csv.gz"))
    head, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    extra = lines[0].replace("test00000000", "extra")
    path.write_bytes(gzip.compress("\n".join([head, extra, *reversed(lines)]).encode()))  # and no line's end at the end
    collect(results)
    row = verdicts(results)["toy"]
    assert float(row["difference"]) == 0 and row["examples"] == "30"
    assert len(pd.read_csv(results / "examples.csv.gz")) == 4 * 30 + 1


def test_errors_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*run the suite"):
        collect(tmp_path / "nowhere")
    results = small(tmp_path)
    suite = json.loads((results / "suite.json").read_text())
    (results / "suite.json").write_text(json.dumps(suite | {"schema_version": 99}))
    with pytest.raises(UserError, match=r"suite\.json: schema_version is 99"):
        collect(results)
    broken = suite | {"tasks": {"toy": suite["tasks"]["toy"] | {"seeds": "many"}}}
    (results / "suite.json").write_text(json.dumps(broken))
    with pytest.raises(BrokenData, match=r"tasks\.toy\.seeds"):
        collect(results)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("record.json", b"{", "record.json"),
        ("record.json", b'{"cell_id": "x"}', "missing or unknown"),
        ("depth.csv", b"a,b\n1,2\n", "columns are not those of table depth"),
        ("examples.csv.gz", b"not gzip", "examples.csv.gz"),
    ],
)
def test_broken_shares_are_named(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    results = small(tmp_path)
    path = next(results.glob(f"runs/toy/hrm/*/{file}"))
    path.write_bytes(content)
    with pytest.raises(BrokenData, match=message):
        collect(results)


def test_truncated_share_is_refused(tmp_path: Path) -> None:
    results = small(tmp_path)
    path = next(results.glob("runs/toy/hrm/*/examples.csv.gz"))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BrokenData, match=r"examples\.csv\.gz"):
        collect(results)


def test_small_but_certain_differences_count_as_none(tmp_path: Path) -> None:
    """The band is declared before the run: an interval inside it means no difference, whatever its sign."""
    suite = read_suite(small(tmp_path))
    row = {
        "seeds": 6,
        "no_contrast": None,
        "gate": None,
        "low": 0.001,
        "high": 0.008,
        "difference": 0.004,
        "p": 0.01,
        "p_adjusted": 0.01,
    }
    assert compare.verdict(suite, row)[0] == "no difference"
    assert compare.verdict(suite, row | {"high": 0.012})[0] == "better"
    verdict, reason = compare.verdict(suite, row | {"high": 0.012, "p_adjusted": 0.08})
    assert verdict == "cannot tell" and "Holm" in reason


def test_points_are_written_plainly() -> None:
    assert [compare.points(x) for x in (0.1234, -0.02, 0.01, -0.0001)] == [
        "12.3 points",
        "−2.0 points",
        "1.0 point",
        "0.0 points",
    ]
    assert compare.rule_in_words("params+train_flops") == "same core parameters, same training FLOPs"
    assert np.isclose(compare.FLOOR_MARGIN, 0.02)


def test_results_of_unsandboxed_programs_are_marked_in_every_table_and_above_the_report(tmp_path: Path) -> None:
    results = build(tmp_path / "results", {"code": FakeTask(TWO, examples=40), "other": FakeTask(TWO, examples=40)})
    collect(results)
    clean = {path.name: path.read_bytes() for path in results.glob("*.csv*")}
    unsafe = set()
    for file in results.glob("runs/*/*/*/record.json"):
        record = json.loads(file.read_text())
        if record["task"] == "code":
            unsafe.add(record["cell_id"])
            file.write_text(json.dumps(record | {"sandbox": "unsandboxed"}))
    for _ in range(2):  # again from the same folder: marked once
        collect(results)
    assert set(clean) == {path.name for path in results.glob("*.csv*")}
    for table in TABLES:
        with (gzip.open if table == "examples" else open)(results / table_file(table), "rt") as file:
            header, *rows = csv.reader(file)
        assert header == (names(table) if table == "runs" else [*names(table), "sandbox"])
        place = names(table).index("sandbox") if table == "runs" else -1
        for row in rows:
            told = dict(zip(names(table), row, strict=False))
            other = told.get("task") == "other"
            assert (row[place] == "unsandboxed") != other, (table, row)
            if "cell_id" in told:
                assert (told["cell_id"] in unsafe) != other
    html.build(results, tmp_path / "reports")
    for page in ("index.html", "report.md"):
        text = (tmp_path / "reports" / "tiny" / page).read_text()
        assert "UNSANDBOXED: the programs written for code ran without isolation (--allow-unsafe)" in text
    for file in results.glob("runs/*/*/*/record.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"sandbox": None}))
    collect(results)
    assert clean == {path.name: path.read_bytes() for path in results.glob("*.csv*")}
