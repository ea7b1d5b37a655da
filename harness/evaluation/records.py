"""A scored model's share of each table, written into a run's folder. Columns are those of harness/tables.py."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from harness import tables
from harness.cell import Cell
from harness.evaluation.evaluate import Count, Evaluation
from harness.files import write_atomically
from harness.spacing import evenly
from harness.spill import blocks
from tasks.base import PAD, Examples, Task


def write_run_tables(
    folder: Path,
    cell: Cell,
    task: Task,
    curves: list[dict[str, Any]],
    scored: Mapping[str, Examples],
    evaluations: Mapping[str, Evaluation],
) -> None:
    """curves, depth, halting, metrics and examples of one cell."""
    key = _key(cell)
    _write(folder, "curves", [key | point for point in curves])
    write_score_tables(folder, key, task, cell.recipe.evaluation.segments, cell.flops_per_segment, scored, evaluations)


def _key(cell: Cell) -> dict[str, Any]:
    return {"cell_id": cell.id, "task": cell.task, "arm": cell.arm, "seed": cell.seed}


def write_states(folder: Path, cell: Cell, rows: Sequence[Mapping[str, Any]]) -> None:
    """states.csv of one cell; no file for an arm without states, nor one of an attempt before."""
    if rows:
        _write(folder, tables.STATES, [_key(cell) | dict(row) for row in rows])
    else:
        (folder / f"{tables.STATES}.csv").unlink(missing_ok=True)


def write_score_tables(
    folder: Path,
    key: Mapping[str, Any],
    task: Task,
    segments: Sequence[int],
    flops_per_segment: float,
    scored: Mapping[str, Examples],
    evaluations: Mapping[str, Evaluation],
) -> None:
    """depth, halting, metrics, examples; samples of written answers. key: the columns that name the cell; segments:
    depths of depth.csv."""
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in tables.RUN_TABLES if name not in ("curves", "examples")
    }
    for split, result in evaluations.items():
        examples = scored[split]
        parts = {
            "depth": _depth(segments, flops_per_segment, result),
            "halting": _halting(result, examples),
            "histograms": _histograms(result),
            "metrics": _metrics(result, examples),
        }
        for name, content in parts.items():
            rows[name] += [{**key, "split": split, **row} for row in content]
    for name, content in rows.items():
        _write(folder, name, content)
    if any(result.answers is not None for result in evaluations.values()):
        _write(
            folder,
            tables.SAMPLES,
            [
                {**key, "split": split, **row}
                for split, result in evaluations.items()
                for row in _samples(task, result, scored[split])
            ],
        )
    _write(
        folder,
        "examples",
        (
            {**key, "split": split, **row}
            for split, result in evaluations.items()
            for row in _examples(result, scored[split])
        ),
    )


def _write(folder: Path, table: str, rows: Iterable[dict[str, Any]]) -> None:
    def checked() -> Iterator[dict[str, Any]]:
        for row in rows:
            tables.check_rows(table, [row])
            yield row

    write_csv(folder / (f"{table}.csv.gz" if table == "examples" else f"{table}.csv"), tables.names(table), checked())


def write_csv(path: Path, columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write a table whole or not at all, gzipped (without a time stamp) where the name says so. Rows are taken one at a
    time, so that a table may exceed the memory."""

    def write(file: BinaryIO) -> None:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                _write_rows(cast(BinaryIO, packed), columns, rows)
        else:
            _write_rows(file, columns, rows)

    write_atomically(path, write)


def _write_rows(file: BinaryIO, columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _field(value) for name, value in row.items()} for row in rows)
    text.detach()  # flushes, and leaves the file open


def _field(value: Any) -> Any:
    """A value as text: booleans 0 or 1, floats with 9 digits (float32 needs no more), nothing for None."""
    if value is None:
        return ""
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return f"{value:.9g}"
    return value


def _depth(depths: Sequence[int], flops_per_segment: float, result: Evaluation) -> list[dict[str, Any]]:
    wanted = {s for s in (*depths, result.trained) if s <= result.depth}
    return [
        {
            "segments": segments,
            "exact": result.correct_at(segments).mean(),
            "token": result.token_at(segments).mean(),
            "exact_model": result.model(segments).mean(),
            "exact_oracle": result.oracle(segments).mean(),
            "flops_per_answer": flops_per_segment * segments,
            "beyond_training": segments > result.trained,
            "examples": len(result),
        }
        for segments in sorted(wanted)
    ]


def _halting(result: Evaluation, examples: Examples) -> list[dict[str, Any]]:
    steps, right = result.halting_step(), result.model()
    return [
        {
            "halting_step": int(step),
            "count": int((steps == step).sum()),
            "exact": right[steps == step].mean(),
            "difficulty": examples.difficulty[steps == step].mean(),
        }
        for step in np.unique(steps)
    ]


SAMPLED = 8
"""Examples of a split, evenly spaced, whose written answers are kept as text."""


def _samples(task: Task, result: Evaluation, examples: Examples) -> Iterator[dict[str, Any]]:
    if result.answers is None:
        return
    right, ids = result.fixed(), examples.ids
    for i in evenly(len(examples), SAMPLED):
        length = int(examples.facts["prompt_length"][i])
        answer, label = (row[i, length - 1 :] for row in (result.answers, examples.labels))
        yield {
            "example_id": ids[i],
            "group": "" if examples.groups is None else examples.groups[i],
            "prompt": task.decode(examples.inputs[i, :length]),
            "answer": task.decode(answer[answer != PAD]),
            "label": task.decode(label[label != PAD]),
            "correct": right[i],
            "judgement": None if result.judgements is None else result.judgements[i],
        }


HISTOGRAM_ROWS = 100
"""Kinds of answers that get a row of their own; the rest are counted together."""


def _histograms(result: Evaluation) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, counts in result.histograms.items():
        rest = counts[HISTOGRAM_ROWS:]
        shown = [*counts[:HISTOGRAM_ROWS]]
        if rest:
            others = f"{len(rest)} others"
            shown.append(Count(others, sum(c.predictions for c in rest), sum(c.labels for c in rest)))
        rows += [{"histogram": name} | count._asdict() for count in shown]
    return rows


def _metrics(result: Evaluation, examples: Examples) -> list[dict[str, Any]]:
    figures = [
        ("exact", "fixed", result.fixed()),
        ("exact", "model", result.model()),
        ("exact", "oracle", result.oracle()),
        ("token", "fixed", result.token_fixed()),
        *((name, "fixed", np.asarray(value, np.float64)) for name, value in result.metrics.items()),
    ]
    return [
        {
            "group": group,
            "metric": metric,
            "stopping": stopping,
            "value": float(np.mean(value[rows])),
            "examples": int(rows.sum()),
        }
        for group, rows in _groups(examples)
        for metric, stopping, value in figures
    ]


def _groups(examples: Examples) -> Iterator[tuple[str, np.ndarray]]:
    """(name, [N] bool) of all examples, then of each group, the one with the easiest example first."""
    yield "all", np.ones(len(examples), bool)
    if examples.groups is None:
        return
    easiest: dict[str, tuple[float, int]] = {}  # difficulty and place of each group's first example in that order
    for part in blocks(len(examples)):
        names, where = np.unique(examples.groups[part], return_inverse=True)
        difficulty = examples.difficulty[part]
        order = np.argsort(difficulty, kind="stable")
        first = order[np.unique(where[order], return_index=True)[1]]
        for name, i in zip(names.tolist(), first.tolist(), strict=True):
            found = (float(np.nan_to_num(difficulty[i], nan=np.inf)), part.start + i)
            easiest[name] = min(easiest.get(name, found), found)
    for name in sorted(easiest, key=lambda name: easiest[name]):
        yield name, np.concatenate([examples.groups[part] == name for part in blocks(len(examples))])


def _examples(result: Evaluation, examples: Examples) -> Iterator[dict[str, Any]]:
    for rows in result.blocks():
        part, own = examples[rows], result.rows(rows)
        fixed, model, oracle, token = own.fixed(), own.model(), own.oracle(), own.token_fixed()
        steps = own.halting_step()
        for i, example_id in enumerate(part.ids):
            yield {
                "example_id": example_id,
                "group": "" if part.groups is None else part.groups[i],
                "difficulty": part.difficulty[i],
                "correct": fixed[i],
                "correct_model": model[i],
                "correct_oracle": oracle[i],
                "token": token[i],
                "halting_step": int(steps[i]),
                "correct_by_segment": "".join("1" if right else "0" for right in own.correct[i]),
                "q_halt_by_segment": "" if own.q_halt is None else ";".join(f"{value:.7g}" for value in own.q_halt[i]),
            }
