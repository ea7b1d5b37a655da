"""How a suite was measured: in words, the recipe that all arms share, and what differs between them."""

from __future__ import annotations

import json
from typing import Any

from harness.analysis import compare, stats
from harness.analysis.results import Suite, Tables
from harness.report import numbers
from harness.report.page import Cell, Row, Table, column

PROVENANCE = (
    ("", "machine"),
    ("device", "device"),
    ("precision", "precision"),
    ("threads per run", "threads"),
    ("Python", "python"),
    ("torch", "torch"),
    ("HRM-Bench", "harness_version"),
    ("commit", "commit"),
)


def flatten(document: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings as `optimizer.learning_rate` → text."""
    if not isinstance(document, dict):
        return {prefix: document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)}
    flat: dict[str, str] = {}
    for key, value in document.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def recipe_table(suite: Suite) -> Table:
    table = Table("Recipe shared by all arms", [column("setting"), column("value")])
    tuned = ("optimizer.learning_rate", "optimizer.weight_decay") if suite.tuning else ()  # each arm has its own
    shared = {key: value for key, value in flatten(suite.recipe).items() if value != "null" and key not in tuned}
    table.rows = [Row([Cell(key), Cell(value)]) for key, value in shared.items()]
    return table


def configuration_tables(tables: Tables) -> list[Table]:
    """What differs between arms, in recipe and in model, as resolved for the first task that they all finished."""
    finished = tables.runs[tables.runs["status"] == "finished"]
    for task, info in tables.suite.tasks.items():
        own = finished[finished["task"] == task]
        arms = [arm for arm in info.arms if arm in set(own["arm"])]
        if len(arms) == len(info.arms):
            break
    else:
        return []
    first = {arm: own[own["arm"] == arm].iloc[0] for arm in arms}
    documents = {
        arm: {kind: json.loads(row[kind] or "{}") for kind in ("recipe", "config")} for arm, row in first.items()
    }
    for arm, row in first.items():
        documents[arm]["run"] = {name: f"{row[name]:,.10g}" for name in ("budget", "updates", "batch_size", "segments")}
    table = Table(
        f"What differs between arms (on {task})",
        [column("setting"), *(column(tables.suite.arm_label(arm)) for arm in arms)],
        note="Every run's resolved recipe and configuration is in runs.csv.",
    )
    for kind, name in (("run", "run"), ("recipe", "recipe"), ("config", "model")):
        flat = {arm: flatten(documents[arm][kind], name) for arm in arms}
        for key in dict.fromkeys(key for arm in arms for key in flat[arm]):
            values = [flat[arm].get(key, numbers.NONE) for arm in arms]
            if len(set(values)) > 1:
                table.rows.append(Row([Cell(key), *(Cell(value) for value in values)]))
    return [table] if table.rows else []


def provenance(tables: Tables) -> str:
    """Where the finished runs were made, every distinct value named."""
    runs = tables.runs[tables.runs["status"] == "finished"]
    parts = []
    for title, name in PROVENANCE:
        values = dict.fromkeys(value for value in runs[name] if value not in ("", None))
        texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        if texts:
            parts.append(f"{title} {' and '.join(texts)}".strip())
    return "; ".join(parts) + "." if parts else "No run has finished."


def tuning(tables: Tables) -> str:
    """Which arms were tuned, how, and what was chosen."""
    if tables.tuning.empty:
        return "No tuning stage ran: all arms take the recipe's learning rate and weight decay (see Limits)."
    settings, parts = tables.suite.tuning or {}, []
    for task, rows in tables.tuning.groupby("task", sort=False):
        label = tables.suite.arm_label
        taken = [
            f"{label(str(row.arm))} {row.learning_rate:g} and {row.weight_decay:g} (trial {row.trial:g})"
            for row in rows[rows["selected"] == 1].itertuples()
        ]
        counts = {f"{len(own)} trials of {own['updates'].iloc[0]:g} updates" for _, own in rows.groupby("arm")}
        parts.append(f"{task}: {' or '.join(sorted(counts))} per arm; taken: {', '.join(taken) or 'none yet'}.")
    ends = [f"{name.replace('_', ' ')} {low:g} to {high:g}" for name in SPACE for low, high in [settings[name]]]
    return (
        f"Every arm of a task tried the same points of {' × '.join(ends)}, on a log scale, the recipe's own first, on "
        f"a seed of their own ({settings['seed']}). Learning rate and weight decay that were best on validation were "
        f"taken; no trial looked at test. tuning.csv has all trials. {' '.join(parts)}"
    )


SPACE = ("learning_rate", "weight_decay")


def how_measured(tables: Tables) -> list[tuple[str, str]]:
    """Headings with a paragraph each. The statistics are those of analysis/stats.py and analysis/compare.py."""
    suite = tables.suite
    primary = tables.comparisons[(tables.comparisons["role"] == "primary") & tables.comparisons["p_adjusted"].notna()]
    seeds = sorted({int(task.seeds) for task in suite.tasks.values()})
    reach = "; ".join(f"with {n} seeds it cannot go below p = {stats.smallest_p(n):.2g}" for n in seeds if n)
    band = f"{100 * suite.equivalence_band:g}"
    paragraphs = {
        "Same for every arm": """
            Data, the order of examples, augmentation, budget, loss, optimizer, schedule and precision. Data and their
            order depend on task and seed alone, so runs of one seed are paired across arms. Where training FLOPs are
            what is equal, the budget follows from them. What differs is listed below"""
        + (", but for the learning rate and weight decay that tuning chose." if suite.tuning else "."),
        "Selection": """
            A run's evaluation point is chosen on validation. The test split is looked at once, at that point.""",
        "Stopping rules": """
            fixed: the number of segments used in training. model: the arm halts by its own rule. oracle: the verifier
            stops at the first right answer, which no model can do by itself. Verdicts use the rule that the suite
            names, fixed unless a comparison says otherwise.""",
        "Intervals": """
            All runs of a task answer the same test examples, so seeds and examples are crossed. Intervals are for the
            mean over new seeds and new examples, by a two-way analysis of variance with a t correction for few seeds.
            Differences are paired by seed and example.""",
        "Verdicts": f"""
            One primary comparison per task is fixed in the suite before the run. The interval decides: its p, adjusted
            by Holm over the primary comparisons with enough seeds ({len(primary)} here), must be at most
            {compare.SIGNIFICANCE:g} for better or worse. No difference: the whole 95 % interval lies within ±{band}
            points, whatever its sign. Cannot tell: anything else, also where both arms reach
            {100 * compare.CEILING:g} % or neither is shown to be above the floor. Fewer than {suite.minimum_seeds}
            seeds: shown, no verdict.""",
        "Sign-flip test": f"""
            An exact test over seeds alone, reported beside the verdict; it does not decide: {reach}.""",
        "Design sees": """
            The true difference that this number of seeds and examples would find in 80 % of repetitions.""",
    }
    paragraphs["Tuning"] = tuning(tables)
    paragraphs["Machine"] = provenance(tables)
    return [(heading, " ".join(text.split())) for heading, text in paragraphs.items()]
