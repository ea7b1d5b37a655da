"""Loaded with --plugin into every process of the command that benchmarks/soak.py kills: notes each change of phase.

A line per change: time, process, role (parent or worker), phase; in the file of SOAK_LOG. Three phases that take
milliseconds are slowed, so that kills can fall into them. Changes no number.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

from harness.analysis import collect
from harness.training import checkpoint, runner, trainer

LOG = os.open(os.environ["SOAK_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
ROLE = "parent" if os.getppid() == int(os.environ["SOAK_PARENT"]) else "worker"


def note(phase: str) -> None:
    os.write(LOG, f"{time.time():.3f} {os.getpid()} {ROLE} {phase}\n".encode())


def wrap(module: Any, name: str, before: Callable[[], None], after: Callable[[], None] = lambda: None) -> None:
    function = getattr(module, name)

    @functools.wraps(function)
    def wrapped(*given: Any, **named: Any) -> Any:
        before()
        try:
            return function(*given, **named)
        finally:
            after()

    setattr(module, name, wrapped)


wrap(checkpoint._Hashed, "write", functools.partial(time.sleep, 0.001))
wrap(collect, "write_table", functools.partial(time.sleep, 0.1))
wrap(runner, "write_run_tables", lambda: None, functools.partial(time.sleep, 0.2))
for module, name, phase in (
    (trainer.Trainer, "advance", "training"),
    (checkpoint, "save_state", "checkpoint"),
    (runner, "evaluate", "evaluation"),
    (runner, "write_run_tables", "tables"),
    (collect, "collect", "collecting"),
):
    wrap(module, name, functools.partial(note, phase), functools.partial(note, "between"))
note("started")
