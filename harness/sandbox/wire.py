"""Frames of JSON over a socket: a length and a document, with one deadline for the whole frame, both ways.

The other end may be hostile: it can send half a frame and wait, announce four gigabytes, or send what is not JSON. No
pickle, no marshal: a document is data.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

MAX_FRAME = 16 << 20  # bytes; an answer beyond is no answer
MAX_ORDER = 256 << 20  # of what the pool sends to its own judge
CHUNK = 1 << 16
_LENGTH = struct.Struct("!I")
encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder per call
_decode = json.JSONDecoder().decode
SLACK = 0.98  # the kernel's time-out is set anew when less than this share of it is left: late by 2 % at most


class Closed(Exception):
    """The other end is gone."""


class TooLate(Exception):
    """The deadline passed before the whole frame was through."""


class Malformed(Exception):
    """The other end sent what is not a frame of JSON, or too large a one."""


class Wire:
    """One end of a stream socket.

    deadline: on time.monotonic()'s clock, for everything sent and received from now on; None waits for ever. The kernel
    keeps it (SO_RCVTIMEO, SO_SNDTIMEO): Python's own time-outs cost four more system calls per exchange.
    """

    def __init__(self, end: socket.socket, max_frame: int = MAX_FRAME) -> None:
        self.end = end
        self.deadline: float | None = None
        self._max_frame = max_frame
        self._buffer = b""
        self._armed: float | None = None

    def send(self, document: Any) -> None:
        """Raises Malformed when the document's frame is too large; nothing is sent then."""
        body = encode(document).encode()
        if len(body) > self._max_frame:
            raise Malformed(f"{len(body)} bytes, above {self._max_frame}")
        left = memoryview(_LENGTH.pack(len(body)) + body)
        while left:
            self._arm()
            try:
                left = left[self.end.send(left) :]
            except BlockingIOError:
                raise TooLate from None
            except OSError:
                raise Closed from None

    def receive(self) -> Any:
        while len(self._buffer) < _LENGTH.size:
            self._buffer += self._more()
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > self._max_frame:
            raise Malformed(f"a frame of {length} bytes, above {self._max_frame}")
        parts, have = [self._buffer[_LENGTH.size :]], len(self._buffer) - _LENGTH.size
        while have < length:
            parts.append(self._more())
            have += len(parts[-1])
        body = b"".join(parts)
        self._buffer = body[length:]
        try:
            return _decode(body[:length].decode())
        except (ValueError, RecursionError) as error:
            raise Malformed(str(error)) from None

    def close(self) -> None:
        self.end.close()

    def _more(self) -> bytes:
        self._arm()
        try:
            data = self.end.recv(CHUNK)
        except BlockingIOError:
            raise TooLate from None
        except OSError:
            raise Closed from None
        if not data:
            raise Closed
        return data

    def _arm(self) -> None:
        if self.deadline is None:
            if self._armed is not None:
                self._set(None)
            return
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TooLate
        if self._armed is None or left > self._armed or left < SLACK * self._armed:
            self._set(left)

    def _set(self, seconds: float | None) -> None:
        """Tell the kernel; zero would mean for ever, so at least a millisecond."""
        self._armed = seconds
        whole = 0.0 if seconds is None else max(seconds, 0.001)
        value = struct.pack("ll", int(whole), int(whole % 1 * 1e6))
        self.end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self.end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
