"""Task adapters: one file per task. Dropping a file here registers it; nobody else has to know about it."""

from __future__ import annotations

from tasks.base import TASKS, Batch, DataFolder, Examples, Task, register_task
from tasks.custom import from_arrays

__all__ = ["TASKS", "Batch", "DataFolder", "Examples", "Task", "from_arrays", "load_all", "register_task"]


def load_all() -> None:
    """Import every task file, so that the registry is complete."""
    from harness.registry import import_package_modules

    import_package_modules("tasks")
