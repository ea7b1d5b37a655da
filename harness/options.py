"""Options that several commands share, each worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.request import DATA_VARIABLE

SuiteName = Annotated[
    str, typer.Option("--suite", metavar="NAME|FILE", help="A built-in suite (list suites), or a YAML file.")
]
Assign = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any suite key, dotted: recipe.batch_size=32. Repeatable."),
]
TaskSetting = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the task. Repeatable.")
]
Tasks = Annotated[str | None, typer.Option("--tasks", metavar="A,B", help="Only these tasks of the suite.")]
Arms = Annotated[str | None, typer.Option("--arms", metavar="A,B", help="Only these arms of the suite.")]
Seeds = Annotated[
    int | None, typer.Option("--seeds", metavar="N", help="Seeds per task and arm, instead of the suite's.")
]
Smoke = Annotated[bool, typer.Option("--smoke", help="The whole matrix at one seed and seconds per cell.")]
MaxUpdates = Annotated[int | None, typer.Option("--max-updates", metavar="N", help="At most N updates per cell.")]
MaxExamples = Annotated[
    int | None, typer.Option("--max-examples", metavar="N", help="Score at most N examples per split, for trials.")
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", metavar="N", help="Rows per update.")]
ControlRuns = Annotated[
    bool | None,
    typer.Option(
        "--controls/--no-controls",
        help="A short training on shuffled labels per task and arm, for the gate G-neg. Default: as the suite says.",
        show_default=False,
    ),
]
Device = Annotated[str | None, typer.Option("--device", metavar="auto|cpu|cuda", help="Default: the suite's.")]
Precision = Annotated[
    str | None, typer.Option("--precision", metavar="auto|float32|bfloat16|float64", help="Default: the suite's.")
]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Where runs and tables go, by suite.")]
Reports = Annotated[Path, typer.Option("--reports", metavar="DIR", help="Where reports go, by suite.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help=f"Local copies of data sets (default: ${DATA_VARIABLE}).", show_default=False
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="A Python file that registers tasks or models. Repeatable."),
]
SandboxTier = Annotated[
    str,
    typer.Option("--sandbox", metavar="auto|namespaces|landlock", help="For code tasks; auto: the best that holds."),
]
AllowUnsafe = Annotated[
    bool, typer.Option("--allow-unsafe", help="Where no sandbox holds, run without: programs can do anything.")
]
Executor = Annotated[
    str,
    typer.Option("--executor", metavar="local|ray", help="ray: on a Ray cluster, that of RAY_ADDRESS or a local one."),
]
GpusPerCell = Annotated[
    float | None, typer.Option("--gpus-per-cell", metavar="F", help="With ray: share of a GPU per cell (default 1).")
]
RESULTS, REPORTS = Path("results"), Path("reports")
CheckpointSeconds = Annotated[
    float, typer.Option("--checkpoint-seconds", min=0, metavar="S", help="Least time between two checkpoints.")
]
HangMinutes = Annotated[
    float, typer.Option("--hang-minutes", metavar="M", help="Kill a worker without progress for M minutes.")
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write curves, halting depth and attention for TensorBoard, too.")
]
SinkNames = Annotated[
    list[str] | None, typer.Option("--sink", metavar="NAME", help="Tell a plug-in's sink, too. Repeatable.")
]
MaxMinutes = Annotated[
    float | None, typer.Option("--max-minutes", metavar="M", help="Stop after M minutes; the same command goes on.")
]
