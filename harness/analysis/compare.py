"""Levels, paired comparisons and their verdicts: the one place where "better" is decided.

The deciding procedure is the crossed interval of the paired difference. For the primary comparisons, which the suite
fixes before the run, its p is adjusted by Holm over the suite's primary comparisons that have enough seeds and open
gates. The exact sign-flip test over seeds stands beside it and decides nothing: asked for as well, at 6 seeds, it would
take a quarter of the power (32 % of the simulated differences found instead of 43 %, mean over the designs of
stats.py) for a false-positive rate that is at or below 5 % without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis import audit, stats
from harness.analysis.examples import ID, read_examples, shared
from harness.analysis.results import Primary, Suite

Row = dict[str, Any]

BETTER, WORSE = "better", "worse"
NO_DIFFERENCE = "no difference"
CANNOT_TELL = "cannot tell"
NO_VERDICT = "shown, no verdict"

SIGNIFICANCE = 0.05
CEILING = 0.99
"""At or above this mean, an arm has solved the task; two such arms give no contrast."""
FLOOR_MARGIN = 0.02
"""An arm whose interval ends below floor + this, or reaches down to the floor, has not been shown to learn the task."""

COLUMN = {
    ("exact", "fixed"): "correct",
    ("exact", "model"): "correct_model",
    ("exact", "oracle"): "correct_oracle",
    ("token", "fixed"): "token",
}

RULES = {
    "params": "same core parameters",
    "inference_flops": "same FLOPs per answer",
    "inference_flops_only": "same FLOPs per answer, parameters not matched",
    "train_flops": "same training FLOPs",
}


@dataclass
class Answers:
    """One task's results per example. `scores[split, arm, column][seed]` is [E], rows as in `ids[split, arm][seed]`.

    Runs of the same examples have one array of ids among them.
    """

    cells: dict[tuple[str, int], str] = field(default_factory=dict)  # (arm, seed) → cell id
    ids: dict[tuple[str, str], dict[int, np.ndarray]] = field(default_factory=dict)
    scores: dict[tuple[str, str, str], dict[int, np.ndarray]] = field(default_factory=dict)

    def splits(self) -> list[str]:
        """`test` first, then the out-of-distribution splits."""
        return sorted({split for split, _ in self.ids}, key=lambda name: (name != "test", name))

    def matrices(self, split: str, arms: Sequence[str], column: str, seeds: Sequence[int]) -> list[np.ndarray]:
        """[seeds, examples] float32 per arm, over the examples that all of them answered, in one order."""
        runs = [(arm, seed) for arm in arms for seed in seeds]
        ids = [self.ids[split, arm][seed] for arm, seed in runs]
        scores = [self.scores[split, arm, column][seed] for arm, seed in runs]
        if any(not np.array_equal(other, ids[0]) for other in ids[1:]):
            in_all = common(ids)
            for i, own in enumerate(ids):
                names, rows = np.unique(own, return_index=True)
                scores[i] = scores[i][rows[np.isin(names, in_all)]]
        parts = (scores[i : i + len(seeds)] for i in range(0, len(runs), len(seeds)))
        return [np.stack(part, dtype=np.float32, casting="same_kind") for part in parts]


def read_answers(results: Path, finished: Sequence[Row]) -> Answers:
    """The examples of one task's finished runs."""
    answers = Answers()
    known: dict[str, list[np.ndarray]] = {}
    for run in finished:
        arm, seed = run["arm"], int(run["seed"])
        answers.cells[arm, seed] = run["cell_id"]
        for split, own in read_examples(results / run["run_folder"], [ID, *COLUMN.values()]).items():
            answers.ids.setdefault((split, arm), {})[seed] = shared(own[ID], known.setdefault(split, []))
            for column in COLUMN.values():
                if not np.isnan(own[column]).any():  # empty: the column does not apply to this arm
                    answers.scores.setdefault((split, arm, column), {})[seed] = own[column]
    return answers


def common(ids: Sequence[np.ndarray]) -> np.ndarray:
    """Examples that every run scored, each once, in the order of their ids."""
    return reduce(np.intersect1d, ids, ids[0])


def levels(
    suite: Suite, task: str, runs: Sequence[Row], answers: Answers, floors: Mapping[str, float]
) -> Iterator[Row]:
    """Rows of levels.csv: exact accuracy by arm and split; on test by stopping rule for arms of several segments."""
    for split in answers.splits():
        for arm in suite.tasks[task].arms:
            segments = max((int(r["segments"] or 1) for r in runs if r["arm"] == arm), default=1)
            rules = ("fixed", "model", "oracle") if split == "test" and segments > 1 else ("fixed",)
            for stopping in rules:
                column = COLUMN["exact", stopping]
                seeds = sorted(answers.scores.get((split, arm, column), {}))
                if not seeds:
                    continue
                (matrix,) = answers.matrices(split, [arm], column, seeds)
                mean, low, high = (float(v) for v in stats.level_interval(matrix))
                by_seed = matrix.mean(1, dtype=np.float64)
                yield {
                    "task": task,
                    "arm": arm,
                    "split": split,
                    "metric": "exact",
                    "stopping": stopping,
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "seeds": len(seeds),
                    "examples": matrix.shape[1],
                    "seed_sd": float(by_seed.std(ddof=1)) if len(seeds) > 1 else None,
                    "seed_min": float(by_seed.min()),
                    "seed_max": float(by_seed.max()),
                    "floor": floors.get(split),
                    "cells": " ".join(answers.cells[arm, seed] for seed in seeds),
                }


def floors(task: str, runs: Sequence[Row], references: Sequence[Row]) -> dict[str, float]:
    """Split → exact accuracy of the best trivial predictor, mean over seeds. For test it is what the runs record."""
    best: dict[str, dict[int, float]] = {}
    for row in references:
        if (row["task"], row["kind"], row["metric"]) == (task, "floor", "exact") and row["value"] is not None:
            by_seed = best.setdefault(row["split"], {})
            by_seed[row["seed"]] = max(by_seed.get(row["seed"], 0.0), row["value"])
    found = {split: float(np.mean(list(by_seed.values()))) for split, by_seed in best.items()}
    recorded = {run["seed"]: run["floor"] for run in runs if run["floor"] is not None}
    return found | ({"test": float(np.mean(list(recorded.values())))} if recorded else {})


def comparisons(
    suite: Suite, task: str, runs: Sequence[Row], answers: Answers, floors: Mapping[str, float]
) -> Iterator[Row]:
    """Rows of comparisons.csv for one task, verdicts not yet decided: Holm needs the other tasks' p first."""
    info = suite.tasks[task]
    primary = info.primary
    pairs: list[tuple[str, Primary]] = []
    if primary:
        pairs.append(("primary", primary))
        halting = any((run["segments"] or 1) > 1 for run in runs if run["arm"] in primary.arms)
        if halting and _asked(primary) == PLAIN:
            pairs.append(("secondary", Primary(arms=primary.arms, stopping="model")))
        shifted = [split for split in answers.splits() if split not in ("test", primary.split)]
        pairs += [("secondary", Primary(arms=primary.arms, split=split)) for split in shifted]
    for pair in combinations(info.arms, 2):
        if not (primary and set(pair) == set(primary.arms) and _asked(primary) == PLAIN):
            pairs.append(("secondary", Primary(arms=pair)))
    for role, pair_of in pairs:
        yield _compare(suite, task, role, pair_of, runs, answers, floors.get(pair_of.split))


PLAIN = ("exact", "test", "fixed")
"""What every two arms are compared by."""


def _asked(pair: Primary) -> tuple[str, str, str]:
    return pair.metric, pair.split, pair.stopping


def _compare(
    suite: Suite, task: str, role: str, pair: Primary, runs: Sequence[Row], answers: Answers, floor: float | None
) -> Row:
    (a, b), split = pair.arms, pair.split
    column = COLUMN[pair.metric, pair.stopping]
    scored = [answers.scores.get((split, arm, column), {}) for arm in (a, b)]
    both = sorted(set(scored[0]) & set(scored[1]))
    seeds = [seed for seed in both if alike(runs, (a, b), seed)]
    row: Row = {
        "task": task,
        "split": split,
        "metric": pair.metric,
        "stopping": pair.stopping,
        "arm_a": a,
        "arm_b": b,
        "role": role,
        "matching_rule": matching_rule(suite, a, b),
        **dict.fromkeys(("mean_a", "mean_b", "difference", "low", "high", "p", "p_adjusted", "p_sign_flip")),
        "seeds": len(seeds),
        "examples": 0,
        **dict.fromkeys(("p_equivalence", "p_mcnemar", "smallest_detectable", "seeds_needed")),
        "verdict": None,
        "sentence": None,
        "cells": " ".join(answers.cells[arm, seed] for arm in (a, b) for seed in seeds),
    }
    unread = [why[split] for arm in (a, b) if split in (why := suite.tasks[task].not_scored.get(arm, {}))]
    row["_missing"] = "; ".join(unread) or _missing(runs, (a, b), suite.tasks[task].seeds, len(seeds))
    if len(seeds) < len(both):
        row["_missing"] += f"; {len(both) - len(seeds)} left out, since the two arms ran under other conditions"
    row["no_contrast"] = row["gate"] = None
    if seeds:
        left, right = answers.matrices(split, [a, b], column, seeds)
        exact = pair.metric == "exact"
        row |= figures(left, right, suite.equivalence_band, floor if exact else None, exact=exact)
    return row


def figures(left: np.ndarray, right: np.ndarray, band: float, floor: float | None, *, exact: bool = True) -> Row:
    """The statistics of a comparison, from two arms' results by seed and example [S, E]: columns of comparisons.csv."""
    delta = left.astype(np.float64) - right
    without = no_contrast(floor, left, right)
    difference, low, high = (float(v) for v in stats.difference_interval(delta))
    return {
        "mean_a": float(left.mean(dtype=np.float64)),
        "mean_b": float(right.mean(dtype=np.float64)),
        "difference": difference,
        "low": low,
        "high": high,
        "p": stats.difference_p(delta),
        "p_sign_flip": stats.sign_flip_test(delta.mean(1)) if len(delta) <= 20 else None,
        "p_equivalence": stats.equivalence_p(delta, band),
        "p_mcnemar": " ".join(f"{p:.4g}" for p in stats.mcnemar(left, right)) if exact else None,
        "examples": left.shape[1],
        "smallest_detectable": stats.smallest_detectable_difference(delta),
        "seeds_needed": None if without else stats.seeds_needed(delta),
        "no_contrast": without,
    }


CONDITIONS = ("data_hash", "task_version", "precision", "device", "numerics_version")
"""What two runs must have in common to be paired."""


def alike(runs: Sequence[Row], arms: tuple[str, str], seed: int) -> bool:
    """Whether both arms' runs of a seed saw the same data, in the same arithmetic on the same kind of device."""
    pair = [run for run in runs if run["arm"] in arms and run["seed"] == seed and run["status"] == "finished"]
    return len({tuple(run[key] for key in CONDITIONS) for run in pair}) == 1


def no_contrast(floor: float | None, left: np.ndarray, right: np.ndarray) -> str | None:
    """Why two arms can't show which is better, if so: both solve the task, or neither beats the trivial predictor."""
    if min(left.mean(), right.mean()) >= CEILING:
        return f"both are at the ceiling (at least {CEILING:.0%}), and more seeds would not help"
    if floor is None or len(left) < 2:
        return None
    for arm in (left, right):
        _, low, high = stats.level_interval(arm)
        if above(float(low), float(high), floor):
            return None
    return f"neither is shown to be above the floor of {100 * floor:.1f} %, and more seeds would not help"


def above(low: float, high: float, floor: float) -> bool:
    """Whether an interval of an accuracy shows that more was learned than the best trivial predictor knows."""
    return low > floor and high >= floor + FLOOR_MARGIN


def _missing(runs: Sequence[Row], arms: tuple[str, str], planned: int, paired: int) -> str:
    """How many planned seeds the pair lacks, and which arm left them out."""
    if paired >= planned:
        return ""
    causes = []
    for arm in arms:
        for status in ("failed", "diverged", "interrupted", "planned", "skipped"):
            count = sum(run["arm"] == arm and run["status"] == status for run in runs)
            if count:
                causes.append(f"{arm}: {count} {'not run yet' if status == 'planned' else status}")
    return f"{planned - paired} of {planned} planned seeds missing" + (f" ({', '.join(causes)})" if causes else "")


def matching_rule(suite: Suite, a: str, b: str) -> str:
    """The rule by which one of two arms is matched to the other, or the arm both are matched to; empty for neither."""
    matches = {arm: suite.arms[arm].match for arm in (a, b)}
    for arm, other in ((b, a), (a, b)):
        match = matches[arm]
        if match and match.to == other:
            return match.rule
    first, second = matches[a], matches[b]
    if first and second and first.to == second.to:
        return f"each to {first.to}"
    return ""


def rule_in_words(rule: str) -> str:
    """`params+inference_flops` as a reader says it."""
    parts = [part.strip() for part in rule.replace("+", ",").split(",")]
    return ", ".join(RULES.get(part, part) for part in parts if part)


def decide(suite: Suite, rows: list[Row], gates: Sequence[Row]) -> list[Row]:
    """Fill in the gates, the adjusted p, the verdict and the sentence of every comparison of a suite."""
    family = [r for r in rows if r["role"] == "primary" and r["seeds"] >= max(suite.minimum_seeds, 2)]
    for row in rows:
        arms = (row["arm_a"], row["arm_b"])
        row["gate"] = audit.shut(gates, audit.COMPARISON, row["task"], arms) or None
    family = [row for row in family if not row["gate"]]
    for row, adjusted in zip(family, stats.holm([r["p"] for r in family]), strict=True):
        row["p_adjusted"] = adjusted
    for row in rows:
        row["verdict"], reason = verdict(suite, row)
        row["sentence"] = sentence(suite, row, reason)
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]


def verdict(suite: Suite, row: Mapping[str, Any]) -> tuple[str, str]:
    """The verdict on arm_a against arm_b and, where it is not plain, the reason. The first rule that fits decides."""
    band = suite.equivalence_band
    if row["seeds"] == 0:
        return CANNOT_TELL, "no seed was finished by both arms"
    if row["seeds"] < max(suite.minimum_seeds, 2):
        return NO_VERDICT, f"a verdict needs at least {suite.minimum_seeds} seeds"
    if row["gate"]:
        return CANNOT_TELL, row["gate"]
    if row["no_contrast"]:
        return CANNOT_TELL, row["no_contrast"]
    if -band < row["low"] and row["high"] < band:  # two one-sided tests at 2.5 % each
        return NO_DIFFERENCE, f"the whole interval lies within ±{points(band)}, which the suite counts as no difference"
    p = row["p"] if row["p_adjusted"] is None else row["p_adjusted"]
    if p <= SIGNIFICANCE:
        return (BETTER if row["difference"] > 0 else WORSE), ""
    if row["p"] <= SIGNIFICANCE:
        return CANNOT_TELL, f"zero is outside the interval, but Holm's adjusted p is {p_text(p)}"
    return CANNOT_TELL, ""


def sentence(suite: Suite, row: Mapping[str, Any], reason: str) -> str:
    """The verdict as a sentence, with the difference, its interval, the design and what the design could have seen."""
    a, b = suite.arm_label(row["arm_a"]), suite.arm_label(row["arm_b"])
    match = suite.arms[row["arm_b"]].match
    if match and match.to == row["arm_a"]:
        b += f" ({rule_in_words(match.rule)})"
    task = row["task"] if row["split"] == "test" else f"{row['task']}, split {row['split']}"
    if row["metric"] != "exact" or row["stopping"] != "fixed":
        task += f" ({row['metric']} accuracy, stopping rule {row['stopping']})"
    notes = [row["_missing"]] if row["_missing"] else []
    if row["seeds"] == 0:
        return "; ".join([f"On {task}, {a} and {b} cannot be compared: {reason}", *notes]) + "."
    low, high, difference = row["low"], row["high"], row["difference"]
    design = f"paired over {row['seeds']} seed{'s' * (row['seeds'] != 1)} × {row['examples']} examples"
    numbers = [design]
    if row["p_sign_flip"] is not None:
        numbers.append(f"sign-flip p = {p_text(row['p_sign_flip'])}")
    if not math.isnan(row["smallest_detectable"]):
        seen = points(row["smallest_detectable"]) if row["smallest_detectable"] < 1 else "no difference at all"
        numbers.append(f"this design sees {seen}")
    undecided = row["verdict"] in (CANNOT_TELL, NO_VERDICT) and not (row["no_contrast"] or row["gate"])
    if undecided and row["seeds_needed"] and row["seeds_needed"] > row["seeds"]:
        numbers.append(f"about {row['seeds_needed']} seeds would settle a difference of this size")
    if row["verdict"] in (BETTER, WORSE):
        if row["verdict"] == WORSE:
            low, high, difference = -high, -low, -difference
        said = f"{a} is {row['verdict']} than {b} by {points(difference)} {interval(low, high)}"
        return f"On {task}, {said}, {'; '.join([*numbers, *notes])}."
    shown = f"difference {points(difference)} {interval(low, high)}"
    said = {
        NO_DIFFERENCE: f"{a} and {b} do not differ",
        CANNOT_TELL: f"it cannot be told whether {a} or {b} is better",
        NO_VERDICT: f"{a} against {b} is shown without a verdict",
    }[row["verdict"]]
    parts = [reason, f"{shown}, {numbers[0]}", *numbers[1:], *notes]
    return f"On {task}, {said}: {'; '.join(part for part in parts if part)}."


def _signed(value: float) -> str:
    text = f"{100 * value:.1f}"
    return text.replace("-", "−") if float(text) else "0.0"


def points(value: float) -> str:
    """A difference of fractions in percentage points: `12.3 points`."""
    return f"{_signed(value)} point{'s' * (_signed(value) not in ('1.0', '−1.0'))}"


def interval(low: float, high: float) -> str:
    if math.isnan(low):
        return "[no interval from one seed]"
    return f"[{_signed(low)}, {_signed(high)}]"


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
