"""Landlock: which files a process may touch, enforced by the kernel without namespaces or privileges.

All of tier 2's file isolation, and a second fence in tier 1 where the kernel has it. What it does not govern (chmod,
times, truncate by path before version 3, stat) is refused by seccomp, or, for stat and names, left: a program in tier 2
can learn whether a path exists.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from harness.sandbox.linux import prepared, syscall

RULE_PATH_BENEATH = 1
CREATE_RULESET_VERSION = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REG, MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in (7, 8, 12, 13, 14, 15))
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # known from this version on
NET_ALL, NET_SINCE = 0b11, 4  # bind and connect of TCP
SCOPE_ALL, SCOPE_SINCE = 0b11, 6  # abstract unix sockets, signals
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
WORK = READ_FILE | WRITE_FILE | READ_DIR | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER | TRUNCATE


class RulesetAttribute(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """Landlock's ABI version on this kernel; 0 where it is absent or switched off."""
    try:
        return syscall("landlock_create_ruleset", ctypes.c_void_p(None), 0, CREATE_RULESET_VERSION)
    except OSError:
        return 0


class Ruleset:
    """What may be touched; everything else is refused. Needs no_new_privs when it is enforced."""

    def __init__(self) -> None:
        self.version = version()
        if not self.version:
            raise OSError("landlock_create_ruleset: this kernel has no Landlock, or it is switched off")
        self._rights = max(mask for since, mask in RIGHTS.items() if since <= self.version)
        attribute = RulesetAttribute(
            self._rights,
            NET_ALL if self.version >= NET_SINCE else 0,
            SCOPE_ALL if self.version >= SCOPE_SINCE else 0,
        )
        size = 24 if self.version >= SCOPE_SINCE else 16 if self.version >= NET_SINCE else 8
        self._handle = syscall("landlock_create_ruleset", ctypes.byref(attribute), size, 0)

    def allow(self, paths: Iterable[Path], rights: int) -> None:
        """Grant rights on each path and everything below it."""
        for path in paths:
            handle = os.open(path, os.O_PATH)
            try:
                mask = rights & self._rights
                if not stat.S_ISDIR(os.fstat(handle).st_mode):
                    mask &= OF_A_FILE
                rule = PathBeneath(mask, handle)
                syscall("landlock_add_rule", self._handle, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
            finally:
                os.close(handle)

    def enforcer(self) -> Callable[[], int]:
        """A call that puts a process under the rules, for good."""
        return prepared("landlock_restrict_self", self._handle, 0)
