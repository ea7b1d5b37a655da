"""A task small enough to train in a second, and helpers that build batches and trainers for the tests."""

from __future__ import annotations

from itertools import product
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from harness import seeds
from harness.cell import Cell
from harness.recipe import ONE_PASS, Loop, Recipe
from models.base import MODELS
from tasks.base import Batch, DataFolder, Examples, Splits, Task

SMALL = {"hidden": 16, "heads": 2, "inner": 24}
SMALL_HRM = {**SMALL, "H_layers": 1, "L_layers": 1}
SMALL_TRM = {**SMALL, "L_layers": 2, "H_cycles": 2, "L_cycles": 2}
SMALL_MIXER = {**SMALL_TRM, "mixer": True, "mixer_inner": 20, "positions": "none"}
SMALL_GRU = {"hidden": 96, "heads": 4, "inner": 64}  # one vector holds all positions; 16 were too few for the task
SMALL_PLANNER = {**SMALL, "H_layers": 1, "L_layers": 1, "H_cycles": 2, "L_cycles": 2}
SMALL_POOLED = {**SMALL, "H_layers": 1, "L_layers": 1, "L_cycles": 2}
POOLED_LOSSES = {"ponder_weight": 0.01, "consistency_weight": 0.1, "diversity_weight": 0.05}
# 16 wide, this keeps a vector's length as the library's 0.02 does 600 wide
SMALL_LIBRARY = {**SMALL, "layers": 2, "initializer_range": 0.12}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "hrm": ("hrm", SMALL_HRM),
    "hrm-shared": ("hrm", {**SMALL, "L_layers": 2, "modules": "shared"}),
    "hrm-only-L": ("hrm", {**SMALL, "L_layers": 2, "modules": "L"}),
    "hrm-last-cycle": ("hrm", {**SMALL_HRM, "gradient": "last_cycle"}),
    "hrm-first-input": ("hrm", {**SMALL_HRM, "gradient": "full", "inject": "first"}),
    "hrm-no-H-to-L": ("hrm", {**SMALL_HRM, "H_to_L": False}),
    "hrm-no-L-to-H": ("hrm", {**SMALL_HRM, "L_to_H": False}),
    "hrm-dropout": ("hrm", {**SMALL_HRM, "dropout": 0.1}),
    "hrm-segment-heads": ("hrm", {**SMALL_HRM, "segment_heads": 2}),
    "trm-att": ("trm", SMALL_TRM),
    "trm-mlp": ("trm", SMALL_MIXER),
    "hrm-proof": ("hrm-proof", {**SMALL, "H_layers": 1, "L_layers": 1}),
    "hrm-gru": ("hrm-gru", SMALL_GRU),
    "hrm-gru-puzzles": ("hrm-gru", {**SMALL_GRU, "puzzle_embedding": True}),
    "transformer": ("transformer", {**SMALL, "layers": 2}),
    "transformer-prenorm": ("transformer-prenorm", {**SMALL, "layers": 2}),
    "transformer-act": ("transformer-act", {**SMALL, "layers": 2}),
    "looped": ("looped", {**SMALL, "layers": 2, "loops": 3}),
    "looped-bptt": ("looped", {**SMALL, "layers": 2, "loops": 3, "gradient_loops": None}),
    "hrm-planner": ("hrm-planner", SMALL_PLANNER),
    "hrm-pooled": ("hrm-pooled", SMALL_POOLED),
    "hrm-pooled-losses": ("hrm-pooled", {**SMALL_POOLED, **POOLED_LOSSES, "H_cycles": 2, "gradient_cycles": None}),
    "modernbert": ("modernbert", SMALL_LIBRARY),
    "llama": ("llama", SMALL_LIBRARY),
}
"""Every registered model at toy size, in every form that it has: (model, configuration). test_families.py holds all."""


class Shifted(Task):
    """Each answer token is its input token plus one, cyclically. Augmentation adds a constant to a whole row."""

    version: ClassVar[int] = 1
    summary: ClassVar[str] = "add one to every token"
    size: int = Field(5, ge=1)
    count: int = Field(64, ge=1)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("", "a", "b", "c", "d")

    @property
    def sequence_length(self) -> int:
        return self.size

    def splits(self, seed: int, data: DataFolder) -> Splits:
        rows = seeds.generator("shifted").permutation(4**self.size)
        digits = rows[:, None] // 4 ** np.arange(self.size) % 4
        inputs = (digits + 1).astype(np.uint8)
        labels = ((digits + 1) % 4 + 1).astype(np.uint8)
        everything = Examples(inputs, labels, difficulty=digits.sum(1).astype(np.float32))
        n = self.count
        return {
            "train": everything[:n],
            "validation": everything[n : n + 32],
            "test": everything[n + 32 : n + 64],
            "ood-later": everything[n + 64 : n + 80],
        }

    def augment(self, batch: Batch, random: Any) -> Batch:
        shift = random.integers(4)[:, None].to(batch.inputs.dtype)
        return Batch((batch.inputs - 1 + shift) % 4 + 1, (batch.labels - 1 + shift) % 4 + 1, batch.puzzle_ids)


Shifted.name = "shifted"


class Echo(Task):
    """Text to be written: letters, a bar, the same letters, a stop. The prompt ends with the bar."""

    version: ClassVar[int] = 1
    summary: ClassVar[str] = "repeat the prompt"
    least: int = Field(4, ge=1)
    most: int = Field(4, ge=1)

    BAR: ClassVar[int] = 5
    STOP: ClassVar[int] = 6

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("", "a", "b", "c", "d", "|", ".")

    @property
    def causal(self) -> bool:
        return True

    @property
    def sequence_length(self) -> int:
        return 2 * self.most + 1

    def splits(self, seed: int, data: DataFolder) -> Splits:
        words = [word for n in range(self.least, self.most + 1) for word in product(range(1, 5), repeat=n)]
        inputs = np.zeros((len(words), self.sequence_length), np.uint8)
        labels = np.zeros_like(inputs)
        for i, word in enumerate(words):
            text = (*word, self.BAR, *word, self.STOP)
            inputs[i, : len(text) - 1] = text[:-1]
            labels[i, len(word) : len(text) - 1] = text[len(word) + 1 :]
        lengths = np.array([len(word) for word in words])
        facts = {"prompt_length": lengths + 1}
        everything = Examples(inputs, labels, difficulty=lengths.astype(np.float32), facts=facts)
        everything = everything[seeds.generator("echo").permutation(len(words))]
        n = len(words) // 4
        return {"train": everything[2 * n :], "validation": everything[:n], "test": everything[n : 2 * n]}


Echo.name = "echo"


def toy_task(model: str) -> Task:
    """The toy task that a model can take: llama writes from left to right only."""
    return Echo() if model == "llama" else Shifted()


def cell(arm: str = "hrm", model: str = "hrm", **changes: Any) -> Cell:
    """A cell of the toy task; `recipe` and `loop` changes are dictionaries, the rest replaces fields."""
    family = MODELS.get(model)
    recipe = {"batch_size": 8, "evaluation": {"points": 2, "segments": [1, 2, 8]}, **changes.pop("recipe", {})}
    loop_settings = {"segments": 4, **family.LOOP, **changes.pop("loop", {})}
    loop = Loop.model_validate(loop_settings) if family.recurrent else ONE_PASS
    fields: dict[str, Any] = {
        "suite": "toy",
        "task": "shifted",
        "registered_task": "shifted",
        "task_version": 1,
        "settings": {},
        "data_hash": "0" * 16,
        "arm": arm,
        "model": model,
        "config": SMALL_HRM if model == "hrm" else {**SMALL, "layers": 2},
        "loop": loop,
        "recipe": Recipe.model_validate_json(__import__("json").dumps(recipe)),
        "updates": 6,
        "match_to": None,
        "match_rule": None,
        "match_error": None,
        "match_error_flops": None,
        "seed": 0,
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
        "flops_per_segment": 1.0,
        "flops_per_update": 1.0,
    }
    return Cell(**{**fields, **changes})


def trainer(the_cell: Cell, task: Task | None = None, ranks: Any = None) -> Any:
    from harness.training.ranks import ALONE
    from harness.training.trainer import Trainer

    task = task or toy_task(the_cell.model)
    return Trainer(the_cell, task, task.splits(the_cell.seed, DataFolder()), torch.device("cpu"), ranks or ALONE)


def random_batch(vocabulary: int, rows: int, length: int, num_puzzles: int = 1, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)

    def integers(high: int, *shape: int, low: int = 0) -> torch.Tensor:
        return torch.from_numpy(random.integers(low, high, shape))

    return Batch(
        integers(vocabulary, rows, length, low=1),
        integers(vocabulary, rows, length),
        integers(num_puzzles, rows),
    )
