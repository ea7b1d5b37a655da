"""The sandbox as a library: judges side by side, replaced when a program hangs or breaks one.

with Sandbox(workers=2) as box:
    for index, verdict in box.judge([Program(problem, completion), ...], timeout=3.0):
        ...
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.errors import BenchError
from harness.sandbox.wire import MAX_ORDER, Closed, Malformed, TooLate, Wire

TIERS = ("namespaces", "landlock", "none")
GRACE = 1.0  # seconds past the program's time limit until a judge counts as stuck
START_SECONDS = 90.0
STOP_SECONDS = 10
ATTEMPTS = 2  # of a program that takes its judge along
ROOT = str(Path(__file__).resolve().parents[2])
START_JUDGE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from harness.sandbox import judge; judge.main()"
START_SERVER = (
    "import sys; root = sys.argv.pop(1); sys.path.insert(0, root); "
    "from harness.sandbox import server; sys.path.remove(root); server.main()"
)
BROKEN = "failed: the sandbox broke on this program"


class SandboxFailed(BenchError):
    """A tier could not be set up here; the message names the call that was refused."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One programming problem, in the official HumanEval fields. `test` defines `check(candidate)`."""

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str = ""


@dataclasses.dataclass(frozen=True)
class Program:
    """A completion of a problem's prompt: what is run is the prompt followed by it."""

    problem: Problem
    completion: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`result` is `passed`, `timed out` or `failed: reason`, the official evaluator's words. Wall-clock seconds."""

    result: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.result == "passed"


def start(command: list[str], handles: list[int]) -> subprocess.Popen[bytes]:
    """A process with these descriptors and no others, away from the terminal's signals."""
    return subprocess.Popen(
        command,
        # same programs, same verdicts; symbols bound at the start, not in each process forked
        env={"PYTHONHASHSEED": "0", "LD_BIND_NOW": "1", "TMPDIR": tempfile.gettempdir()},
        pass_fds=handles,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


class Judge:
    """One trusted worker process with its sandboxed server."""

    def __init__(self, tier: str, timeout: float) -> None:
        mine, orders = socket.socketpair()
        judges, servers = socket.socketpair()
        # the far end is open in judge and server, and closes when the last of them is gone
        self._tail, tail = os.pipe()
        self.wire = Wire(mine, max_frame=MAX_ORDER)
        self.work: tuple[int, dict[str, Any], int] | None = None  # index, order, attempts before
        self.began = 0.0
        with orders, judges, servers:
            try:
                # the server sees no installed packages (-S); a check may use them
                server = [sys.executable, "-S", "-s", "-P", "-c", START_SERVER, ROOT, str(servers.fileno())]
                self._server = start([*server, str(tail), tier, str(timeout)], [servers.fileno(), tail])
                judge = [sys.executable, "-s", "-P", "-c", START_JUDGE, ROOT]
                ends = [orders.fileno(), judges.fileno()]
                self._process = start([*judge, *map(str, ends)], [*ends, tail])
            finally:
                os.close(tail)
        self.wire.deadline = time.monotonic() + START_SECONDS

    def ready(self) -> None:
        """Wait until programs can be handed in. Raises SandboxFailed."""
        try:
            hello = self.wire.receive()
        except (Closed, TooLate, Malformed):
            hello = {"error": "the judge ended before it was ready, or was not ready in time"}
        if "error" in hello:
            raise SandboxFailed(hello["error"])

    def alive(self) -> bool:
        return self._process.poll() is None

    def begin(self, index: int, order: dict[str, Any], attempts: int) -> None:
        self.work, self.began = (index, order, attempts), time.monotonic()
        self.wire.deadline = time.monotonic() + order["timeout"] + GRACE
        with contextlib.suppress(Closed, TooLate):  # a dead judge shows when its answer is read
            self.wire.send(order)

    def stop(self) -> None:
        """End judge, server and program, and wait until they are gone."""
        self.wire.close()
        if self.work is not None:
            self._process.kill()
        poll = select.poll()
        poll.register(self._tail)
        if not poll.poll(STOP_SECONDS * 1000):
            self._process.kill()
            poll.poll(STOP_SECONDS * 1000)
        os.close(self._tail)
        self._process.wait()
        self._server.wait()


class Sandbox:
    """Judges programs in one tier of isolation. Not thread-safe; use it in the thread that made it.

    tier: `namespaces`, `landlock`, `none` (no isolation: only the verdict is still out of the program's reach), or
    `auto`, the best that passes harness.sandbox.probe; `unsafe` lets auto fall back to `none`, and nothing else does.
    Raises SandboxFailed where the tier can't be set up.
    """

    def __init__(self, tier: str = "auto", workers: int = 1, unsafe: bool = False) -> None:
        if tier == "auto":
            from harness.sandbox.probe import choose

            tier = choose(unsafe)
        if tier not in TIERS:
            raise SandboxFailed(f'no sandbox tier "{tier}" (valid: auto, {", ".join(TIERS)})')
        self.tier, self.workers, self.replaced = tier, workers, 0
        self._judges: list[Judge] = []
        self._timeout = 0.0

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        while self._judges:
            self._judges.pop().stop()

    def provenance(self) -> dict[str, Any]:
        """Tier, kernel and Landlock version, for tables."""
        from harness.sandbox import landlock

        return {
            "sandbox": "unsandboxed" if self.tier == "none" else self.tier,
            "kernel": os.uname().release,
            "landlock_abi": landlock.version() if sys.platform.startswith("linux") else 0,
        }

    def judge(self, programs: Iterable[Program], timeout: float = 3.0) -> Iterator[tuple[int, Verdict]]:
        """Verdicts as they are reached, each with its program's index; programs are read as they are needed.

        timeout: wall-clock seconds for a program's text and all calls of its check together.
        """
        if self._timeout < timeout or not all(judge.alive() for judge in self._judges):
            self.close()  # the servers' processor limit was set for a shorter time
            self._timeout = timeout
        waiting = ((index, order(program, timeout), 0) for index, program in enumerate(programs))
        again: deque[tuple[int, dict[str, Any], int]] = deque()
        with selectors.DefaultSelector() as selector:
            try:
                while True:
                    self._hand_out(waiting, again, selector)
                    busy = [judge for judge in self._judges if judge.work is not None]
                    if not busy:
                        return
                    yield from self._collect(busy, again, selector)
            finally:  # also when who consumes this stops early
                for judge in [judge for judge in self._judges if judge.work is not None]:
                    self._judges.remove(judge)
                    judge.stop()

    def _hand_out(
        self,
        waiting: Iterator[tuple[int, dict[str, Any], int]],
        again: deque[tuple[int, dict[str, Any], int]],
        selector: selectors.BaseSelector,
    ) -> None:
        """Give each idle judge a program, making judges up to the number of workers."""
        idle = [judge for judge in self._judges if judge.work is None]
        while idle or len(self._judges) < self.workers:
            work = again.popleft() if again else next(waiting, None)
            if work is None:
                return
            if not idle:
                idle = self._start(self.workers - len(self._judges))
            judge = idle.pop()
            judge.begin(*work)
            selector.register(judge.wire.end, selectors.EVENT_READ, judge)

    def _start(self, number: int) -> list[Judge]:
        """New judges, started side by side."""
        made = [Judge(self.tier, self._timeout) for _ in range(number)]
        self._judges += made
        try:
            for judge in made:
                judge.ready()
        except SandboxFailed:
            self.close()
            raise
        return made

    def _collect(
        self, busy: list[Judge], again: deque[tuple[int, dict[str, Any], int]], selector: selectors.BaseSelector
    ) -> Iterator[tuple[int, Verdict]]:
        """Verdicts that are there, or the first to come; judges that hang or died are replaced."""
        first = min(judge.wire.deadline or 0 for judge in busy)
        ready = [key.data for key, _ in selector.select(max(0, first - time.monotonic()))]
        late = [judge for judge in busy if judge not in ready and (judge.wire.deadline or 0) <= time.monotonic()]
        done: list[tuple[int, Verdict]] = []
        for judge in [*ready, *late]:
            assert judge.work is not None
            index, sent, attempts = judge.work
            selector.unregister(judge.wire.end)
            try:
                reply = judge.wire.receive()
            except TooLate:
                reply = {"broken": "stuck"}
                if attempts + 1 == ATTEMPTS:  # once may be the fault of the program before, whose end was waited for
                    reply |= {"result": "timed out", "seconds": sent["timeout"] + GRACE}
            except (Closed, Malformed):
                reply = {"broken": "gone"}
            if "broken" in reply:
                self.replaced += 1
                self._judges.remove(judge)
                judge.stop()
            else:
                judge.work = None
            if "result" in reply:
                done.append((index, Verdict(reply["result"], reply["seconds"])))
            elif attempts + 1 < ATTEMPTS:
                again.append((index, sent, attempts + 1))
            else:
                done.append((index, Verdict(BROKEN, time.monotonic() - judge.began)))
        yield from done


def order(program: Program, timeout: float) -> dict[str, Any]:
    problem = program.problem
    return {
        "prompt": problem.prompt,
        "test": problem.test,
        "entry_point": problem.entry_point,
        "completion": program.completion,
        "timeout": timeout,
    }
