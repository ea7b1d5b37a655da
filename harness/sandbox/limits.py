"""What one program may use: memory, processor seconds, file size, descriptors, threads."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path

MEMORY_BYTES = 512 << 20  # address space; one process per program, so this is the program's memory
FILE_BYTES = 256 << 10
DESCRIPTORS = 64
THREADS = 1024  # above what the user runs anyway: fork is refused, so this bounds threads only


def set_shared() -> None:
    """The limits that the server and its programs have in common. Address space only where the kernel enforces it."""
    _lower(resource.RLIMIT_AS, MEMORY_BYTES)
    _lower(resource.RLIMIT_FSIZE, FILE_BYTES)
    _lower(resource.RLIMIT_NOFILE, DESCRIPTORS)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NPROC, tasks_of_user() + THREADS)


def processor_seconds(wall_clock: float) -> tuple[int, int]:
    """Soft and hard limit per program: a second line behind the wall clock, for a server that can't answer."""
    seconds = math.ceil(wall_clock) + 1
    return seconds, seconds


def tasks_of_user() -> int:
    """Threads of this user on the machine, as far as /proc shows them: the kernel counts them all against one limit."""
    user, found = os.getuid(), 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if entry.stat().st_uid == user:
                found += sum(1 for _ in (entry / "task").iterdir())
        except OSError:  # it ended meanwhile, or is hidden
            continue
    return found


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
