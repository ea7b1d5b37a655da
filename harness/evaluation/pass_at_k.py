"""`complete`: let an arm or a pretrained language model write programs, run them in the sandbox, report pass@k.

Problems and samples are written in HumanEval's own formats, so that `score-code`, or anybody's tools, can score them
again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness.errors import UserError
from harness.evaluation.rescore import Request, build, from_run
from harness.evaluation.writers import Arm, Pretrained, Writer
from harness.files import write_json, write_text
from harness.record import provenance
from harness.results import check_writable
from harness.sandbox import scoring, shared
from harness.spacing import evenly
from harness.training.device import choose_device, choose_precision
from tasks.base import DataFolder, Task, create_task
from tasks.code import HUMANEVAL, CodeTask

PRETRAINED = "hf:"


@dataclass(frozen=True)
class Ask:
    """What the command line asks for."""

    task: str = "humaneval"
    settings: dict[str, Any] = field(default_factory=dict)
    split: str = "test"
    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    ks: Sequence[int] = (1,)
    new_tokens: int = 256
    chat: bool = False
    most: int | None = None
    batch_size: int = 8
    device: str = "auto"


def complete(source: str, ask: Ask, data: DataFolder, out: Path | None = None) -> dict[str, Any]:
    """Write problems.jsonl, samples.jsonl, their results and pass_at_k.json; gives the last as a document.

    Raises UserError, MissingData; ReferenceFailed where the problems' own solutions do not pass here.
    """
    if ask.temperature < 0:
        raise UserError(f"--temperature {ask.temperature:g}: must be at least 0")
    if max(ask.ks) > ask.samples:
        raise UserError(f"--k {max(ask.ks)}: pass@k needs at least k samples per problem, --samples is {ask.samples}")
    writer, task = _writer(source, ask)
    task.get_ready()
    out = out or Path("results/complete") / f"{writer.name}-{ask.task}"
    check_writable(out, "--out")
    problems = task.whole_problems(ask.split, data)
    if any(item.group == HUMANEVAL for item in task.items(ask.split, data)):
        task.check_references((), humaneval=True)  # before minutes of writing, and all 164 whatever --max-examples says
    problems = [problems[i] for i in evenly(len(problems), ask.most)]
    written = writer.write(problems, ask.samples, ask.temperature, ask.seed, ask.new_tokens)
    samples = [{"task_id": problem.task_id, "completion": text} for problem, text in written]
    _write_rows(out / "problems.jsonl", [asdict(problem) for problem in problems])
    _write_rows(out / "samples.jsonl", samples)
    choice = shared.asked()
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    scores = scoring.score(
        out / "samples.jsonl", out / "problems.jsonl", ask.ks, task.timeout, choice.tier, choice.unsafe, jobs
    )
    document = {
        "writer": source,
        **writer.about,
        "task": ask.task,
        "split": ask.split,
        "settings": task.model_dump(mode="json"),
        "samples_per_problem": ask.samples,
        "temperature": ask.temperature,
        "seed": ask.seed,
        "new_tokens": ask.new_tokens,
        **scores,
        **provenance(),
    }
    write_json(out / "pass_at_k.json", document)
    return document


def _code_task(task: Task) -> CodeTask:
    if not isinstance(task, CodeTask):
        raise UserError(f"--task {task.name}: its answers are no programs; pass@k is of code tasks")
    return task


def _writer(source: str, ask: Ask) -> tuple[Writer, CodeTask]:
    """Who writes, and the task; where that is the task of a run, with the run's own settings under those asked for."""
    if source.startswith(PRETRAINED):
        task = _code_task(create_task(ask.task, ask.settings))
        if task.whole_program:
            raise UserError(
                f"--task {task.name}: an answer there is a whole program, while a language model is asked to complete "
                "a function; take humaneval, or an arm trained here"
            )
        task.get_ready()  # before a model is loaded
        device = choose_device(ask.device).value
        return Pretrained(source.removeprefix(PRETRAINED), ask.chat, ask.batch_size, device), task
    if ask.chat:
        raise UserError("--chat: only a pretrained language model (hf:…) has a chat template")
    place = Path(source)
    if not place.is_dir():
        raise UserError(f"{source}: no such run folder; a pretrained model is named hf:NAME_OR_FOLDER")
    found = from_run(place, Request(task=ask.task, settings=ask.settings))
    task = _code_task(found.task)
    device = choose_device(found.device if ask.device == "auto" else ask.device).value
    torch.set_num_threads(found.threads)
    model = build(found, choose_precision(found.precision, device).value).to(device)
    return Arm(found.name, model, task.coder, found.loop.segments, ask.batch_size), task


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
