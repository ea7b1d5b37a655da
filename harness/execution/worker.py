"""The worker process: takes cells one at a time, runs them, reports. It holds nothing that another process needs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.sandbox.shared import Choice

PROGRESS_SECONDS = 0.5
"""Least time between two progress messages of a worker."""


def main(connection: Connection, plugins: tuple[str, ...], sandbox: Choice) -> None:
    """Serve cells from the connection until it is closed or says None. Messages are described in local.py."""
    for number in (signal.SIGINT, signal.SIGTERM):  # both may reach the whole process group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    import models
    import tasks
    from harness.registry import load_entry_points, load_plugin
    from harness.sandbox import shared

    shared.configure(sandbox)
    tasks.load_all()
    models.load_all()
    load_entry_points()
    for plugin in plugins:
        load_plugin(Path(plugin))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        if job is None:
            return
        if job == "stop":
            continue  # it came between two cells
        result = _run(connection, *job)
        try:
            connection.send(("done", *result))
        except OSError:
            return  # the parent is gone; the cell left its record or its checkpoint


def _run(connection: Connection, cell_json: str, folder: Path, data: object) -> tuple[str, str]:
    """Run one cell; returns its status and the reason where it has no results."""
    from harness.cell import Cell
    from harness.data import DataSet
    from harness.record import write_unfinished
    from harness.training.runner import Diverged, Interrupted, run_cell

    cell = Cell.model_validate_json(cell_json)
    assert isinstance(data, DataSet)
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

    folder.mkdir(parents=True, exist_ok=True)
    with _logged(folder / "log.txt"):
        print(f"{time.strftime('%F %T')} cell {cell.id}: {cell.name}, process {os.getpid()}", flush=True)
        try:
            run_cell(cell, folder, data, report)
            print(f"{time.strftime('%F %T')} finished", flush=True)
            return "finished", ""
        except Interrupted as stop:
            print(f"{time.strftime('%F %T')} {stop}", flush=True)
            return "interrupted", str(stop)
        except Diverged as error:
            status, reason = "diverged", str(error)
        except Exception as error:
            traceback.print_exc()
            status, reason = "failed", f"{type(error).__name__}: {error}; see log.txt in the run folder"
        print(f"{time.strftime('%F %T')} {status}: {reason}", flush=True)
        write_unfinished(folder, cell, status, reason)
        return status, reason


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send everything the process prints, from C code too, to the cell's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
