"""The trusted worker: runs a problem's own check against a proxy, and never a line of the program.

Started by the pool as a process of its own. It hands the server (harness.sandbox.server) one end of a fresh socket pair
per program, keeps the other, and runs `check(proxy)`: each call goes out as plain values and comes back as
plain values, under one deadline for the whole program. Values can still make honest code slow (a set of colliding
integers): so the pool watches the judge from outside and replaces it.
"""

from __future__ import annotations

import builtins
import functools
import json
import os
import resource
import signal
import socket
import sys
import time
from typing import Any

from harness.sandbox import linux, values
from harness.sandbox.wire import MAX_ORDER, Closed, Malformed, TooLate, Wire, encode

PASSED, TIMED_OUT = "passed", "timed out"
MEMORY_BYTES = 2 << 30  # of the judge: an answer of 16 MiB may become many small objects
START_SECONDS = 60.0  # for the server to be ready; 0.2 s on an idle machine
MAX_AHEAD, MAX_AHEAD_BYTES = 500, 1 << 16  # of calls sent ahead
REASON = 300  # characters of a failure's reason
# raised into the check, these would end a loop there early, and quietly: all(map(candidate, ...)) would be true
ENDS_LOOPS = (StopIteration, StopAsyncIteration)


class Lost(BaseException):
    """The program can't answer any more; not an Exception, so that no check can swallow it."""


class ProgramError(Exception):
    """An exception of the program whose type is not a built-in one."""


class ServerFailed(Exception):
    """The sandbox could not be set up or broke; the message names the call that failed."""


class Server:
    """The process that forks programs, seen from the judge."""

    def __init__(self, control: socket.socket) -> None:
        """Wait until it is ready. Raises ServerFailed."""
        self._control, self._ending, self._status = control, False, 0
        control.settimeout(START_SECONDS)
        try:
            hello = json.loads(control.recv(4096) or b'{"error": "the server ended before it was ready"}')
        except TimeoutError:
            raise ServerFailed(f"the server was not ready after {START_SECONDS:g} s") from None
        if "error" in hello:
            raise ServerFailed(hello["error"])

    def fork(self) -> socket.socket:
        """Start a process for one program; gives the judge's end of its socket."""
        mine, other = socket.socketpair()
        with other:
            try:
                socket.send_fds(self._control, [b"r"], [other.fileno()])
            except OSError as error:
                raise ServerFailed(f"the server is gone: {error}") from None
        return mine

    def end(self) -> None:
        """Have the program killed, without waiting for it: the server forks the next one when it is gone."""
        try:
            self._control.sendall(b"e")
        except OSError as error:
            raise ServerFailed(f"the server does not answer: {error}") from None
        self._ending = True

    def status(self) -> int:
        """Wait until the last program ended is gone; gives its wait status as it was when its end was asked for."""
        if self._ending:
            try:
                status = self._control.recv(4)
            except OSError as error:
                raise ServerFailed(f"the server does not answer: {error}") from None
            if len(status) < 4:
                raise ServerFailed("the server ended")
            self._ending, self._status = False, int.from_bytes(status, "little")
        return self._status


class OtherCall(BaseException):
    """The check called with other arguments than the ones sent ahead."""


class Prepared:
    """A problem's prompt and test, compiled, and the calls its check makes, as far as they are known.

    A check mostly makes the same calls whatever the answers are. So the calls of the first program that passed are sent
    ahead, all at once, to the next one: it works through them without waiting for the judge, which saves two switches
    of process per call. When a check calls otherwise after all, its program is run again from the start, and calls of
    this problem are never sent ahead again.
    """

    def __init__(self, prompt: str, test: str) -> None:
        try:
            self.head = compile(prompt, "<prompt>", "exec")
        except SyntaxError:  # no program by itself, for want of a docstring as body
            self.head = compile(prompt.rstrip("\n") + "\n    pass\n", "<prompt>", "exec")
        self.test = compile(test, "<test>", "exec")
        self.calls: list[Any] = []
        self.texts: list[str] = []  # of the calls
        self.predictable = True

    def learn(self, calls: list[Any]) -> None:
        texts = [encode(call) for call in calls]
        if self.predictable and len(calls) <= MAX_AHEAD and sum(map(len, texts)) <= MAX_AHEAD_BYTES:
            self.calls, self.texts = calls, texts


prepared = functools.lru_cache(maxsize=256)(Prepared)


class Candidate:
    """What the check calls in place of the program's function."""

    def __init__(self, wire: Wire, name: str, ahead: list[str]) -> None:
        self.__name__ = name
        self._wire = wire
        self._ahead = ahead
        self.calls: list[Any] = []
        self.lost: str | None = None  # why no more answers will come

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = {"args": values.pack(list(args), strict=True), "kwargs": values.pack(kwargs, strict=True)}
        made = len(self.calls)
        if made <= MAX_AHEAD:
            self.calls.append(call)
        if made >= len(self._ahead):
            reply = self.exchange({"calls": [call]})
        elif encode(call) == self._ahead[made]:  # as text: 1, 1.0 and True are equal as values
            reply = self.exchange()
        else:
            raise OtherCall
        try:
            if "error" in reply:
                error = exception(str(reply["error"]), str(reply.get("message", "")))
            else:
                return values.unpack(reply["value"])
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as malformed:
            self.lose(f"failed: malformed answer: {malformed}"[:REASON])
        raise error

    def exchange(self, document: Any = None, wait: bool = True) -> Any:
        """One frame there, if any, and one back, if waited for. Raises Lost."""
        if self.lost is not None:
            raise Lost
        try:
            if document is not None:
                self._wire.send(document)
            return self._wire.receive() if wait else None
        except TooLate:
            self.lose(TIMED_OUT)
        except Malformed as error:
            self.lose(f"failed: malformed answer: {error}"[:REASON])
        except Closed:
            self.lose("failed: the program ended")

    def lose(self, reason: str) -> Any:
        self.lost = reason
        raise Lost


def exception(name: str, message: str) -> Exception:
    """The built-in exception of that name, so that a check may expect ValueError; else ProgramError."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, ENDS_LOOPS):
        try:
            return kind(message)
        except TypeError:  # UnicodeDecodeError wants five arguments
            pass
    return ProgramError(f"{name}: {message}")


def verdict(server: Server, order: dict[str, Any]) -> str:
    """`passed`, `timed out` or `failed: reason` of one program."""
    try:
        problem = prepared(order["prompt"], order["test"])
    except SyntaxError as error:
        return f"failed: the problem's own prompt or test: {error}"[:REASON]
    try:
        return attempt(server, order, problem)
    except OtherCall:
        problem.predictable, problem.calls, problem.texts = False, [], []
        return attempt(server, order, problem)


def attempt(server: Server, order: dict[str, Any], problem: Prepared) -> str:
    """One run of one program. Raises OtherCall."""
    name = order["entry_point"]
    wire = Wire(server.fork())
    server.status()  # of the program before: its end is not on this one's time
    wire.deadline = deadline = time.monotonic() + order["timeout"]
    candidate = Candidate(wire, name, problem.texts)
    text = order["prompt"] + order["completion"]
    mispredicted = False
    namespace: dict[str, Any] = {"__name__": "check"}
    try:
        candidate.exchange({"text": text, "entry_point": name, "calls": problem.calls}, wait=False)
        exec(problem.head, namespace)  # helpers of the prompt that the test uses; meanwhile the program is loaded
        reply = candidate.exchange()
        if reply != {"ready": True}:
            result = reason(exception(str(reply["error"]), str(reply["message"])))
        else:
            namespace[name] = candidate  # some tests call the function by name
            exec(problem.test, namespace)
            namespace["check"](candidate)
            result = PASSED
    except Lost:
        result = "failed"
    except OtherCall:
        mispredicted, result = True, "failed"
    except BaseException as error:
        result = reason(error)
    wire.close()
    server.end()
    if mispredicted:
        raise OtherCall
    if candidate.lost is not None:
        result, status = candidate.lost, server.status()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
            number = signal.Signals(os.WTERMSIG(status))
            result = TIMED_OUT if number == signal.SIGXCPU else f"failed: the program ended with {number.name}"
    elif time.monotonic() > deadline:
        result = TIMED_OUT
    elif result == PASSED and not problem.calls:
        problem.learn(candidate.calls)
    return result


def reason(error: BaseException) -> str:
    """In the official evaluator's words, but with the exception's type where its message is empty."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"failed: {text or type(error).__name__}"[:REASON]


def main() -> None:
    orders = Wire(socket.socket(fileno=int(sys.argv[1])), max_frame=MAX_ORDER)
    if linux.LINUX:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = Server(socket.socket(fileno=int(sys.argv[2])))
    except ServerFailed as error:
        orders.send({"error": str(error)})
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    orders.send({})
    try:
        while True:
            order = orders.receive()
            started = time.monotonic()
            result = verdict(server, order)
            orders.send({"result": result, "seconds": time.monotonic() - started})
    except Closed:
        return
    except ServerFailed as error:
        orders.send({"broken": str(error)})
