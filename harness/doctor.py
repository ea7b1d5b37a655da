"""`doctor`: device, precision, versions, data, and what the machine lacks. The text for a bug report."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.presence import examined, presence
from tasks.base import TASKS, DataFolder, create_task

ROOT = Path(__file__).parents[1]
ENOUGH_MEMORY_GIB = 4.0
"""Two workers of the tiny suite take about 0.6 GiB each; below this a larger one may be killed."""


def report(data: DataFolder, results: Path) -> Iterator[str]:
    """Lines of plain text, one section after the other; slow parts last."""
    yield from _machine(results)
    yield from _device()
    yield from _versions()
    yield from _lacks(results)
    yield from _data(data)


def _machine(results: Path) -> Iterator[str]:
    from harness.record import provenance
    from harness.training.device import machine

    known = provenance()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield f"HRM-Bench {known['harness_version']}, commit {known['commit'] or 'unknown'}, Python {known['python']}"
    yield f"machine: {machine()}; {cores} cores may be used; memory {_gib(memory_gib())}"
    yield f"results: {results.resolve()}, {_gib(free_gib(results))} free"


def _device() -> Iterator[str]:
    import torch

    from harness.training.device import choose_device, choose_precision

    device = choose_device("auto")
    precision = choose_precision("auto", device.value)
    yield f"device: {device.value}, because {device.reason}"
    yield f"precision: {precision.value} where a suite says auto, because {precision.reason}"
    yield f"torch is built with CUDA {torch.version.cuda or '– (none)'}"
    for i in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(i)
        yield f"GPU {i}: {known.name}, {_gib(known.total_memory / 2**30)}, capability {known.major}.{known.minor}"


def _versions() -> Iterator[str]:
    """Every package of requirements.txt, beside what is asked for."""
    from packaging.requirements import Requirement

    yield "packages:"
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        text = line.split("#", 1)[0].strip()
        if not text or text.startswith("-"):
            continue
        wanted = Requirement(text)
        try:
            found = version(wanted.name)
            fits = wanted.specifier.contains(found, prereleases=True)
            yield f"  {wanted.name} {found}" + ("" if fits else f"  WRONG: {wanted.specifier} is asked for")
        except PackageNotFoundError:
            yield f"  {wanted.name} MISSING: pip install '{text}'"


def _lacks(results: Path) -> Iterator[str]:
    lacks = list(lacking(results))
    yield "lacks: " + ("nothing that is known to matter" if not lacks else "")
    yield from (f"  {text}" for text in lacks)


def lacking(results: Path) -> Iterator[str]:
    """What this machine does not have, with what follows from it."""
    import torch

    from harness.training.device import cpu_flags

    if not torch.cuda.is_available():
        yield "a CUDA GPU: suites small and medium need one"
        if cpu_flags() and not cpu_flags() & {"amx_bf16", "avx512_bf16"}:
            yield "bfloat16 instructions: float32 is used"
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        yield "a C compiler: torch.compile can't be used (recipe.compile: true)"
    if (memory := memory_gib()) is not None and memory < ENOUGH_MEMORY_GIB:
        yield f"memory: {_gib(memory)}; run with --jobs 1"
    if shutil.which("git") is None:
        yield "git: records name no commit"
    if sys.platform != "linux":
        yield "Linux: the only system this is tested on"
    if not os.access(_existing(results), os.W_OK):
        yield f"a writable results folder: {results}; choose another with --results"


def _data(data: DataFolder) -> Iterator[str]:
    yield f"data folder: {data.root or 'none (--data DIR or HRM_BENCH_DATA)'}"
    generated = []
    for name in TASKS:
        task = create_task(name)
        if not task.real_data:
            generated.append(name)
            continue
        if (quick := presence(task, data)).state == "your own":
            yield f"  {name}: {quick}"
            continue
        found = examined(task, data)
        yield f"  {name}: {found}"
        if found.remedy:
            yield f"    remedy: {found.remedy}"
    yield f"  generated, need nothing: {', '.join(generated)}"


def memory_gib() -> float | None:
    """Memory of the machine, or the container's limit where it is lower; None where the system does not tell."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text) / 2**30) if text.isdigit() else total


def free_gib(folder: Path) -> float:
    return shutil.disk_usage(_existing(folder)).free / 2**30


def _existing(folder: Path) -> Path:
    folder = folder.resolve()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _gib(number: float | None) -> str:
    return "not known" if number is None else f"{number:.1f} GiB"
