"""Suite → cells: tasks built, arms resolved and matched, costs counted, ids hashed. Nothing is trained here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import data as data_sets
from harness.cell import Cell
from harness.cost import Cost, measure
from harness.data import DataSet
from harness.errors import MissingData, UserError, did_you_mean
from harness.matching import SOLVED, Matched, Reference, match_arm
from harness.recipe import ONE_PASS, Loop, Recipe
from harness.schema import validated
from harness.side_cells import Trial, chosen, control_of, trials_of, tuned
from harness.suite import Arm, Suite, deep_merge
from harness.training.device import Choice, choose_device, choose_precision
from harness.training.losses import LOSSES
from harness.training.trainer import DTYPES, check_ranks
from harness.tuning import Point
from models.base import MODELS, PRESET_LOOPS, ModelConfig, ModelShape, ReasoningModel, create_model, resolve_config
from tasks.base import DataFolder, Task, create_task


@dataclass(frozen=True)
class ResolvedArm:
    """An arm on one task: its configuration, loop and cost, and how it was matched."""

    name: str
    model: str
    config: ModelConfig
    loop: Loop
    cost: Cost
    updates: int | None
    matched: Matched | None = None


@dataclass
class TaskPlan:
    """One task of the suite: either ready to run, or skipped with the reason and the remedy."""

    name: str
    task: Task
    recipe: Recipe
    arms: dict[str, ResolvedArm] = field(default_factory=dict)
    data: dict[int, DataSet] = field(default_factory=dict)  # by seed
    trial_data: DataSet | None = None  # of the tuning stage
    trials: dict[str, list[Trial]] = field(default_factory=dict)  # by arm
    chosen: dict[str, Point | None] = field(default_factory=dict)  # by arm with trials; None: not all have ended well
    controls: dict[str, Cell] = field(default_factory=dict)  # by arm
    skipped: MissingData | None = None
    not_scored: dict[str, dict[str, str]] = field(default_factory=dict)  # arm → split that it can't read → why

    def data_of(self, cell: Cell) -> DataSet:
        """What a cell trains on."""
        if cell.purpose == "trial":
            assert self.trial_data is not None
            return self.trial_data
        return self.data[cell.seed]


@dataclass
class Plan:
    suite: Suite
    tasks: dict[str, TaskPlan]
    cells: list[Cell]
    device: Choice
    precision: dict[str, Choice]  # by task
    data_store: Path
    deterministic: bool = False  # asked for, and on a device where it makes a difference
    ranks: int = 1  # processes that train each cell together

    def controls(self) -> list[Cell]:
        return [cell for task in self.tasks.values() for cell in task.controls.values()]

    def trials(self) -> list[Cell]:
        return [trial.cell for task in self.tasks.values() for own in task.trials.values() for trial in own]

    def undecided(self) -> list[tuple[str, str]]:
        """(task, arm) whose learning rate and weight decay the trials have not chosen yet: their cells are not run."""
        return [(task.name, arm) for task in self.tasks.values() for arm, point in task.chosen.items() if point is None]

    def skipped(self) -> list[TaskPlan]:
        return [task for task in self.tasks.values() if task.skipped is not None]


@dataclass(frozen=True)
class Selection:
    """Which part of a suite is asked for; None means all."""

    tasks: Sequence[str] | None = None
    arms: Sequence[str] | None = None
    seeds: int | None = None

    def check(self, suite: Suite) -> None:
        for kind, wanted, known in (("task", self.tasks, suite.tasks), ("arm", self.arms, suite.arms)):
            for name in wanted or ():
                if name not in known:
                    raise UserError(f'suite {suite.name} has no {kind} "{name}"{did_you_mean(name, known)}')


def make_plan(
    suite: Suite,
    data: DataFolder,
    results: Path,
    selection: Selection | None = None,
    *,
    deterministic: bool = False,
    ranks: int = 1,
) -> Plan:
    """All cells of the selection, in the order of the suite: task, then seed, then arm.

    Seeds go before arms, so that a run cut short has whole pairs. Raises UserError for whatever can't be planned;
    a data set that is merely absent marks its task as skipped.
    """
    selection = selection or Selection()
    selection.check(suite)
    device = choose_device(suite.device)
    store = results.parent / "data"
    plan = Plan(suite, {}, [], device, {}, store, deterministic and device.value == "cuda", ranks)
    for name, entry in suite.tasks.items():
        if selection.tasks is not None and name not in selection.tasks:
            continue
        task = create_task(entry.task or name, dict(entry.settings))
        recipe = suite.recipe_of(name)
        task_plan = plan.tasks[name] = TaskPlan(name, task, recipe)
        _check_votes(suite, name, task, recipe)
        check_ranks(recipe, ranks)
        plan.precision[name] = choose_precision(recipe.precision, device.value)
        task_plan.arms = _resolve_arms(suite, name, task, recipe, plan.precision[name].value)
        try:
            for seed in range(selection.seeds or entry.seeds):
                task_plan.data[seed] = data_sets.prepare(task, seed, data, store)
            if suite.tuning is not None:
                task_plan.trial_data = data_sets.prepare(task, suite.tuning.seed, data, store)
        except MissingData as missing:
            task_plan.skipped = missing
            task_plan.data = dict.fromkeys(range(selection.seeds or entry.seeds), _ABSENT)
        task_plan.not_scored = _unreadable(task_plan)
        wanted = [arm for arm in suite.arms_of(name) if selection.arms is None or arm in selection.arms]
        _add_side_cells(plan, task_plan, wanted, results)
        plan.cells += [_cell(plan, task_plan, task_plan.arms[arm], seed) for seed in task_plan.data for arm in wanted]
    return plan


def _add_side_cells(plan: Plan, task_plan: TaskPlan, arms: Sequence[str], results: Path) -> None:
    """Trials and what they chose, then controls, which take what was chosen."""
    if task_plan.skipped is not None:
        return
    tuning, controls = plan.suite.tuning, plan.suite.controls
    for name in arms:
        arm = task_plan.arms[name]
        if tuning is not None:
            assert task_plan.trial_data is not None
            run = _cell(plan, task_plan, arm, 0)
            own = task_plan.trials[name] = list(trials_of(run, tuning, task_plan.trial_data.digest))
            task_plan.chosen[name] = chosen(own, results)
        if controls is not None:
            task_plan.controls[name] = control_of(_cell(plan, task_plan, arm, 0), controls)


_ABSENT = DataSet(Path(), "absent", float("nan"), (), {}, {}, {})


def _unreadable(task_plan: TaskPlan) -> dict[str, dict[str, str]]:
    """Out-of-distribution splits whose inputs an arm can't read, such as longer ones: known before it is trained."""
    shape, found = ModelShape.of(task_plan.task), {}
    lengths = {split: n for split, n in task_plan.data[0].lengths.items() if n != shape.sequence_length}
    for name, arm in task_plan.arms.items() if lengths else ():
        model = create_model(arm.model, arm.config, shape)
        reasons = {split: why for split, n in lengths.items() if (why := model.length_problem(n))}
        if reasons:
            found[name] = reasons
    return found


def _check_votes(suite: Suite, name: str, task: Task, recipe: Recipe) -> None:
    if recipe.evaluation.votes > task.most_votes:
        raise UserError(
            f"suite {suite.name}: tasks.{name}.recipe.evaluation.votes: {recipe.evaluation.votes}, but {task.name} "
            f"has {task.most_votes} variant(s) of an example; lower it, or give it to the tasks that have more"
        )


def _resolve_arms(suite: Suite, name: str, task: Task, recipe: Recipe, precision: str) -> dict[str, ResolvedArm]:
    """Every arm of a task; references first, since the others are matched to them."""
    shape = ModelShape.of(task)
    used = suite.arms_of(name)
    needed = {*used, *(suite.arms[arm].match.to for arm in used if suite.arms[arm].match)}  # type: ignore[union-attr]
    resolved: dict[str, ResolvedArm] = {}
    order = [arm for arm in suite.arms if arm in needed]
    for arm_name in sorted(order, key=lambda arm: suite.arms[arm].match is not None):
        arm = suite.arms[arm_name]
        where = f"suite {suite.name}: arms.{arm_name}"
        override = suite.tasks[name].overrides.get(arm_name)
        config_values = deep_merge(deep_merge(suite.config, arm.config), override.config if override else {})
        model = MODELS.get(arm.model)
        loop = _loop(arm, override.loop if override else {}, model, where)
        matched = None
        if arm.match is None:
            config = resolve_config(arm.model, config_values, arm.preset)
        else:
            for key in SOLVED[arm.match.rule]:
                if key in config_values:
                    raise UserError(f"{where}.config.{key}: the matching solver sets it; leave it out")
            reference = resolved[arm.match.to]
            start = dict(zip(("hidden", "heads"), reference.config.typical_block, strict=False))
            matched = match_arm(
                arm.match.rule,
                arm.model,
                resolve_config(arm.model, {**config_values, **start}, arm.preset),
                Reference(reference.config, reference.cost),
                shape,
                loop.segments,
                f"{where} on task {name}",
            )
            config = matched.config
        cost = measure(arm.model, config, shape, loop, recipe, DTYPES[precision])
        updates = _updates(suite, arm, recipe, cost, resolved, where)
        if override is not None and override.updates_share < 1:
            if updates is None:
                raise UserError(f"suite {suite.name}: tasks.{name}.overrides.{arm_name}.updates_share: needs updates")
            updates = max(1, round(updates * override.updates_share))
        resolved[arm_name] = ResolvedArm(arm_name, arm.model, config, loop, cost, updates, matched)
    _check_names(recipe, resolved, shape, f"suite {suite.name}: task {name}")
    return resolved


def _check_names(recipe: Recipe, arms: dict[str, ResolvedArm], shape: ModelShape, where: str) -> None:
    """The loss is registered, weights of segments leave every arm one, and each factor's module is in some arm."""
    if recipe.loss not in LOSSES.names():
        raise UserError(f'{where}: recipe.loss: no loss "{recipe.loss}"{did_you_mean(recipe.loss, LOSSES.names())}')
    for arm in arms.values():
        recipe.weights_of(arm.loop.segments)
        for _, most in recipe.curriculum.stages(arm.loop.segments):
            if most > arm.loop.rollout and most % arm.loop.rollout:
                raise UserError(
                    f"{where}: recipe.curriculum.segments: a stage of {most} segments is no multiple of {arm.name}'s "
                    f"rollout of {arm.loop.rollout}, so rows would run past it"
                )
    if recipe.optimizer.factors:
        models = [create_model(arm.model, arm.config, shape) for arm in arms.values()]
        parameters = [name for model in models for name, _ in model.named_parameters()]
        for module in recipe.optimizer.factors:
            if not any(name == module or name.startswith(f"{module}.") for name in parameters):
                modules = sorted({name.split(".")[0] for name in parameters})
                known = did_you_mean(module, modules) or f"; there are {', '.join(modules)}"
                raise UserError(f"{where}: recipe.optimizer.factors.{module}: no arm has such a module{known}")


def _loop(arm: Arm, override: dict[str, Any], model: type[ReasoningModel], where: str) -> Loop:
    if model.recurrent:
        preset = PRESET_LOOPS[arm.model].get(arm.preset or "", {})
        settings = deep_merge(deep_merge(deep_merge(model.LOOP, preset), arm.loop), override)
        return validated(Loop, settings, where, "loop")
    if arm.loop or override:
        raise UserError(f"{where}.loop: {arm.model} answers in one segment and has no loop; leave it out")
    return ONE_PASS


def _updates(
    suite: Suite, arm: Arm, recipe: Recipe, cost: Cost, resolved: dict[str, ResolvedArm], where: str
) -> int | None:
    """Updates of the run, where the budget fixes them: directly, or through FLOPs per update."""
    budget = recipe.budget
    if arm.match is not None and arm.match.rule == "train_flops":
        reference = resolved[arm.match.to]
        if reference.updates is None:
            raise UserError(f"{where}.match.rule: train_flops needs a budget in updates or train_flops")
        # the reference's cap on updates is in its number already; a second cap here would undo the match
        return max(1, round(reference.updates * reference.cost.flops_per_update / cost.flops_per_update))
    if budget.updates is not None:
        updates: int | None = budget.updates
    elif budget.train_flops is not None:
        updates = max(1, int(budget.train_flops // cost.flops_per_update))
    else:
        updates = None
    return updates if updates is None or recipe.max_updates is None else min(updates, recipe.max_updates)


def _cell(plan: Plan, task_plan: TaskPlan, arm: ResolvedArm, seed: int) -> Cell:
    match = plan.suite.arms[arm.name].match
    point = task_plan.chosen.get(arm.name)
    return Cell(
        suite=plan.suite.name,
        task=task_plan.name,
        registered_task=task_plan.task.name,
        task_version=task_plan.task.version,
        settings=task_plan.task.model_dump(mode="json"),
        data_hash=task_plan.data[seed].digest,
        arm=arm.name,
        model=arm.model,
        config=arm.config.model_dump(mode="json"),
        loop=arm.loop,
        recipe=task_plan.recipe if point is None else tuned(task_plan.recipe, point),
        updates=arm.updates,
        match_to=match.to if match else None,
        match_rule=match.rule if match else None,
        match_error=(arm.matched.error_core, arm.matched.error_total) if arm.matched else None,
        match_error_flops=arm.matched.error_flops if arm.matched else None,
        seed=seed,
        device=plan.device.value,
        precision=plan.precision[task_plan.name].value,
        threads=plan.suite.threads,
        engine=engine(task_plan.recipe, plan.device.value),
        written=task_plan.task.generated,
        deterministic=plan.deterministic,
        ranks=plan.ranks,
        flops_per_segment=arm.cost.flops_per_segment,
        flops_per_update=arm.cost.flops_per_update,
    )


def engine(recipe: Recipe, device: str) -> str:
    """How the model runs: compiled where the recipe says so, by default on CUDA only."""
    compiled = device == "cuda" if recipe.compile == "auto" else recipe.compile
    return "compiled" if compiled else "eager"
