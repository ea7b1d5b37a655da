"""The committed reference runs: their tables are those of their runs, and they answer what they were made for."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
import shutil
from pathlib import Path

import pytest

from harness.analysis import compare
from harness.analysis.collect import collect
from harness.analysis.results import table_file
from harness.tables import TABLES

ROOT = Path(__file__).parents[1]
NAMES = ("tiny", "ablations-tiny")

NUMBER = r"\d+(?:\.\d+)?(?:e[-+]?\d+)?"

every_reference = pytest.mark.parametrize("name", NAMES)


def rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        return list(csv.DictReader(file))


def reference(name: str) -> Path:
    return ROOT / "results/reference" / name


def same(one: str, other: str) -> bool:
    """Equal but for what another processor's rounding may change: in text, the last digit that is shown."""
    if one == other:
        return True
    if [re.sub(NUMBER, "", text) for text in (one, other)] != [re.sub(NUMBER, "", one)] * 2:
        return False
    pairs = zip(re.findall(NUMBER, one), re.findall(NUMBER, other), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=1e-6, abs_tol=1.01 * last_digit(a)) for a, b in pairs)


def last_digit(number: str) -> float:
    """1 in the last place of a number as it is written, for a short one; 0 for a long one and for a whole one."""
    mantissa, _, exponent = number.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return 10.0 ** (int(exponent or 0) - decimals) if 0 < decimals <= 3 else 0.0


def test_numbers_in_text_may_differ_by_their_last_digit_alone():
    assert same("by 26.2 points", "by 26.3 points") and not same("by 26.2 points", "by 26.4 points")
    assert same("0.123456789", "0.1234567891") and not same("0.1234", "0.1235") and not same("13", "14")
    assert not same("hrm is worse", "hrm is better") and not same("1.2e-05", "1.2e-06")


@every_reference
def test_the_tables_are_those_that_the_runs_give(tmp_path, name):
    copy = shutil.copytree(reference(name), tmp_path / name)
    collect(copy)
    for table in TABLES:
        kept, made = rows(reference(name) / table_file(table)), rows(copy / table_file(table))
        assert len(kept) == len(made), table
        for before, after in zip(kept, made, strict=True):
            for column in before:
                assert same(before[column], after[column]), (table, before, column, after[column])


@every_reference
def test_every_run_is_finished_and_from_data_that_anyone_has(name):
    runs = rows(reference(name) / "runs.csv")
    assert {run["status"] for run in runs} == {"finished"}
    sources = {source for run in runs for source in json.loads(run["data_sources"] or "{}")}
    assert all(source.startswith("package ") for source in sources), sources  # else they are generated
    assert all((reference(name) / run["run_folder"] / "record.json").is_file() for run in runs)


@every_reference
def test_every_primary_comparison_is_decided_or_says_what_would_decide_it(name):
    found = [row for row in rows(reference(name) / "comparisons.csv") if row["role"] == "primary"]
    assert found
    for row in found:
        decided = row["verdict"] in (compare.BETTER, compare.WORSE, compare.NO_DIFFERENCE)
        enough = row["seeds_needed"] and int(row["seeds_needed"]) > int(row["seeds"])
        assert decided or enough or row["no_contrast"] or row["gate"], row["sentence"]


def test_tiny_has_clear_verdicts_with_as_many_seeds_as_the_statistics_were_checked_at():
    found = [row for row in rows(reference("tiny") / "comparisons.csv") if row["role"] == "primary"]
    assert all(int(row["seeds"]) >= 6 for row in found)
    assert any(row["verdict"] in (compare.BETTER, compare.WORSE) for row in found)


@every_reference
def test_every_claim_has_a_verdict_or_a_reason(name):
    claims = {row["claim"]: row for row in rows(reference(name) / "claims.csv")}
    assert all(row["verdict"] and row["reason"] for row in claims.values())
    static = ("R06", "R07", "R08", "R09", "R10", "R40")
    assert all(claims[claim]["verdict"] in ("supported", "refuted") for claim in static)
    assert claims["R39"]["verdict"] == "not testable"


def test_the_readme_shows_the_reference_run():
    place = "reports/reference/tiny"
    made = (ROOT / place / "main.md").read_text(encoding="utf-8").strip()
    shown = re.sub(r"\]\((figures/[^)]*)\)", rf"]({place}/\1)", made)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert shown in readme, f"README.md: put {place}/main.md in, with its paths"
    for figure in re.findall(r"\]\((figures/[^)]*)\)", made):
        assert (ROOT / place / figure).is_file()
