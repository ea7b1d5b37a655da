"""What `run` does: plan, tune, execute, then tables and report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import NothingToRun, UserError
from harness.request import SuiteRequest, executor_of, positive, share_of
from harness.saying import announce, command_line, finish, say, summarise
from harness.side_cells import ended

if TYPE_CHECKING:
    from harness.cell import Cell
    from harness.execution.local import Outcome, Pool
    from harness.plan import Plan
    from harness.training.ranks import Ranks


@dataclass(frozen=True)
class Execution:
    """How cells are carried out; nothing here changes a number."""

    jobs: int | None = None  # None: as many as the machine holds
    shard: tuple[int, int] | None = None
    retry_failed: bool = False
    max_minutes: float | None = None
    hang_minutes: float = 30.0
    checkpoint_seconds: float = 60.0
    executor: type[Pool] | None = None  # None: workers on this machine
    sinks: tuple[str, ...] = ()  # their names; plug-ins bring some

    @classmethod
    def of(
        cls,
        jobs: str,
        shard: str | None,
        retry_failed: bool,
        max_minutes: float | None,
        hang_minutes: float,
        checkpoint_seconds: float,
        executor: str,
        gpus_per_cell: float | None,
        sink: list[str] | None,
        tensorboard: bool,
    ) -> Execution:
        """Options as they were typed. Raises UserError."""
        if max_minutes is not None and max_minutes <= 0:
            raise UserError(f"--max-minutes {max_minutes:g}: must be above 0")
        if hang_minutes <= 0:
            raise UserError(f"--hang-minutes {hang_minutes:g}: must be above 0")
        number = None if jobs == "auto" else positive("--jobs", jobs)
        part = None if shard is None else share_of(shard)
        pool = executor_of(executor, gpus_per_cell)
        sinks = tuple(dict.fromkeys([*(sink or ()), *(["tensorboard"] if tensorboard else ())]))
        return cls(number, part, retry_failed, max_minutes, hang_minutes, checkpoint_seconds, pool, sinks)


def run_suite(request: SuiteRequest, how: Execution, reports: Path) -> int:
    """Run what is open of a suite and write tables and report; returns the exit code.

    Of several processes that torchrun started all call this; the first alone speaks and writes.
    """
    started = time.monotonic()
    deadline = None if how.max_minutes is None else started + 60 * how.max_minutes
    plan, folder = request.planned()
    from harness import sinks
    from harness.execution import local, together
    from harness.files import held
    from harness.results import check_writable, describe

    sinks.check(how.sinks)
    ranks = together.join(plan.device.value)
    _agreed(plan, ranks)
    execute = partial(_execute, request=request, how=how, deadline=deadline, ranks=ranks)
    if ranks.leads:
        check_writable(reports, "--reports")
        with held(folder, say):
            describe(plan, folder, command_line())
        announce(plan)
    if plan.undecided():
        code = _tune(plan, folder, execute, ranks, started)
        plan, folder = request.planned()  # with what the trials chose
        _agreed(plan, ranks)
        if plan.undecided():
            ranks.part()
            if ranks.leads:
                _explain(plan, folder)
            return code or 1
        if ranks.leads:
            with held(folder, say):
                describe(plan, folder, command_line())
    mine = [*plan.cells, *plan.controls()]
    if how.shard is not None:
        all_of_them = len(mine)
        mine = local.shard(mine, *how.shard)
        if ranks.leads:
            say(f"shard {how.shard[0]}/{how.shard[1]}: {len(mine)} of {all_of_them} cells")
    outcome = execute(plan, folder, mine)
    ranks.part()
    if not ranks.leads:
        return 0
    summarise(plan, outcome, time.monotonic() - started)
    page = _report(plan, folder, reports)
    finish(folder, page, outcome)
    code = _code(outcome)
    if code is None and mine and outcome.skipped == len(mine):
        raise NothingToRun("nothing was left to run: every cell asked for was skipped, for the reasons above")
    return code or 0


def _agreed(plan: Plan, ranks: Ranks) -> None:
    """Every rank plans for itself, by what it sees on disk. Raises RankLost where they don't see the same."""
    from harness.training.ranks import RankLost

    mine = ([cell.id for cell in plan.cells], plan.undecided())
    if any(other != mine for other in ranks.gathered(mine)):
        raise RankLost("the ranks planned different cells: is the results folder one that all share?")


def _report(plan: Plan, folder: Path, reports: Path) -> Path:
    """Tables and report, of the cells that other commands finished meanwhile, too."""
    from harness.analysis.collect import collect
    from harness.files import held
    from harness.report import html
    from harness.results import describe

    with held(folder, say):
        describe(plan, folder, command_line())
        collect(folder)
        return html.build(folder, reports)


def _tune(plan: Plan, folder: Path, execute: Callable[..., Outcome], ranks: Ranks, started: float) -> int | None:
    """Run the trials that have not ended: all of them, by every shard, since each needs what they choose."""
    undecided = plan.undecided()
    trials = [trial.cell for task, arm in undecided for trial in plan.tasks[task].trials[arm]]
    waiting = [cell for cell in trials if not ended(folder / cell.run_folder)]
    waiting = ranks.told(waiting)  # one may see a record that another did not yet
    if ranks.leads:
        say(f"tuning: {len(waiting)} of {len(trials)} trials to run, for {len(undecided)} arms on tasks")
    outcome = execute(plan, folder, waiting)
    if ranks.leads:
        summarise(plan, outcome, time.monotonic() - started)
    return _code(outcome)


def _explain(plan: Plan, folder: Path) -> None:
    """Why the trials choose nothing yet."""
    for task, arm in plan.undecided():
        trials = plan.tasks[task].trials[arm]
        if all(ended(folder / trial.cell.run_folder) for trial in trials):
            raise UserError(
                f"tuning: all {len(trials)} trials of {arm} on {task} diverged; lower tuning.learning_rate in the suite"
            )
    say("tuning is not complete, and the suite's cells wait for what it chooses: give the same command again")
    say("(with --retry-failed where trials failed: every arm gets the same number)")


def _execute(
    plan: Plan,
    folder: Path,
    cells: Sequence[Cell],
    *,
    request: SuiteRequest,
    how: Execution,
    deadline: float | None,
    ranks: Ranks,
) -> Outcome:
    from harness.execution import local, together
    from harness.execution.progress import monitor
    from harness.training.runner import Options

    options = Options(checkpoint_seconds=how.checkpoint_seconds, sinks=how.sinks)
    if together.launched():
        watching = monitor() if ranks.leads else None
        return together.run(
            plan, folder, ranks, cells=cells, monitor=watching, retry_failed=how.retry_failed, deadline=deadline,
            options=options,
        )  # fmt: skip
    return local.run(
        plan,
        folder,
        jobs=how.jobs,
        monitor=monitor(),
        cells=cells,
        retry_failed=how.retry_failed,
        plugins=[str(path) for path in request.plugin or ()],
        deadline=deadline,
        hung_seconds=60 * how.hang_minutes,
        options=options,
        executor=how.executor,
    )


def _code(outcome: Outcome) -> int | None:
    """1 where cells failed, 130 where some are left; None where all went well."""
    return 1 if outcome.failed else 130 if outcome.left else None
