"""What `list` prints. Torch is loaded for `list models` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import data as data_sets
from harness.errors import BenchError, MissingData, UserError
from harness.presence import presence
from harness.saying import say
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


def tasks(data: DataFolder, store: Path, quick: bool = False) -> None:
    """Every registered task. Sizes and floor are those of its default settings, seed 0, built when first asked for and
    kept in `store`, where runs keep what they build; with `quick` they are left out."""
    columns = ["task", "version", "data", "examples", "floor (%)", "right means", "source", "licence", "summary"]
    rows: list[list[str]] = []
    floors: dict[str, list[str]] = {}
    for name in TASKS:
        task = create_task(name)
        state, size, floor = _known(task, data, store) if not quick else (str(presence(task, data)), "–", "–")
        floors.setdefault(task.floor_note, []).append(name)
        rows.append([name, str(task.version), state, size, floor, task.exact_means, *_about(task)])
    table("Tasks", columns, rows)
    if quick:
        return
    print("\nSizes and floors: of the default settings. Floor: exact accuracy on test of a predictor without training,")
    (usual, _), *others = sorted(floors.items(), key=lambda item: -len(item[1]))
    print(f"{usual};")
    print("; ".join(f"{', '.join(names)}: {note}" for note, names in others) + ".")


def _about(task: Task) -> list[str]:
    return [task.source, task.licence, task.summary]


def _known(task: Task, data: DataFolder, store: Path) -> tuple[str, str, str]:
    """State of the data, examples by split and the floor on test; why they are not known, where they are not."""
    found = presence(task, data)
    if found.state not in ("generated", "here"):
        return (f"{found}; {found.remedy}" if found.remedy else str(found)), "–", "–"
    try:
        known = data_sets.described(task, 0, data, store)
        if known is None:
            say(f"building {task.name} for its sizes and floor, once: kept in {store}")
            known = data_sets.prepare(task, 0, data, store)
    except MissingData as missing:
        return f"missing: {missing}", "–", "–"
    except BenchError as error:
        return f"broken: {error}", "–", "–"
    except OSError as error:
        raise UserError(
            f"folder {store}: {error.strerror or error}; choose another with --results, or leave sizes out with --quick"
        ) from None
    sizes = ", ".join(f"{split} {count:,}" for split, count in known.sizes.items())
    return str(found), sizes, f"{100 * known.floor:.1f}"


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
