"""`solve`: one puzzle through a finished run's model, shown in the terminal as the answer forms."""

from __future__ import annotations

import io
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from harness.data import splits_of
from harness.errors import UserError, did_you_mean
from harness.evaluation.rescore import Request, Source, build, from_run
from harness.evaluation.trace import Trace, asked, trace
from harness.files import write_atomically
from harness.training.device import choose_device, choose_precision
from tasks.base import PAD, DataFolder, Examples, Task

WRONG, CHANGED, GIVEN = "bold red", "bold", "dim"


def solve(
    folder: Path,
    puzzle: str,
    data: DataFolder,
    segments: int | None = None,
    save: Path | None = None,
    device: str | None = None,
    precision: str | None = None,
) -> dict[str, Any]:
    """Answer `puzzle` with the run in `folder`, print each segment's answer on standard error, return the outcome.

    puzzle: text as the task's `parse` reads it, a file that holds such text, or SPLIT:N. save: a .npz file for states
    [M, …], attention weights [M, calls, Q, K] (float16, mean over heads) and q_halt [M] of the M segments. Raises
    UserError for what does not fit, before anything runs.
    """
    source = from_run(folder, Request())
    task = source.task
    task.get_ready()
    example, row = find(puzzle, source, data)
    where = choose_device(device or source.device).value
    kind = choose_precision(precision or source.precision, where).value
    model = build(source, kind).to(where)
    problem = model.length_problem(example.inputs.shape[1])
    if problem:
        raise UserError(f"run {folder}: {problem}")
    torch.set_num_threads(source.threads)
    depth = segments or source.loop.segments
    found = trace(model, task, source.loop, example, depth, inside=save is not None, first=row)
    known = bool((example.labels != PAD).any())
    show(task, example, found, known)
    if save is not None:
        _save(save, found)
    steps = found.halting_step()
    return {
        "run": str(folder),
        "segments": found.answers.shape[1],
        "answer": task.decode(found.answers[0, -1]),
        "right": found.correct[0].tolist() if known else None,
        "q_halt": None if found.q_halt is None else [round(float(q), 4) for q in found.q_halt[0]],
        "halts_after": None if steps is None else int(steps[0]),
        "trace": None if save is None else str(save),
    }


def find(puzzle: str, source: Source, data: DataFolder) -> tuple[Examples, int]:
    """The one example that the user means, and its row: of a split, or 0."""
    named = re.fullmatch(r"(train|validation|test|ood-[\w-]+):(\d+)", puzzle)
    if named is None:
        try:
            path = Path(puzzle)
            text = path.read_text(encoding="utf-8") if path.is_file() else puzzle
        except (OSError, ValueError):  # a puzzle longer than a file name may be, or a file that is no text
            text = puzzle
        return source.task.parse(text), 0
    _, splits = splits_of(source.task, source.key["seed"], data)
    if named[1] not in splits:
        raise UserError(f'task {source.task.name} has no split "{named[1]}"{did_you_mean(named[1], splits)}')
    part, row = splits[named[1]], int(named[2])
    if row >= len(part):
        raise UserError(f"{puzzle}: the split {named[1]} has {len(part):,} examples, counted from 0")
    return part[row : row + 1], row


def show(task: Task, example: Examples, found: Trace, known: bool) -> None:
    """Question, label where one is known, and the answer after each segment."""
    console = Console(file=sys.stderr, highlight=False)
    question, label = asked(task, example, 0), example.labels[0]
    heads = [_titled("question", _text(task, question))]
    heads += [_titled("label", _text(task, label))] if known else []
    console.print(Columns(heads, padding=(0, 4)))
    console.print()
    blocks, before = [], None
    for m, answer in enumerate(found.answers[0]):
        picture = _text(task, answer, label if known else None, before, question)
        blocks.append(_titled(_saying(found, m, known), picture))
        before = answer
    console.print(Columns(blocks, padding=(1, 4)) if task.columns else Text("\n").join(blocks))
    steps = found.halting_step()
    if steps is None:
        console.print("\nThis arm does not decide by itself when to stop.")
    else:
        end = f"It would stop after segment {steps[0]} of {found.trained}"
        right = f": {'right' if found.correct[0, steps[0] - 1] else 'not right'} there" if known else ""
        console.print(f"\n{end}{right}.")
    if not known:
        console.print("No right answer is known, so nothing is judged.")


def _saying(found: Trace, m: int, known: bool) -> str:
    words = [f"segment {m + 1}"]
    if known:
        words.append("right" if found.correct[0, m] else "not right")
    if found.q_halt is not None:
        words.append(f"q {1 / (1 + math.exp(-float(found.q_halt[0, m]))):.0%}")
    if found.halt is not None and found.halt[0, m]:
        words.append("halts")
    return " · ".join(words)


def _titled(title: str, body: Text) -> Text:
    return Text.assemble((title, "bold"), "\n", body)


def _text(
    task: Task,
    tokens: np.ndarray,
    label: np.ndarray | None = None,
    before: np.ndarray | None = None,
    question: np.ndarray | None = None,
) -> Text:
    """Tokens as text. In a grid, what differs from the label is red, what changed bold, what was given dim."""
    if not task.columns:
        wrong = label is not None and bool(((tokens != label) & (label != PAD)).any())
        return Text(task.decode(tokens), style=WRONG if wrong else "")
    text = Text()
    for place, token in enumerate(tokens):
        style = ""
        if label is not None and label[place] != PAD and token != label[place]:
            style = WRONG
        elif before is not None and token != before[place]:
            style = CHANGED
        elif question is not None and len(question) == len(tokens) and question[place] == token:
            style = GIVEN
        symbol = task.vocabulary[int(token)]
        text.append(" " if token == PAD else symbol, style)
        last = place % task.columns == task.columns - 1
        text.append("\n" if last and place < len(tokens) - 1 else "" if last else " ")
    return text


def _save(path: Path, found: Trace) -> None:
    """answers, correct, q_halt, state.NAME per segment, and attention where the model attends."""
    arrays: dict[str, np.ndarray] = {"answers": found.answers[0], "correct": found.correct[0]}
    if found.q_halt is not None:
        arrays["q_halt"] = found.q_halt[0]
    arrays |= {f"state.{name}": value[0] for name, value in found.states.items()}
    if found.attention is not None:
        arrays["attention"] = found.attention[:, :, 0]
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_atomically(path, lambda file: file.write(content.getvalue()))
