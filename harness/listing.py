"""What `list` prints. Torch is loaded for `list models` alone."""

from __future__ import annotations

from typing import Any

from harness.errors import BenchError, UserError
from harness.presence import presence
from harness.suite import builtin_suites, read_suite
from tasks.base import TASKS, DataFolder, Task, create_task


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table that fits the terminal; plain enough to read in a log."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        shown.add_column(column, overflow="fold", no_wrap=i == 0)
    for row in rows:
        shown.add_row(*row)
    console = Console()
    Console(width=console.width if console.is_terminal else 160).print(shown)


def tasks(data: DataFolder, sizes: bool = False) -> None:
    """Every registered task; `sizes` builds each with its default settings, which takes a while."""
    columns = ["task", "version", "data", "source", "right means", "floor", "licence", "summary"]
    rows = []
    for name in TASKS:
        task = create_task(name)
        row = [name, str(task.version), str(presence(task, data)), task.source, task.exact_means, task.floor_note]
        rows.append([*row, task.licence, task.summary, *(_sizes(task, data) if sizes else [])])
    table("Tasks", columns + (["examples", "floor (%)"] if sizes else []), rows)


def _sizes(task: Task, data: DataFolder) -> list[str]:
    """Examples by split and the floor on test, or why they can't be told."""
    try:
        splits = task.splits(0, data)
    except BenchError as error:
        return [str(error), "–"]
    counts = [f"{name} {len(part):,}" for name, part in splits.items()]
    return [", ".join(counts), f"{100 * task.floor(splits):.1f}"]


def arms(suite: str | None = None) -> None:
    """The arms of one suite, or of all built-in ones."""
    rows = []
    for name in [suite] if suite else builtin_suites():
        document, _ = read_suite(name)
        for arm, settings in (document.get("arms") or {}).items():
            match: dict[str, Any] = settings.get("match") or {}
            matched = f"{match.get('rule')} of {match.get('to')}" if match else "sets the size"
            rows.append(
                [arm, str(document.get("name")), settings.get("model", ""), matched, settings.get("summary", "")]
            )
    table("Arms", ["arm", "suite", "model", "matched", "summary"], rows)


def suites() -> None:
    rows = []
    for name in builtin_suites():
        document, _ = read_suite(name)
        rows.append(
            [
                name,
                ", ".join(document.get("tasks") or {}),
                ", ".join(document.get("arms") or {}),
                document.get("summary", ""),
            ]
        )
    table("Suites", ["suite", "tasks", "arms", "summary"], rows)


def models() -> None:
    from models.base import MODELS, PRESETS

    rows = [[name, ", ".join(PRESETS[name]) or "–", MODELS.get(name).summary] for name in MODELS]
    table("Models", ["model", "presets", "summary"], rows)


def costs(task_name: str, settings: dict[str, Any]) -> None:
    """Every model and preset as it would be built for a task: parameters by group, layer applications, FLOPs."""
    from harness.cost import flops_per_segment
    from models.base import MODELS, PRESETS, ModelShape, create_model, resolve_config
    from tasks.base import create_task

    shape = ModelShape.of(create_task(task_name, settings))
    rows, unable = [], []
    for name in MODELS:
        for preset in PRESETS[name] or [None]:
            try:
                config = resolve_config(name, {}, preset)
                model = create_model(name, config, shape)
                groups = model.parameter_groups()
                trained = sum(groups.values()) - groups["never_trained"]
                counts = [f"{n:,}" for n in (*groups.values(), trained, model.layers_per_segment)]
                rows.append([name, preset or "–", *counts, f"{flops_per_segment(name, config, shape):.4g}"])
            except UserError as error:
                unable.append(f"{name} {preset or ''}".strip() + f" can't run {task_name}: {error}")
    size = f"{shape.sequence_length} positions, {shape.vocabulary} tokens, {shape.num_puzzles:,} puzzle ids"
    table(f"Models on {task_name} ({size})", ["model", "preset", *COSTS], rows)
    for sentence in unable:
        print(sentence)


COSTS = ("core", "embeddings", "heads", "puzzle table", "never trained", "all trained", "layers/seg.", "FLOPs/seg.")
