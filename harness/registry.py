"""One small registry: register under a name, look up with a hint, list. Tasks and models each have one."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar

from harness.errors import UserError, did_you_mean

T = TypeVar("T")

ENTRY_POINT_GROUP = "hrm_bench.plugins"


class Registry(Generic[T]):
    """Names to things of one kind. `kind` ("task", "model") is the word used in errors."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator. Raises ValueError when the name is taken by something defined elsewhere."""

        def add(item: T) -> T:
            self.add(name, item)
            return item

        return add

    def add(self, name: str, item: T) -> None:
        """Register without a decorator (one class under several names with other settings, say)."""
        known = self._items.get(name)
        if known is not None and _home(known) != _home(item):
            raise ValueError(f'{self.kind} "{name}" is already registered by {_home(known)}')
        self._items[name] = item

    def get(self, name: str) -> T:
        """The thing registered under `name`; UserError with the nearest valid name otherwise."""
        try:
            return self._items[name]
        except KeyError:
            raise UserError(f'unknown {self.kind} "{name}"{did_you_mean(name, self._items)}') from None

    def names(self) -> list[str]:
        return sorted(self._items)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())


def _home(item: object) -> str:
    return f"{getattr(item, '__module__', '?')}.{getattr(item, '__qualname__', item)}"


def import_package_modules(package: str) -> None:
    """Import every module that lies in a package's folder, so that dropping a file there registers it."""
    paths = importlib.import_module(package).__path__
    for info in pkgutil.iter_modules(paths):
        importlib.import_module(f"{package}.{info.name}")


def load_plugin(path: Path) -> None:
    """Import one Python file given by `--plugin FILE`; whatever it registers is then known by name.

    Raises UserError when the file is absent or fails to import, naming the file and the cause.
    """
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"--plugin {path}: no such file")
    module_name = f"hrm_bench_plugin_{path.stem}"
    if module_name in sys.modules and getattr(sys.modules[module_name], "__file__", None) == str(path):
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {path}: not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise UserError(f"--plugin {path}: {type(error).__name__}: {error}") from error


def load_entry_points() -> None:
    """Import the plug-ins that installed packages declare under the entry-point group `hrm_bench.plugins`."""
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        entry.load()
