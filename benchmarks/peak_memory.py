"""Peak of a process's memory by the number of rows it works on, for long_evaluation.py and long_collecting.py.

A process of its own for each size. Own memory is told apart from pages of files, which the system takes back when it
needs them; the difference between sizes, per row, is what is kept of each row.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def memory() -> tuple[int, int]:
    """KiB of this process's own memory, and of pages of files."""
    own = dict.fromkeys(("RssAnon", "RssFile"), 0)
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in own:
            own[name] = int(value.split()[0])
    return own["RssAnon"], own["RssFile"]


class Peak:
    """`with Peak() as peak:` looks at the memory every 20 ms; `peak.mib()` is the most that was seen."""

    def __enter__(self) -> Peak:
        self._most, self._over = memory(), threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            own, file = memory()
            self._most = max(self._most[0], own), max(self._most[1], file)

    def mib(self) -> dict[str, float]:
        return {name: round(kib / 1024, 1) for name, kib in zip(("own_mib", "file_mib"), self._most, strict=True)}


def by_rows(measure: Callable[..., None], sizes: Sequence[int], *arguments: Any) -> None:
    """Print what `measure(rows, *arguments, queue)` puts for each size; as the last line, JSON with bytes per row."""
    context = multiprocessing.get_context("spawn")
    found = []
    for count in sorted(sizes):
        out = context.Queue()
        process = context.Process(target=measure, args=(count, *arguments, out))
        process.start()
        found.append(out.get())
        process.join()
        print(*(f"{name} {value}" for name, value in found[-1].items()), sep="  ", flush=True)
    first, last = found[0], found[-1]
    more = last["rows"] - first["rows"]
    per_row = (
        {name: round((last[name] - first[name]) * 2**20 / more, 1) for name in ("own_mib", "file_mib")} if more else {}
    )
    print(json.dumps({"sizes": found, "bytes_per_row": per_row}))
