"""Cells onto local worker processes: hand out, watch, survive a worker's death, stop cleanly.

Parent to worker: Job · "stop" (leave a checkpoint) · None (end).
Worker to parent: ("ready",) · ("progress", share, text) · ("say", text) · ("done", Ending).
Commands on one results folder share the work: a worker holds its cell's lock while it runs it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from harness.cell import Cell
from harness.execution import worker
from harness.execution.progress import Monitor
from harness.execution.worker import Ending, Job
from harness.files import try_hold
from harness.plan import Plan
from harness.record import LOCK, Recorded, recorded, write_unfinished
from harness.sandbox import shared
from harness.training.device import DETERMINISTIC_VARIABLE
from harness.training.runner import Options

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
WORKER_STOP_SECONDS = 5
START_SECONDS = 600.0  # a worker that imports torch and plug-ins from a cold network disk is not taken for hung before
HUNG_MINUTES = 30.0
"""Default: a worker that shows no progress for so long is killed. Compiling a large model takes minutes."""
LOOK_SECONDS = 2.0
"""Time between two looks at cells that another command runs."""
PAUSE_SECONDS = 20.0  # of this process itself, such as Ctrl-Z: nothing can be said of the workers after it


@dataclass
class Outcome:
    """How many cells ended how. `before` were finished by an earlier command."""

    before: int = 0
    finished: int = 0
    elsewhere: int = 0  # finished by another command meanwhile
    skipped: int = 0
    left: int = 0  # not run: stopped, or out of time
    failed: list[tuple[Cell, str]] = field(default_factory=list)

    def passed_over(self, cell: Cell, found: Recorded, skipped: bool, retry_failed: bool) -> bool:
        """Whether a cell is not to be run, by what its task and its record say; it is counted then."""
        if skipped:
            self.skipped += 1
        elif found.status == "finished":
            self.before += 1
        elif found.status in ("failed", "diverged") and not retry_failed:
            self.failed.append((cell, f"{found.status} earlier ({found.reason}); --retry-failed runs it again"))
        else:
            return False
        return True

    def count(self, cell: Cell, ending: Ending) -> None:
        """Count a cell that has ended."""
        if ending.status == "finished" and ending.elsewhere:
            self.elsewhere += 1
        elif ending.status == "finished":
            self.finished += 1
        elif ending.status == "interrupted":
            self.left += 1
        else:
            self.failed.append((cell, f"{ending.status}: {ending.reason}"))


class Process(Protocol):
    """What the pool asks of the process, or of the node's process, behind a worker."""

    @property
    def exitcode(self) -> int | None: ...
    def is_alive(self) -> bool: ...
    def join(self, timeout: float | None = None) -> None: ...
    def kill(self) -> None: ...


@dataclass
class Worker:
    process: Process
    connection: Connection
    number: int
    sentinel: int | None = None  # becomes readable when the process dies, where the connection alone doesn't tell
    cell: Cell | None = None
    heard: float = 0.0  # time.monotonic() of the last sign of life
    ready: bool = False
    spent: bool = False  # dead, or a cell failed in it: who knows what that left behind
    reason: str = ""  # why the parent killed it

    @property
    def placed(self) -> bool:
        """Whether it can be given a cell."""
        return True

    def signs(self) -> list[Any]:
        """What to wait for."""
        return [self.connection] if self.sentinel is None else [self.connection, self.sentinel]


def default_jobs(plan: Plan) -> int:
    """As many as the cores hold at the suite's threads per cell; one per GPU."""
    if plan.device.value == "cuda":
        return max(1, len(_gpus()))
    return max(1, cores() // plan.suite.threads)


def cores() -> int:
    """Processor cores that this command may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that this command may use."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(torch.cuda.device_count())]
    return names if visible is None else visible.split(",")[: len(names)]


def shard(cells: Sequence[Cell], part: int, parts: int) -> list[Cell]:
    """The cells of one of several commands, `part` from 1: shares of about equal FLOPs, the same ones every time."""
    from harness.execution.progress import work

    loads = [0.0] * parts
    mine: set[str] = set()
    for cell in sorted(cells, key=lambda cell: (-work(cell), cell.id)):
        lightest = loads.index(min(loads))
        loads[lightest] += work(cell)
        if lightest == part - 1:
            mine.add(cell.id)
    return [cell for cell in cells if cell.id in mine]


def run(
    plan: Plan,
    folder: Path,
    *,
    jobs: int | None,
    monitor: Monitor,
    cells: Sequence[Cell] | None = None,
    retry_failed: bool = False,
    plugins: Sequence[str] = (),
    deadline: float | None = None,
    hung_seconds: float = 60 * HUNG_MINUTES,
    options: Options | None = None,
    executor: type[Pool] | None = None,
) -> Outcome:
    """Run every open cell of the plan, or of `cells`; finished cells are not even started again.

    `jobs` None: as many as there is room for. `deadline` is a time.monotonic(). `executor`: where workers run, by
    default here.
    """
    outcome = Outcome()
    queue: deque[Cell] = deque()
    stamps: dict[str, int | None] = {}
    for cell in plan.cells if cells is None else cells:
        found = recorded(folder / cell.run_folder)
        if not outcome.passed_over(cell, found, plan.tasks[cell.task].skipped is not None, retry_failed):
            stamps[cell.id] = found.stamp
            queue.append(cell)
    monitor.start(list(queue))
    if queue:
        for variable in THREAD_VARIABLES:
            os.environ[variable] = str(plan.suite.threads)
        if plan.deterministic:
            os.environ.setdefault(*DETERMINISTIC_VARIABLE)
        pool = (executor or Pool)(plan, folder, monitor, tuple(plugins), stamps, hung_seconds, options or Options())
        pool.drain(queue, outcome, deadline, jobs)
    monitor.stop()
    return outcome


class Pool:
    """Workers on this machine. Subclasses have them elsewhere."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        monitor: Monitor,
        plugins: tuple[str, ...],
        stamps: dict[str, int | None],
        hung_seconds: float,
        options: Options,
    ) -> None:
        self.plan, self.folder, self.monitor, self.plugins = plan, folder, monitor, plugins
        self.stamps, self.hung_seconds, self.options = stamps, hung_seconds, options
        self.workers: list[Worker] = []
        self.waiting: deque[Cell] = deque()  # cells that another command runs, or that were lost with their node
        self.look_again = 0.0
        self.stopping = False

    def _room(self) -> int:
        """How many workers run at a time where the command doesn't say."""
        return default_jobs(self.plan)

    def _open(self, jobs: int | None) -> None:
        """Get ready to hire."""
        self.gpus = _gpus() if self.plan.device.value == "cuda" else []

    def _hire(self, number: int) -> Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=worker.main, args=(theirs, self.plugins, shared.asked()), daemon=True)
        with _gpu(self.gpus, number):
            process.start()
        theirs.close()
        return Worker(process, ours, number, process.sentinel, heard=time.monotonic())

    def drain(self, queue: deque[Cell], outcome: Outcome, deadline: float | None, jobs: int | None) -> None:
        """Hand out cells until none is left or the run is stopped by Ctrl-C, SIGTERM or the deadline.

        Whatever else ends it ends the workers, too; their cells go on from their checkpoints.
        """
        try:
            self._open(jobs)
            self.workers = [self._hire(number) for number in range(min(jobs or self._room(), len(queue)))]
            self._drain(queue, outcome, deadline)
        finally:
            self._dismiss()

    def _drain(self, queue: deque[Cell], outcome: Outcome, deadline: float | None) -> None:
        stop = _StopOnSignal()
        awake = time.monotonic()
        with stop:
            while True:
                now = time.monotonic()
                if not self.stopping and (stop.asked or (deadline is not None and now > deadline)):
                    self._ask_to_stop(
                        "stopping: running cells leave a checkpoint (Ctrl-C again to stop at once)"
                        if stop.asked
                        else "time is up: running cells leave a checkpoint"
                    )
                if stop.insisted:
                    break
                if self.waiting and not queue and now > self.look_again:
                    queue.extend(self.waiting)
                    self.waiting.clear()
                    self.look_again = now + LOOK_SECONDS
                for i, w in enumerate(self.workers):
                    self._tend(w)
                    while w.cell is None and queue and not self.stopping:
                        w = self.workers[i] = self._fresh(w)
                        if not w.placed:
                            break
                        cell = queue.popleft()
                        if self._is_open(cell, outcome):
                            self._give(w, cell)
                busy = [w for w in self.workers if w.cell is not None]
                if not busy and (self.stopping or not (queue or self.waiting)):
                    break
                ready = wait([sign for w in busy for sign in w.signs()], timeout=0.5)
                for w in busy:
                    if any(sign in ready for sign in w.signs()):
                        self._hear(w, outcome)
                if time.monotonic() - awake > PAUSE_SECONDS:
                    for w in busy:
                        w.heard = time.monotonic()
                awake = time.monotonic()
                for w in busy:
                    self._end_if_hung(w)
                self.monitor.refresh()
        outcome.left += len(queue) + len(self.waiting) + sum(w.cell is not None for w in self.workers)

    def _is_open(self, cell: Cell, outcome: Outcome) -> bool:
        """Whether a cell is still to be run: no other command has ended it, or is at it (then it waits)."""
        folder = self.folder / cell.run_folder
        found = recorded(folder)
        if found.stamp is not None and found.stamp != self.stamps[cell.id]:
            self._end(cell, Ending(found.status, found.reason, elsewhere=True), outcome)
            return False
        with try_hold(folder / LOCK) as free:
            if not free:
                self.waiting.append(cell)
        return free

    def _tend(self, w: Worker) -> None:
        """Look after a worker once per turn."""

    def _fresh(self, w: Worker) -> Worker:
        """The worker, or another in its place where it is spent."""
        if w.process.is_alive() and not w.spent:
            return w
        if w.process.is_alive():
            with contextlib.suppress(OSError):
                w.connection.send(None)
            w.process.join(WORKER_STOP_SECONDS)
            w.process.kill()
        w.connection.close()
        return self._hire(w.number)

    def _give(self, w: Worker, cell: Cell) -> None:
        w.cell, w.heard = cell, time.monotonic()
        data = self.plan.tasks[cell.task].data_of(cell)
        job = Job(cell.model_dump_json(), self.folder / cell.run_folder, data, self.options, self.stamps[cell.id])
        with contextlib.suppress(OSError):  # a worker that is dead already is heard of at the next look
            w.connection.send(job)
        self.monitor.started(cell)

    def _hear(self, w: Worker, outcome: Outcome) -> None:
        """Take one message, or note that the worker died in the middle of its cell."""
        assert w.cell is not None
        try:
            message = w.connection.recv() if w.connection.poll() else None
        except (EOFError, ConnectionError):
            message = None
        if message is None:
            self._bury(w, outcome)
            return
        w.heard = time.monotonic()
        if message[0] == "ready":
            w.ready = True
        elif message[0] == "progress":
            self.monitor.progress(w.cell, message[1], message[2])
        elif message[0] == "say":
            self.monitor.say(f"{w.cell.name}: {message[1]}")
        else:
            self._take_back(w)
            cell, ending = w.cell, message[1]
            w.cell, w.spent = None, ending.status in ("failed", "diverged")
            self._end(cell, ending, outcome)

    def _end(self, cell: Cell, ending: Ending, outcome: Outcome) -> None:
        if ending.status == "busy":  # another command was faster
            self.waiting.append(cell)
            return
        outcome.count(cell, ending)
        by = " by another command" if ending.elsewhere else ""
        self.monitor.ended(cell, ending.status + by, ending.reason)
        if ending.stop and not self.stopping:
            self._ask_to_stop(f"stopping, since every other cell would meet it, too: {ending.reason}")

    def _take_back(self, w: Worker) -> None:
        """Let go of what was held for the cell of a worker that has ended it."""

    def _tried_again(self, w: Worker, cell: Cell) -> bool:
        """Whether a dead worker's cell is put among the waiting ones, since its machine is to blame."""
        return False

    def _bury(self, w: Worker, outcome: Outcome) -> None:
        """Record the cell of a worker that died; whoever has it next goes on from its checkpoint."""
        cell = w.cell
        assert cell is not None
        if w.process.is_alive():
            w.process.join(WORKER_STOP_SECONDS)
        self._take_back(w)
        if not self.stopping and self._tried_again(w, cell):
            w.cell, w.spent = None, True
            return
        code = w.process.exitcode
        cause = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        memory = "; out of memory is the usual cause" if cause == "SIGKILL" else ""
        reason = w.reason or f"the worker process died ({cause}){memory}"
        w.cell, w.spent = None, True
        if self.stopping:  # whoever stops the run may well have killed the worker, too
            self._end(cell, Ending("interrupted", reason), outcome)
            return
        folder = self.folder / cell.run_folder
        with try_hold(folder / LOCK) as free:
            if free and recorded(folder).stamp in (None, self.stamps[cell.id]):
                with contextlib.suppress(OSError):  # a full disk, of which the other workers tell
                    write_unfinished(folder, cell, "failed", reason)
                self._end(cell, Ending("failed", reason), outcome)
            else:  # it ended its cell with its last breath, or another command is at it already
                self.waiting.append(cell)

    def _end_if_hung(self, w: Worker) -> None:
        silent = time.monotonic() - w.heard
        limit = self.hung_seconds if w.ready else max(self.hung_seconds, START_SECONDS)
        if w.cell is not None and silent > limit and not w.reason:
            w.reason = f"hung: no sign of life for {silent / 60:.1f} minutes, so its worker was killed"
            w.process.kill()

    def _ask_to_stop(self, text: str) -> None:
        self.stopping = True
        self.monitor.say(text)
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


@contextlib.contextmanager
def _gpu(gpus: Sequence[str], number: int) -> Iterator[None]:
    """Let the process that is started inside see one GPU only, taken in turn, where there are several."""
    kept = os.environ.get("CUDA_VISIBLE_DEVICES")
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    try:
        yield
    finally:
        if len(gpus) > 1:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            if kept is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = kept


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
