"""Several processes on one cell at a time, started by torchrun: cells run one after the other, all ranks at each.

    torchrun --standalone --nproc-per-node 4 run_benchmarks.py --suite small

The first rank chooses cells, holds their locks, evaluates, and writes everything; the others follow it. A fault that
all ranks know of (divergence, an evaluation that raises, a stop) ends its cell as everywhere. Any other one, a rank's
death among them, ends all ranks; the same command goes on from the checkpoint. No torch before it is needed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.cell import Cell
    from harness.execution.local import Outcome
    from harness.execution.progress import Monitor
    from harness.execution.worker import Ending
    from harness.plan import Plan
    from harness.training.ranks import Ranks
    from harness.training.runner import Options

SAME_SIGNAL_SECONDS = 2.0
"""Ctrl-C reaches a rank twice: from the terminal, and from torchrun, which passes it on."""


def launched() -> bool:
    """Whether torchrun started this process."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def number_of_ranks() -> int:
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def prepare(jobs: str, executor: str = "local", device: str | None = None) -> None:
    """Under torchrun, before anything touches a GPU: take the one of this process's local rank."""
    if not launched():
        return
    if jobs != "auto":
        raise UserError("--jobs: under torchrun cells run one at a time, all processes at each; leave it out")
    if executor != "local":
        raise UserError(f"--executor {executor}: under torchrun its own processes train the cells; leave it out")
    import torch

    local = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available() and device != "cpu":
        if local >= torch.cuda.device_count():
            raise UserError(
                f"torchrun: {torch.cuda.device_count()} GPU(s) here and a process of local rank {local}; "
                "one process per GPU (--nproc-per-node)"
            )
        torch.cuda.set_device(local)


def join(device: str) -> Ranks:
    """Meet the other processes that torchrun started; without it, be alone."""
    from harness.training import ranks

    return ranks.join(device) if launched() else ranks.ALONE


def run(
    plan: Plan,
    folder: Path,
    ranks: Ranks,
    *,
    cells: Sequence[Cell],
    monitor: Monitor | None,
    retry_failed: bool = False,
    deadline: float | None = None,
    options: Options | None = None,
) -> Outcome:
    """Run every open cell, on every rank alike; `monitor` and the outcome are the first rank's. Raises RankLost."""
    from harness.execution.local import Outcome
    from harness.record import recorded
    from harness.training.device import DETERMINISTIC_VARIABLE

    outcome = Outcome()
    if plan.deterministic:
        os.environ.setdefault(*DETERMINISTIC_VARIABLE)
    if monitor is not None:
        monitor.say(f"torchrun: {ranks.size} processes, all at one cell at a time")
        monitor.start([cell for cell in cells if recorded(folder / cell.run_folder).status != "finished"])
    with _Stop(ranks.leads, deadline) as stop:
        for cell in cells:
            with contextlib.ExitStack() as held:
                is_open = ranks.told(ranks.leads and _is_open(plan, folder, cell, retry_failed, stop, outcome, held))
                if is_open:
                    ending = _run(plan, folder, cell, ranks, options, monitor, stop)
                    outcome.count(cell, ending)
                    if monitor is not None:
                        monitor.ended(cell, ending.status, ending.reason)
                    stop.asked = stop.asked or ending.stop
    ranks.told(None)  # the first rank has written all there is to be read
    if monitor is not None:
        monitor.stop()
    return outcome


def _is_open(
    plan: Plan,
    folder: Path,
    cell: Cell,
    retry_failed: bool,
    stop: _Stop,
    outcome: Outcome,
    held: contextlib.ExitStack,
) -> bool:
    """Whether a cell is to be run now; its lock is held then, and its earlier record gone."""
    from harness.execution.worker import Ending
    from harness.files import try_hold
    from harness.record import LOCK, RECORD, recorded

    place = folder / cell.run_folder
    found = recorded(place)
    if outcome.passed_over(cell, found, plan.tasks[cell.task].skipped is not None, retry_failed):
        return False
    if stop.wanted() or not held.enter_context(try_hold(place / LOCK)):  # or another command runs it
        outcome.left += 1
        return False
    now = recorded(place)
    if now.stamp not in (None, found.stamp):  # another command has just ended it
        outcome.count(cell, Ending(now.status, now.reason, elsewhere=True))
        return False
    (place / RECORD).unlink(missing_ok=True)
    return True


def _run(
    plan: Plan, folder: Path, cell: Cell, ranks: Ranks, options: Options | None, monitor: Monitor | None, stop: _Stop
) -> Ending:
    from harness.execution.worker import FULL_OR_READ_ONLY, Ending, machine_fault, why_failed
    from harness.record import write_unfinished
    from harness.training.ranks import Failed, RankLost, shared
    from harness.training.runner import Diverged, Interrupted, Options, run_cell

    place = folder / cell.run_folder

    def report(progress: float, text: str) -> bool:
        if monitor is not None:
            monitor.progress(cell, progress, text)
            monitor.refresh()
        return not stop.wanted()

    def log(text: str) -> None:
        if ranks.leads:
            with contextlib.suppress(OSError), (place / "log.txt").open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%F %T')} {text}\n")

    def say(text: str) -> None:
        log(text)
        if monitor is not None:
            monitor.say(f"{cell.name}: {text}")

    if monitor is not None:
        monitor.started(cell)
    log(f"cell {cell.id}: {cell.name}, {ranks.size} processes, the first is {os.getpid()}")
    updates = None
    try:
        data = plan.tasks[cell.task].data_of(cell)
        run_cell(cell, place, data, report, options or Options(), say, ranks)
        log("finished")
        return Ending("finished")
    except Interrupted as asked:
        log(str(asked))
        return Ending("interrupted", str(asked))
    except Failed as failed:
        return Ending("failed", str(failed))
    except RankLost as lost:
        log(str(lost))
        raise
    except Diverged as error:
        status, reason, updates, known = "diverged", str(error), error.update, True
    except Exception as error:
        log(traceback.format_exc())
        known = shared(error)
        if isinstance(error, OSError) and error.errno in FULL_OR_READ_ONLY:
            ending = machine_fault(error)
            if not known:
                raise RankLost(ending.reason) from error
            return ending
        status, reason = "failed", why_failed(error)
    log(f"{status}: {reason}")
    if ranks.leads:
        write_unfinished(place, cell, status, reason, updates)
    if not known:
        raise RankLost(f"{cell.name}: {reason}; the same command goes on with the other cells")
    return Ending(status, reason)


class _Stop:
    """SIGINT and SIGTERM ask the first rank once, and end it the second time; the others leave it to the first."""

    def __init__(self, leads: bool, deadline: float | None) -> None:
        self.leads, self.deadline = leads, deadline
        self.asked = False
        self._since = 0.0

    def wanted(self) -> bool:
        return self.asked or (self.deadline is not None and time.monotonic() > self.deadline)

    def _handle(self, number: int, frame: object) -> None:
        if self.asked and time.monotonic() - self._since > SAME_SIGNAL_SECONDS:
            os._exit(130)
        self._since = self._since if self.asked else time.monotonic()
        self.asked = True

    def __enter__(self) -> _Stop:
        handler = self._handle if self.leads else signal.SIG_IGN
        self._kept = [(number, signal.signal(number, handler)) for number in (signal.SIGINT, signal.SIGTERM)]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._kept:
            signal.signal(number, handler)
