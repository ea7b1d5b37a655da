"""Two results folders against each other: the same arm on the same task, paired by seed and example where they can be.

The statistics are those of comparisons.csv. What differs between the folders (settings, machine, precision, versions)
is what is compared, so it is said and not refused; only data that differ can't be paired.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.analysis import audit, compare, side, stats
from harness.analysis.collect import run_rows
from harness.analysis.compare import Answers
from harness.analysis.results import Suite, read_references, read_suite
from harness.tables import BETWEEN

Row = dict[str, Any]

SAME_DATA = ("data_hash", "task_version")
"""What two runs must share to be paired: the same rows of training and test."""

OF_FOLDERS = ("device", "precision", "threads", "engine", "numerics_version", "machine", "torch", "sandbox", "commit")
"""Columns of runs.csv in which folders may differ as a whole; it is said once."""

OF_ARMS = ("model", "updates", "budget_kind", "precision", "device", "numerics_version")
"""Columns of runs.csv in which an arm's runs may differ; it is said beside the arm, with its settings."""

NEEDED = (*audit.BEFORE, "G-select", "G-depth", "G-fallback")
"""Gates that both folders' arms must have passed. G-budget speaks of two arms of one folder."""

COLUMN = compare.COLUMN["exact", "fixed"]


@dataclass(frozen=True)
class Folder:
    place: Path
    suite: Suite
    runs: Sequence[Row]
    references: Sequence[Row]
    gates: Sequence[Row]

    @classmethod
    def read(cls, place: Path) -> Folder:
        """UserError where there is none, or another version's; BrokenData where a run can't be read."""
        suite = read_suite(place)
        runs, references = run_rows(place, suite), read_references(place, suite)
        beside = side.read_side_cells(place)
        trials = side.tuning(place, suite, beside)
        gates = audit.gates(suite, place, runs, references, side.controls(place, beside), trials)
        return cls(place, suite, runs, references, gates)

    def finished(self, task: str, arm: str) -> dict[int, Row]:
        """Seed → run."""
        asked = (task, arm, "finished")
        return {int(run["seed"]): run for run in self.runs if (run["task"], run["arm"], run["status"]) == asked}


def between(a: Folder, b: Folder) -> list[Row]:
    """Rows of between.csv, decided; tasks and arms in A's order."""
    rows = []
    for task, info in a.suite.tasks.items():
        if task in b.suite.tasks:
            for arm in info.arms:
                if arm in b.suite.tasks[task].arms:
                    rows += list(_of_arm(a, b, task, arm))
    enough = max(a.suite.minimum_seeds, 2)
    family = [r for r in rows if r["split"] == "test" and r["seeds"] >= enough and not r["gate"]]
    for row, adjusted in zip(family, stats.holm([r["p"] for r in family]), strict=True):
        row["p_adjusted"] = adjusted
    for row in rows:
        row["verdict"], reason = compare.verdict(a.suite, row)
        row["reason"] = reason or None
        if row["seeds"] == 0:
            row["reason"] = "no seed could be paired"
    return [{column.name: row[column.name] for column in BETWEEN} for row in rows]


def only_in_one(a: Folder, b: Folder) -> Iterator[str]:
    """A sentence on each task and arm that one folder alone has."""
    for one, other, name, missing in ((a, b, "A", "B"), (b, a, "B", "A")):
        for task, info in one.suite.tasks.items():
            if task not in other.suite.tasks:
                yield f"{task} is in {name} only: {missing} has no such task"
                continue
            for arm in info.arms:
                if arm not in other.suite.tasks[task].arms:
                    yield f"{arm} on {task} is in {name} only: {missing} has no such arm there"


def conditions(a: Folder, b: Folder) -> Iterator[str]:
    """A sentence on each condition in which the two folders' finished runs differ as a whole."""
    for name in OF_FOLDERS:
        found = [sorted({str(r[name]) for r in one.runs if r["status"] == "finished"}) for one in (a, b)]
        if found[0] != found[1]:
            yield f"{name.replace('_', ' ')}: {' and '.join(found[0]) or 'none'} in A, {' and '.join(found[1])} in B"
    for name in ("minimum_seeds", "equivalence_band"):
        ours, theirs = getattr(a.suite, name), getattr(b.suite, name)
        if ours != theirs:
            yield f"{name.replace('_', ' ')}: {ours} in A, {theirs} in B; A's decides"


def _of_arm(a: Folder, b: Folder, task: str, arm: str) -> Iterator[Row]:
    ours, theirs = a.finished(task, arm), b.finished(task, arm)
    paired, left_out = _paired(ours, theirs)
    answers = [
        compare.read_answers(one.place, [runs[seed] for seed in paired]) for one, runs in ((a, ours), (b, theirs))
    ]
    both = _joined(answers[0], answers[1])
    floors = compare.floors(task, [run for run in a.runs if run["task"] == task], a.references)
    gates = [audit.shut(one.gates, NEEDED, task, (arm,)) for one in (a, b)]
    shut = next((f"in {name}, {why}" for name, why in zip("AB", gates, strict=True) if why), None)
    differs = "; ".join(_differences(ours[paired[0]], theirs[paired[0]])) if paired else None
    for split in both.splits() or ["test"]:
        row: Row = dict.fromkeys(column.name for column in BETWEEN)
        row |= {
            "task": task,
            "arm": arm,
            "split": split,
            "seeds": 0,
            "examples": 0,
            "gate": shut,
            "no_contrast": None,
        }
        missing = list(left_out)
        scored = [both.scores.get((split, name, COLUMN), {}) for name in "AB"]
        seeds = [seed for seed in paired if all(seed in one for one in scored)]
        ids = [both.ids[split, name][seed] for name in "AB" for seed in seeds]
        if seeds and not len(compare.common(ids)):
            missing.append(f"seed {', '.join(map(str, seeds))}: no example in common")
            seeds = []
        if seeds:
            left, right = both.matrices(split, ["A", "B"], COLUMN, seeds)
            row |= compare.figures(left, right, a.suite.equivalence_band, floors.get(split))
            most = max(len(own) for own in ids)
            if most > row["examples"]:
                missing.append(f"{most - row['examples']} of {most} examples are in one folder only")
        row["seeds"], row["not_paired"], row["differs"] = len(seeds), "; ".join(missing) or None, differs or None
        row["cells_a"], row["cells_b"] = (" ".join(runs[s]["cell_id"] for s in seeds) for runs in (ours, theirs))
        yield row


def _paired(ours: Mapping[int, Row], theirs: Mapping[int, Row]) -> tuple[list[int], list[str]]:
    """Seeds that can be paired, and a phrase on each that can't."""
    paired, left_out = [], []
    for seed in sorted({*ours, *theirs}):
        if seed not in ours or seed not in theirs:
            left_out.append(f"seed {seed} is finished in {'A' if seed in ours else 'B'} only")
            continue
        other = [name for name in SAME_DATA if ours[seed][name] != theirs[seed][name]]
        if other:
            left_out.append(f"seed {seed}: {' and '.join(name.replace('_', ' ') for name in other)} differs")
        else:
            paired.append(seed)
    return paired, left_out


def _joined(ours: Answers, theirs: Answers) -> Answers:
    """Both folders' answers, each of one arm, as arms A and B."""
    both = Answers()
    for name, one in (("A", ours), ("B", theirs)):
        both.ids |= {(split, name): found for (split, _), found in one.ids.items()}
        both.scores |= {(split, name, column): found for (split, _, column), found in one.scores.items()}
    return both


def _differences(ours: Row, theirs: Row) -> Iterator[str]:
    """What B has otherwise, `name: A's → B's`, from two records."""
    for name in OF_ARMS:
        if ours[name] != theirs[name]:
            yield f"{name}: {ours[name]} → {theirs[name]}"
    for part in ("config", "recipe", "settings"):
        left, right = (flat(json.loads(record[part] or "{}"), part) for record in (ours, theirs))
        for key in dict.fromkeys([*left, *right]):
            if left.get(key) != right.get(key):
                yield f"{key}: {left.get(key, 'none')} → {right.get(key, 'none')}"


def flat(document: Any, prefix: str) -> dict[str, str]:
    """Nested settings as `recipe.optimizer.learning_rate` → text."""
    if not isinstance(document, dict):
        return {prefix: json.dumps(document)}
    found: dict[str, str] = {}
    for key, value in document.items():
        found |= flat(value, f"{prefix}.{key}")
    return found
