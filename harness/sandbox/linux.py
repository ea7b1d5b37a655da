"""Linux system calls that Python's standard library lacks, by ctypes; each raises OSError with the call's name."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

LINUX = sys.platform.startswith("linux")
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long  # pointers as arguments are wrapped: a bare Python int would be cut to 32 bits

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 4, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

# system-call numbers used here that libc offers no function for: x86-64, aarch64 (checked against headers in the tests)
DIRECT_CALLS = {
    "pivot_root": (155, 41),
    "capset": (126, 91),
    "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
MACHINES = {"x86_64": 0, "aarch64": 1}


def machine() -> str:
    """`x86_64` or `aarch64`; OSError for any other, and for 32-bit Python on either."""
    name = os.uname().machine
    if name not in MACHINES or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise OSError(f"{name}, {8 * ctypes.sizeof(ctypes.c_void_p)} bit: only 64-bit x86_64 and aarch64 are known")
    return name


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prepared(name: str, *arguments: object) -> Callable[[], int]:
    """A call of `DIRECT_CALLS`, ready to be made after a fork. Integers are passed as 64-bit words.

    Whatever Python a program's process runs before the program copies pages, at about 3 microseconds each: so all that
    can be worked out before the fork is.
    """
    number = ctypes.c_long(DIRECT_CALLS[name][MACHINES[machine()]])
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return lambda: _checked(name, libc.syscall(number, *words))


def syscall(name: str, *arguments: object) -> int:
    return prepared(name, *arguments)()


def prepared_prctl(option: int, *arguments: int) -> Callable[[], int]:
    words = [ctypes.c_int(option), *(ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4])]
    return lambda: _checked("prctl", libc.prctl(*words))


def prctl(option: int, *arguments: int) -> int:
    return prepared_prctl(option, *arguments)()


def fork() -> int:
    """fork(2) without Python's own handlers, for a process of one thread.

    os.fork reseeds `random` and renews every lock of `threading`, 0.6 ms of a program's 3; without it each child also
    starts from the same random state, so that a program's verdict can be repeated. PyDLL keeps the interpreter's lock.
    """
    return _checked("fork", ctypes.PyDLL(None, use_errno=True).fork())


def unshare(flags: int) -> None:
    _checked("unshare", libc.unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    texts = [ctypes.c_char_p(t.encode()) for t in (source, target, kind)]
    _checked(f"mount {target}", libc.mount(*texts, ctypes.c_ulong(flags), ctypes.c_char_p(options.encode())))


def unmount(target: str, flags: int) -> None:
    _checked(f"umount {target}", libc.umount2(ctypes.c_char_p(target.encode()), ctypes.c_int(flags)))


def pivot_root(new: str, old: str) -> None:
    syscall("pivot_root", ctypes.c_char_p(new.encode()), ctypes.c_char_p(old.encode()))


def drop_capabilities() -> None:
    """Empty the bounding, ambient, effective, permitted and inheritable sets of this process; for good."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # EINVAL past the last one that this kernel knows; EPERM where there is none to drop
            break
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    syscall("capset", header, (ctypes.c_uint32 * 6)())
