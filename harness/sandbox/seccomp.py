"""The seccomp filter a program runs under: classic BPF, assembled here from the tables in harness.sandbox.syscalls.

Everything not allowed fails with EPERM, so that Python raises PermissionError and the program goes on; a foreign
architecture (32-bit calls, x32) kills it. Memory pointed to can't be read by a filter, so only integer arguments are
looked at.
"""

from __future__ import annotations

import ctypes
import errno

from harness.sandbox.linux import MACHINES, prepared
from harness.sandbox.syscalls import ABSENT, ALLOWED, CONDITIONAL, CREATING, OPEN_FLAGS, OPENING

KILL, ERRNO, NOTIFY, ALLOW = 0x80000000, 0x00050000, 0x7FC00000, 0x7FFF0000
EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER = 1, 8
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
OWN_PID = 0xFFFFFFFF  # stands in the template for the process's own id, which is known after the fork only

# BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_JMP|JSET|K, BPF_JMP|JA, BPF_RET|K
LOAD, JEQ, JGE, JSET, JUMP, RET = 0x20, 0x15, 0x35, 0x45, 0x05, 0x06
NUMBER, ARCH = 0, 4  # offsets in struct seccomp_data


def low(argument: int) -> int:
    """Offset of the low 32 bits of an argument (both architectures are little-endian)."""
    return 16 + 8 * argument


CLONE_THREAD = 0x00010000
CLONE_NEW_ANYTHING = 0x7E020080  # every namespace flag of clone, CLONE_NEWTIME too
AF_UNIX = 1
O_CREAT, O_TMPFILE = 0o100, 0o20000000
F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ = 0, 1, 2, 3, 4, 1030, 1032
# not F_SETOWN and F_SETSIG: together they send any signal to any process of the same user; no locks either
FCNTL_COMMANDS = (F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX; not FIOSETOWN, TIOCSTI
IOCTL_COMMANDS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


class Filter(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("filter", ctypes.POINTER(Filter))]


def one_of(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    """Allow when the argument is one of the values."""
    code: list[Instruction] = [(LOAD, 0, 0, low(argument))]
    for value in values:
        code += [(JEQ, 0, 1, value), (RET, 0, 0, ALLOW)]
    return [*code, (RET, 0, 0, EPERM)]


def conditions() -> dict[str, list[Instruction]]:
    """What each conditional call is allowed for; each piece ends in a return."""
    return {
        "fcntl": one_of(1, FCNTL_COMMANDS),
        "ioctl": one_of(1, IOCTL_COMMANDS),
        "kill": one_of(0, (OWN_PID,)),
        "tgkill": one_of(0, (OWN_PID,)),
        "socketpair": one_of(0, (AF_UNIX,)),
        "clone": [
            (LOAD, 0, 0, low(0)),
            (JSET, 0, 1, CLONE_NEW_ANYTHING),
            (RET, 0, 0, EPERM),
            (JSET, 0, 1, CLONE_THREAD),
            (RET, 0, 0, ALLOW),
            (RET, 0, 0, EPERM),
        ],
        "prlimit64": [  # reading one's own limits: process 0, and no new limit (a null pointer, both halves)
            (LOAD, 0, 0, low(0)),
            (JEQ, 0, 5, 0),
            (LOAD, 0, 0, low(2)),
            (JEQ, 0, 3, 0),
            (LOAD, 0, 0, low(2) + 4),
            (JEQ, 0, 1, 0),
            (RET, 0, 0, ALLOW),
            (RET, 0, 0, EPERM),
        ],
    }


def assemble(architecture: str, count_creations: bool) -> list[Instruction]:
    """The filter for `x86_64` or `aarch64`; with count_creations a listener decides on each call that makes a file."""
    column = MACHINES[architecture]
    plain = ALLOWED if count_creations else ALLOWED | CREATING | OPENING
    pieces = {number: [(RET, 0, 0, ALLOW)] for numbers in plain.values() if (number := numbers[column]) is not None}
    special = {CONDITIONAL[name]: piece for name, piece in conditions().items()}
    special |= {numbers: [(RET, 0, 0, ENOSYS)] for numbers in ABSENT.values()}
    if count_creations:
        special |= {numbers: [(RET, 0, 0, NOTIFY)] for numbers in CREATING.values()}
        flags = O_CREAT | O_TMPFILE
        for name, numbers in OPENING.items():
            special[numbers] = [(LOAD, 0, 0, low(OPEN_FLAGS[name])), (JSET, 0, 1, flags), (RET, 0, 0, NOTIFY)]
            special[numbers].append((RET, 0, 0, ALLOW))
    pieces |= {number: piece for numbers, piece in special.items() if (number := numbers[column]) is not None}
    return [
        (LOAD, 0, 0, ARCH),
        (JEQ, 1, 0, AUDIT_ARCH[architecture]),
        (RET, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JGE, 0, 1, X32_BIT),
        (RET, 0, 0, KILL),
        *tree(segments(pieces)),
    ]


def segments(pieces: dict[int, list[Instruction]]) -> list[tuple[int, list[Instruction]]]:
    """All numbers as (first number, what to do from there on), neighbours that do the same joined."""
    refuse: list[Instruction] = [(RET, 0, 0, EPERM)]
    found: list[tuple[int, list[Instruction]]] = []
    for number in range(max(pieces) + 2):
        piece = pieces.get(number, refuse)
        if not found or found[-1][1] != piece:
            found.append((number, piece))
    return found


def tree(parts: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Search by halves: the kernel tries a new filter on every system call, which a chain makes 10 times slower."""
    if len(parts) == 1:
        return parts[0][1]
    middle = len(parts) // 2
    below, above = tree(parts[:middle]), tree(parts[middle:])
    return [(JGE, 0, 1, parts[middle][0]), (JUMP, 0, 0, len(below)), *below, *above]


class Seccomp:
    """A filter ready to install. Needs no_new_privs. Built before the fork, because assembling takes a millisecond."""

    def __init__(self, architecture: str, count_creations: bool) -> None:
        code = assemble(architecture, count_creations)
        self.count_creations = count_creations
        self._filters = (Filter * len(code))(*(Filter(*instruction) for instruction in code))
        self._own = [i for i, (operation, *_, k) in enumerate(code) if operation == JEQ and k == OWN_PID]
        self._program = Program(len(code), self._filters)
        flags = SECCOMP_FILTER_FLAG_NEW_LISTENER if count_creations else 0
        self._call = prepared("seccomp", SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(self._program))

    def install(self, own_pid: int) -> int | None:
        """Put this process under the filter, for good. Gives the listener when creations are counted."""
        for index in self._own:
            self._filters[index].k = own_pid
        result = self._call()
        return result if self.count_creations else None
