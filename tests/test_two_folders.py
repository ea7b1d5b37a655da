"""Two results folders: compared they are paired where they can be, merged they are one; nothing is taken on trust."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from synthetic import FakeTask, build
from toys import cell

from harness import cli
from harness.analysis import between as two
from harness.analysis.between import Folder
from harness.comparing import compare_folders
from harness.errors import BrokenData, UserError
from harness.files import read_json, write_json
from harness.merging import merge_folders
from harness.tables import BETWEEN

BOTH = {"hrm": 0.9, "transformer": 0.5}


def folder(root: Path, name: str = "tiny", **task: Any) -> Path:
    return build(root, {"toy": FakeTask(**{"accuracy": BOTH, "examples": 60} | task)}, name)


def records(results: Path, arm: str = "*", seed: str = "*") -> list[Path]:
    return sorted(results.glob(f"runs/toy/{arm}/seed{seed}-*/record.json"))


def plant(paths: list[Path], **fields: Any) -> None:
    for path in paths:
        write_json(path, read_json(path) | fields)


def rows(a: Path, b: Path) -> dict[str, dict[str, Any]]:
    """Rows on test, by arm."""
    found = two.between(Folder.read(a), Folder.read(b))
    return {row["arm"]: row for row in found if row["split"] == "test"}


# -- compare -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """B's transformer is much worse; its hrm gives the same answers; one seed of it is missing, one saw other data."""
    root = tmp_path_factory.mktemp("pair")
    a = folder(root / "a", seeds=7)
    b = folder(root / "b", seeds=7, accuracy=BOTH | {"transformer": 0.2})
    plant(records(b, "hrm", "5"), status="failed", reason="out of memory")
    plant(records(b, "hrm", "6"), data_hash="1" * 64)
    plant(records(b), torch="2.14.0", precision="bfloat16")
    plant(records(b, "transformer"), recipe=json.dumps({"batch_size": 32}))
    return a, b


@pytest.fixture(scope="module")
def found(pair: tuple[Path, Path]) -> dict[str, dict[str, Any]]:
    return rows(*pair)


def test_the_same_answers_are_no_difference_and_worse_ones_are_worse(found: dict[str, dict[str, Any]]) -> None:
    assert found["hrm"]["difference"] == 0 and found["hrm"]["verdict"] == "cannot tell"  # 60 examples can't say 1 point
    assert found["transformer"]["verdict"] == "better" and found["transformer"]["p_adjusted"] <= 0.05
    assert found["transformer"]["difference"] == pytest.approx(0.3, abs=0.1)


def test_what_cannot_be_paired_is_said_with_the_reason(found: dict[str, dict[str, Any]]) -> None:
    assert found["hrm"]["seeds"] == 5 and found["transformer"]["seeds"] == 7
    assert found["hrm"]["not_paired"] == "seed 5 is finished in A only; seed 6: data hash differs"
    assert len(found["hrm"]["cells_a"].split()) == len(found["hrm"]["cells_b"].split()) == 5


def test_other_conditions_and_settings_are_named(pair: tuple[Path, Path], found: dict[str, dict[str, Any]]) -> None:
    said = list(two.conditions(*map(Folder.read, pair)))
    assert "torch: 2.13.0 in A, 2.14.0 in B" in said and "precision: float32 in A, bfloat16 in B" in said
    differs = found["transformer"]["differs"]
    assert "recipe.batch_size: 64 → 32" in differs and "recipe.optimizer.name" in differs


def test_the_figures_are_those_of_comparisons_csv(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """Two arms of one folder, and the same two as one arm of two folders."""
    from harness.analysis.collect import collect
    from harness.analysis.results import read_table

    one = tmp_path / "one"
    shutil.copytree(pair[0], one)
    collect(one)
    known = read_table(one / "comparisons.csv", "comparisons").iloc[0]
    a, b = (Folder.read(one) for _ in range(2))
    swapped = [r | {"arm": "hrm"} for r in b.runs if r["arm"] == "transformer"]
    b = Folder(b.place, b.suite, swapped, b.references, b.gates)
    found = next(row for row in two.between(a, b) if (row["arm"], row["split"]) == ("hrm", "test"))
    for name in ("difference", "low", "high", "p", "p_sign_flip", "smallest_detectable", "mean_a", "mean_b"):
        assert found[name] == pytest.approx(known[name]), name


def test_a_failed_gate_in_either_folder_takes_the_verdict(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b", accuracy=BOTH | {"transformer": 0.1})
    plant(records(b, "transformer"), validation_examples=0)
    found = rows(a, b)["transformer"]
    assert found["verdict"] == "cannot tell" and "in B, gate G-select failed" in found["reason"]


def test_no_example_in_common_is_no_figure(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", seeds=2), folder(tmp_path / "b", seeds=2)
    for path in b.glob("runs/toy/*/*/examples.csv.gz"):
        text = gzip.decompress(path.read_bytes()).decode()
        path.write_bytes(gzip.compress(text.replace(",test0", ",other0").encode()))
    found = rows(a, b)["hrm"]
    assert found["seeds"] == 0 and found["difference"] is None and "no example in common" in found["not_paired"]


def test_tasks_and_arms_of_one_folder_alone_are_listed(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", seeds=2, examples=20)
    b = build(
        tmp_path / "b",
        {
            "toy": FakeTask({"hrm": 0.9}, seeds=2, examples=20, text={"primary": None}),
            "new": FakeTask(BOTH, seeds=1, examples=20),
        },
    )
    said = list(two.only_in_one(Folder.read(a), Folder.read(b)))
    assert said == [
        "transformer on toy is in A only: B has no such arm there",
        "new is in B only: A has no such task",
    ]


def test_the_command_writes_a_table_and_a_page(pair: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["compare", str(pair[0]), str(pair[1]), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "seed 6: data hash differs" in out and json.loads(out.splitlines()[-1])["compared"] == 2
    with (tmp_path / "between.csv").open() as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == [column.name for column in BETWEEN]
    page = (tmp_path / "between.md").read_text()
    assert "| toy | transformer | test | 50" in page and "not paired" in page


def test_folders_that_share_nothing_or_are_one_are_refused(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", seeds=1, examples=20)
    b = build(tmp_path / "b", {"other": FakeTask(BOTH, seeds=1, examples=20)})
    with pytest.raises(UserError, match="share no arm on any task"):
        compare_folders(a, b, tmp_path / "out")
    with pytest.raises(UserError, match="two different results folders"):
        compare_folders(a, a, tmp_path / "out")
    suite = read_json(b / "suite.json")
    write_json(b / "suite.json", suite | {"schema_version": 1})
    with pytest.raises(UserError, match="schema_version is 1"):
        compare_folders(a, b, tmp_path / "out")


# -- merge -------------------------------------------------------------------------------------------------------


def sealed(results: Path) -> Path:
    """The folder with ids that are hashes of what ran, as real runs have them."""
    text = (results / "cells.json").read_text()
    for planned in json.loads(text):
        one = cell(arm=planned["arm"], task="toy", seed=planned["seed"])
        old, new = planned["cell_id"], one.id
        run = results / planned["run_folder"]
        text = text.replace(old, new)
        for path in [*run.glob("*.csv"), run / "record.json"]:
            path.write_text(path.read_text().replace(old, new))
        examples = run / "examples.csv.gz"
        examples.write_bytes(gzip.compress(gzip.decompress(examples.read_bytes()).replace(old.encode(), new.encode())))
        write_json(run / "cell.json", one.model_dump(mode="json"))
        run.rename(run.parent / run.name.replace(old, new))
    (results / "cells.json").write_text(text)
    shutil.rmtree(results / "controls")
    write_json(results / "side_cells.json", [])
    return results


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All cells in one folder; and no report is built, which takes seconds each time."""
    from harness.report import html

    monkeypatch.setattr(html, "build", lambda results, reports: reports / "index.html")
    return sealed(folder(tmp_path / "whole", seeds=2, examples=20))


def shards(whole: Path, root: Path) -> tuple[Path, Path]:
    """What two machines with a half of the cells each would leave."""
    found = root / "one" / "tiny", root / "two" / "tiny"
    for place, lost in zip(found, ("seed1-*", "seed0-*"), strict=True):
        shutil.copytree(whole, place)
        for run in place.glob(f"runs/toy/*/{lost}"):
            shutil.rmtree(run)
    return found


def state(results: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(results)): p.read_bytes() for p in results.rglob("*") if p.is_file() and p.name != ".lock"
    }


def test_shards_merge_into_the_folder_that_one_machine_would_have_left(whole: Path, tmp_path: Path) -> None:
    from harness.analysis.collect import collect

    one, other = shards(whole, tmp_path)
    before = state(one), state(other)
    merge_folders(tmp_path / "merged", [one, other], tmp_path / "reports")
    assert (state(one), state(other)) == before
    collect(whole)
    merged, expected = state(tmp_path / "merged"), state(whole)
    assert merged.keys() == expected.keys()
    assert all(merged[name] == expected[name] for name in expected if name != "suite.json")
    again = merge_folders(one, [other], tmp_path / "reports")[1]["merged"]
    assert again["copied"] == 2 and again["open"] == 0
    assert merge_folders(one, [other], tmp_path / "reports")[1]["merged"] == {"copied": 0, "same": 2, "open": 0}


def test_a_cell_with_other_numbers_is_named_and_nothing_is_merged(whole: Path, tmp_path: Path) -> None:
    one, other = shards(whole, tmp_path)
    for place in (one, other):  # both have this run, other's with one answer changed
        run = next(whole.glob("runs/toy/hrm/seed0-*"))
        shutil.copytree(run, place / run.relative_to(whole), dirs_exist_ok=True)
    path = next(other.glob("runs/toy/hrm/seed0-*/examples.csv.gz"))
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress("\n".join([lines[0], *reversed(lines[1:])]).encode()))
    before = state(one)
    with pytest.raises(UserError, match=r"nothing was merged.*runs/toy/hrm/seed0-.*examples\.csv\.gz differs"):
        merge_folders(one, [other], tmp_path / "reports")
    assert state(one) == before


def test_time_and_machine_are_no_conflict(whole: Path, tmp_path: Path) -> None:
    one, other = shards(whole, tmp_path)
    run = next(one.glob("runs/toy/hrm/seed0-*"))
    copy = other / run.relative_to(one)
    shutil.copytree(run, copy)
    plant(
        [copy / "record.json"],
        seconds_train=1e6,
        seconds_per_answer=9.0,
        machine="another",
        started="2026-02-02T00:00:00+00:00",
    )
    assert merge_folders(one, [other], tmp_path / "reports")[1]["merged"]["same"] == 1
    assert read_json(run / "record.json")["machine"] != "another"


def test_a_finished_cell_takes_the_place_of_a_failed_one(whole: Path, tmp_path: Path) -> None:
    one, other = shards(whole, tmp_path)
    run = next(other.glob("runs/toy/hrm/seed1-*"))
    failed = one / run.relative_to(other)
    failed.mkdir(parents=True)
    write_json(failed / "record.json", read_json(run / "record.json") | {"status": "failed", "reason": "out of memory"})
    merge_folders(one, [other], tmp_path / "reports")
    assert read_json(failed / "record.json")["status"] == "finished"


def test_a_folder_that_holds_another_cell_than_its_name_says_is_refused(whole: Path, tmp_path: Path) -> None:
    one, other = shards(whole, tmp_path)
    run = next(other.glob("runs/toy/hrm/seed1-*"))
    write_json(run / "cell.json", read_json(run / "cell.json") | {"updates": 7})
    with pytest.raises(BrokenData, match="holds another cell than its id"):
        merge_folders(one, [other], tmp_path / "reports")


def test_other_suites_and_tasks_asked_for_otherwise_are_refused(whole: Path, tmp_path: Path) -> None:
    one, other = shards(whole, tmp_path)
    suite = read_json(other / "suite.json")
    write_json(other / "suite.json", suite | {"name": "small"})
    with pytest.raises(UserError, match="compare takes folders of different suites"):
        merge_folders(one, [other], tmp_path / "reports")
    suite["tasks"]["toy"]["fingerprint"] = "another"
    write_json(other / "suite.json", suite)
    with pytest.raises(UserError, match="ran toy in different ways"):
        merge_folders(one, [other], tmp_path / "reports")
    with pytest.raises(UserError, match="named twice"):
        merge_folders(one, [one], tmp_path / "reports")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no results folder and not empty"):
        merge_folders(tmp_path / "full", [one], tmp_path / "reports")


@pytest.mark.slow
def test_real_shards_of_two_machines_merge_to_the_tables_of_one(tmp_path: Path, capsys: Any) -> None:
    """--shard 1/2 and 2/2 into folders of their own, with controls; then one run of all, which finds nothing open."""
    from test_cli import suite_file

    path = suite_file(tmp_path, controls={"updates": 2})

    def run(where: str, *extra: str) -> int:
        places = ["--results", str(tmp_path / where), "--reports", str(tmp_path / "reports")]
        return cli.main(["--suite", str(path), "--jobs", "1", *places, *extra])

    assert (run("one", "--shard", "1/2"), run("two", "--shard", "2/2")) == (0, 0)
    folders = [str(tmp_path / name / "toy") for name in ("all", "one", "two")]
    assert cli.main(["merge", *folders, "--reports", str(tmp_path / "reports")]) == 0
    merged = json.loads(capsys.readouterr().out.splitlines()[-1])["merged"]
    assert merged == {"copied": 6, "same": 0, "open": 0}
    levels = (tmp_path / "all" / "toy" / "levels.csv").read_bytes()
    assert run("all") == 0
    assert '"finished": 6' in capsys.readouterr().out
    assert (tmp_path / "all" / "toy" / "levels.csv").read_bytes() == levels
