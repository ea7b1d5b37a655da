"""Validity gates on what the runs did: budget, selection, depth, halting, missing data, trivial predictors.

They read records and tables alone. The gates on data and models (harness/evaluation/gates.py) left their findings in
gates.json of each run folder; both together are gates.csv.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.analysis import side, stats
from harness.analysis.results import Suite, read_parts, read_table
from harness.errors import BrokenData
from harness.files import read_json
from harness.tables import GATES_FILE

Row = dict[str, Any]

PASSED, FAILED, NOT_RUN, INAPPLICABLE = "passed", "failed", "not run", "does not apply"

BEFORE = ("G-leak", "G-dup", "G-data", "G-grad", "G-pos", "G-batch")
"""Gates on data and untrained models, which each run leaves in its folder."""

COMPARISON = (*BEFORE, "G-budget", "G-select", "G-depth", "G-fallback")
"""Gates that every comparison of two arms needs."""

VETO = ("G-neg",)
"""Gates that take a comparison's verdict where they failed, and leave it where they did not run."""

CONTROL_CONFIDENCE = 0.99
"""Of the two Wilson intervals of G-neg. They lie apart where two equal shares of independent examples differ by
2.58·√2 standard errors in one direction, by the normal tail for about 1 arm in 7,400 that is at chance."""

SAME_FLOPS = 0.05
SAME_CORE, SAME_TOTAL = 0.01, 0.02
"""How far two budgets, and two arms matched in parameters, may lie apart."""


class Found(NamedTuple):
    result: str
    figure: str


@dataclass(frozen=True)
class Runs:
    """One arm's finished runs on a task, and those of its reference."""

    suite: Suite
    results: Path
    task: str
    arm: str
    own: Sequence[Row]
    reference: Sequence[Row]
    references: Sequence[Row]  # of references.csv, this task's
    control: Row | None  # the record of its training on shuffled labels
    trials: tuple[int, int]  # of the tuning stage, and the updates of each
    reference_trials: tuple[int, int]


def gates(
    suite: Suite,
    results: Path,
    runs: Sequence[Row],
    references: Sequence[Row],
    controls: Mapping[tuple[str, str], Row],
    trials: Sequence[Row],
) -> list[Row]:
    """Rows of gates.csv: every gate of every task and arm, in the suite's order. `trials` are rows of tuning.csv."""
    rows = []
    for task, info in suite.tasks.items():
        finished = [run for run in runs if run["task"] == task and run["status"] == "finished"]
        for arm in info.arms:
            match = suite.arms[arm].match
            to = match.to if match and match.to in info.arms else info.arms[0]
            own, other = ([run for run in finished if run["arm"] == name] for name in (arm, to))
            asked = [r for r in references if r["task"] == task]
            tuned = [side.tuned(trials, task, name) for name in (arm, to)]
            here = Runs(suite, results, task, arm, own, other, asked, controls.get((task, arm)), *tuned)
            before = _before(results, own)
            found = {gate: before.get(gate, Found(NOT_RUN, "")) for gate in BEFORE}
            for gate, check in AFTER.items():
                found[gate] = check(here) if own else Found(NOT_RUN, "no finished run")
            rows += [
                {"task": task, "arm": arm, "gate": gate, "result": one.result, "figure": one.figure or None,
                 "reason": MEANING[gate]}
                for gate, one in found.items()
            ]  # fmt: skip
    return rows


def _before(results: Path, runs: Sequence[Row]) -> dict[str, Found]:
    """What an arm's runs found on data and untrained models, by gate: a failure in any of them, else the first's."""
    found: dict[str, Found] = {}
    for run in runs:
        path = results / run["run_folder"] / GATES_FILE
        if not path.is_file():
            why = f"{run['run_folder']} is of a version without gates: delete it and run the suite again"
            return dict.fromkeys(BEFORE, Found(NOT_RUN, why))
        try:
            own = {row["gate"]: Found(row["result"], row["figure"]) for row in read_json(path)}
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenData(f"{path}: {error}; delete the run's folder and run the suite again") from None
        found |= {gate: one for gate, one in own.items() if gate not in found or one.result == FAILED}
    return found


def shut(rows: Sequence[Row], needed: Sequence[str], task: str, arms: Sequence[str]) -> str:
    """Why the gates let no verdict on these arms pass: a needed one that is not open, or a veto; empty where none."""
    return closed(rows, needed, task, arms) or vetoed(rows, task, arms)


def closed(rows: Sequence[Row], needed: Sequence[str], task: str, arms: Sequence[str]) -> str:
    """Why the needed gates let no verdict pass: the first that failed or did not run; empty where all are open."""
    state = {(row["gate"], row["arm"]): row for row in rows if row["task"] == task}
    for gate in needed:
        for arm in arms:
            row = state.get((gate, arm))
            if row is None or row["result"] == NOT_RUN:
                why = f": {row['figure']}" if row and row["figure"] else ""
                return f"gate {gate} did not run for {arm}{why}"
            if row["result"] == FAILED:
                return f"gate {gate} failed for {arm}: {row['figure']}"
    return ""


def vetoed(rows: Sequence[Row], task: str, arms: Sequence[str]) -> str:
    """Why a gate that only its failure closes lets no verdict pass; empty where none failed."""
    failed = [row for row in rows if row["gate"] in VETO and row["result"] == FAILED]
    return closed(failed, VETO, task, [row["arm"] for row in failed if row["task"] == task and row["arm"] in arms])


# -- the gates -------------------------------------------------------------------------------------------------


def budget(of: Runs) -> Found:
    """The same data, batch and updates as the reference, or by its rule the same training FLOPs; sizes as matched."""
    others = {run["seed"]: run for run in of.reference}
    problems = []
    if not any(run["seed"] in others for run in of.own):
        return Found(NOT_RUN, "no finished run of the arm that it is compared with")
    rule = match.rule if (match := of.suite.arms[of.arm].match) else None
    for run in of.own:
        other = others.get(run["seed"])
        if other is None:
            continue
        problems += [f"{key} differs" for key in ("data_hash", "batch_size", "budget_kind") if run[key] != other[key]]
        same = _recipe(run, of.suite) == _recipe(other, of.suite)
        problems += ["the recipe differs"] if not same else []
        if rule == "train_flops":
            apart = run["flops_train"] / other["flops_train"] - 1
            problems += [f"training FLOPs differ by {apart:+.1%}"] if abs(apart) > SAME_FLOPS else []
        elif run["budget_kind"] == "updates" and run["updates"] != other["updates"] and not _early(run, other):
            problems.append(f"{run['updates']} updates against {other['updates']}")
    if of.trials != of.reference_trials:
        problems.append(f"{_trials(of.trials)} against {_trials(of.reference_trials)}")
    first = of.own[0]
    if rule is not None and rule != "inference_flops_only":
        for name, most in (("core", SAME_CORE), ("total", SAME_TOTAL)):
            error = first[f"match_error_{name}"]
            problems += [f"{name} parameters {error:+.1%}"] if error is not None and abs(error) > most else []
    seen = _range([run["examples_seen"] for run in of.own])
    distinct = _range([run["examples_distinct"] for run in of.own])
    updates = _range([run["updates"] for run in of.own])
    figure = (
        f"{updates} updates of {first['batch_size']}; {seen} examples seen, {distinct} distinct; {_trials(of.trials)}"
    )
    if rule is not None and first["match_error_flops"] is not None:
        figure += f"; FLOPs per answer {first['match_error_flops']:+.1%}"
    return Found(FAILED if problems else PASSED, "; ".join([*dict.fromkeys(problems), figure]))


def _recipe(run: Row, suite: Suite) -> Row:
    """What all arms of a task share; the loop is an arm's own, and so is what trials chose."""
    recipe = {key: value for key, value in json.loads(run["recipe"]).items() if key != "loop"}
    if suite.tuning:
        own = ("learning_rate", "weight_decay")
        recipe["optimizer"] = {key: value for key, value in recipe["optimizer"].items() if key not in own}
    return recipe


def _trials(trials: tuple[int, int]) -> str:
    return f"{trials[0]} tuning trials of {trials[1]:,} updates" if trials[0] else "no tuning trials"


def _early(*runs: Row) -> bool:
    """Whether early stopping may have ended a run before its budget."""
    return any(json.loads(run["recipe"]).get("early_stopping") for run in runs)


def select(of: Runs) -> Found:
    """The evaluation point is the best on validation, and validation has examples of its own."""
    problems = []
    for run in of.own:
        curve = read_table(of.results / run["run_folder"] / "curves.csv", "curves")
        best = float(curve["validation_exact"].max())
        if not run["validation_examples"]:
            problems.append("no validation examples")
        elif run["validation_exact"] < best - 1e-9:
            problems.append(f"seed {run['seed']}: chosen at {run['validation_exact']:.3f}, best is {best:.3f}")
    points = _range([run["selected_update"] for run in of.own])
    figure = f"update {points} chosen on {of.own[0]['validation_examples']} validation examples; one look at test"
    return Found(FAILED if problems else PASSED, "; ".join([*problems, figure]))


def depth(of: Runs) -> Found:
    """Test is scored at the trained number of segments, and every depth is recorded."""
    problems, shown, stayed = [], set(), []
    for run in of.own:
        curve = read_table(of.results / run["run_folder"] / "curves.csv", "curves")
        stayed.append(float(curve["train_segments"].mean()))
        table = read_table(of.results / run["run_folder"] / "depth.csv", "depth")
        test = table[table["split"] == "test"]
        at = test[test["segments"] == run["segments"]]["exact"]
        if at.empty:
            problems.append(f"seed {run['seed']}: nothing recorded at the trained {run['segments']} segments")
        elif not math.isclose(float(at.iloc[0]), run["test_exact"], abs_tol=1e-6):
            problems.append(f"seed {run['seed']}: {run['test_exact']:.3f} on test, but {at.iloc[0]:.3f} at that depth")
        shown |= {int(n) for n in test["segments"]}
    trained = _range([run["segments"] for run in of.own])
    figure = f"trained and scored at {trained}; recorded at {', '.join(map(str, sorted(shown)))}"
    if trained != "1" and not math.isnan(mean := sum(stayed) / len(stayed)):
        figure += f"; halting left an example {mean:.1f} segments of training in the mean"
    return Found(FAILED if problems else PASSED, "; ".join([*problems, figure]))


def halt(of: Runs) -> Found:
    """The halting head meets right and wrong answers, and its decision varies; else the arm is one of fixed depth."""
    if all((run["segments"] or 1) == 1 for run in of.own):
        return Found(INAPPLICABLE, "answers in one segment")
    varied, contrast, headless, steps = 0, 0, 0, set()
    for run in of.own:
        wanted = ["split", "halting_step", "correct", "q_halt_by_segment"]
        bare = True
        found: set[int] = set()
        right: set[float] = set()
        for part in read_parts(of.results / run["run_folder"] / "examples.csv.gz", "examples", wanted):
            test = part[part["split"] == "test"]
            bare &= bool((test["q_halt_by_segment"] == "").all())
            found |= {int(n) for n in test["halting_step"].unique()}
            right |= set(test["correct"].dropna().unique())
        headless += bare
        steps |= found
        varied += len(found) > 1
        contrast += len(right) > 1
    if headless == len(of.own):
        return Found(INAPPLICABLE, "no halting head: an arm of fixed depth")
    figure = f"halts after {_range(sorted(steps))} segments; the decision varies in {varied} of {len(of.own)} runs"
    figure += f", answers are right and wrong in {contrast}"
    return Found(PASSED if varied and contrast else FAILED, figure)


def fallback(of: Runs) -> Found:
    """Real data name what was read; nothing stands in for data that are absent."""
    if not of.suite.tasks[of.task].real_data:
        return Found(PASSED, "generated here")
    sources = [json.loads(run["data_sources"] or "{}") for run in of.own]
    if not all(sources) or any(one != sources[0] for one in sources[1:]):
        return Found(FAILED, "a run does not say which data it read, or runs read different ones")
    return Found(PASSED, "read " + ", ".join(sorted(sources[0])))


def negative(of: Runs) -> Found:
    """What can learn nothing scores as it must: trivial predictors low, the exact solver at 100 %, and the arm itself,
    trained on shuffled labels, no better than chance (training/side_runs.py says what that is).

    Above chance means that its Wilson interval lies above chance's on as many examples, both of CONTROL_CONFIDENCE.
    """
    rows = [r for r in of.references if (r["split"], r["metric"]) == ("test", "exact") and r["value"] is not None]
    floors = [row["value"] for row in rows if row["kind"] == "floor"]
    ceilings = [row["value"] for row in rows if row["kind"] == "ceiling"]
    if not floors:
        return Found(NOT_RUN, "no trivial predictor was scored")
    figure = f"trivial predictors up to {100 * max(floors):.1f} %"
    figure += f", the exact solver {100 * min(ceilings):.1f} %" if ceilings else ""
    if max(floors) >= 0.99 or min(ceilings, default=1.0) < 1:
        return Found(FAILED, figure)
    if of.control is None:
        return Found(NOT_RUN, f"{figure}; no training on shuffled labels: run the suite again with --controls")
    if of.control["status"] != "finished":
        return Found(NOT_RUN, f"{figure}; the training on shuffled labels {_unfinished(of.control)}")
    examples, chance = int(of.control["test_examples"]), float(of.control["floor"])
    right, by_chance = (round(share * examples) for share in (float(of.control["test_exact"]), chance))
    low, _ = stats.wilson(right, examples, CONTROL_CONFIDENCE)
    _, high = stats.wilson(by_chance, examples, CONTROL_CONFIDENCE)
    figure += f"; after {of.control['updates']} updates on shuffled labels {right} of {examples} held-out answers right"
    figure += f" (99 % interval from {100 * low:.1f} %), chance {by_chance} (to {100 * high:.1f} %)"
    return Found(FAILED if low > high else PASSED, figure)


def _unfinished(control: Row) -> str:
    """Why there is no figure, and the remedy."""
    if control["status"] == "planned":
        return "is not done yet: run the suite again"
    return f"{control['status']} ({control['reason']}): run the suite again with --retry-failed"


def _range(values: Sequence[Any]) -> str:
    low, high = min(values), max(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


AFTER: dict[str, Callable[[Runs], Found]] = {
    "G-budget": budget,
    "G-select": select,
    "G-depth": depth,
    "G-halt": halt,
    "G-fallback": fallback,
    "G-neg": negative,
}

MEANING = {
    "G-leak": "no output of a text written from left to right depends on later tokens",
    "G-dup": "no scored input stands in training",
    "G-data": "labels are right by the task's verifier and solver, and not all alike",
    "G-grad": "counted parameters are trained: at most 1 % without gradient or optimizer",
    "G-pos": "the model knows positions",
    "G-batch": "a row's answer and halting do not depend on its batch",
    "G-budget": "the same data, recipe and budget as the arm it is compared with; sizes as matched",
    "G-select": "selected on validation",
    "G-depth": "scored at the depth of training, every depth recorded",
    "G-halt": "the halting head learns from right and wrong answers, and its decision varies",
    "G-fallback": "data are what their name says",
    "G-neg": "trained on shuffled labels it stays at chance; trivial predictors score low, the exact solver 100 %",
}
