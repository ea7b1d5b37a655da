"""What a command line asks for: options checked, plug-ins loaded, the suite read as changed, the plan made of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from harness.execution.local import Pool
    from harness.plan import Plan
    from harness.suite import Suite

EXECUTORS = ("local", "ray")
DATA_VARIABLE = "HRM_BENCH_DATA"


@dataclass(frozen=True)
class SuiteRequest:
    """The options by which a command line names a suite and changes it."""

    suite: str
    assignments: Sequence[str] | None = None
    tasks: str | None = None
    arms: str | None = None
    seeds: int | None = None
    smoke: bool = False
    max_updates: int | None = None
    max_examples: int | None = None
    batch_size: int | None = None
    controls: bool | None = None  # None: as the suite says
    device: str | None = None
    precision: str | None = None
    results: Path = Path("results")
    data: Path | None = None
    plugin: Sequence[Path] | None = None
    deterministic: bool = False
    ranks: int = 1

    def planned(self) -> tuple[Plan, Path]:
        """The plan, and the suite's results folder."""
        for option in ("seeds", "max_updates", "max_examples", "batch_size"):
            value = getattr(self, option)
            if value is not None:
                positive(f"--{option.replace('_', '-')}", value)
        checked = self.read()
        folder = data_folder(self.data)

        from harness.plan import Selection, make_plan
        from harness.results import check_schema, check_writable

        check_writable(self.results, "--results")
        place = self.results / checked.name
        check_schema(place)
        load_plugins(self.plugin, models=True)
        selection = Selection(
            split(self.tasks), split(self.arms), 1 if self.smoke and self.seeds is None else self.seeds
        )
        plan = make_plan(checked, folder, place, selection, deterministic=self.deterministic, ranks=self.ranks)
        return plan, place

    def _recipe(self) -> dict[str, Any]:
        recipe: dict[str, Any] = {}
        for key in ("max_updates", "batch_size", "precision"):
            if getattr(self, key) is not None:
                recipe[key] = getattr(self, key)
        if self.max_examples is not None:
            recipe["evaluation"] = {"validation_examples": self.max_examples, "test_examples": self.max_examples}
        return recipe

    def read(self) -> Suite:
        """The suite as the command line changes it: tasks that join by themselves, --smoke, shortcuts, --set last."""
        from harness import suite as suites
        from harness.training.device import DEVICES, PRECISIONS
        from tasks.base import TASKS

        if self.precision is not None and self.precision not in PRECISIONS:
            known = did_you_mean(self.precision, PRECISIONS)
            raise UserError(f'--precision: unknown precision "{self.precision}"{known}')
        if self.device is not None and self.device not in DEVICES:
            raise UserError(f'--device: unknown device "{self.device}"{did_you_mean(self.device, DEVICES)}')
        load_plugins(self.plugin, models=False)
        document, label = suites.read_suite(self.suite)
        name = document.get("name")
        joined = {task: TASKS.get(task).suites[name] for task in TASKS if name in TASKS.get(task).suites}
        document = suites.with_tasks(document, joined)
        if self.smoke:
            document = suites.smoke(document)
        document = suites.with_recipe(document, self._recipe())
        if self.device is not None:
            document["device"] = self.device
        if self.controls is not None:
            document["controls"] = (document.get("controls") or {}) if self.controls else None
        return suites.load_suite(document, label, self.assignments or ())


def load_plugins(plugin: Sequence[Path] | None, *, models: bool) -> None:
    """Fill the registries: built-in files, installed plug-ins, --plugin files."""
    import tasks
    from harness.registry import load_entry_points, load_plugin

    tasks.load_all()
    if models:
        import models as model_files

        model_files.load_all()
    load_entry_points()
    for path in plugin or ():
        load_plugin(path)


def data_folder(option: Path | None) -> Any:
    """--data, else the environment variable, else none. A folder that does not exist is an error, not an absence."""
    from tasks.base import DataFolder

    given = option or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if given is not None and not given.is_dir():
        raise UserError(f"{'--data' if option else DATA_VARIABLE} {given}: no such folder")
    return DataFolder(given)


def choose_sandbox(tier: str, unsafe: bool) -> None:
    """Which sandbox judges written programs, in this process and its workers. Opened when a code task needs it."""
    from harness.sandbox import scoring, shared

    if tier not in scoring.SANDBOXES:
        raise UserError(f'--sandbox: no tier "{tier}"{did_you_mean(tier, scoring.SANDBOXES)}')
    if unsafe:
        print("warning: --allow-unsafe: where no sandbox holds, programs run WITHOUT isolation", file=sys.stderr)
    shared.configure(shared.Choice(tier, unsafe))


def executor_of(name: str, gpus_per_cell: float | None) -> type[Pool] | None:
    """What --executor names; None: workers on this machine."""
    if name not in EXECUTORS:
        raise UserError(f'--executor: unknown executor "{name}"{did_you_mean(name, EXECUTORS)}')
    if name == "ray":
        from harness.execution import ray

        return ray.pool(gpus_per_cell)
    if gpus_per_cell is not None:
        raise UserError("--gpus-per-cell: only --executor ray divides GPUs; locally a worker has one of its own")
    return None


def positive(option: str, value: str | int) -> int:
    try:
        number = int(value)
    except ValueError:
        raise UserError(f"{option} {value}: must be a whole number above 0") from None
    if number < 1:
        raise UserError(f"{option} {value}: must be a whole number above 0")
    return number


def share_of(text: str) -> tuple[int, int]:
    """--shard I/N as (I, N)."""
    part, slash, parts = text.partition("/")
    found = (positive("--shard", part), positive("--shard", parts)) if slash else (2, 1)
    if found[0] > found[1]:
        raise UserError(f"--shard {text}: must be I/N with I from 1 to N, such as 2/8")
    return found


def split(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def assigned(pairs: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """KEY=VALUE pairs as a mapping; the task or the model judges keys and values."""
    from harness.suite import assign

    found: dict[str, Any] = {}
    for pair in pairs or ():
        assign(found, pair, option)
    return found
