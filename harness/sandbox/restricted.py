"""Tier 2: Landlock, seccomp and limits, for machines that forbid namespaces (rented GPUs are often such containers).

Root becomes an unprivileged user here too. Without a sized file system of its own a program could fill the disk: so the
files it makes are counted (harness.sandbox.quota), which with the limit on a file's size is a hard bound.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from harness.sandbox import namespaces, runtime

FOLDER_PREFIX = "sandbox-"


def make_folder(hand_over: bool) -> tuple[Path, Path]:
    """A temporary folder and the writable one in it. Who calls removes the first.

    hand_over: this is root, and programs will run as an unprivileged user. Where no other user can read the interpreter
    (below a home of mode 700), a copy of the standard library is put into the folder, and sys.path is pointed at it:
    else no program could import anything after the change of user.
    """
    import shutil  # here and not above: tier 1 needs neither, and each library mapped makes a fork slower
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=reachable() if hand_over else None))
    work = folder / "work"
    work.mkdir()
    if hand_over:
        for number, path in enumerate(runtime.standard_library()):
            if not runtime.readable_by_others(path):
                copy = folder / f"library-{number}"
                shutil.copytree(path, copy, ignore=shutil.ignore_patterns(*runtime.SKIPPED, "*.a", "*.pyc"))
                sys.path[:] = [entry.replace(str(path), str(copy), 1) for entry in sys.path]
        folder.chmod(0o711)
        os.chown(work, namespaces.NOBODY, namespaces.NOBODY)
    return folder, work


def reachable() -> str:
    """A folder for temporary files that an unprivileged user can reach; $TMPDIR may lie below a private one."""
    import tempfile

    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if Path(place).is_dir() and runtime.readable_by_others(Path(place).resolve()):
            return place
    raise OSError("no folder for temporary files that other users can reach")
