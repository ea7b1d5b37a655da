"""A model in one new file appears everywhere, with no other file touched; the documentation's example is that file."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import test_families
import toys
from test_plugin import ROOT, run

from harness.registry import load_plugin
from models.base import MODELS, PRESETS

PAGE = (ROOT / "docs/adding-a-model.md").read_text()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """The first Python block of the page and its suite, as files."""
    folder = tmp_path_factory.mktemp("plugin")
    for name, language in (("gated.py", "python"), ("gated.yaml", "yaml")):
        (folder / name).write_text(re.search(rf"```{language}\n(.*?)```", PAGE, re.S).group(1))
    return folder / "gated.py", folder / "gated.yaml"


@pytest.fixture
def registered(files, monkeypatch):
    load_plugin(files[0])
    monkeypatch.setitem(toys.FAMILIES, "gated", ("gated", {**toys.SMALL, "layers": 1, "loops": 2}))
    yield
    MODELS._items.pop("gated")
    PRESETS.pop("gated")


def test_the_documented_model_has_at_most_60_lines_of_code(files):
    lines = [line for line in files[0].read_text().splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(lines) <= 60


def test_the_documented_model_passes_the_gates_of_every_built_in_one(registered, tmp_path):
    test_families.test_every_registered_model_stands_here()
    test_families.test_every_counted_number_gets_gradient_and_changes("gated")
    test_families.test_a_row_is_the_same_bits_whatever_its_batch_mates("gated")
    test_families.test_permuting_the_input_changes_what_is_said_of_each_position("gated")
    test_families.test_saved_and_loaded_it_gives_the_same_outputs_bit_for_bit("gated", tmp_path)
    test_families.test_parameters_and_layers_counted_are_those_that_are_there("gated")


@pytest.mark.slow
def test_a_model_given_by_plugin_runs_in_the_documented_suite_matched_and_appears_in_tables_and_report(files, tmp_path):
    plugin, suite = (str(path) for path in files)
    places = ("--results", str(tmp_path / "results"), "--reports", str(tmp_path / "reports"))
    ran = run("--suite", suite, "--plugin", plugin, "--seeds", "1", "--max-updates", "3", *places)
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout.splitlines()[-1])
    with Path(document["tables"]["runs"]).open() as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert {arm: row["status"] for arm, row in rows.items()} == {"hrm": "finished", "gated": "finished"}
    assert abs(float(rows["gated"]["match_error_core"])) < 0.01
    assert abs(float(rows["gated"]["match_error_flops"])) < 0.05
    assert "gated" in Path(document["report"]).read_text()
    with Path(document["tables"]["calibration"]).open() as file:
        assert {row["arm"] for row in csv.DictReader(file)} == {"hrm", "gated"}
    folder = tmp_path / "results/gated" / rows["gated"]["run_folder"]
    again = run("evaluate", str(folder), "--plugin", plugin, "--split", "test", "--out", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    exact = json.loads(again.stdout.splitlines()[-1])["splits"]["test"]["exact"]
    assert exact == float(rows["gated"]["test_exact"])


@pytest.mark.slow
def test_a_file_dropped_into_models_is_listed_with_its_costs(files, tmp_path):
    """In a copy of the project whose only difference is that one file."""
    for name in ("harness", "tasks"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "run_benchmarks.py", tmp_path)  # a link would put its target's folder on the path
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(files[0], tmp_path / "models/gated.py")
    listed = run("list", "models", "--task", "parity", folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    (line,) = [line for line in listed.stdout.splitlines() if line.startswith("gated")]
    assert line.split()[1] == "small" and line.split()[-2] == "12"
