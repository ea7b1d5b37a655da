"""What `plan` prints: parameters, FLOPs, memory, disk, minutes on this machine, missing data, reachable verdicts."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harness.cell import Cell
from harness.execution.local import default_jobs
from harness.listing import table
from harness.matching import FLOPS_TOLERANCE
from harness.opponents import hrms, opponents
from harness.plan import Plan, ResolvedArm, TaskPlan
from harness.record import recorded
from harness.training.act import run_segment
from harness.training.trainer import DTYPES
from models.base import ModelShape, create_model
from tasks.base import Batch

PROBE_FLOPS = 4e9
"""Work of one probe update: large enough to time (0.05 s on one core), small enough for a 27 M model on a CPU."""

BYTES_PER_PARAMETER = 16  # float32 weight, gradient, two moments
BYTES_PER_TABLE_ENTRY = 4  # sign-SGD keeps no moments, and the gradient is sparse
EXAMPLE_BYTES = 38  # a row of examples.csv.gz, 18.6 measured on the tiny suite: the run's share and the joined table


def show_plan(plan: Plan, folder: Path) -> dict[str, Any]:
    """Print the plan for a reader; returns the same as a document."""
    torch.set_num_threads(plan.suite.threads)
    print(f"Suite {plan.suite.name}: {plan.suite.title}")
    print(f"device {plan.device.value} ({plan.device.reason}); {plan.suite.threads} thread(s) per cell")
    document: dict[str, Any] = {"suite": plan.suite.name, "tasks": {}}
    seconds = disk = memory = 0.0
    for task in plan.tasks.values():
        cells = [cell for cell in plan.cells if cell.task == task.name]
        shown = _task(plan, task, cells, folder)
        document["tasks"][task.name] = shown
        seconds += shown["seconds"]
        disk += shown["disk_mib"]
        memory = max(memory, shown["memory_mib"])
    jobs = default_jobs(plan)
    ready = [cell for cell in plan.cells if plan.tasks[cell.task].skipped is None]
    done = sum(recorded(folder / cell.run_folder).status == "finished" for cell in ready)
    print(
        f"\n{len(plan.cells)} cells: {done} finished already, {len(ready) - done} to run, "
        f"{len(plan.cells) - len(ready)} skipped"
    )
    print(f"about {duration(seconds / jobs)} on this machine with {jobs} job(s), by a probe of each arm")
    print(f"about {memory * jobs:,.0f} MiB of memory, {disk:,.0f} MiB of disk")
    return document | {
        "cells": len(plan.cells),
        "controls": len(plan.controls()),
        "trials": len(plan.trials()),
        "finished": done,
        "skipped": len(plan.cells) - len(ready),
        "minutes": round(seconds / jobs / 60, 1),
        "memory_mib": round(memory * jobs),
        "disk_mib": round(disk),
    }


def _task(plan: Plan, task: TaskPlan, cells: list[Cell], folder: Path) -> dict[str, Any]:
    """One task's part of the plan, printed and returned."""
    budget = task.recipe.budget
    print(f"\n{task.name}: {task.task.summary}")
    print(f"  budget {budget.amount:g} {budget.kind}, batch {task.recipe.batch_size}, {len(task.data)} seed(s), "
          f"precision {plan.precision[task.name].value} ({plan.precision[task.name].reason})")  # fmt: skip
    if task.skipped is not None:
        print(f"  skipped: {task.skipped.reason}")
        print(f"  remedy: {task.skipped.remedy}")
    else:
        for note in task.data[0].notes:
            print(f"  {note}")
    parameters: list[list[str]] = []
    costs: list[list[str]] = []
    shown: dict[str, Any] = {}
    seconds = disk = memory = 0.0
    for name in dict.fromkeys(cell.arm for cell in cells):
        arm = task.arms[name]
        open_cells = [c for c in cells if c.arm == name and recorded(folder / c.run_folder).status != "finished"]
        speed = None if task.skipped is not None else probe(plan, task, arm)
        train = _train_flops(task, arm)
        scored = _evaluation_flops(task, arm)
        arm_seconds = _seconds(task, train, scored, speed)
        per_parameter = BYTES_PER_PARAMETER + 4 * (task.recipe.ema is not None)
        dense = arm.cost.total - arm.cost.puzzle_table
        beside = _beside(task, name, arm, folder, speed)
        seconds += beside
        weights = per_parameter * dense + BYTES_PER_TABLE_ENTRY * arm.cost.puzzle_table
        arm_memory = (weights + arm.cost.activation_bytes) / 2**20 + 500
        seconds += arm_seconds * len(open_cells)
        disk += len(open_cells) * (4 * arm.cost.total + EXAMPLE_BYTES * _examples(task)) / 2**20
        memory = max(memory, arm_memory)
        cost = arm.cost
        counts = (cost.core, cost.embeddings, cost.heads, cost.puzzle_table, cost.total)
        parameters.append([name, *(f"{count:,}" for count in counts), *_mismatch(arm)])
        costs.append([
            name,
            f"{cost.layers_per_segment} × {cost.segments}",
            flops(cost.flops_per_answer),
            flops(cost.flops_per_update),
            "–" if train is None else flops(train),
            "–" if arm.updates is None else f"{arm.updates:,}",
            f"{arm_memory:,.0f} MiB",
            "–" if speed is None else duration(arm_seconds),
        ])  # fmt: skip
        shown[name] = {
            "parameters_core": cost.core,
            "parameters_total": cost.total,
            "match_error": arm.matched and (arm.matched.error_core, arm.matched.error_total),
            "match_error_flops": arm.matched and arm.matched.error_flops,
            "flops_per_answer": cost.flops_per_answer,
            "flops_train": train,
            "updates": arm.updates,
            "seconds": round(arm_seconds, 1),
            "config": arm.config.model_dump(mode="json"),
        }
    titles = ["core", "embeddings", "heads", "puzzle table", "all trained", "mismatch core / all", "FLOPs mismatch"]
    table("", ["arm", *titles], parameters)
    table(
        "",
        ["arm", "layers × segments", "per answer", "per update", "training", "updates", "memory", "time per cell"],
        costs,
    )
    for line in _side_lines(plan, task, folder):
        print(f"  {line}")
    matches = _matches(task, list(shown))
    for remark in _remarks(plan, task, list(shown)):
        print(f"  {remark}")
    print(f"  {reachable(plan, task)}")
    return {
        "arms": shown,
        "matches": matches,
        "skipped": None if task.skipped is None else str(task.skipped),
        "seconds": seconds,
        "disk_mib": disk,
        "memory_mib": memory,
        "verdicts": reachable(plan, task),
    }


def _side_cells(task: TaskPlan, arm: str) -> list[Cell]:
    """An arm's control and trials."""
    return [*([task.controls[arm]] if arm in task.controls else []), *(t.cell for t in task.trials.get(arm, ()))]


def _beside(task: TaskPlan, name: str, arm: ResolvedArm, folder: Path, speed: float | None) -> float:
    """Seconds of an arm's controls and trials that are still to run; their few evaluations come on top."""
    cells = _side_cells(task, name)
    still = [c for c in cells if recorded(folder / c.run_folder).status not in ("finished", "diverged")]
    updates = sum(cell.updates or 0 for cell in still)
    return 0.0 if speed is None else updates * arm.cost.flops_per_update / speed


def _side_lines(plan: Plan, task: TaskPlan, folder: Path) -> list[str]:
    """What controls and tuning come to."""
    lines, tuning, controls = [], plan.suite.tuning, plan.suite.controls
    if controls is not None and task.controls:
        lines.append(f"controls: {len(task.controls)} of {controls.updates} updates on shuffled labels, one per arm")
    if tuning is not None and task.trials:
        cells = [cell for arm in task.trials for cell in _side_cells(task, arm) if cell.purpose == "trial"]
        ended = sum(recorded(folder / cell.run_folder).status in ("finished", "diverged") for cell in cells)
        lines.append(
            f"tuning: {tuning.trials} trials of {tuning.updates} updates per arm, the same points for all; "
            f"{ended} of {len(cells)} made"
        )
        for arm, point in task.chosen.items():
            chose = "to be chosen" if point is None else f"{point.learning_rate:g} and {point.weight_decay:g}"
            lines.append(f"  {arm}: learning rate and weight decay {chose}")
    return lines


def _mismatch(arm: ResolvedArm) -> tuple[str, str]:
    """An arm against its reference: parameters, core and all, and FLOPs per answer."""
    if arm.matched is None:
        return "reference", "reference"
    assert arm.matched.error_flops is not None
    return f"{arm.matched.error_core:+.2%} / {arm.matched.error_total:+.2%}", f"{arm.matched.error_flops:+.1%}"


def _remarks(plan: Plan, task: TaskPlan, arms: list[str]) -> list[str]:
    """What a reader must know: splits that an arm can't read, matches unequal in something that their rule names."""
    remarks = []
    for name in arms:
        unread = task.not_scored.get(name, {})
        remarks += [f"{name}: not scored on {split}: {why}" for split, why in unread.items()]
        matched, match = task.arms[name].matched, plan.suite.arms[name].match
        if matched is None or match is None or matched.error_flops is None:
            continue
        if match.rule == "inference_flops_only":
            remarks.append(f"{name}: parameters are not matched to {match.to}'s ({matched.error_core:+.0%} core)")
        if match.rule.startswith("inference_flops") and abs(matched.error_flops) > FLOPS_TOLERANCE:
            remarks.append(
                f"{name}: FLOPs per answer differ from {match.to}'s by {matched.error_flops:+.1%}; "
                "no whole number of loops or layers comes nearer"
            )
    return remarks


def reachable(plan: Plan, task: TaskPlan) -> str:
    """Which verdicts this number of seeds can't reach."""
    from harness.analysis.compare import points
    from harness.analysis.stats import planned_difference, smallest_p

    seeds, least = len(task.data), plan.suite.minimum_seeds
    primary = plan.suite.tasks[task.name].primary
    if primary is None:
        return "no primary comparison is declared: figures are shown, no verdict"
    pair = f"{primary.arms[0]} against {primary.arms[1]}"
    if seeds < least:
        return f"{pair}: {seeds} seed(s), below the suite's {least}: shown, no verdict"
    p = smallest_p(seeds)
    note = "" if p <= 0.05 else "; the sign-flip test alone can't reach 0.05"
    test = min(task.data[0].sizes.get("test", 0), task.recipe.evaluation.test_examples or 10**12)
    sees = planned_difference(seeds, test)
    seen = "" if math.isnan(sees) else f"; about {points(sees)} can be seen with 80 % power, if {ASSUMPTION}"
    return f"{pair}: {seeds} seeds; an exact sign-flip test can't go below p = {p:.3f}{note}{seen}"


ASSUMPTION = (
    "seeds spread by 3 points, the arms disagree on 30 % of the examples, and half of that comes again with every seed"
)


def _matches(task: TaskPlan, shown: list[str]) -> dict[str, Any]:
    """What each HRM's fair opponents would be, whether or not the suite has them; printed and returned."""
    rows: list[list[str]] = []
    document: dict[str, Any] = {}
    for arm in hrms(task, shown):
        document[arm.name] = found = {}
        for one in opponents(task, arm):
            errors = one.matched and (one.matched.error_core, one.matched.error_total)
            found[one.rule] = {"model": one.model, "size": one.size, "match_error": errors, "updates": one.updates}
            core, total = (f"{error:+.1%}" for error in errors) if errors else ("–", "–")
            ratio = one.flops_per_answer / arm.cost.flops_per_answer - 1 if one.flops_per_answer else None
            rows.append([
                arm.name, one.rule, one.model, one.size, f"{core} / {total}", "–" if ratio is None else f"{ratio:+.0%}",
                "–" if one.updates is None else f"{one.updates:,}",
            ])  # fmt: skip
    if rows:
        titles = ["rule", "opponent", "size", "core / all", "FLOPs per answer", "updates"]
        table("each HRM's opponents at equal terms", ["HRM", *titles], rows)
    return document


def probe(plan: Plan, task: TaskPlan, arm: ResolvedArm) -> float:
    """FLOPs per second of one arm's training on this machine: a few updates on rows of padding."""
    rows = max(1, min(task.recipe.batch_size, int(PROBE_FLOPS * task.recipe.batch_size / arm.cost.flops_per_update)))
    shape = replace(ModelShape.of(task.task), num_puzzles=1)  # a puzzle table's size changes memory, not time
    device = torch.device(plan.device.value)
    dtype = DTYPES[plan.precision[task.name].value]
    model = create_model(arm.model, arm.config, shape, generator=torch.Generator(), dtype=dtype).to(device)
    kind = torch.float32 if shape.features else torch.int32
    inputs = torch.ones((rows, shape.sequence_length), dtype=kind, device=device)
    labels = torch.ones((rows, shape.answer_length), dtype=torch.int32, device=device)
    facts = {
        name: torch.zeros((rows, *size), dtype=torch.int64, device=device) for name, size in task.data[0].facts.items()
    }
    batch = Batch(inputs, labels, torch.zeros(rows, dtype=torch.int32, device=device), facts)
    steps = torch.ones(rows, dtype=torch.int32, device=device)

    def once() -> None:
        for _ in range(arm.loop.rollout):
            state = model.initial_state(batch)
            _, _, losses = run_segment(arm.loop, task.task, model, state, batch, steps, task.recipe.loss)
            losses.total.backward()
        float(losses.total.detach())  # waits for the device

    once()
    started, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - started < 0.2:
        once()
        count += 1
    per_update = arm.cost.flops_per_update * rows / task.recipe.batch_size
    return per_update * count / (time.perf_counter() - started)


def _train_flops(task: TaskPlan, arm: ResolvedArm) -> float | None:
    """Of the whole run; None where the budget does not fix it before the run."""
    if arm.updates is not None:
        return arm.updates * arm.cost.flops_per_update
    if task.recipe.budget.examples is not None:
        # a row stays for up to `segments` updates; its first answer is all that is certain before the run
        return task.recipe.budget.examples / task.recipe.batch_size * arm.cost.flops_per_update * arm.loop.segments
    return None


def _evaluation_flops(task: TaskPlan, arm: ResolvedArm) -> float:
    settings = task.recipe.evaluation
    recurrent = arm.loop.segments > 1
    depth = max(*settings.segments, arm.loop.segments) if recurrent else 1
    sizes = task.data[0].sizes
    validation = min(sizes.get("validation", 0), settings.validation_examples or 10**12)
    answers = settings.points * validation * arm.loop.segments + _examples(task) * depth
    asked = min(sizes.get("test", 0), settings.test_examples or 10**12) * settings.votes * len(settings.puzzle_ids)
    answers += asked * arm.loop.segments
    return answers * arm.cost.flops_per_segment


def _examples(task: TaskPlan) -> int:
    """Examples scored at the end."""
    limit = task.recipe.evaluation.test_examples or 10**12
    return sum(min(n, limit) for name, n in task.data[0].sizes.items() if name not in ("train", "validation"))


def _seconds(task: TaskPlan, train: float | None, scored: float, speed: float | None) -> float:
    if speed is None:
        return 0.0
    training = task.recipe.budget.amount if train is None else train / speed
    return training + scored / speed


def duration(seconds: float) -> str:
    """Time as a person says it: 40 s, 12 min, 7.5 h, 12 days."""
    for limit, factor, unit in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / factor:.2g} {unit}" if seconds / factor < 10 else f"{seconds / factor:.0f} {unit}"
    return f"{seconds / 86400:,.0f} days"


def flops(value: float) -> str:
    """A number of FLOPs with its SI prefix: 12.3 GFLOP."""
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}FLOP"
    return f"{value:.3g} FLOP"
