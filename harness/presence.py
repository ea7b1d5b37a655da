"""Whether a task's data are here: a quick look for `list tasks`, a whole build for `doctor`. Torch-free."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from harness.errors import BenchError, BrokenData, MissingData
from tasks.base import DataFolder, Task

NO_FOLDER = "set a data folder: --data DIR or HRM_BENCH_DATA"


class Presence(NamedTuple):
    state: str  # generated, here, missing, broken or hub (asked when it is needed)
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.state, self.detail)))


def presence(task: Task, data: DataFolder) -> Presence:
    """By names and versions alone; nothing is read."""
    if not task.real_data:
        return Presence("generated", "")
    if task.package:
        try:
            return Presence("here", f"package {task.package} {version(task.package)}")
        except PackageNotFoundError:
            return Presence("missing", f"package {task.package}", f"pip install {task.package}")
    if not task.files:
        return Presence("your own", "files that the suite names")
    absent = [name for name in task.files if data.root is None or not (data.root / name).is_file()]
    if not absent:
        return Presence("here", f"{data.root}")
    if data.root is None and task.hub:
        return Presence("hub", task.hub, NO_FOLDER)
    return Presence("missing", ", ".join(absent), f"put it into {data.root}" if data.root else NO_FOLDER)


def examined(task: Task, data: DataFolder) -> Presence:
    """By building all splits and checking them, as a run would."""
    try:
        splits = task.splits(0, data)
        task.check(splits)
    except MissingData as error:
        return Presence("missing", error.reason, error.remedy)
    except BrokenData as error:
        return Presence("broken", str(error), "replace the file by a fresh copy of the data set")
    except BenchError as error:
        return Presence("broken", str(error))
    return Presence("here", ", ".join(f"{name} {len(part):,}" for name, part in splits.items()))
