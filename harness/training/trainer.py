"""The training loop that every arm goes through: refill rows, run segments, step the optimizer. No evaluation here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness import seeds
from harness.cell import Cell
from harness.cost import phase_flops
from harness.errors import UserError
from harness.random import CounterRandom
from harness.recipe import Recipe
from harness.training.act import (
    Carry,
    Losses,
    Phase,
    detached,
    exploration_minimum,
    first_carry,
    halted_after,
    refill,
    run_segment,
)
from harness.training.batches import DeviceData, Feeder
from harness.training.ema import WeightAverage
from harness.training.optim import Optimizers
from harness.training.ranks import ALONE, Ranks
from models.base import ModelShape, ReasoningModel, State, create_model, resolve_config
from models.layers import recompute_layers
from tasks.base import Batch, Splits, Task

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

SYNC_UPDATES = {"cpu": 1, "cuda": 50}
"""Updates between two looks of the host at the device: each look waits for the queue, which costs nothing on CPU."""


class Diverged(Exception):
    """The loss is NaN or infinite; training stopped after `update`."""

    def __init__(self, message: str, update: int) -> None:
        super().__init__(message)
        self.update = update


@dataclass
class Window:
    """What happened since the last evaluation point."""

    loss: float  # of the answer alone, mean per row and segment: arms with and without halting head compare
    exact: float  # of the rows that halted
    segments: float  # mean, of the rows that halted


class Trainer:
    """One cell's training state. `advance` runs updates; `state_dict` is what a stopped run needs to go on.

    Several ranks call the same methods in the same order; each holds its own rows of the batch and their carry, and the
    same weights, optimizer and place in the stream as the others.
    """

    def __init__(self, cell: Cell, task: Task, splits: Splits, device: torch.device, ranks: Ranks = ALONE) -> None:
        self.cell, self.task, self.device, self.ranks = cell, task, device, ranks
        self.recipe: Recipe = cell.recipe
        check_ranks(self.recipe, ranks.size)
        own = ranks.own(self.recipe.batch_size)
        self.model = build_model(cell, ModelShape.of(task)).to(device)
        self.optimizers = Optimizers(
            self.model, self.recipe.optimizer, self.recipe.puzzle_optimizer, self.recipe.schedule, self.recipe.clip
        )
        if self.recipe.recompute:
            recompute_layers(self.model)
        weighted = self.recipe.segment_weights is not None
        self.weights = torch.tensor(self.recipe.weights_of(cell.loop.segments), device=device) if weighted else None
        self.average = WeightAverage(self.model, self.recipe.ema) if self.recipe.ema is not None else None
        self.sync_every = SYNC_UPDATES[device.type]
        self.feeder = Feeder(
            task,
            cell.task,
            cell.seed,
            DeviceData(splits["train"], device),
            self.recipe.batch_size,
            augmentation=self.recipe.augmentation,
            drop_unused=self.recipe.drop_unused,
            window_updates=self.sync_every,
            difficulty=self.recipe.curriculum.difficulty,
            own=own,
        )
        self.exploration_key = seeds.key(cell.task, cell.arm, "exploration", cell.seed)
        self.noise_key = seeds.key(cell.task, cell.arm, "noise", cell.seed)
        self.rows = torch.arange(self.recipe.batch_size, device=device)[own]  # their numbers in the whole batch
        if cell.engine == "compiled":
            compile_model(self.model)
            if self.average is not None:
                self.average.model.compile_segment()
        varies = cell.loop.bootstrap_every > 1 or bool(self.recipe.curriculum.segments)
        config = resolve_config(cell.model, cell.config)
        self.phase_flops = (
            phase_flops(cell.model, config, ModelShape.of(task), cell.loop, self.recipe) if varies else None
        )
        self.flops = 0.0
        self.carry: Carry | None = None
        self.updates = 0
        self.examples = 0  # drawn, as of the last synchronisation
        self.seconds = 0.0
        self._sums = torch.zeros(6, dtype=torch.float64, device=device)

    @property
    def evaluated(self) -> ReasoningModel:
        """The model that is scored and saved: the average of the weights where the recipe has one."""
        return self.model if self.average is None else self.average.model

    # -- budget ----------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the budget used, 0 to 1."""
        cell, budget = self.cell, self.recipe.budget
        if cell.updates is not None:
            return self.updates / cell.updates
        used = self.examples if budget.kind == "examples" else self.seconds
        share = used / budget.amount
        return share if self.recipe.max_updates is None else max(share, self.updates / self.recipe.max_updates)

    @property
    def finished(self) -> bool:
        return self.progress >= 1

    # -- training --------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Updates until the next synchronisation or the end of the budget. Raises Diverged."""
        started = time.perf_counter()
        remaining = self._until_next_look()
        for _ in range(remaining):
            self._update()
        self.examples = self.feeder.drawn
        unsound = float(not bool(torch.isfinite(self._sums[:2]).all()))
        taken = time.perf_counter() - started
        # rank 0's clock is everyone's: a budget in seconds must end for all at once
        look = self.ranks.sum(torch.tensor([unsound, taken if self.ranks.leads else 0.0], dtype=torch.float64))
        diverged, self.seconds = bool(look[0]), self.seconds + float(look[1])
        if diverged:
            first = self.updates - remaining + 1
            raise Diverged(f"the loss was not finite between updates {first} and {self.updates}", self.updates)

    def _until_next_look(self) -> int:
        """Updates until the host looks again, such that no budget in updates or examples is overrun unseen."""
        limits = [self.sync_every]
        for most in (self.cell.updates, self.recipe.max_updates if self.cell.updates is None else None):
            if most is not None:
                limits.append(most - self.updates)
        if self.recipe.budget.examples is not None:
            limits.append(-(-(self.recipe.budget.examples - self.examples) // self.recipe.batch_size))
        return max(1, min(limits))

    def _update(self) -> None:
        """One optimizer step: refill halted rows, run `rollout` segments, step."""
        for model in {self.model, self.evaluated}:  # one and the same unless the recipe averages the weights
            model.set_progress(self.progress)
        carry = self._refilled()
        phase = Phase.of(self.recipe, self.cell.loop, self.progress, self.updates)
        counters = self.updates * self.recipe.batch_size + self.rows
        rows = counters.chunk(self.recipe.accumulate)
        parts = [self._rollout(part, phase, own) for part, own in zip(carry.parts(len(rows)), rows, strict=True)]
        self.carry = Carry.joined(parts)
        self.updates += 1
        # the product where updates are alike: a sum of as many terms would drift from it by rounding
        self.flops = (
            self.updates * self.cell.flops_per_update
            if self.phase_flops is None
            else self.flops + self.phase_flops[phase.most, phase.bootstraps or self.cell.loop.bootstrap_every == 1]
        )
        self.ranks.sum_gradients(self.optimizers.dense, self.optimizers.sparse)
        self.optimizers.step(self.updates, self.progress)
        if self.average is not None:
            self.average.update()

    def _rollout(self, carry: Carry, phase: Phase, counters: Tensor) -> Carry:
        """Run a rollout on some rows of the batch and add to the gradients. Rows are released after its last segment
        only; a stage of the curriculum with fewer segments has shorter rollouts."""
        loop = self.cell.loop
        rollout = min(loop.rollout, phase.most)
        attached = torch.zeros((), device=self.device)
        for segment in range(rollout):
            last = segment == rollout - 1
            random = CounterRandom(self.exploration_key, counters * loop.rollout + segment)
            steps = carry.steps + 1
            state, prediction, losses = run_segment(
                loop, self.task, self.model, carry.state, carry.batch, steps, self.recipe.loss, phase, self.weights
            )
            minimum = exploration_minimum(phase.most, phase.exploration, random.uniform(2))
            halted = halted_after(loop, prediction, steps, minimum, phase.most)
            total = losses.total / (self.recipe.batch_size * rollout)
            if loop.detach:
                total.backward()  # at once, so that one segment's activations live at a time
            else:
                attached = attached + total
            carry = Carry(detached(state) if loop.detach or last else state, carry.batch, steps, halted)
            self._note(losses, halted if last else torch.zeros_like(halted), steps)
        if not loop.detach:
            attached.backward()
        return carry

    def _refilled(self) -> Carry:
        everything = torch.ones(self.recipe.batch_size, dtype=torch.bool, device=self.device)
        fresh, positions = self.feeder.next(everything if self.carry is None else self.ranks.joined(self.carry.halted))
        keys = CounterRandom(self.noise_key, positions).bits()
        return refill(self.model, self.carry or first_carry(self.model, fresh), fresh, keys)

    def _note(self, losses: Losses, released: Tensor, steps: Tensor) -> None:
        done = released.double()
        self._sums += torch.stack(
            (
                losses.total.detach().double(),
                losses.language.double(),
                torch.full_like(done[0], len(done)),
                done.sum(),
                (done * losses.correct).sum(),
                (done * steps).sum(),
            )
        )

    def window(self) -> Window:
        """Figures of all ranks since the last call. Synchronises."""
        _, loss, rows, halted, correct, steps = self.ranks.sum(self._sums).tolist()
        self._sums.zero_()
        return Window(loss / max(rows, 1), correct / max(halted, 1), steps / max(halted, 1))

    # -- state -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As of one process: the carry of all ranks' rows in order. Only the sums keep their rank, [ranks, 6], so that
        they go on to the same digits."""
        carry = None if self.carry is None else self.carry.map(self.ranks.joined)
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "learning_rate": self.optimizers.learning_rate,
            "carry": None
            if carry is None
            else {
                "state": carry.state,
                "inputs": carry.batch.inputs,
                "labels": carry.batch.labels,
                "puzzle_ids": carry.batch.puzzle_ids,
                "facts": carry.batch.facts,
                "steps": carry.steps,
                "halted": carry.halted,
            },
            "cursor": self.feeder.cursor,
            "uses": self.feeder.uses,
            "updates": self.updates,
            "flops": self.flops,
            "examples": self.examples,
            "seconds": self.seconds,
            "sums": self._sums if self.ranks.size == 1 else self.ranks.joined(self._sums[None]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.optimizers.learning_rate = state["learning_rate"]
        saved = state["carry"]
        if saved is not None:
            batch = Batch(saved["inputs"], saved["labels"], saved["puzzle_ids"], saved["facts"])
            carried: State = saved["state"]
            own = self.ranks.own(self.recipe.batch_size)
            # cloned, or every rank would keep all rows' storage
            mine = (lambda rows: rows) if self.ranks.size == 1 else (lambda rows: rows[own].clone())
            self.carry = Carry(carried, batch, saved["steps"], saved["halted"]).map(mine)
        self.feeder.resume(state["cursor"], state["uses"])
        self.updates, self.examples, self.seconds = state["updates"], state["examples"], state["seconds"]
        self.flops = state["flops"]
        self._sums = state["sums"] if self.ranks.size == 1 else state["sums"][self.ranks.rank].clone()


def check_ranks(recipe: Recipe, ranks: int) -> None:
    """UserError where a batch can't be shared out evenly."""
    if recipe.batch_size % (ranks * recipe.accumulate):
        parts = f" × accumulate {recipe.accumulate}" if recipe.accumulate > 1 else ""
        raise UserError(
            f"recipe.batch_size {recipe.batch_size} is that of all processes together and can't be shared out evenly "
            f"over {ranks} ranks{parts}; choose a multiple of {ranks * recipe.accumulate}, or another --nproc-per-node"
        )


def compile_model(model: ReasoningModel) -> None:
    """Put the model under torch.compile, as if it were the first of its process.

    torch gives up compiling a function silently after eight variants; training, bootstrap pass, evaluation and longer
    inputs are variants of one model, and a worker runs many cells. So the count starts anew with each cell, the limit
    is higher, and reaching it is an error.
    """
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 32
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    model.compile_segment()


def build_model(cell: Cell, shape: ModelShape) -> ReasoningModel:
    """The cell's model, initial weights by (arm, seed)."""
    generator = torch.Generator().manual_seed(seeds.key(cell.arm, "weights", cell.seed))
    return create_model(cell.model, cell.config, shape, generator=generator, dtype=DTYPES[cell.precision])
