"""The usual verdict, for comparison: program and test executed in one interpreter. Only inside the arena."""

from __future__ import annotations

import os
import signal
import sys

from harness.sandbox.pool import Program


def verdict(program: Program, timeout: float) -> bool:
    """Whether the problem's check, run in the program's own interpreter, lets it pass within `timeout` seconds."""
    problem = program.problem
    text = f"{problem.prompt}{program.completion}\n{problem.test}\ncheck({problem.entry_point})\n"
    child = os.fork()
    if child == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):
            os.dup2(nothing, handle)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        sys.setrecursionlimit(1000)
        try:
            exec(compile(text, "program", "exec"), {"__name__": "builtins"})
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
