"""A cell: one (task, arm, seed) with every resolved field that can change a number, and the id they hash to.

Controls and tuning trials are cells, too: what runs, resumes, locks and shards cells does so for them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from harness.recipe import Loop, Recipe
from harness.schema import STRICT

Purpose = Literal["run", "control", "trial"]

FOLDERS: dict[Purpose, str] = {"run": "runs", "control": "controls", "trial": "trials"}
"""Where cells of each purpose lie in a results folder. run: what the tables are about. control: a short training on
shuffled labels, for the gate G-neg. trial: a short training of the tuning stage, which never looks at test."""

NUMERICS_VERSION = 2
"""Raised by a change of the code's arithmetic, so that older runs are not taken for the same."""


class Cell(BaseModel):
    """What `run_cell` needs; nothing besides can change its numbers. Typed fields, never pickles or paths."""

    model_config = STRICT

    # fields that say where the cell is asked for or what it costs, and change no number
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset(
        {"suite", "flops_per_segment", "flops_per_update", "match_error", "match_error_flops"}
    )

    suite: str
    task: str  # its name in the suite: seeds derive from it
    registered_task: str
    task_version: int
    settings: dict[str, Any]
    data_hash: str
    arm: str
    model: str
    config: dict[str, Any]  # resolved, matched
    loop: Loop
    recipe: Recipe
    updates: int | None  # of a budget in updates or train_flops; None for examples and seconds
    match_to: str | None
    match_rule: str | None
    match_error: tuple[float, float] | None  # core, total
    match_error_flops: float | None  # per answer
    seed: int
    device: str  # kind: cpu or cuda
    precision: str
    threads: int
    engine: str = "eager"  # or compiled
    written: bool = False  # test answers are written token by token (Task.generated)
    deterministic: bool = False  # strict algorithms on CUDA
    ranks: int = 1  # processes that train it together (torchrun): they add gradients up in another order
    numerics_version: int = NUMERICS_VERSION
    purpose: Purpose = "run"
    flops_per_segment: float
    flops_per_update: float

    @property
    def id(self) -> str:
        """Twelve hex digits of the hash of the identity."""
        identity = self.model_dump(mode="json", exclude=set(self.NOT_IDENTITY))
        if not self.written:
            del identity["written"]  # so that ids from before there was writing stay
        if self.purpose == "run":  # as before there were others
            del identity["purpose"]
        for resolved in ("precision", "compile"):  # they stand in the cell's own fields
            del identity["recipe"][resolved]
        if not self.deterministic:  # as if the field were not there, like in the runs before there was one
            del identity["deterministic"]
        if self.ranks == 1:
            del identity["ranks"]
        if self.updates is not None:  # so do a budget and a cap that come down to a number of updates
            del identity["recipe"]["budget"], identity["recipe"]["max_updates"]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def run_folder(self) -> str:
        """The run's folder, relative to the results folder."""
        return f"{FOLDERS[self.purpose]}/{self.task}/{self.arm}/seed{self.seed}-{self.id}"

    @property
    def name(self) -> str:
        seed = f"{self.task} · {self.arm} · seed {self.seed}"
        return seed if self.purpose == "run" else f"{seed} · {self.purpose}"
