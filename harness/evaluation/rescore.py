"""`evaluate`: score a finished run, or an imported checkpoint, on any split of any task that it can read, at any depth.

Nothing is trained, and nothing in the run's folder changes: the tables go to a folder of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.analysis.by_segment import read_by_segment
from harness.analysis.calibration import calibration
from harness.analysis.collect import write_table
from harness.analysis.unsafe import mark
from harness.cell import Cell
from harness.cost import flops_per_segment
from harness.data import splits_of
from harness.errors import UserError, did_you_mean
from harness.evaluation.evaluate import evaluate, limited
from harness.evaluation.records import write_score_tables
from harness.files import read_json, write_json
from harness.recipe import ONE_PASS, EvaluationSettings, Loop
from harness.record import provenance, sandbox_provenance
from harness.results import check_writable
from harness.schema import validated
from harness.store import splits_digest
from harness.tables import UNSANDBOXED
from harness.training.checkpoint import WEIGHTS_FILE, load_weights
from harness.training.device import choose_device, choose_precision
from harness.training.trainer import DTYPES, compile_model
from models.base import MODELS, ModelConfig, ModelShape, ReasoningModel, create_model, resolve_config
from models.official import convert_state_dict, read_checkpoint, sizes
from tasks.base import DataFolder, Examples, Splits, Task, create_task

PUBLISHED_SEGMENTS = 16
"""Segments that HRM and TRM were trained with (halt_max_steps), the depth of `fixed` for an imported checkpoint."""


@dataclass(frozen=True)
class Source:
    """A model with its weights, and what it was made for."""

    name: str
    key: dict[str, Any]  # cell_id, task, arm and seed of its rows in tables
    model: str
    config: ModelConfig
    shape: ModelShape
    weights: dict[str, Tensor]
    task: Task
    loop: Loop
    evaluation: EvaluationSettings
    device: str = "auto"
    precision: str = "auto"
    threads: int = 1
    engine: str = "eager"
    data_hash: str | None = None  # of the data that the run was scored on


@dataclass(frozen=True)
class Request:
    """What the command line asks for; None and () leave it to the run, or to the defaults of a recipe."""

    task: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    splits: Sequence[str] = ()
    segments: Sequence[int] = ()
    max_examples: int | None = None
    batch_size: int | None = None
    device: str | None = None
    precision: str | None = None
    family: str | None = None
    model: str | None = None
    preset: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    trained: int | None = None


def rescore(place: Path, request: Request, data: DataFolder, out: Path | None = None) -> dict[str, Any]:
    """Score what lies at `place`, write depth, halting, metrics, examples, calibration, evaluation.json to `out`.

    out: default results/evaluate/NAME. Returns the document that evaluation.json holds, with the folder. Raises
    UserError for whatever does not fit, before anything is written, and MissingData where the task's data are absent.
    """
    source = from_run(place, request) if place.is_dir() else from_checkpoint(place, request)
    out = out or Path("results/evaluate") / source.name
    if out.resolve() == place.resolve():
        raise UserError(f"--out {out}: that is the run itself, whose tables stay as they are")
    task = source.task
    task.get_ready()
    device = choose_device(request.device or source.device).value
    precision = choose_precision(request.precision or source.precision, device).value
    torch.set_num_threads(source.threads)
    if precision == "float32":
        torch.set_float32_matmul_precision("highest")
    model = build(source, precision).to(device)
    if source.engine == "compiled" and device == source.device:
        compile_model(model)
    _, splits = splits_of(task, source.key["seed"], data)
    settings = source.evaluation
    scored = {
        name: limited(part, _limit(request, settings, name)) for name, part in _chosen(splits, request, task).items()
    }
    for name, part in scored.items():
        _check_split(model, name, part)
    check_writable(out, "--out")
    depths = tuple(request.segments) or settings.segments
    evaluations = {
        name: evaluate(
            model,
            task,
            source.loop,
            part,
            segments=max(*depths, source.loop.segments),
            batch_size=request.batch_size or settings.batch_size,
            write=True,
            folder=out,
        )
        for name, part in scored.items()
    }
    size = replace(source.shape, sequence_length=task.sequence_length, answer_length=task.answer_length)
    flops = flops_per_segment(source.model, source.config, size)
    write_score_tables(out, source.key, task, depths, flops, scored, evaluations)
    write_table(
        out, "calibration", list(calibration({**source.key, "segments": source.loop.segments}, read_by_segment(out)))
    )
    ran = sandbox_provenance(task)
    if ran["sandbox"] == UNSANDBOXED:
        mark(out, {source.key["cell_id"]}, {source.key["task"]})
    digest = splits_digest(splits)
    document = {
        "source": str(place),
        **source.key,
        "model": source.model,
        "config": source.config.model_dump(mode="json"),
        "loop": source.loop.model_dump(mode="json"),
        "registered_task": task.name,
        "task_version": task.version,
        "settings": task.model_dump(mode="json"),
        "data_hash": digest,
        "same_data_as_the_run": None if source.data_hash is None else source.data_hash == digest,
        "segments": list(depths),
        "device": device,
        "precision": precision,
        "splits": {
            name: {
                "examples": len(result),
                "exact": float(result.fixed().mean()),
                "exact_model": float(result.model().mean()),
                "exact_oracle": float(result.oracle().mean()),
                "token": float(result.token_fixed().mean()),
            }
            for name, result in evaluations.items()
        },
        **provenance(),
        **ran,
    }
    write_json(out / "evaluation.json", document)
    return {"results": str(out), **document}


# -- what is scored ----------------------------------------------------------------------------------------------


def from_run(folder: Path, request: Request) -> Source:
    """A run folder, as the runner left it: cell.json, record.json and the weights."""
    for option, value in (("--family", request.family), ("--model", request.model), ("--preset", request.preset),
                          ("--config", request.config), ("--trained", request.trained)):  # fmt: skip
        if value:
            raise UserError(f"{option}: {folder} is a run, which says itself what its model is; leave it out")
    for name in ("cell.json", WEIGHTS_FILE):
        if not (folder / name).is_file():
            hint = "" if name == "cell.json" else "; the run has not finished"
            raise UserError(f"run folder {folder}: it has no {name}{hint}")
    try:
        cell = validated(Cell, read_json(folder / "cell.json"), f"{folder / 'cell.json'}")
    except ValueError as error:
        raise UserError(f"{folder / 'cell.json'}: not readable as JSON ({error})") from None
    trained_on = create_task(cell.registered_task, cell.settings)
    own = request.task is None or request.task == cell.registered_task
    task = create_task(request.task or cell.registered_task, {**(cell.settings if own else {}), **request.settings})
    same = own and not request.settings
    shape = ModelShape.of(trained_on)
    _check_vocabulary(trained_on.vocabulary, task, f"run {folder}")
    _check_shape(shape, ModelShape.of(task), task, f"run {folder}")
    return Source(
        name=f"{cell.task}-{cell.arm}-seed{cell.seed}-{cell.id}",
        key={"cell_id": cell.id, "task": cell.task if same else task.name, "arm": cell.arm, "seed": cell.seed},
        model=cell.model,
        config=resolve_config(cell.model, cell.config),
        shape=shape,
        weights=load_weights(folder),
        task=task,
        loop=cell.loop,
        evaluation=cell.recipe.evaluation,
        device=cell.device,
        precision=cell.precision,
        threads=cell.threads,
        engine=cell.engine,
        data_hash=cell.data_hash if same else None,
    )


def from_checkpoint(path: Path, request: Request) -> Source:
    """A file of weights: a published one (`--family`), or one of a registered model's own (`--model`)."""
    if not path.is_file():
        raise UserError(f"{path}: no such run folder or checkpoint")
    if request.task is None:
        raise UserError(f"--task: {path} is a checkpoint, which does not say what it was trained on; name the task")
    if (request.family is None) == (request.model is None):
        raise UserError(
            f"{path} is a checkpoint: give either --family hrm|trm (published) or --model NAME (this project's own)"
        )
    task = create_task(request.task, dict(request.settings))
    asked, name = ModelShape.of(task), request.family or str(request.model)
    if request.family is not None:
        weights = convert_state_dict(path, request.family)
        found, along = sizes(weights, request.family)
    else:
        MODELS.get(name)
        weights, found, along = read_checkpoint(path), {}, None
    config = resolve_config(name, {**found, **request.config}, request.preset)
    shape = _shape_of(weights, asked, None if along is None else along - config.slots)
    _check_shape(shape, asked, task, f"checkpoint {path}")
    family = MODELS.get(name)
    loop = {**family.LOOP, "segments": request.trained or PUBLISHED_SEGMENTS}
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    return Source(
        name=path.stem,
        key={"cell_id": content, "task": task.name, "arm": path.stem, "seed": 0},
        model=name,
        config=config,
        shape=shape,
        weights=weights,
        task=task,
        loop=validated(Loop, loop, f"checkpoint {path}", "loop") if family.recurrent else ONE_PASS,
        evaluation=EvaluationSettings(),
    )


def _shape_of(weights: Mapping[str, Tensor], asked: ModelShape, length: int | None) -> ModelShape:
    """The task's shape, but for what the weights know better: tokens, puzzles, and the length where they have one."""
    rows = {key: len(weights[key]) for key in ("lm_head.weight", "puzzle_emb.weights") if key in weights}
    sequence = asked.sequence_length if length is None else max(1, length)
    grid = asked.answer_length == asked.sequence_length
    return replace(
        asked,
        vocabulary=rows.get("lm_head.weight", asked.vocabulary),
        num_puzzles=rows.get("puzzle_emb.weights", asked.num_puzzles),
        sequence_length=sequence,
        answer_length=sequence if grid else asked.answer_length,
    )


def build(source: Source, precision: str) -> ReasoningModel:
    """The model with its weights. UserError names the first tensors that don't fit the configuration."""
    model = create_model(
        source.model, source.config, source.shape, generator=torch.Generator(), dtype=DTYPES[precision]
    )
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in source.weights.items()}
    wrong = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if wrong:
        shown = ", ".join(f"{n} is {found.get(n, 'absent')}, expected {expected.get(n, 'none')}" for n in wrong[:4])
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise UserError(f"{source.name}: its weights don't fit model {source.model} as configured: {shown}{more}")
    model.load_state_dict(source.weights, strict=True)
    return model


# -- whether it fits ---------------------------------------------------------------------------------------------


def _check_vocabulary(known: tuple[str, ...], task: Task, label: str) -> None:
    """Tokens are numbers to a model: the same number must mean the same symbol."""
    if known != task.vocabulary:
        raise UserError(
            f"{label}: it was trained on the {len(known)} symbols {_symbols(known)}; task {task.name} has the "
            f"{len(task.vocabulary)} symbols {_symbols(task.vocabulary)}"
        )


def _symbols(vocabulary: tuple[str, ...]) -> str:
    shown = " ".join(vocabulary[1:13])
    return f'"{shown} …"' if len(vocabulary) > 13 else f'"{shown}"'


def _check_shape(made: ModelShape, asked: ModelShape, task: Task, label: str) -> None:
    """Whether a model made for one shape can be asked for another; lengths are the splits' own business."""
    if made.vocabulary != asked.vocabulary:
        raise UserError(
            f"{label}: its vocabulary has {made.vocabulary} tokens, task {task.name} has {asked.vocabulary}"
        )
    for name in ("causal", "features"):
        if getattr(made, name) != getattr(asked, name):
            raise UserError(f"{label}: it was trained with {name} {getattr(made, name)}, task {task.name} is not so")
    if asked.num_puzzles > 1 and made.num_puzzles != asked.num_puzzles:
        raise UserError(
            f"{label}: its puzzle table has {made.num_puzzles:,} rows, task {task.name} has {asked.num_puzzles:,} "
            "puzzle ids; a model knows the puzzles that it was trained on alone"
        )
    grids = made.answer_length == made.sequence_length, asked.answer_length == asked.sequence_length
    if grids != (True, True) and made.answer_length != asked.answer_length:
        raise UserError(
            f"{label}: it answers {made.answer_length} positions, task {task.name} asks for {asked.answer_length}"
        )


def _chosen(splits: Splits, request: Request, task: Task) -> dict[str, Examples]:
    """The splits asked for; by default those that a run is scored on."""
    for name in request.splits:
        if name not in splits:
            raise UserError(f'--split: task {task.name} has no split "{name}"{did_you_mean(name, splits)}')
    wanted = request.splits or [name for name in splits if name not in ("train", "validation")]
    return {name: splits[name] for name in wanted}


def _limit(request: Request, settings: EvaluationSettings, split: str) -> int | None:
    if request.max_examples is not None:
        return request.max_examples
    return settings.validation_examples if split == "validation" else settings.test_examples


def _check_split(model: ReasoningModel, split: str, part: Examples) -> None:
    problem = model.length_problem(part.inputs.shape[1])
    if problem:
        raise UserError(f"split {split}: {problem}; choose other splits with --split")
