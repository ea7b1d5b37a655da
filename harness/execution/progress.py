"""What a run shows while it runs: live bars with time left on a terminal, plain lines otherwise. All on stderr."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from harness.cell import Cell


class Monitor(Protocol):
    """What the executor tells about its cells."""

    def start(self, cells: list[Cell]) -> None: ...
    def started(self, cell: Cell) -> None: ...
    def progress(self, cell: Cell, share: float, text: str) -> None: ...
    def ended(self, cell: Cell, status: str, reason: str) -> None: ...
    def say(self, text: str) -> None: ...
    def refresh(self) -> None: ...
    def stop(self) -> None: ...


def work(cell: Cell) -> float:
    """A cell's expected share of the whole, in FLOPs where its budget fixes them, else one unit of its budget."""
    return float(cell.updates * cell.flops_per_update) if cell.updates is not None else cell.recipe.budget.amount


class Clock:
    """Time left, from work done so far."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.total = 0.0
        self.done = 0.0
        self.running: dict[str, float] = {}

    def left(self) -> float | None:
        """Seconds, or None before anything can be said."""
        done = self.done + sum(self.running.values())
        if done < 0.01 * self.total or done == 0:
            return None
        return (time.monotonic() - self.begun) * (self.total - done) / done


def minutes(seconds: float | None) -> str:
    if seconds is None:
        return "…"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class PlainMonitor:
    """One line per finished cell."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ends = 0
        self.count = 0
        self.starts: dict[str, float] = {}
        self.texts: dict[str, str] = {}

    def start(self, cells: list[Cell]) -> None:
        self.count = len(cells)
        self.clock = Clock()
        self.clock.total = sum(work(cell) for cell in cells)

    def started(self, cell: Cell) -> None:
        self.starts[cell.id] = time.monotonic()

    def progress(self, cell: Cell, share: float, text: str) -> None:
        self.clock.running[cell.id] = share * work(cell)
        if text.startswith("update"):
            self.texts[cell.id] = text

    def ended(self, cell: Cell, status: str, reason: str) -> None:
        self.clock.running.pop(cell.id, None)
        self.clock.done += work(cell)
        self.ends += 1
        seconds = time.monotonic() - self.starts.get(cell.id, time.monotonic())
        detail = self.texts.pop(cell.id, "") if status == "finished" else reason
        left = f", about {minutes(self.clock.left())} left" if self.ends < self.count else ""
        self.say(f"[{self.ends}/{self.count}] {cell.name}: {status} in {minutes(seconds)}; {detail}{left}")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def refresh(self) -> None: ...

    def stop(self) -> None: ...


class LiveMonitor(PlainMonitor):
    """A bar for the whole and one per running cell, with rich."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
        )
        self.ids: dict[str, TaskID] = {}

    def start(self, cells: list[Cell]) -> None:
        super().start(cells)
        self.whole = self.bars.add_task(f"{len(cells)} cells", total=max(self.clock.total, 1), text="")
        self.bars.start()

    def started(self, cell: Cell) -> None:
        super().started(cell)
        if (
            old := self.ids.pop(cell.id, None)
        ) is not None:  # tried before: another command had it, or its node was lost
            self.bars.remove_task(old)
        self.ids[cell.id] = self.bars.add_task(f"  {cell.name}", total=1.0, text="starting")

    def progress(self, cell: Cell, share: float, text: str) -> None:
        super().progress(cell, share, text)
        if cell.id in self.ids:
            self.bars.update(self.ids[cell.id], completed=share, text=text)

    def ended(self, cell: Cell, status: str, reason: str) -> None:
        bar = self.ids.pop(cell.id, None)
        if bar is not None:
            self.bars.remove_task(bar)
        super().ended(cell, status, reason)

    def say(self, text: str) -> None:
        self.bars.console.print(text, markup=False, highlight=False)

    def refresh(self) -> None:
        done = self.clock.done + sum(self.clock.running.values())
        self.bars.update(self.whole, completed=done, text=f"about {minutes(self.clock.left())} left")

    def stop(self) -> None:
        self.bars.stop()


def monitor() -> Monitor:
    """Live bars where standard error is a terminal, plain lines otherwise."""
    return LiveMonitor() if sys.stderr.isatty() else PlainMonitor()
