"""Tier 2's disk quota: each call that makes a file, folder or link is counted outside the program, and refused beyond.

The seccomp filter stops such a call and tells a listener, which the server holds; the listener lets it go on or answers
ENOSPC. Only the number of calls is looked at, never their arguments, so nothing can be changed behind the listener's
back. With the limit on a file's size this bounds the disk: MAX_CREATIONS files of at most limits.FILE_BYTES.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os

MAX_CREATIONS = 64
CONTINUE = 1


class Notification(ctypes.Structure):  # struct seccomp_notif, seccomp_data at its end
    _fields_ = [
        ("id", ctypes.c_uint64),
        ("pid", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("data", ctypes.c_uint8 * 64),
    ]


class Response(ctypes.Structure):
    _fields_ = [
        ("id", ctypes.c_uint64),
        ("value", ctypes.c_int64),
        ("error", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
    ]


def _request(number: int, structure: type[ctypes.Structure]) -> int:
    """SECCOMP_IOWR('!', number): the same encoding on x86-64 and aarch64."""
    return (3 << 30) | (ctypes.sizeof(structure) << 16) | (ord("!") << 8) | number


class Quota:
    """The listener of one program."""

    def __init__(self, listener: int) -> None:
        self.listener = listener
        self._made = 0

    def answer(self) -> None:
        """Decide on one waiting call."""
        notification, response = Notification(), Response()
        with contextlib.suppress(OSError):  # killed while it waited: there is nobody to answer
            fcntl.ioctl(self.listener, _request(0, Notification), notification)
            self._made += 1
            response.id = notification.id
            if self._made > MAX_CREATIONS:
                response.error = -errno.ENOSPC
            else:
                response.flags = CONTINUE
            fcntl.ioctl(self.listener, _request(1, Response), response)

    def close(self) -> None:
        os.close(self.listener)
