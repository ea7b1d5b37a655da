"""Where a run's figures go beside its folder, such as TensorBoard: told at evaluation points and at the end only.

A plug-in file (`--plugin FILE --sink NAME`) adds one of its own:

    from harness.sinks import Point, register_sink

    @register_sink("mine")
    class Mine:
        def __init__(self, cell, folder, update):  # opened when a run starts, or goes on at `update`
            ...
        def point(self, point: Point) -> None: ...  # after every evaluation point
        def close(self, record) -> None: ...  # with the run's row of runs.csv but for notes; None if stopped

A sink gets copies, and torch's random numbers are put back after it, so it changes no number; where it raises it is
left out from then on, and the run's notes say so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from harness.errors import UserError
from harness.registry import Registry

if TYPE_CHECKING:
    from harness.cell import Cell


@dataclass(frozen=True)
class Point:
    """One evaluation point."""

    figures: Mapping[str, Any]  # a row of curves.csv, without the columns that name the cell
    halting: Mapping[int, int]  # halting step → validation examples
    attention: Callable[[], np.ndarray | None]
    """[M, Q, K] float: what the first validation example's places look at in the last layer of each of the first M
    segments, mean over heads. Costs a pass of the model; None where there is none, or it would take too much room."""


class Sink(Protocol):
    def point(self, point: Point) -> None: ...
    def close(self, record: Mapping[str, Any] | None) -> None: ...


SINKS: Registry[Callable[[Cell, Path, int], Sink]] = Registry("sink")


def register_sink(name: str) -> Callable[[Any], Any]:
    """Decorator of a class, or of a function, that opens a sink given (cell, run folder, update)."""
    return SINKS.register(name)


def check(names: Iterable[str]) -> None:
    """UserError for a sink that there is not, or whose library is not installed."""
    for name in names:
        SINKS.get(name)
        if name == TENSORBOARD and importlib.util.find_spec("tensorboard") is None:
            raise UserError("--tensorboard: tensorboard is not installed: pip install -r requirements-tensorboard.txt")


TENSORBOARD = "tensorboard"


@register_sink(TENSORBOARD)
class TensorBoard:
    """Curves, halting depth and attention in `tensorboard/` of the run folder: tensorboard --logdir results/SUITE."""

    def __init__(self, cell: Cell, folder: Path, update: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # what an interrupted run wrote beyond its checkpoint comes again
        self.writer: Any = SummaryWriter(str(folder / TENSORBOARD), purge_step=update + 1)

    def point(self, point: Point) -> None:
        step = point.figures["updates"]
        for name, value in point.figures.items():
            if name != "updates" and value is not None:
                self.writer.add_scalar(name.replace("_", "/", 1), value, step)
        steps = np.repeat(list(point.halting), list(point.halting.values()))
        self.writer.add_scalar("halting/mean_step", steps.mean(), step)
        self.writer.add_histogram("halting/step", steps, step, bins=np.arange(0.5, max(point.halting) + 1))
        attention = point.attention()
        for i, weights in enumerate(() if attention is None else attention):
            image = weights / max(float(weights.max()), 1e-9)
            self.writer.add_image(f"attention/segment_{i + 1}", image, step, dataformats="HW")
        self.writer.flush()

    def close(self, record: Mapping[str, Any] | None) -> None:
        self.writer.close()
