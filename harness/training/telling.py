"""Tells a run's sinks what it found, without letting them change or end it. See harness/sinks.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.cell import Cell
from harness.evaluation.evaluate import Evaluation
from harness.evaluation.trace import trace
from harness.sinks import SINKS, Point, Sink
from harness.training.trainer import Trainer
from tasks.base import Examples

ATTENTION_BYTES = 64 * 2**20
"""Room for the weights of one example: a segment of HRM records 24 calls, 39 MB at 900 places."""


class Teller:
    """The open sinks of one run. `notes` says which was left out, and why."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = names
        self.open: dict[str, Sink] = {}
        self.notes: list[str] = []

    @contextlib.contextmanager
    def told(self, cell: Cell, folder: Path, update: int) -> Iterator[None]:
        """From the start of a run on; where it ends without a record, sinks are closed without one."""
        self.start(cell, folder, update)
        try:
            yield
        finally:
            self.close(None)  # what is closed already stays so

    def start(self, cell: Cell, folder: Path, update: int) -> None:
        for name in self.names:
            sink = self._safely(name, partial(SINKS.get(name), cell, folder, update))
            if sink is not None:
                self.open[name] = sink

    def point(self, trainer: Trainer, figures: Mapping[str, Any], result: Evaluation, examples: Examples) -> None:
        if not self.open:
            return
        steps, counts = np.unique(result.halting_step(), return_counts=True)
        halting = dict(zip(steps.tolist(), counts.tolist(), strict=True))
        for name, sink in list(self.open.items()):
            told = Point(dict(figures), dict(halting), partial(attention, trainer, examples))
            self._safely(name, partial(sink.point, told))

    def close(self, record: Mapping[str, Any] | None) -> None:
        for name, sink in list(self.open.items()):
            self._safely(name, partial(sink.close, None if record is None else dict(record)))
        self.open.clear()

    def _safely(self, name: str, work: Callable[[], Any]) -> Any:
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        try:
            with torch.random.fork_rng(devices):
                return work()
        except Exception as error:
            self.open.pop(name, None)
            self.notes.append(f"sink {name} left out: {type(error).__name__}: {error}")
            return None


def attention(trainer: Trainer, examples: Examples) -> np.ndarray | None:
    """See Point.attention."""
    model, loop = trainer.evaluated, trainer.cell.loop
    places = examples.inputs.shape[1] + model.config.slots
    most = ATTENTION_BYTES // (2 * places**2 * model.layers_per_segment)
    if most < 1 or trainer.task.generated:
        return None
    found = trace(model, trainer.task, loop, examples[:1], min(loop.segments, most), inside=True).attention
    return None if found is None else found[:, -1, 0].astype(np.float32)
