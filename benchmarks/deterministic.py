"""What --deterministic costs on CUDA: updates per second with strict deterministic algorithms and without, in turn.

    python benchmarks/deterministic.py                           some minutes on one large GPU, a batch of 768
    python benchmarks/deterministic.py --device cpu --modes "eager float32"       its own smoke test

The paper's HRM and the transformer matched to it (benchmarks/cuda_speed.py) run in two processes, one strict, one not,
since cuBLAS reads its workspace setting once per process. They take turns, round by round, only one at work at a time;
the first of each round changes. Medians are shown, with the ratio of each round's pair. The last line is JSON. An
operation without a deterministic kernel shows as that variant's error.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.training.device import DETERMINISTIC_VARIABLE


def serve(connection: Connection, strict: bool, arm: str, mode: str, device: str, batch: int, seconds: float) -> None:
    """Build one variant, then train for a round whenever asked: updates per second, or an error's text."""
    if strict:
        os.environ.setdefault(*DETERMINISTIC_VARIABLE)
    import models
    import tasks
    from benchmarks import cuda_speed

    try:
        cuda_speed.torch.set_num_threads(1)
        cuda_speed.torch.set_float32_matmul_precision("highest")
        tasks.load_all()
        models.load_all()
        scale = cuda_speed.FULL if device == "cuda" else cuda_speed.TINY
        with tempfile.TemporaryDirectory() as place:
            cells, data = cuda_speed.cells_of(scale, batch, device, Path(place))
            (cell,) = (cell for cell in cells if cell.arm == arm)
            variant = cuda_speed.Variant(cell.model_copy(update={"deterministic": strict}), mode, data, 512)
            variant.warm_up(seconds)
            connection.send("ready")
            while connection.recv():
                connection.send(variant.count / variant.train(variant.count))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])


def compared(arm: str, mode: str, options: argparse.Namespace) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": arm, "mode": mode, "batch": options.batch}
    context = multiprocessing.get_context("spawn")
    ends, processes = {}, []
    for strict in (False, True):
        ours, theirs = context.Pipe()
        arguments = (theirs, strict, arm, mode, options.device, options.batch, options.seconds)
        process = context.Process(target=serve, args=arguments, daemon=True)
        process.start()
        ends[strict] = ours
        processes.append(process)
        answer = ours.recv()  # one after the other: compiling in both at once would be slower
        if answer != "ready":
            row["error, strict" if strict else "error"] = answer
    speeds: dict[bool, list[float]] = {False: [], True: []}
    for i in range(options.rounds if len(row) == 3 else 0):
        for strict in (False, True) if i % 2 == 0 else (True, False):
            ends[strict].send(True)
            answer = ends[strict].recv()
            if isinstance(answer, str):
                return row | {"error, strict" if strict else "error": answer}
            speeds[strict].append(answer)
    for strict, end in ends.items():
        if f"error{', strict' * strict}" not in row:
            end.send(None)
    for process in processes:
        process.join()
    if len(row) > 3:
        return row
    loose, tight = speeds[False], speeds[True]
    ratios = [b / a for a, b in zip(loose, tight, strict=True)]
    return row | {
        "updates_per_second": round(statistics.median(loose), 3),
        "strict_updates_per_second": round(statistics.median(tight), 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--batch", type=int, default=None, help="default: 768; 8 on CPU")
    parser.add_argument("--arms", default="hrm,transformer")
    parser.add_argument("--modes", default="eager bfloat16;compiled bfloat16", help="of cuda_speed.py, separated by ;")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=None, help="of each turn; default: 4; 0.2 on CPU")
    options = parser.parse_args()
    cuda = options.device == "cuda"
    options.batch = options.batch or (768 if cuda else 8)
    options.seconds = options.seconds or (4.0 if cuda else 0.2)
    found = []
    for arm in options.arms.split(","):
        for mode in options.modes.split(";"):
            found.append(compared(arm, mode.strip(), options))
            print(*(f"{name} {value}" for name, value in found[-1].items()), sep="  ", flush=True)
    print(json.dumps({"variants": found}))
    return 1 if any("error" in " ".join(row) for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
