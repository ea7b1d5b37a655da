"""Where a cell runs and in which arithmetic: chosen automatically, with the reason, and overridable."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import NamedTuple

from harness.errors import UserError, did_you_mean

PRECISIONS = ("auto", "float32", "bfloat16", "float64")
DEVICES = ("auto", "cpu", "cuda")


class Choice(NamedTuple):
    value: str
    reason: str


def choose_device(wish: str) -> Choice:
    """`auto` takes CUDA where there is a GPU; UserError when `cuda` is asked for and there is none."""
    import torch

    if wish not in DEVICES:  # one of several GPUs is chosen by CUDA_VISIBLE_DEVICES, as for every CUDA program
        raise UserError(f'unknown device "{wish}"{did_you_mean(wish, DEVICES)}')
    available = torch.cuda.is_available()
    if wish == "auto":
        return Choice("cuda", "a CUDA GPU is here") if available else Choice("cpu", "no CUDA GPU is here")
    if wish != "cpu" and not available:
        built = "this torch is built without CUDA" if torch.version.cuda is None else "no GPU answers"
        raise UserError(f"--device {wish}: {built}; use --device cpu")
    return Choice(wish, "asked for")


def choose_precision(wish: str, device: str) -> Choice:
    """`auto` takes bfloat16 where the processor multiplies it natively, float32 elsewhere."""
    import torch

    if wish not in PRECISIONS:
        raise UserError(f'unknown precision "{wish}"{did_you_mean(wish, PRECISIONS)}')
    if wish != "auto":
        return Choice(wish, "the suite or the command line asks for it")
    if device.startswith("cuda"):
        if torch.cuda.get_device_capability(device)[0] >= 8:
            return Choice("bfloat16", "the GPU has bfloat16 tensor cores")
        return Choice("float32", "the GPU has no bfloat16 tensor cores")
    flags = cpu_flags()
    for flag in ("amx_bf16", "avx512_bf16"):
        if flag in flags:
            return Choice("bfloat16", f"the processor has {flag} (measured 3.6 × float32 at width 512)")
    return Choice("float32", "the processor has no bfloat16 instructions")


def cpu_flags() -> frozenset[str]:
    """The processor's feature flags, empty where the system does not tell."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def machine() -> str:
    """Processor model, cores and system, for the provenance columns."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


DETERMINISTIC_VARIABLE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""cuBLAS reads it when a process first uses the GPU; without it, strict mode refuses matrix products."""


def set_deterministic(strict: bool) -> None:
    """Strict: operations without a deterministic kernel raise, none is let through with a warning.

    Attention's memory-efficient kernel has no deterministic backward pass (pytorch issue 123656), so that only the
    flash and the plain one are left.
    """
    import torch

    torch.use_deterministic_algorithms(strict)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_mem_efficient_sdp(not strict)
    torch.backends.cuda.enable_cudnn_sdp(not strict)


def reset_peak_memory(device: str) -> None:
    """Start a new measurement of peak memory, so that one cell's figure holds nothing of the cells before it."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # Linux only; elsewhere the figure is the process's so far
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib(device: str) -> float:
    """Peak memory since the reset: allocated on CUDA, resident of this process on CPU. MiB."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.is_file():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**10
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if platform.system() == "Darwin" else most / 2**10
