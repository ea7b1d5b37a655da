"""The answer first: one sentence per task; one click behind it how sure, at equal compute, by seed, which runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pandas as pd

from harness.analysis import compare
from harness.analysis.results import Tables
from harness.report import numbers
from harness.report.costs import TONES, matchings_table
from harness.report.page import Answer, Question, Row, Table, number
from harness.report.page import Cell as Field
from harness.report.plots import select
from harness.report.sources import source

NOT_RUN = "not run"
NO_COMPARISON = "no comparison"


def answer(tables: Tables, task: str) -> Answer:
    """What the suite's primary comparison says of a task, or why there is none."""
    anchor = f"task-{task}"
    rows = select(tables.comparisons, task=task, role="primary")
    runs = select(tables.runs, task=task)
    if len(rows):
        row: dict[str, Any] = rows.iloc[0].to_dict()
        sentence = _unbroken(row["sentence"])
        questions = [_sure(tables, row), _compute(tables, task), _seeds(tables, row), _runs(tables, row)]
        tone, why = TONES[row["verdict"]], why_open(tables, row)
        return Answer(task, row["verdict"], tone, brief(tables, row, why), sentence, anchor, why, questions)
    if (runs["status"] == "finished").any():
        words = f"The suite fixes no primary comparison for {task}."
        return Answer(task, NO_COMPARISON, "open", words, words, anchor)
    reasons = " ".join(dict.fromkeys(reason.rstrip(".") + "." for reason in runs["reason"] if reason))
    words = f"{task} has no finished run: {reasons or 'no cells were planned.'}"
    return Answer(task, NOT_RUN, "absent", words, words, anchor)


def headline(tables: Tables, answers: list[Answer]) -> str:
    """The pair of arms where all tasks have the same, and how often each verdict fell."""
    order = [*TONES, NO_COMPARISON, NOT_RUN]
    counts = Counter(answer.label for answer in answers)
    parts = [f"{counts[label]} {label}" for label in order if counts[label]]
    pairs = {task.primary.arms for task in tables.suite.tasks.values() if task.primary}
    who = ""
    if len(pairs) == 1:
        first, second = (tables.suite.arm_label(arm) for arm in pairs.pop())
        who = f"{first} against {second}, "
    return f"{who}{numbers.plural(len(answers), 'task')}: {' · '.join(parts)}"


def why_open(tables: Tables, row: dict[str, Any]) -> str:
    """Why it cannot be told, in few words: what would have to change. Empty where it can, or nobody has looked."""
    if row["verdict"] != compare.CANNOT_TELL:
        return ""
    if row["no_contrast"] or row["gate"]:
        return str(row["gate"] or row["no_contrast"])
    if not numbers.absent(row["seeds_needed"]) and (seeds := _settling(tables, row)) > row["seeds"]:
        return f"about {seeds:.0f} seeds would settle a difference of this size"
    adjusted = row["p_adjusted"]
    return "" if numbers.absent(adjusted) else f"adjusted p = {numbers.p_value(adjusted)}"


def _settling(tables: Tables, row: dict[str, Any]) -> float:
    """Seeds that settle a difference of this size, of those that a verdict may rest on."""
    return float(max(row["seeds_needed"], tables.suite.minimum_seeds))


def brief(tables: Tables, row: dict[str, Any], why: str = "") -> str:
    """One plain sentence: the verdict in words, both accuracies, the difference, its interval, and why it is open."""
    first, second = (tables.suite.arm_label(row[key]) for key in ("arm_a", "arm_b"))
    if numbers.absent(row["difference"]):
        return f"{first} and {second} have no seed in common that both finished."
    what = "of the answers" if row["metric"] == "exact" else "of the tokens"
    levels = f"{numbers.percent(row['mean_a'])} % against {numbers.percent(row['mean_b'])} % {what} right"
    gap = f"{_signed(row['difference'])} points {numbers.percent_range(row['low'], row['high'])}"
    start = {
        compare.BETTER: f"{first} is better than {second}",
        compare.WORSE: f"{first} is worse than {second}",
        compare.NO_DIFFERENCE: f"{first} and {second} do equally well",
        compare.CANNOT_TELL: f"It cannot be told whether {first} or {second} is better",
        compare.NO_VERDICT: f"{numbers.plural(row['seeds'], 'seed')} of {tables.suite.minimum_seeds} that a verdict "
        f"needs; so far {first} against {second}",
    }[row["verdict"]]
    more = [*_own_halting(tables, row), *_unlearned(tables, row)]
    return _unbroken(" ".join([f"{start}: {levels}, {gap}{'; ' * bool(why)}{why}.", *more]))


def _own_halting(tables: Tables, row: dict[str, Any]) -> Iterator[str]:
    """The same two arms, each stopped by its own halting head where it has one, on test."""
    pair = {name: row[name] for name in ("task", "arm_a", "arm_b")}
    if (row["split"], row["stopping"]) == ("test", "fixed"):
        for other in select(tables.comparisons, **pair, split="test", stopping="model").to_dict("records"):
            if not numbers.absent(other["difference"]):
                levels = f"{numbers.percent(other['mean_a'])} % against {numbers.percent(other['mean_b'])} %"
                ends = numbers.percent_range(other["low"], other["high"])
                yield f"Stopped by its own halting: {levels}, {_signed(other['difference'])} points {ends}."


def _unlearned(tables: Tables, row: dict[str, Any]) -> Iterator[str]:
    """That one of the arms is not shown to know more than a trivial predictor, where the other is. With fewer seeds
    than a verdict needs, intervals are too wide for that to mean anything."""
    if row["metric"] == "exact" and not row["no_contrast"]:
        for arm in (row["arm_a"], row["arm_b"]):
            levels = select(tables.levels, task=row["task"], arm=arm, split=row["split"], stopping=row["stopping"])
            for level in levels.to_dict("records"):
                known = not numbers.absent(level["floor"]) and level["seeds"] >= tables.suite.minimum_seeds
                if known and not compare.above(level["low"], level["high"], level["floor"]):
                    floor = numbers.percent(level["floor"])
                    yield f"{tables.suite.arm_label(arm)} is not shown to be above the floor of {floor} %."


def _signed(fraction: float) -> str:
    text = numbers.percent(fraction)
    return f"+{text}" if fraction > 0 and text != "0.0" else text


def _unbroken(text: str) -> str:
    """No line may end in `p =`, or within an interval."""
    text = text.replace(" = ", "\u00a0=\u00a0").replace(" %", "\u00a0%")
    return re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\u00a0"), text)


def _sure(tables: Tables, row: dict[str, Any]) -> Question:
    lines = [_unbroken(row["sentence"])]
    if not numbers.absent(row["low"]):
        lines.append(
            f"The interval {numbers.percent_range(row['low'], row['high'])} counts new seeds and new examples: of 100 "
            "such experiments, about 95 give one that holds the true difference."
        )
    ps = (("p", "p"), ("p_adjusted", "adjusted over the primary comparisons (Holm)"), ("p_sign_flip", "sign flip"))
    found = [f"{words} {numbers.p_value(row[name])}" for name, words in ps if not numbers.absent(row[name])]
    decides = "" if numbers.absent(row["p_adjusted"]) else "; the adjusted one decides"
    lines += [f"p-values: {', '.join(found)}{decides}."] if found else []
    if row["no_contrast"]:
        lines.append(f"No contrast: {row['no_contrast']}.")
    if row["gate"]:
        return Question("How sure?", [*lines, f"A validity gate is shut: {row['gate']}."])
    settled = row["verdict"] in (compare.BETTER, compare.WORSE, compare.NO_DIFFERENCE)
    if settled or row["no_contrast"] or numbers.absent(row["low"]):
        return Question("How sure?", lines)
    if not numbers.absent(row["seeds_needed"]):
        seeds = _settling(tables, row)
        if seeds > row["seeds"]:
            lines.append(f"About {seeds:.0f} seeds would settle a difference of this size (80 % power).")
        else:
            lines.append("With as many seeds a difference of this size is mostly settled; here it was not.")
    else:
        lines.append("Not even 1,000 seeds would settle a difference of this size with these test examples.")
    return Question("How sure?", lines)


def _compute(tables: Tables, task: str) -> Question:
    table = matchings_table(tables, task, brief=True)
    words = "Which arms have what in common with the first one, and what becomes of the difference then."
    if not table.rows:
        return Question("At equal compute?", ["No arm of this task is matched to another."])
    return Question("At equal compute?", [words], table)


def _seeds(tables: Tables, row: dict[str, Any]) -> Question:
    first, second = row["arm_a"], row["arm_b"]
    usual = (row["metric"], row["split"], row["stopping"]) == ("exact", "test", "fixed")
    runs = select(tables.runs, task=row["task"], status="finished")
    scores = runs.pivot_table(index="seed", columns="arm", values="test_exact")
    both = scores.reindex(columns=[first, second]).dropna() if len(scores) else pd.DataFrame()
    if both.empty:
        return Question("What about seeds?", ["No seed was finished by both arms."])
    gaps = both[first] - both[second]
    ahead = int((gaps > 0).sum())
    label = tables.suite.arm_label
    words = f"{label(first)} is ahead in {ahead} of {numbers.plural(len(gaps), 'seed')}"
    words += "." if usual else ", in exact accuracy on test at the trained depth."
    table = Table(
        "By seed, exact accuracy on test (%)",
        [number("seed"), number(label(first)), number(label(second)), number("difference (points)")],
    )
    for (seed, own), gap in zip(both.iterrows(), gaps, strict=True):
        shown = [Field(numbers.percent(own[arm]), own[arm]) for arm in (first, second)]
        table.rows.append(Row([Field(f"{seed:.0f}", float(f"{seed:.0f}")), *shown, Field(_signed(gap), gap)]))
    return Question("What about seeds?", [words], table)


def _runs(tables: Tables, row: dict[str, Any]) -> Question:
    return Question("Which runs are these?", [], source=source(tables, row["cells"]))
