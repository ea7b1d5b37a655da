"""The worker process: takes cells one at a time, runs them, reports. It holds nothing that another process needs."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.cell import Cell
    from harness.data import DataSet
    from harness.sandbox.shared import Choice
    from harness.training.runner import Options

PROGRESS_SECONDS = 0.5
"""Least time between two progress messages of a worker."""

FULL_OR_READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Job:
    """A cell to run."""

    cell: str  # JSON
    folder: Path
    data: DataSet
    options: Options
    stamp: int | None  # of the record that is known and to be replaced; another one is another command's


@dataclass(frozen=True)
class Ending:
    """How a cell ended: finished, interrupted, failed, diverged, or busy (another command holds it)."""

    status: str
    reason: str = ""
    elsewhere: bool = False  # another command ended it
    stop: bool = False  # the fault is the machine's, and other cells would meet it


def main(connection: Connection, plugins: tuple[str, ...], sandbox: Choice) -> None:
    """Serve cells from the connection until it is closed or says None. Messages are described in local.py."""
    for number in (signal.SIGINT, signal.SIGTERM):  # both may reach the whole process group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    import harness.training.runner  # noqa: F401 (torch and all else that takes seconds, before "ready")
    import models
    import tasks
    from harness.registry import load_entry_points, load_plugin
    from harness.sandbox import shared

    shared.configure(sandbox)
    try:
        tasks.load_all()
        models.load_all()
        load_entry_points()
        for plugin in plugins:
            load_plugin(Path(plugin))
    except Exception as error:
        connection.send(("say", f"its worker can't start: {type(error).__name__}: {error}"))
        raise
    with contextlib.suppress(OSError, EOFError):  # the parent is gone; a cell has left its record or its checkpoint
        connection.send(("ready",))
        while (job := connection.recv()) is not None:
            if job != "stop":  # which came between two cells
                connection.send(("done", _run(connection, job)))


def _run(connection: Connection, job: Job) -> Ending:
    """Run one cell while holding its lock."""
    from harness.cell import Cell
    from harness.files import try_hold
    from harness.record import LOCK, RECORD, recorded

    cell = Cell.model_validate_json(job.cell)
    try:
        with try_hold(job.folder / LOCK) as free:
            if not free:
                return Ending("busy")
            found = recorded(job.folder)
            if found.stamp is not None and found.stamp != job.stamp:
                return Ending(found.status, found.reason, elsewhere=True)
            (job.folder / RECORD).unlink(missing_ok=True)
            with _logged(job.folder / "log.txt"):
                return _run_logged(connection, cell, job)
    except OSError as error:
        return machine_fault(error)


def _run_logged(connection: Connection, cell: Cell, job: Job) -> Ending:
    from harness.record import write_unfinished
    from harness.training.runner import Diverged, Interrupted, run_cell

    last = 0.0

    def report(progress: float, text: str) -> bool:
        nonlocal last
        try:
            if time.monotonic() - last > PROGRESS_SECONDS or progress >= 1:
                last = time.monotonic()
                connection.send(("progress", progress, text))
            return not (connection.poll() and connection.recv() == "stop")
        except (OSError, EOFError):
            return False  # the parent is gone: leave a checkpoint

    def say(text: str) -> None:
        _log(text)
        with contextlib.suppress(OSError):
            connection.send(("say", text))

    _log(f"cell {cell.id}: {cell.name}, process {os.getpid()}")
    updates = None
    try:
        run_cell(cell, job.folder, job.data, report, job.options, say)
        _log("finished")
        return Ending("finished")
    except Interrupted as stop:
        _log(str(stop))
        return Ending("interrupted", str(stop))
    except Diverged as error:
        status, reason, updates = "diverged", str(error), error.update
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in FULL_OR_READ_ONLY:
            return machine_fault(error)
        status, reason = "failed", why_failed(error)
    _log(f"{status}: {reason}")
    write_unfinished(job.folder, cell, status, reason, updates)
    return Ending(status, reason)


def machine_fault(error: OSError) -> Ending:
    """Not the cell's doing, so it is not recorded as failed: it goes on from its checkpoint when the same command is
    given again."""
    place = f" ({error.filename})" if error.filename else ""
    remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make the folder writable"
    reason = f"{error.strerror or error}{place}; {remedy} and run the same command to go on"
    return Ending("failed", reason, stop=error.errno in FULL_OR_READ_ONLY)


def why_failed(error: Exception) -> str:
    """The reason that stands in a failed cell's record."""
    what = "out of memory: " if _out_of_memory(error) else ""
    return f"{what}{type(error).__name__}: {error}; see log.txt in the run folder"


def _out_of_memory(error: Exception) -> bool:
    """torch says so by a class of its own on CUDA, and by a plain RuntimeError on CPU."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _log(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk
        print(f"{time.strftime('%F %T')} {text}", flush=True)


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send everything the process prints, from C code too, to the cell's log."""
    _flush()
    kept = os.dup(1), os.dup(2)
    with path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
