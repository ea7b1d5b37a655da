"""Cells onto local worker processes: hand out, watch, survive a worker's death, stop cleanly.

Parent to worker: (cell JSON, run folder, DataSet) · "stop" (leave a checkpoint) · None (end).
Worker to parent: ("progress", share, text) · ("done", status, reason).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from harness.cell import Cell
from harness.execution import worker
from harness.execution.progress import Monitor
from harness.plan import Plan
from harness.record import write_unfinished
from harness.results import status
from harness.sandbox import shared

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
WORKER_STOP_SECONDS = 5


@dataclass
class Outcome:
    """How many cells ended how. `before` were finished by an earlier command."""

    before: int = 0
    finished: int = 0
    skipped: int = 0
    left: int = 0  # not run: stopped, or out of time
    failed: list[tuple[Cell, str]] = field(default_factory=list)


@dataclass
class Worker:
    process: BaseProcess
    connection: Connection
    cell: Cell | None = None


def default_jobs(plan: Plan) -> int:
    """As many as the cores hold at the suite's threads per cell; one on a GPU."""
    if plan.device.value == "cuda":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // plan.suite.threads)


def run(
    plan: Plan,
    folder: Path,
    *,
    jobs: int,
    monitor: Monitor,
    retry_failed: bool = False,
    plugins: Sequence[str] = (),
    deadline: float | None = None,
) -> Outcome:
    """Run every open cell of the plan; finished cells are not even started again. `deadline` is a time.monotonic()."""
    outcome = Outcome()
    queue: deque[Cell] = deque()
    for cell in plan.cells:
        found = status(folder, cell)
        if plan.tasks[cell.task].skipped is not None:
            outcome.skipped += 1
        elif found == "finished":
            outcome.before += 1
        elif found in ("failed", "diverged") and not retry_failed:
            outcome.failed.append((cell, f"{found} earlier; --retry-failed runs it again"))
        else:
            (folder / cell.run_folder / "record.json").unlink(missing_ok=True)
            queue.append(cell)
    monitor.start(list(queue))
    if queue:
        for variable in THREAD_VARIABLES:
            os.environ[variable] = str(plan.suite.threads)
        _Pool(plan, folder, min(jobs, len(queue)), monitor, tuple(plugins)).drain(queue, outcome, deadline)
    monitor.stop()
    return outcome


class _Pool:
    def __init__(self, plan: Plan, folder: Path, jobs: int, monitor: Monitor, plugins: tuple[str, ...]) -> None:
        self.plan, self.folder, self.monitor, self.plugins = plan, folder, monitor, plugins
        self.context = multiprocessing.get_context("spawn")
        self.workers = [self._hire() for _ in range(jobs)]
        self.stopping = False

    def _hire(self) -> Worker:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=worker.main, args=(theirs, self.plugins, shared.asked()), daemon=True)
        process.start()
        theirs.close()
        return Worker(process, ours)

    def drain(self, queue: deque[Cell], outcome: Outcome, deadline: float | None) -> None:
        """Hand out cells until none is left or the run is stopped by Ctrl-C, SIGTERM or the deadline."""
        stop = _StopOnSignal()
        with stop:
            while True:
                if not self.stopping and (stop.asked or (deadline is not None and time.monotonic() > deadline)):
                    self._ask_to_stop(stop.asked)
                if stop.insisted:
                    break
                for w in self.workers:
                    if w.cell is None and queue and not self.stopping:
                        self._give(w, queue.popleft())
                busy = [w for w in self.workers if w.cell is not None]
                if not busy:
                    break
                ready = wait([w.connection for w in busy] + [w.process.sentinel for w in busy], timeout=0.5)
                for w in busy:
                    if w.connection in ready or w.process.sentinel in ready:
                        self._hear(w, outcome)
                self.monitor.refresh()
        outcome.left += len(queue) + sum(w.cell is not None for w in self.workers)
        self._dismiss()

    def _give(self, w: Worker, cell: Cell) -> None:
        w.cell = cell
        data = self.plan.tasks[cell.task].data[cell.seed]
        with contextlib.suppress(OSError):  # a worker that is dead already is heard of at the next look
            w.connection.send((cell.model_dump_json(), self.folder / cell.run_folder, data))
        self.monitor.started(cell)

    def _hear(self, w: Worker, outcome: Outcome) -> None:
        """Take one message, or record that the worker died in the middle of its cell and hire another."""
        assert w.cell is not None
        cell = w.cell
        try:
            message = w.connection.recv() if w.connection.poll() else None
        except (EOFError, ConnectionError):
            message = None
        if message is None:
            if w.process.is_alive():
                w.process.join(WORKER_STOP_SECONDS)
            code = w.process.exitcode
            cause = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            reason = f"the worker process died ({cause}); out of memory is the usual cause of SIGKILL"
            w.connection.close()
            if self.stopping:  # whoever stops the run may well have killed the worker, too
                outcome.left += 1
                w.cell = None
                self.monitor.ended(cell, "interrupted", reason)
                return
            write_unfinished(self.folder / cell.run_folder, cell, "failed", reason)
            outcome.failed.append((cell, reason))
            self.monitor.ended(cell, "failed", reason)
            self.workers[self.workers.index(w)] = self._hire()
        elif message[0] == "progress":
            self.monitor.progress(cell, message[1], message[2])
        else:
            _, found, reason = message
            w.cell = None
            if found == "finished":
                outcome.finished += 1
            elif found == "interrupted":
                outcome.left += 1
            else:
                outcome.failed.append((cell, f"{found}: {reason}"))
            self.monitor.ended(cell, found, reason)

    def _ask_to_stop(self, by_user: bool) -> None:
        self.stopping = True
        self.monitor.say(
            "stopping: running cells leave a checkpoint (Ctrl-C again to stop at once)"
            if by_user
            else "time is up: running cells leave a checkpoint"
        )
        for w in self.workers:
            if w.cell is not None:
                with contextlib.suppress(OSError):
                    w.connection.send("stop")

    def _dismiss(self) -> None:
        for w in self.workers:
            if w.cell is None and w.process.is_alive():
                with contextlib.suppress(OSError):
                    w.connection.send(None)
            else:
                w.process.kill()  # workers ignore SIGTERM
        for w in self.workers:
            w.process.join(WORKER_STOP_SECONDS)
            if w.process.is_alive():
                w.process.kill()


class _StopOnSignal:
    """SIGINT and SIGTERM ask once, insist the second time, instead of raising in the middle of something."""

    def __init__(self) -> None:
        self.asked = False
        self.insisted = False
        self._kept: dict[signal.Signals, Callable[..., object] | int | None] = {}

    def _handle(self, number: int, frame: object) -> None:
        self.insisted = self.asked
        self.asked = True

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._kept[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._kept.items():
            signal.signal(number, handler)
