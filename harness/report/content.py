"""What a report says: a suite's tables turned into the parts of a page. How they look is the templates' business."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from harness.analysis import compare
from harness.analysis.results import Suite, SuiteTask, Tables
from harness.analysis.unsafe import unsafe_runs, warning
from harness.report import numbers
from harness.report.claims import claim_tables
from harness.report.figures import Figure
from harness.report.gates import failures, gate_table
from harness.report.histograms import histogram_tables
from harness.report.learned import learned_table
from harness.report.method import configuration_tables, how_measured, recipe_table
from harness.report.over_tasks import overall_tables
from harness.report.page import Answer, Cell, Page, Row, Table, TaskSection, column, number, prose
from harness.report.plots import select, suite_looks
from harness.report.samples import samples_table
from harness.report.votes import votes_table

TONES = {
    compare.BETTER: "better",
    compare.WORSE: "worse",
    compare.NO_DIFFERENCE: "same",
    compare.CANNOT_TELL: "open",
    compare.NO_VERDICT: "shown",
}
NOT_RUN = "not run"


def page(tables: Tables, figures: Mapping[str, list[Figure]], results_href: str) -> Page:
    """The whole report. `figures` by task, the overview under ""; `results_href` leads from the page to the results."""
    suite = tables.suite
    answers = [_answer(tables, task) for task in suite.tasks]
    status = Counter(tables.runs["status"])
    total = f"{status['finished']} of {len(tables.runs)} runs finished"
    rest = [f"{n} {_status(name)}" for name, n in sorted(status.items()) if name != "finished"]
    return Page(
        title=suite.title,
        suite=suite.name,
        summary=suite.summary,
        meta=" · ".join([f"Suite {suite.name}", suite.created.replace("T", " ")[:16], ", ".join([total, *rest])]),
        headline=_headline(tables, answers),
        answers=answers,
        overview=figures.get("", []),
        compared=[
            _arms(suite, tables),
            learned_table(tables, _arm_cell),
            *overall_tables(tables, _arm_cell),
            *_costs(tables),
        ],
        tasks=[_section(tables, answer, figures.get(answer.task, [])) for answer in answers],
        claims=claim_tables(tables),
        how=how_measured(tables),
        how_tables=[recipe_table(suite), *configuration_tables(tables)],
        proxy=PROXY if suite.proxy else "",
        limits=_limits(tables),
        limit_tables=_unfinished(tables),
        runs=_runs(tables, results_href),
        command=suite.command,
        warning=warning(run["task"] for run in unsafe_runs(tables.runs.to_dict("records"))),
    )


PROXY = (
    "This is a proxy suite: models, data and budgets are smaller than in the publications. A figure here neither "
    "confirms nor refutes a published figure; it says what happens at this size."
)


def _status(name: str) -> str:
    return "not run yet" if name == "planned" else name


def _runs_link(cells: str) -> Cell:
    ids = cells.split()
    return Cell(numbers.plural(len(ids), "run"), len(ids), f"#run-{ids[0]}" if ids else "", cells)


# -- the answer ------------------------------------------------------------------------------------------------


def _answer(tables: Tables, task: str) -> Answer:
    anchor = f"task-{task}"
    rows = select(tables.comparisons, task=task, role="primary")
    runs = select(tables.runs, task=task)
    if len(rows):
        row = rows.iloc[0]
        sentence = row["sentence"].replace(" = ", "\u00a0=\u00a0")  # no line may end in "p ="
        return Answer(task, row["verdict"], TONES[row["verdict"]], sentence, anchor)
    if (runs["status"] == "finished").any():
        return Answer(task, "no comparison", "open", f"The suite fixes no primary comparison for {task}.", anchor)
    reasons = " ".join(dict.fromkeys(reason.rstrip(".") + "." for reason in runs["reason"] if reason))
    return Answer(task, NOT_RUN, "absent", f"{task} has no finished run: {reasons or 'no cells were planned.'}", anchor)


def _headline(tables: Tables, answers: list[Answer]) -> str:
    order = [*TONES, "no comparison", NOT_RUN]
    counts = Counter(answer.label for answer in answers)
    parts = [f"{counts[label]} {label}" for label in order if counts[label]]
    pairs = {task.primary.arms for task in tables.suite.tasks.values() if task.primary}
    who = ""
    if len(pairs) == 1:
        first, second = (tables.suite.arm_label(arm) for arm in pairs.pop())
        who = f"{first} against {second}, "
    return f"{who}{numbers.plural(len(answers), 'task')}: {' · '.join(parts)}"


# -- what was compared -----------------------------------------------------------------------------------------


def _arm_cell(tables: Tables, arm: str) -> Cell:
    look = suite_looks(tables).get(arm)
    return Cell(look.label, arm, chip=look.colour, glyph=look.glyph) if look else Cell(arm, arm)


def _arms(suite: Suite, tables: Tables) -> Table:
    table = Table("Arms", [*(column(t) for t in ("arm", "model", "matched to", "what is equal")), prose("what it is")])
    for name, arm in suite.arms.items():
        to, rule = (arm.match.to, compare.rule_in_words(arm.match.rule)) if arm.match else (numbers.NONE, "reference")
        words = [Cell(text) for text in (arm.model, to, rule, arm.summary)]
        table.rows.append(Row([_arm_cell(tables, name), *words]))
    return table


PARAMETERS = (
    ("core", "parameters_core"),
    ("embeddings", "parameters_embeddings"),
    ("heads", "parameters_heads"),
    ("puzzle table", "parameters_puzzle_table"),
    ("total trained", "parameters_total"),
    ("never trained", "parameters_never_trained"),
)
MATCHES = (("core against reference (%)", "match_error_core"), ("total against reference (%)", "match_error_total"))
FLOPS = (("per answer", "flops_per_answer"), ("per update", "flops_per_update"), ("per run", "flops_train"))


def _costs(tables: Tables) -> list[Table]:
    """Parameters by group, and the work behind an answer, an update and a run; one row per task and arm."""
    runs = select(tables.runs, status="finished")
    groups = [(title, name) for title, name in PARAMETERS if name != "parameters_puzzle_table" or runs[name].any()]
    sizes = Table(
        "Parameters by group",
        [column("task"), column("arm"), *(number(title) for title, _ in groups + list(MATCHES))],
        note="Core parameters are without embeddings, heads and puzzle table; they are what is matched.",
    )
    work = Table(
        "Compute",
        [
            *(column("task"), column("arm"), number("segments")),
            *(number(t) for t in ("layers per segment", "layers per answer")),
            *(number(f"FLOPs {title}") for title, _ in FLOPS),
            number("per answer against reference (%)"),
            *(number(t) for t in ("updates", "examples seen", "of them distinct", "seconds")),
        ],
        note="Layers are layer applications: each use of a layer counts. Updates, examples and seconds are means over "
        "the runs. Seconds are training without evaluation, and comparable only on one machine.",
    )
    for (task, arm), own in runs.groupby(["task", "arm"], sort=False):
        first = own.iloc[0]
        start = [Cell(str(task)), _arm_cell(tables, str(arm))]
        matched = [Cell(_plus(first[name]), first[name]) for _, name in MATCHES]
        sizes.rows.append(Row([*start, *(Cell(numbers.count(first[n]), first[n]) for _, n in groups), *matched]))
        layers = ("segments", "layers_per_segment", "layers_per_answer")
        flops = [Cell(numbers.si(first[n], "FLOP"), first[n]) for _, n in FLOPS]
        flops.append(Cell(_plus(first["match_error_flops"]), first["match_error_flops"]))
        means = [own[name].mean() for name in ("updates", "examples_seen", "examples_distinct")]
        seconds = own["seconds_train"].mean()
        ending = [*(Cell(numbers.count(mean), mean) for mean in means), Cell(numbers.short(seconds), seconds)]
        work.rows.append(Row([*start, *(Cell(numbers.count(first[n]), first[n]) for n in layers), *flops, *ending]))
    return [sizes, work]


def _plus(share: float) -> str:
    text = numbers.NONE if numbers.absent(share) else numbers.signed(100 * share, 2)
    return f"+{text}" if not numbers.absent(share) and share > 0 and float(text) else text


# -- evidence --------------------------------------------------------------------------------------------------


def _origin(info: SuiteTask) -> str:
    """Where the data come from, and under which licence."""
    return f"{info.source}; {info.licence}" if info.real_data else info.licence or info.source


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted keys."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _section(tables: Tables, answer: Answer, figures: list[Figure]) -> TaskSection:
    info = tables.suite.tasks[answer.task]
    floor = select(tables.levels, task=answer.task, split="test")["floor"].dropna()
    level = f" ({numbers.percent(floor.iloc[0])} %)" if len(floor) else ""
    facts = [
        ("Task", info.summary),
        ("Right means", info.exact_means),
        ("Floor", f"{info.floor_note}{level}" if info.floor_note or level else ""),
        ("Data", _origin(info)),
        ("Not held out", "; ".join(f"{split}: {reason}" for split, reason in info.in_sample.items())),
        ("Scaling", info.scaling),
        ("Settings", ", ".join(f"{k} = {v}" for k, v in _flat(info.settings) if k[:5] != "axes." or v)),
        ("Recipe of its own", ", ".join(f"{k} = {v}" for k, v in _flat(info.recipe))),
        ("Arms of its own", ", ".join(f"{k} = {v}" for k, v in _flat(info.overrides))),
    ]
    shown = [make(tables, answer.task) for make in (_levels, _comparisons, _halting_heads, _metrics)]
    shown += histogram_tables(tables, answer.task)
    shown.append(votes_table(tables, answer.task, _arm_cell))
    shown += [samples_table(tables, answer.task, _arm_cell), gate_table(tables, answer.task)]
    return TaskSection(
        name=answer.task,
        anchor=answer.anchor,
        answer=answer,
        facts=[(name, text) for name, text in facts if text],
        tables=[table for table in shown if table.rows],
        figures=figures if answer.label != NOT_RUN else [],
    )


def _levels(tables: Tables, task: str) -> Table:
    titles = ("exact (%)", "95 % interval", "lowest to highest seed", "floor (%)", "seeds", "examples")
    table = Table(
        f"Exact accuracy on {task}",
        [column("arm"), column("split"), column("stopping"), *(number(t) for t in titles), column("runs")],
        note="Interval over seeds and examples, none for a single seed. oracle is an upper bound, not a score. "
        "floor: predictors that learn nothing of the task; the best of them is the floor of the split.",
    )
    planned = tables.suite.tasks[task].seeds
    for row in select(tables.levels, task=task, metric="exact").to_dict("records"):
        table.rows.append(
            Row([
                _arm_cell(tables, row["arm"]),
                Cell(row["split"]),
                Cell(row["stopping"]),
                Cell(numbers.percent(row["mean"]), row["mean"]),
                Cell(numbers.percent_range(row["low"], row["high"]), row["low"]),
                Cell(f"{numbers.percent(row['seed_min'])} – {numbers.percent(row['seed_max'])}", row["seed_min"]),
                Cell(numbers.percent(row["floor"]), row["floor"]),
                Cell(f"{row['seeds']:.0f}" + (f" of {planned}" if row["seeds"] < planned else ""), row["seeds"]),
                Cell(numbers.count(row["examples"]), row["examples"]),
                _runs_link(row["cells"]),
            ])
        )  # fmt: skip
    table.rows += _reference_rows(tables, task)
    return table


PREDICTORS = {
    "constant": "most frequent answer",
    "majority-token": "most frequent token per position",
    "copy-input": "copy of the input",
    "lookup": "training looked up",
    "exact-solver": "exact solver",
}


def _reference_rows(tables: Tables, task: str) -> Iterator[Row]:
    """Floors and ceiling beside the arms, in the columns of `_levels`."""
    rows = select(tables.references, task=task, metric="exact")
    rows = rows[rows["value"].notna()]
    for (split, predictor, kind), own in rows.groupby(["split", "predictor", "kind"], sort=False):
        values, seeds = own["value"], own["seed"].nunique()
        spread = f"{numbers.percent(values.min())} – {numbers.percent(values.max())}"
        nothing = Cell(numbers.NONE)
        yield Row([
            Cell(f"{kind}: {PREDICTORS.get(str(predictor), str(predictor))}"),
            Cell(str(split)),
            nothing,
            Cell(numbers.percent(values.mean()), values.mean()),
            nothing,
            Cell(spread, values.min()),
            nothing,
            Cell(str(seeds), seeds),
            Cell(numbers.count(own["examples"].iloc[0]), own["examples"].iloc[0]),
            nothing,
        ])  # fmt: skip


def _halting_heads(tables: Tables, task: str) -> Table:
    """Whether the halting logit knows right answers from wrong ones, at the trained depth: by arm and split."""
    titles = ("AUROC", "lowest to highest seed", "calibration error", "mean σ(q)", "right (%)", "seeds")
    table = Table(
        f"Halting heads on {task}",
        [column("arm"), column("split"), *(number(title) for title in titles), prose("no AUROC where")],
        note="AUROC of the halting logit against right or wrong after the trained number of segments: 0.5 knows "
        "nothing, 1 knows all. Means over seeds. calibration.csv has every depth.",
    )
    for (arm, split), own in select(tables.calibration, task=task, trained=1).groupby(["arm", "split"], sort=False):
        area = own["auroc"].dropna()
        right = own["right"].sum() / (own["right"] + own["wrong"]).sum()
        spread = f"{numbers.short(area.min())} – {numbers.short(area.max())}" if len(area) else numbers.NONE
        lost = own[own["auroc"].isna()]
        reasons = "; ".join(f"seed {seed:.0f}: {why}" for seed, why in zip(lost["seed"], lost["reason"], strict=True))
        figures = [
            Cell(numbers.short(area.mean()), area.mean()),
            Cell(spread, area.min()),
            *(Cell(numbers.short(own[name].mean()), own[name].mean()) for name in ("calibration_error", "confidence")),
            Cell(numbers.percent(right), right),
        ]
        seeds = Cell(str(len(own)), len(own))
        table.rows.append(Row([_arm_cell(tables, str(arm)), Cell(str(split)), *figures, seeds, Cell(reasons)]))
    return table


def _comparisons(tables: Tables, task: str) -> Table:
    titles = ("p", "p, Holm", "p, sign flip", "design sees (points)", "seeds × examples")
    table = Table(
        f"Differences on {task}",
        [
            *(column(t) for t in ("verdict", "first − second")),
            *(number(t) for t in ("difference (points)", "95 % interval")),
            *(column(t) for t in ("split", "role")),
            *(number(t) for t in titles),
            *(column(t) for t in ("runs", "what is equal")),
        ],
        note="Verdicts speak of the first arm. Secondary comparisons are not adjusted for their number: "
        "read them as description.",
    )
    for row in select(tables.comparisons, task=task).to_dict("records"):
        names = [tables.suite.arm_label(row[key]) for key in ("arm_a", "arm_b")]
        table.rows.append(
            Row([
                Cell(row["verdict"], tone=TONES[row["verdict"]] + " quiet" * (row["role"] != "primary")),
                Cell(" − ".join(names)),
                Cell(numbers.percent(row["difference"]), row["difference"]),
                Cell(numbers.percent_range(row["low"], row["high"]), row["low"]),
                Cell(row["split"] + _unusual(row)),
                Cell(row["role"]),
                *(Cell(numbers.p_value(row[key]), row[key]) for key in ("p", "p_adjusted", "p_sign_flip")),
                Cell(_detectable(row["smallest_detectable"]), row["smallest_detectable"]),
                Cell(f"{row['seeds']:.0f} × {row['examples']:.0f}", row["seeds"] * row["examples"]),
                _runs_link(row["cells"]),
                Cell(compare.rule_in_words(row["matching_rule"]) or numbers.NONE),
            ])
        )  # fmt: skip
    return table


def _detectable(fraction: float) -> str:
    return ">100" if fraction > 1 else numbers.percent(fraction)


def _unusual(row: Mapping[str, Any]) -> str:
    usual = (row["metric"], row["stopping"]) == ("exact", "fixed")
    return "" if usual else f", {row['metric']}, {row['stopping']}"


def _metrics(tables: Tables, task: str) -> Table:
    """Token accuracy and what the task measures besides, at the trained depth: mean over seeds by arm."""
    metrics = select(tables.metrics, task=task, group="all")
    metrics = metrics[(metrics["metric"] != "exact") & (metrics["split"] != "validation")]
    arms = [arm for arm in tables.suite.tasks[task].arms if arm in set(metrics["arm"])]
    table = Table(
        f"Further figures on {task}",
        [*(column(t) for t in ("figure", "split", "stopping")), *(number(tables.suite.arm_label(arm)) for arm in arms)],
        note=" ".join(
            ["Mean over examples and seeds, in brackets the lowest and highest seed."]
            + [f"{name}: {note.rstrip('.')}." for name, note in tables.suite.tasks[task].metric_notes.items()]
        ),
    )
    for (metric, split, stopping), own in metrics.groupby(["metric", "split", "stopping"], sort=False):
        row = [Cell(str(metric)), Cell(str(split)), Cell(str(stopping))]
        for arm in arms:
            values = select(own, arm=arm)["value"]
            mean, low, high = (numbers.short(v) for v in (values.mean(), values.min(), values.max()))
            row.append(Cell(f"{mean} [{low}, {high}]", values.mean()) if len(values) else Cell(numbers.NONE))
        table.rows.append(Row(row))
    return table


# -- limits, runs -----------------------------------------------------------------------------------------------


def _limits(tables: Tables) -> list[str]:
    suite, limits = tables.suite, list(tables.suite.limits)
    few = [
        f"{name} ({task.seeds})" for name, task in suite.tasks.items()
        if task.seeds < suite.minimum_seeds and (select(tables.runs, task=name)["status"] == "finished").any()
    ]  # fmt: skip
    if few:
        limits.append(f"Too few seeds for a verdict, which needs {suite.minimum_seeds}: {', '.join(few)}.")
    limits += [
        f"On {name}, {suite.arm_label(arm)} is not scored on {split}: {why}."
        for name, task in suite.tasks.items()
        for arm, splits in task.not_scored.items()
        if arm in task.arms
        for split, why in splits.items()
    ]
    limits += failures(tables, suite.arm_label)
    lost = tables.runs["status"].isin(["failed", "diverged"]).sum()
    if lost:
        limits.append(
            f"{numbers.plural(lost, 'run')} failed or diverged: in no mean, which flatters the arm that lost them."
        )
    return limits


def _unfinished(tables: Tables) -> list[Table]:
    runs = tables.runs[tables.runs["status"] != "finished"]
    if runs.empty:
        return []
    table = Table("Cells without a result", [*(column(t) for t in ("status", "task", "arm", "seeds")), prose("reason")])
    for (status, task, reason), own in runs.groupby(["status", "task", "reason"], sort=False):
        arms = dict.fromkeys(own["arm"])
        everything = len(arms) == len(tables.suite.tasks[str(task)].arms) and len(arms) > 1
        names = "all" if everything else ", ".join(tables.suite.arm_label(arm) for arm in arms)
        seeds = ", ".join(str(int(seed)) for seed in sorted(set(own["seed"])))
        table.rows.append(
            Row([Cell(_status(str(status))), Cell(str(task)), Cell(names), Cell(seeds), Cell(str(reason))])
        )
    return [table]


def _runs(tables: Tables, results_href: str) -> Table:
    figures = ("test exact (%)", "update chosen", "updates", "examples seen", "distinct", "seconds")
    table = Table(
        "Every planned run",
        [
            *(column("task"), column("arm"), number("seed"), column("status")),
            *(number(title) for title in figures),
            *(column(title) for title in ("device", "precision", "commit", "folder", "command")),
        ],
        note="The command remakes the runs of a task and arm whose folders are gone.",
    )
    for row in tables.runs.to_dict("records"):
        counts = [row[name] for name in ("selected_update", "updates", "examples_seen", "examples_distinct")]
        table.rows.append(
            Row(
                [
                    Cell(row["task"]),
                    _arm_cell(tables, row["arm"]),
                    Cell(numbers.count(row["seed"]), row["seed"]),
                    Cell(_status(row["status"])),
                    Cell(numbers.percent(row["test_exact"]), row["test_exact"]),
                    *(Cell(numbers.count(value), value) for value in counts),
                    Cell(numbers.short(row["seconds_train"]), row["seconds_train"]),
                    *(Cell(row[name] or numbers.NONE) for name in ("device", "precision", "commit")),
                    Cell("open", row["run_folder"], f"{results_href}/{row['run_folder']}")
                    if row["run_folder"] and row["status"] not in ("planned", "skipped")
                    else Cell(numbers.NONE),
                    Cell(command(tables.suite.command, row["task"], row["arm"]), code=True),
                ],
                anchor=f"run-{row['cell_id']}",
            )
        )
    return table


def command(suite_command: str, task: str, arm: str) -> str:
    """The suite's command, narrowed to one task and arm."""
    words, kept = shlex.split(suite_command), []
    while words:
        word = words.pop(0)
        if word in ("--tasks", "--arms"):
            while words and not words[0].startswith("-"):
                words.pop(0)
        elif not word.startswith(("--tasks=", "--arms=")):
            kept.append(word)
    return shlex.join([*kept, "--tasks", task, "--arms", arm])
