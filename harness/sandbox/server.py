"""The warm interpreter inside the sandbox: forks one process per program, ends it, and tidies up after it.

    judge ── control socket ──▶ server ── fork ──▶ program      (which holds the answer socket and nothing else)

Started by the pool with an environment of two variables, which are cleared. The process that the pool started only
waits: the server is its child, because a pid namespace begins with the next fork. No code of a program ever
runs in the server.
It ends when the judge's end of the control socket closes, whatever the reason, and takes the program with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import random
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from harness.sandbox import landlock, limits, linux, namespaces, program, quota, restricted, runtime, seccomp, values
from harness.sandbox.wire import Wire

# imported before the fork, because programs ask for them often and each costs milliseconds
WARM = """
typing math collections re itertools functools string heapq bisect random copy operator hashlib statistics
dataclasses datetime decimal fractions enum cmath json struct contextlib types ctypes queue threading
"""
WARM_UPS = 20  # a function is specialised from its eighth call on
WARM_TEXT = '''
from typing import Dict, List, Optional, Tuple


def f(numbers: List[float], names: Dict[str, int], pair: Tuple[int, int]) -> Optional[str]:
    """What solutions are made of, so that compiler and interpreter have met it.
    >>> f([1.0], {}, (1, 2))
    """
    total = 0
    for index, number in enumerate(sorted(numbers)):
        if number % 2 == 0 and index not in names.values():
            total += int(number) + len(str(index))
        elif number > pair[0] or not names:
            total -= max(pair[1], index)
    while total > 10:
        total //= 2
    words = [word.upper() for word in " ".join(names).split() if word]
    return f"{total}" + "".join(reversed(words)) or None
'''
WARM_CALL = {
    "args": values.pack([[1.0, 2.5, 4.0], {"a": 1, "b": 2}, (1, 2)]),
    "kwargs": values.pack({}),
}
# a program's own descriptors lie below; the server's from here to limits.DESCRIPTORS, all of which the child closes
LOW = 10


class Isolation:
    """One tier as set up in this process: what each program is put under after its fork."""

    def __init__(self, tier: str, timeout: float) -> None:
        self.tier, self._timeout = tier, timeout
        self.folder: Path | None = None  # of our own, to be removed at the end
        self.ruleset: landlock.Ruleset | None = None
        self.seccomp: seccomp.Seccomp | None = None
        self.enforce: Callable[[], int] | None = None

    def enter(self) -> None:
        """Namespaces, or a folder of our own. Before the server's fork."""
        self._libraries = runtime.shared_libraries() if self.tier == "landlock" else []
        self._hand_over = self.tier == "landlock" and os.geteuid() == 0 and namespaces.nobody_is_mapped()
        if self.tier == "namespaces":
            namespaces.enter()
            self.work = Path(namespaces.WORK)
        else:
            self.folder, self.work = restricted.make_folder(self._hand_over)

    def prepare(self) -> None:
        """In the server: rules and filter, built once; privileges gone."""
        if self._hand_over:
            namespaces.become_nobody()
        self.place = str(self.work)
        limits.set_shared()
        self.processor = limits.processor_seconds(self._timeout)
        if self.tier == "none":
            return
        linux.drop_capabilities()
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        if self.tier == "landlock" or landlock.version():
            self.ruleset = landlock.Ruleset()
            self._rules(self.ruleset)
        self.seccomp = seccomp.Seccomp(linux.machine(), count_creations=self.tier == "landlock")
        self.enforce = self.ruleset.enforcer() if self.ruleset else None
        self.die_with_server = linux.prepared_prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)

    def _rules(self, rules: landlock.Ruleset) -> None:
        read = landlock.READ_FILE | landlock.READ_DIR
        rules.allow([self.work], landlock.WORK)
        rules.allow([Path("/dev/null")], landlock.READ_FILE | landlock.WRITE_FILE)
        if self.tier == "namespaces":
            rules.allow([Path("/")], read)  # the root holds nothing else
            return
        rules.allow([Path(device) for device in runtime.DEVICES[1:]], landlock.READ_FILE)
        # a library that this user can't read is mapped already
        rules.allow((path for path in self._libraries if os.access(path, os.R_OK)), read)
        folders = {Path(entry) for entry in sys.path}
        for folder in (path for path in folders if folders.isdisjoint(path.parents)):
            names = {path.name for path in folder.iterdir()}
            if names.isdisjoint(runtime.HIDDEN):
                rules.allow([folder], read)
            else:  # rules only add rights: to keep installed packages out, everything beside them is named
                rules.allow([folder], landlock.READ_DIR)
                rules.allow((folder / name for name in names.difference(runtime.SKIPPED)), read)


def main() -> None:
    handles, tier, timeout = [int(text) for text in sys.argv[1:3]], sys.argv[3], float(sys.argv[4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while os.dup(0) < LOW:
        pass
    # the harness may have hundreds of files open, and these had its numbers; the second is held open and nothing else
    control_handle, _ = [fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, LOW) for handle in handles]
    for handle in handles:
        os.close(handle)
    control = socket.socket(fileno=control_handle)
    for name in WARM.split():
        importlib.import_module(name)
    random.seed(0)  # same programs, same verdicts
    isolation = Isolation(tier, timeout)
    try:
        isolation.enter()
        os.environ.clear()
        if os.fork() == 0:
            serve(control, isolation)
    except OSError as error:
        control.sendall(json.dumps({"error": str(error)}).encode())
        os._exit(1)
    control.close()
    os.wait()
    if isolation.folder is not None:
        import shutil  # here, since it brings three compression libraries into every process forked after it

        shutil.rmtree(isolation.folder, ignore_errors=True)
    os._exit(0)


def serve(control: socket.socket, isolation: Isolation) -> None:
    """The server's life. Never returns."""
    try:
        sys.path[:] = [entry for entry in sys.path if os.access(entry, os.R_OK | os.X_OK) and Path(entry).is_dir()]
        isolation.prepare()
        os.chdir("/")
        listeners = socket.socketpair() if isolation.tier == "landlock" else None
    except OSError as error:
        control.sendall(json.dumps({"error": str(error)}).encode())
        os._exit(1)
    warm_up()
    control.sendall(json.dumps({}).encode())
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        while True:
            one_program(control, isolation, listeners)
    finally:  # a server that can't go on ends, and the pool starts another
        os._exit(1)


def warm_up() -> None:
    """Do once, with a text of our own, what every program's process does: what Python and the linker settle on first
    use (specialised code, type versions, bound symbols, filled free lists) is then inherited, not copied and redone."""
    for _ in range(WARM_UPS):
        mine, other = socket.socketpair()
        with mine:
            judge = Wire(mine)
            judge.send({"text": WARM_TEXT, "entry_point": "f", "calls": [WARM_CALL]})
            judge.send({"calls": [WARM_CALL]})
            mine.shutdown(socket.SHUT_WR)
            program.converse(Wire(other))
            other.close()
    del sys.modules[program.MODULE]


def one_program(
    control: socket.socket, isolation: Isolation, listeners: tuple[socket.socket, socket.socket] | None
) -> None:
    """Wait for the judge to hand over a socket, run a program on it until the judge says so, and tidy up."""
    _, handles, *_ = socket.recv_fds(control, 1, 1)
    if not handles:
        os._exit(0)
    answers = handles[0]
    child = linux.fork()
    if child == 0:
        control.close()
        become_program(answers, isolation, listeners)
    os.close(answers)
    wait_for_end(control, listeners)
    os.kill(child, signal.SIGKILL)
    if isolation.tier == "namespaces" and os.getpid() == 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # nothing should be left: one process per program
    _, status, _ = os.wait4(child, 0)
    tidy(isolation.work)
    try:
        control.sendall(status.to_bytes(4, "little"))
    except OSError:
        os._exit(0)


def wait_for_end(control: socket.socket, listeners: tuple[socket.socket, socket.socket] | None) -> None:
    """Until the judge says so or is gone; in tier 2, answering the program's calls that make files."""
    if listeners is None:
        control.recv(1)
        return
    poll, accounts = select.poll(), {}
    poll.register(control, select.POLLIN)
    poll.register(listeners[0], select.POLLIN)
    ended = False
    while not ended:
        for handle, events in poll.poll():
            if handle == control.fileno():
                control.recv(1)
                ended = True
            elif handle == listeners[0].fileno():
                _, (listener, *_), *_ = socket.recv_fds(listeners[0], 1, 1)
                accounts[listener] = quota.Quota(listener)
                poll.register(listener, select.POLLIN)
            elif events & select.POLLIN:
                accounts[handle].answer()
            else:  # the program is gone
                poll.unregister(handle)
    for account in accounts.values():
        account.close()


def tidy(work: Path) -> None:
    """Empty the writable folder. Its tree is flattened, not descended: a thousand folders deep is no trouble."""
    while paths := list(work.iterdir()):
        for path in paths:
            try:
                if not path.is_dir() or path.is_symlink():
                    path.unlink()
                    continue
                path.chmod(0o700)  # the program may have made it with no permissions at all
                for entry in list(path.iterdir()):
                    if entry.is_dir() and not entry.is_symlink():
                        entry.chmod(0o700)
                        entry.rename(work / os.urandom(16).hex())
                    else:
                        entry.unlink()
                path.rmdir()
            except FileNotFoundError:
                continue


def become_program(answers: int, isolation: Isolation, listeners: tuple[socket.socket, socket.socket] | None) -> None:
    """In the child: give up everything, then run the program. Never returns."""
    try:
        os.chdir(isolation.place)
        resource.setrlimit(resource.RLIMIT_CPU, isolation.processor)
        if isolation.enforce is not None:
            isolation.enforce()
        os.dup2(answers, program.ANSWERS)
        last, handover = program.ANSWERS, program.ANSWERS + 1
        if listeners is not None:
            last = os.dup2(listeners[1].fileno(), handover)
        os.closerange(last + 1, limits.DESCRIPTORS)
        if isolation.seccomp is not None:
            isolation.die_with_server()
            listener = isolation.seccomp.install(os.getpid())
            if listener is not None:
                with socket.socket(fileno=handover) as end:
                    socket.send_fds(end, [b"l"], [listener])
                os.close(listener)
        program.run()
    finally:
        os._exit(1)
