"""The Hugging Face hub: the one place that asks it for a data set, with the commit that was read.

Whoever reads from it notes `hub NAME …` → commit and SHA-256 in the data folder's `used`, and so in runs.csv. A commit
that is named pins what is read; else it is the newest, and what was built is built anew when that changes.
(`datasets` is given folders, since offline it takes the newest copy in its cache, whichever commit was asked for.)
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from harness.errors import MissingData

SECONDS = 8.0
"""How long the hub may take to answer before it counts as out of reach."""

COMMIT = re.compile(r"[0-9a-f]{40}")


class Found(NamedTuple):
    path: Path  # in the hub's own cache
    commit: str


def offline() -> bool:
    """Whether the user told the hub's libraries to ask their cache alone."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def commit_of(name: str, revision: str | None, remedy: str) -> str:
    """The commit that a branch, a tag or (None) the newest state of the data set is now; MissingData unless the hub
    answers in time. A whole commit need not be asked for."""
    return revision if revision is not None and COMMIT.fullmatch(revision) else _asked(name, revision, remedy)


def file_of(name: str, file: str, revision: str | None, remedy: str) -> Found:
    """A file of a data set at a revision (None: the newest), downloaded once; where the hub can't be asked, the copy of
    that revision in its cache. MissingData with the hub's reason where there is none."""
    from huggingface_hub import hf_hub_download

    return _had(lambda **how: hf_hub_download(name, file, repo_type="dataset", **how), name, revision, remedy)


def folder_of(name: str, revision: str | None, remedy: str) -> Found:
    """All files of a data set, likewise."""
    from huggingface_hub import snapshot_download

    return _had(lambda **how: snapshot_download(name, repo_type="dataset", **how), name, revision, remedy)


def _had(download: Callable[..., str], name: str, revision: str | None, remedy: str) -> Found:
    if revision is not None and COMMIT.fullmatch(revision):
        with contextlib.suppress(Exception):  # not in the cache: then the hub is asked
            return _found(download(revision=revision, local_files_only=True))
    try:
        _asked(name, revision, remedy)  # for its time limit; what is downloaded below names its own commit
    except MissingData as missing:
        with contextlib.suppress(Exception):
            return _found(download(revision=revision, local_files_only=True))
        raise missing
    try:
        return _found(download(revision=revision))
    except Exception as error:
        raise MissingData(f"{name} can't be had from the hub ({_line(error)})", remedy) from error


def _found(path: str) -> Found:
    parts = Path(path).parts
    return Found(Path(path), parts[parts.index("snapshots") + 1])


def _asked(name: str, revision: str | None, remedy: str) -> str:
    if offline():
        raise MissingData(f"the Hugging Face hub may not be asked for {name} (HF_HUB_OFFLINE is set)", remedy)

    def ask() -> str:
        from huggingface_hub import HfApi

        return str(HfApi().dataset_info(name, revision=revision, timeout=SECONDS / 2).sha)

    try:
        return _in_time(ask)
    except Exception as error:
        raise MissingData(f"the Hugging Face hub can't be asked for {name} ({_line(error)})", remedy) from error


def _in_time(ask: Callable[[], str]) -> str:
    """What `ask` gives or raises, or TimeoutError. A thread, because looking up a host's name knows no time limit."""
    found: list[str | Exception] = []

    def work() -> None:
        try:
            found.append(ask())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SECONDS)
    answer = found[0] if found else TimeoutError(f"no answer within {SECONDS:g} s")
    if isinstance(answer, Exception):
        raise answer
    return answer


def _line(error: Exception) -> str:
    """`Type: first line`, for a message of one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".removesuffix(": ")
