"""The node's side of the Ray executor: an actor that runs a worker process there and passes messages on.

The worker is a process of its own, the same as on one machine: it may be killed, hang or run out of memory without
taking its actor along, so that a dead worker and a lost node are never taken for each other. Imports no torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import socket
import tempfile
import uuid
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from harness.execution import worker
from harness.execution.parcel import pack, unpack
from harness.files import write_atomically
from harness.sandbox.shared import Choice

KILL = b""
"""The word that kills the worker; every other one is a pickled message for it."""

CHECKPOINTS = "checkpoint-*.pt"
LAST_SECONDS = 5.0  # a worker whose pipe is closed has so long to end


@dataclass(frozen=True)
class Setup:
    """What every node needs to know of the command."""

    plugins: tuple[tuple[str, bytes], ...]  # path and content
    sandbox: Choice
    environment: dict[str, str]
    token: tuple[str, str]  # a file of the results folder, and what stands in it


@dataclass(frozen=True)
class Place:
    """Where a worker runs."""

    host: str
    shares: bool  # the results folder is there, too
    scratch: Path  # for runs and data where it is not


class Relay:
    """One worker on one node.

    Messages for the other side are the worker's own, and ("exited", exit code). Where the node has no results folder,
    ("checkpoint", name, bytes) comes for each new checkpoint, and before "done" and "exited" ("files", bytes): the run
    folder as it is then.
    """

    def __init__(self, setup: Setup) -> None:
        os.environ.update(setup.environment)
        self.scratch = Path(tempfile.gettempdir()) / f"hrm-bench-{uuid.uuid4().hex}"  # made when it is needed
        self.where = Place(socket.gethostname(), _reads(*setup.token), self.scratch)
        self.run_folder: Path | None = None
        self.state_sent = ""
        plugins = tuple(self._plugin(Path(path), content) for path, content in setup.plugins)
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=worker.main, args=(theirs, plugins, setup.sandbox), daemon=True)
        self.process.start()
        theirs.close()

    def place(self) -> Place:
        return self.where

    def take(self, run_folder: Path, files: bytes, data_folder: Path, data: bytes | None) -> None:
        """Lay out the run and the data that the next job names; data None: they came with an earlier one."""
        if self.run_folder is not None:
            shutil.rmtree(self.run_folder, ignore_errors=True)
        self.scratch.mkdir(mode=0o700, exist_ok=True)
        unpack(files, run_folder)
        if data is not None:
            unpack(data, data_folder)
        self.run_folder = run_folder
        self.state_sent = self._newest_state()

    def exchange(self, words: list[bytes], seconds: float) -> list[tuple[Any, ...]]:
        """Pass the words to the worker; wait so long at most for messages of it, and return them all."""
        for word in words:
            if word == KILL:
                self.process.kill()
            else:
                with contextlib.suppress(OSError):  # its end is told below
                    self.connection.send_bytes(word)
        found: list[tuple[Any, ...]] = []
        signs = wait([self.connection, self.process.sentinel], seconds)
        try:
            while self.connection.poll():
                message = self.connection.recv()
                if message[0] == "done":
                    found += self._files()
                found.append(message)
        except (EOFError, OSError):
            signs = [self.process.sentinel]
            self.process.join(LAST_SECONDS)
        if self.process.sentinel in signs and not self.process.is_alive():
            return [*found, *self._files(), ("exited", self.process.exitcode)]
        return found + self._new_state()

    def close(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _plugin(self, path: Path, content: bytes) -> str:
        """Where the node has this --plugin file; its own copy where it has none like it."""
        with contextlib.suppress(OSError):
            if path.read_bytes() == content:
                return str(path)
        self.scratch.mkdir(mode=0o700, exist_ok=True)
        write_atomically(self.scratch / path.name, lambda file: file.write(content))
        return str(self.scratch / path.name)

    def _files(self) -> list[tuple[Any, ...]]:
        return [] if self.run_folder is None else [("files", pack(self.run_folder))]

    def _newest_state(self) -> str:
        assert self.run_folder is not None
        return max((path.name for path in self.run_folder.glob(CHECKPOINTS)), default="")

    def _new_state(self) -> list[tuple[Any, ...]]:
        if self.run_folder is None or (name := self._newest_state()) <= self.state_sent:
            return []
        try:
            content = (self.run_folder / name).read_bytes()
        except FileNotFoundError:  # the run has ended meanwhile
            return []
        self.state_sent = name
        return [("checkpoint", name, content)]


def _reads(path: str, content: str) -> bool:
    """Whether this node has the file."""
    try:
        return Path(path).read_text() == content
    except OSError:
        return False
