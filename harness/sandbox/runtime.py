"""What of the file system the interpreter inside needs: its standard library, shared libraries, four devices.

Not site-packages: the data sets and answers of this very benchmark are installed there.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
HIDDEN = ("site-packages", "dist-packages")  # installed packages, which lie inside the standard library's folder
SKIPPED = (*HIDDEN, "test", "idlelib", "ensurepip", "lib2to3", "tkinter", "turtledemo", "__pycache__")


def standard_library() -> list[Path]:
    paths = sysconfig.get_paths()
    return sorted({Path(paths["stdlib"]).resolve(), Path(paths["platstdlib"]).resolve()})


def shared_libraries() -> list[Path]:
    """Where the shared libraries lie that this process has mapped: folders, or the single libraries where such a folder
    holds the standard library too, and with it installed packages. Needs /proc."""
    inside = standard_library()
    folders = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        name = line[line.find("/") :] if "/" in line else ""
        if ".so" in name and not any(folder in Path(name).parents for folder in inside):
            folders.add(Path(name).parent.resolve())
    found: list[Path] = []
    for folder in sorted(folders):
        if any(folder in library.parents for library in inside):
            found += sorted(path for path in folder.glob("*.so*") if path.is_file())
        else:
            found.append(folder)
    return found


def readable_by_others(path: Path) -> bool:
    """Whether a user who owns nothing here could open `path`: search permission on every folder above it."""
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in [path, *path.parents])
