"""One sandbox per process, for all who judge programs in it: chosen once, kept open, its tier known to records."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.sandbox.pool import Program, Sandbox, Verdict
from harness.sandbox.probe import choose, demand


@dataclass(frozen=True)
class Choice:
    """What the command line asks for: a tier or `auto`, and whether to run without where none holds."""

    tier: str = "auto"
    unsafe: bool = False


_asked = Choice()
_box: Sandbox | None = None


def configure(asked: Choice) -> None:
    """Set the choice before anything is judged; an open sandbox of another choice is closed."""
    global _asked
    if asked != _asked:
        close()
    _asked = asked


def asked() -> Choice:
    """What `configure` was given last: for processes started from this one."""
    return _asked


def ready() -> Sandbox:
    """The open sandbox. Raises NoSandbox, with cause and remedy, where none holds."""
    global _box
    if _box is None:
        tier = choose(_asked.unsafe) if _asked.tier == "auto" else demand(_asked.tier)
        _box = Sandbox(tier)
        atexit.register(close)
    return _box


def judge(programs: Sequence[Program], timeout: float) -> list[Verdict]:
    """A verdict per program, in order. timeout: wall-clock seconds of each."""
    found = dict(ready().judge(programs, timeout))
    return [found[i] for i in range(len(programs))]


def provenance() -> dict[str, Any]:
    """Tier, kernel and Landlock version of the open sandbox; {} where nothing was judged."""
    return {} if _box is None else _box.provenance()


def close() -> None:
    global _box
    if _box is not None:
        _box.close()
        _box = None
