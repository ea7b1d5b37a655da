"""Two processes of a test that train one cell together: forked, meeting on 127.0.0.1, ended in a bounded time."""

from __future__ import annotations

import datetime
import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from harness.training.ranks import Ranks

SECONDS = 600
"""For one meeting of the processes, on a machine however busy; a process that dies is noticed at once."""


def together(folder: Path, work: Callable[[Ranks], Any], size: int = 2) -> list[int]:
    """Run `work` in `size` processes; their exit codes, negative for a signal."""
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            _child(meeting, work, rank, size)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _child(meeting: Path, work: Callable[[Ranks], Any], rank: int, size: int) -> None:
    code = 1
    signal.alarm(2 * SECONDS)
    try:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.set_num_threads(1)
        limit = datetime.timedelta(seconds=SECONDS)
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=limit)
        work(Ranks(rank, size))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
