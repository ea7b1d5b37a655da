"""What a suite measured that bears on a claim: one outcome per task and arm or pair of arms, from intervals.

An outcome holds (True), does not (False), or is open (None) with the reason. Figures over seeds and examples are
crossed intervals (stats.py); AUROC, savings and rank correlations have one value per seed and get Student's interval
over seeds, which speaks of new seeds on these examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.analysis import audit, compare, stats
from harness.analysis.examples import ID, Columns, read_examples, shared
from harness.analysis.halting import rank_correlation
from harness.analysis.results import Suite

Row = dict[str, Any]
Floats = np.ndarray


class Outcome(NamedTuple):
    where: str  # task, and the arms where it is not one arm alone
    measured: str
    holds: bool | None
    why: str  # where it is open
    arms: tuple[str, ...] = ()
    cells: str = ""


@dataclass(frozen=True)
class Scored:
    """A run's N test examples by id: `run[column]` is [N], that of correct_by_segment [N, segments]."""

    ids: np.ndarray  # [N] in order
    order: np.ndarray  # [N] their places in the columns
    columns: Columns

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column][self.order]


SCORED = ("difficulty", "correct", "correct_model", "correct_oracle", "token", "halting_step", "correct_by_segment")


@dataclass
class Evidence:
    """A suite's tables as rows, and where its runs lie."""

    results: Path
    suite: Suite
    runs: Sequence[Row]
    levels: Sequence[Row]
    comparisons: Sequence[Row]
    calibration: Sequence[Row]
    gates: Sequence[Row] = ()
    passes: Sequence[Row] = ()
    states: Sequence[Row] = ()
    _scored: dict[tuple[str, str], list[Scored]] = field(default_factory=dict)
    _ids: list[np.ndarray] = field(default_factory=list)  # those that runs of `_scored` share, and their orders
    _orders: list[np.ndarray] = field(default_factory=list)

    @property
    def least(self) -> int:
        return max(self.suite.minimum_seeds, 2)

    def finished(self, task: str, arm: str) -> list[Row]:
        return [r for r in self.runs if (r["task"], r["arm"], r["status"]) == (task, arm, "finished")]

    def shut(self, needed: Sequence[str], task: str, arms: Sequence[str]) -> str:
        """Why the gates let no verdict pass: the first that failed or did not run; empty where all are open."""
        return audit.shut(self.gates, needed, task, arms)

    def test(self, task: str, arm: str) -> list[Scored]:
        """Test examples of every finished run, by seed; none where runs scored different ones, or none."""
        if (task, arm) not in self._scored:
            found = []
            for run in sorted(self.finished(task, arm), key=lambda r: int(r["seed"])):
                columns = read_examples(self.results / run["run_folder"], [ID, *SCORED]).get("test", {})
                ids = columns.pop(ID, np.empty(0))
                order = np.argsort(ids, kind="stable")
                found.append(Scored(shared(ids[order], self._ids), shared(order, self._orders), columns))
            self._scored[task, arm] = found if all(len(r.ids) and r.ids is found[0].ids for r in found) else []
        return self._scored[task, arm]

    def forget(self) -> None:
        """Let the examples go that `test` read."""
        for kept in (self._scored, self._ids, self._orders):
            kept.clear()


Measure = Callable[[Evidence, str, Mapping[str, Any]], Iterator[Outcome]]


def few(seeds: int, of: Evidence) -> str:
    return f"{seeds:.0f} of {of.least} seeds that a verdict needs" if seeds < of.least else ""


def beyond(low: float, high: float, least: float) -> bool | None:
    """Whether an interval lies above a threshold (True), below it (False), or across it (None)."""
    return None if np.isnan(low) or low <= least < high else bool(low > least)


# -- of two arms -----------------------------------------------------------------------------------------------


def difference(of: Evidence, task: str, measure: Mapping[str, Any]) -> Iterator[Outcome]:
    """First arm against second on test, or another `split`, from comparisons.csv: better, or by `at_least`, or
    `between` two ends; or, with `either`, different at all."""
    split = measure.get("split", "test")
    for first, second in measure["difference"]:
        rows = [
            row
            for row in of.comparisons
            if row["task"] == task and {row["arm_a"], row["arm_b"]} == {first, second}
            and (row["split"], row["metric"], row["stopping"]) == (split, "exact", "fixed")
        ]  # fmt: skip
        if not rows or not rows[0]["seeds"]:
            continue
        row = rows[0]
        sign = 1 if row["arm_a"] == first else -1
        ends = sorted((sign * row["low"], sign * row["high"]))
        shown = f"{compare.points(sign * row['difference'])} {compare.interval(*ends)}"
        place = task if split == "test" else f"{task} {split}"
        where = f"{place} ({of.suite.arm_label(first)} − {of.suite.arm_label(second)})"
        yield Outcome(where, shown, *_verdict(of, row, sign, ends, measure), (first, second), row["cells"])


def _verdict(
    of: Evidence, row: Row, sign: int, ends: Sequence[float], measure: Mapping[str, Any]
) -> tuple[bool | None, str]:
    verdict = row["verdict"]
    if row["seeds"] < of.least:
        return None, few(row["seeds"], of)
    if "between" in measure:
        low, high = measure["between"]
        inside, outside = low < ends[0] and ends[1] < high, ends[1] < low or high < ends[0]
        return (True, "") if inside else (False, "") if outside else (None, "the interval reaches across the limit")
    if row["no_contrast"]:
        return None, row["no_contrast"]
    if "at_least" in measure:
        found = beyond(ends[0], ends[1], measure["at_least"])
        return found, "" if found is not None else "the interval reaches across the threshold"
    if verdict == compare.CANNOT_TELL:
        return None, "the difference is not settled"
    if measure.get("either"):
        return verdict != compare.NO_DIFFERENCE, ""
    return verdict == (compare.BETTER if sign > 0 else compare.WORSE), ""


BUT_THE_LEAK = tuple(gate for gate in audit.COMPARISON if gate != "G-leak")
"""Gates that a task with a leak put in must pass, for nothing else to be what makes a lead there."""


def lead(of: Evidence, task: str, measure: Mapping[str, Any]) -> Iterator[Outcome]:
    """By how much the first arm's lead in token accuracy on test is larger on another task, `in` by this one's name,
    than on this one: above 0, where it leads there at all. For a task with a leak, against its twin without."""
    other = measure["lead"]["in"].get(task)
    for first, second in measure["lead"]["arms"] if other in of.suite.tasks else ():
        leads = [_token_lead(of, name, first, second) for name in (other, task)]
        found = [known for known in leads if known is not None]
        if len(found) < 2:
            continue
        (there, here), seeds = [known.interval for known in found], min(len(known.seeds) for known in found)
        mean, low, high = (float(v) for v in _apart(*found))
        holds = None if few(seeds, of) else beyond(low, high, 0.0)
        why = few(seeds, of) or "the interval reaches across the threshold" * (holds is None)
        if holds and there.low <= 0:
            holds, why = None, f"no lead is shown on {other} either"
        unfair = audit.closed(of.gates, BUT_THE_LEAK, other, (first, second))
        holds, why = (None, f"on {other}, {unfair}") if unfair else (holds, why)
        shown = f"leads of {compare.points(float(there.mean))} and {compare.points(float(here.mean))}, "
        shown += f"apart by {compare.points(mean)} {compare.interval(low, high)}"
        where = f"{other} against {task} ({of.suite.arm_label(first)} − {of.suite.arm_label(second)})"
        cells = " ".join(_cells(of, name, arm) for name in (other, task) for arm in (first, second))
        yield Outcome(where, shown, holds, why, (first, second), cells)


class _Lead(NamedTuple):
    """A lead in token accuracy of the seeds that both arms finished: by seed and example [S, E], and its interval."""

    seeds: list[int]
    ids: np.ndarray
    delta: Floats
    interval: stats.Interval


def _apart(there: _Lead, here: _Lead) -> stats.Interval:
    """The difference of two leads: paired by seed and example where both tasks have the same, else as independent."""
    if there.seeds == here.seeds and np.array_equal(there.ids, here.ids):
        return stats.difference_interval(there.delta - here.delta)
    return stats.between(there.interval, here.interval)


def _token_lead(of: Evidence, task: str, first: str, second: str) -> _Lead | None:
    """The first arm's lead over the second, where they have seeds and examples in common."""
    seeds = [sorted(int(run["seed"]) for run in of.finished(task, arm)) for arm in (first, second)]
    scored = [of.test(task, arm) for arm in (first, second)]
    runs = [run for arm in (first, second) for run in of.finished(task, arm)]
    both = [seed for seed in sorted(set(seeds[0]) & set(seeds[1])) if compare.alike(runs, (first, second), seed)]
    if not both or not all(scored) or not np.array_equal(scored[0][0].ids, scored[1][0].ids):
        return None
    one, two = (
        np.stack([run["token"] for seed, run in zip(own, parts, strict=True) if seed in both])
        for own, parts in zip(seeds, scored, strict=True)
    )
    return _Lead(both, scored[0][0].ids, one - two, stats.difference_interval(one - two))


# -- of one arm ------------------------------------------------------------------------------------------------


def level(of: Evidence, task: str, measure: Mapping[str, Any]) -> Iterator[Outcome]:
    """Exact accuracy on test: the interval `at_least` or `at_most` there, or `around` a figure ± `within`."""
    asked = measure["level"]
    for row in of.levels:
        if row["task"] == task and row["arm"] in asked["arms"] and (row["split"], row["stopping"]) == ("test", "fixed"):
            low, high = row["low"], row["high"]
            shown = f"{100 * row['mean']:.1f} % {compare.interval(low, high)}"
            holds, why = _reached(low, high, asked) if not few(row["seeds"], of) else (None, few(row["seeds"], of))
            yield Outcome(task, shown, holds, why, (row["arm"],), row["cells"])


def _reached(low: float, high: float, asked: Mapping[str, Any]) -> tuple[bool | None, str]:
    across = "the interval reaches across the threshold"
    if "around" in asked:
        floor, ceiling = asked["around"] - asked["within"], asked["around"] + asked["within"]
        if floor <= low and high <= ceiling:
            return True, ""
        return (False, "") if high < floor or ceiling < low else (None, across)
    if "at_most" in asked:
        return (True, "") if high <= asked["at_most"] else (False, "") if low > asked["at_most"] else (None, across)
    return (True, "") if low >= asked["at_least"] else (False, "") if high < asked["at_least"] else (None, across)


def votes(of: Evidence, task: str, measure: Mapping[str, Any]) -> Iterator[Outcome]:
    """Puzzles solved in two tries by votes, own identities, all or nothing, from passes.csv: `around` ± `within`."""
    asked = measure["votes"]
    for arm in asked["arms"]:
        rows = [r for r in of.passes if (r["task"], r["arm"], r["puzzle_ids"], int(r["k"])) == (task, arm, "own", 2)]
        most = max((float(r["votes"]) for r in rows), default=0)
        values = np.array([float(r["all_or_nothing"]) for r in rows if float(r["votes"]) == most])
        if values.size:
            yield _over_seeds(of, task, arm, values, lambda low, high: _reached(low, high, asked)[0], percent=True)


DEPTHS = {"first": "after one segment", "trained": "at the trained depth", "last": "at the deepest"}


def depths(of: Evidence, task: str, measure: Mapping[str, Any]) -> Iterator[Outcome]:
    """Exact accuracy of one arm `to` against `from`: first, trained or last segment, or the rules model and oracle."""
    asked = measure["depths"]
    for arm in asked["arms"]:
        segments = {int(run["segments"] or 1) for run in of.finished(task, arm)}
        scored = of.test(task, arm) if segments and segments != {1} else []
        if not scored:
            continue
        trained = segments.pop()
        deepest = scored[0]["correct_by_segment"].shape[1]
        if "last" in (asked["to"], asked["from"]) and deepest <= trained:
            continue  # nothing was recorded beyond the trained depth
        matrices = []
        for name in (asked["to"], asked["from"]):
            if name in ("model", "oracle"):
                columns = [run[f"correct_{name}"] for run in scored]
            else:
                at = {"first": 0, "trained": min(trained, deepest) - 1, "last": -1}[name]
                columns = [run["correct_by_segment"][:, at] for run in scored]
            matrices.append(np.stack(columns).astype(float))
        found = stats.difference_interval(matrices[0] - matrices[1])
        mean, low, high = (float(v) for v in found)
        holds, why = (None, few(len(scored), of)) if few(len(scored), of) else (None, "")
        if not why:
            holds = beyond(low, high, asked.get("at_least", 0.0))
            why = "" if holds is not None else "the interval reaches across the threshold"
            band = of.suite.equivalence_band
            if holds is None and -band < low and high < band:
                holds, why = False, ""
        shown = f"{compare.points(mean)} {compare.interval(low, high)}"
        yield Outcome(task, shown, holds, why, (arm,), _cells(of, task, arm))


def auroc(of: Evidence, task: str, measure: Mapping[str, Any]) -> Iterator[Outcome]:
    """AUROC of the halting logit on test at the trained depth: the interval over seeds lies at or above `at_least`."""
    asked = measure["auroc"]
    for arm in asked["arms"]:
        own = [r for r in of.calibration if (r["task"], r["arm"], r["split"]) == (task, arm, "test") and r["trained"]]
        values = np.array([r["auroc"] for r in own if r["auroc"] is not None], dtype=float)
        if own:
            yield _over_seeds(of, task, arm, values, lambda low, high: _reached(low, high, asked)[0])


def early(of: Evidence, task: str, measure: Mapping[str, Any]) -> Iterator[Outcome]:
    """Share of test examples that halt by the model's rule within `steps` segments: at least `at_least`."""
    asked = measure["early"]
    for arm, scored in _recurrent(of, task, asked["arms"]):
        values = np.array([(run["halting_step"] <= asked["steps"]).mean() for run in scored])
        yield _over_seeds(of, task, arm, values, lambda low, high: _reached(low, high, asked)[0], percent=True)


def saved(of: Evidence, task: str, measure: Mapping[str, Any]) -> Iterator[Outcome]:
    """Share of segments that halting by the model's rule leaves out, where accuracy falls by no more than `loses`."""
    asked = measure["saved"]
    for arm, scored in _recurrent(of, task, asked["arms"]):
        segments = int(of.finished(task, arm)[0]["segments"])
        values = np.array([1 - run["halting_step"].mean() / segments for run in scored])
        halted, fixed = (np.stack([run[c] for run in scored]).astype(float) for c in ("correct_model", "correct"))
        mean, low, high = (float(v) for v in stats.difference_interval(halted - fixed))
        found = _over_seeds(of, task, arm, values, lambda a, b: _reached(a, b, asked)[0], percent=True)
        kept = beyond(low, high, -asked["loses"])
        if found.holds and kept is not True:
            why = "" if kept is False else "whether accuracy is kept is not settled"
            found = found._replace(holds=kept, why=why)
        shown = f"{found.measured} of the segments; accuracy {compare.points(mean)} {compare.interval(low, high)}"
        yield found._replace(measured=shown)


def spearman(of: Evidence, task: str, measure: Mapping[str, Any]) -> Iterator[Outcome]:
    """Rank correlation of halting step and difficulty over test examples: above 0."""
    for arm, scored in _recurrent(of, task, measure["spearman"]["arms"]):
        values = []
        for run in scored:
            known = ~np.isnan(run["difficulty"])
            found = rank_correlation(run["halting_step"][known], run["difficulty"][known])
            values += [] if found is None else [found]
        yield _over_seeds(of, task, arm, np.array(values), lambda low, high: beyond(low, high, 0.0))


def moving(of: Evidence, task: str, measure: Mapping[str, Any]) -> Iterator[Outcome]:
    """How far the state that is read out still moves in the last trained segment (states.csv): the first arm's further
    than the second's, paired by seed."""
    arms = measure["moving"]
    last: list[dict[int, float]] = []
    for arm in arms:
        trained = {run["segments"] for run in of.finished(task, arm)}
        last.append(
            {
                int(row["seed"]): float(row["residual"])
                for row in of.states
                if (row["task"], row["arm"]) == (task, arm)
                and row["state"] in ("z_H", "z")
                and row["segments"] in trained
            }
        )
    seeds = sorted(last[0].keys() & last[1].keys())
    if not seeds:
        return
    first, second = (np.array([own[seed] for seed in seeds]) for own in last)
    mean, (low, high) = float((first - second).mean()), student(first - second)
    shown = f"{first.mean():.3g} against {second.mean():.3g}, difference {mean:.3g} [{low:.3g}, {high:.3g}]"
    why = few(len(seeds), of)
    holds = None if why else beyond(low, high, 0.0)
    why = why or "the interval reaches across zero" * (holds is None)
    where = f"{task} ({' − '.join(of.suite.arm_label(arm) for arm in arms)})"
    yield Outcome(where, shown, holds, why, tuple(arms), " ".join(_cells(of, task, arm) for arm in arms))


def _recurrent(of: Evidence, task: str, arms: Sequence[str]) -> Iterator[tuple[str, list[Scored]]]:
    """Arms of several segments with their test examples by seed."""
    for arm in arms:
        runs = of.finished(task, arm)
        scored = of.test(task, arm) if runs and all((run["segments"] or 1) > 1 for run in runs) else []
        if scored:
            yield arm, scored


def _over_seeds(
    of: Evidence,
    task: str,
    arm: str,
    values: Floats,
    judge: Callable[[float, float], bool | None],
    percent: bool = False,
) -> Outcome:
    """One figure per seed: mean, Student's 95 % interval over seeds, and what the claim's threshold makes of it."""
    cells = _cells(of, task, arm)
    if len(values) == 0:
        return Outcome(task, "no figure", None, "it has no value in any seed (one kind of answer or step only)", (arm,))
    mean, (low, high) = float(values.mean()), student(values)
    factor, unit = (100, " %") if percent else (1, "")
    ends = "no interval from one seed" if np.isnan(low) else f"{factor * low:.3g}, {factor * high:.3g}"
    shown = f"{factor * mean:.3g}{unit} [{ends}]"
    why = few(len(values), of)
    holds = None if why else judge(low, high)
    return Outcome(
        task, shown, holds, why or "the interval reaches across the threshold" * (holds is None), (arm,), cells
    )


def student(values: Floats) -> tuple[float, float]:
    """Student's 95 % interval of a mean over seeds; NaN ends for one seed."""
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    half = float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / np.sqrt(n))
    return float(values.mean()) - half, float(values.mean()) + half


def _cells(of: Evidence, task: str, arm: str) -> str:
    return " ".join(run["cell_id"] for run in of.finished(task, arm))


MEASURES: dict[str, Measure] = {
    "difference": difference,
    "lead": lead,
    "level": level,
    "votes": votes,
    "depths": depths,
    "auroc": auroc,
    "early": early,
    "saved": saved,
    "spearman": spearman,
    "moving": moving,
}
