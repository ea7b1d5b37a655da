"""How long one answer takes, alone: seconds of a batch of one at the trained number of segments."""

from __future__ import annotations

import time

import torch

from harness.evaluation.written import write_at
from harness.recipe import Loop
from harness.training.act import detached
from harness.training.batches import DeviceData
from models.base import ReasoningModel
from tasks.base import Examples, Task

MOST_TIMES = 6
ENOUGH_SECONDS = 0.5
"""Six answers; fewer where they take longer than this together."""


@torch.no_grad()
def seconds_per_answer(model: ReasoningModel, task: Task, loop: Loop, examples: Examples) -> float:
    """The fastest of a few answers to the first of `examples`: whatever else runs only adds to it. Text is written
    token by token.

    A compiled model runs eagerly: a batch of one would be compiled for this alone.
    """
    device = next(model.parameters()).device
    index = torch.zeros(1, dtype=torch.int64, device=device)
    batch = DeviceData(examples[:1], device).rows(index)
    depth = loop.segments if model.recurrent else 1

    def answer() -> None:
        if task.generated:
            write_at(model, task, batch, index, depth).cpu()
            return
        state = model.initial_state(batch, index)
        for _ in range(depth):
            state, prediction = model(state, batch)
            state = detached(state)
        prediction.logits.argmax(-1).cpu()  # waits for the device

    was_training = model.training
    model.eval()
    times: list[float] = []
    with torch.compiler.set_stance("force_eager"):
        while not times or (len(times) < MOST_TIMES and sum(times) < ENOUGH_SECONDS):
            clock = time.perf_counter()
            answer()
            times.append(time.perf_counter() - clock)
    model.train(was_training)
    return min(times)
