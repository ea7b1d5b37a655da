"""`run_cell(cell, folder)`: train one cell, select on validation, look at test once, write its share of every table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness import seeds
from harness.cell import Cell
from harness.cost import Cost, measure
from harness.data import DataSet
from harness.evaluation import gates
from harness.evaluation.evaluate import Evaluation, evaluate, limited, readable
from harness.evaluation.latency import seconds_per_answer
from harness.evaluation.records import write_run_tables, write_states
from harness.evaluation.states import StateRecorder
from harness.evaluation.trace import chosen, document, trace
from harness.evaluation.voting import vote
from harness.files import sweep, write_json, write_text
from harness.record import RECORD, costs, identity, provenance, sandbox_provenance
from harness.tables import GATES_FILE, TRACE_FILE, UNSANDBOXED
from harness.training import checkpoint, side_runs
from harness.training.device import peak_memory_mib, reset_peak_memory, set_deterministic
from harness.training.ranks import ALONE, Failed, RankLost, Ranks
from harness.training.telling import Teller
from harness.training.trainer import Diverged, Trainer
from models.base import ModelShape, resolve_config
from tasks.base import Examples, Splits, Task, create_task

CHECKPOINT_SECONDS = 60.0
"""Least time between two checkpoints by default: what a killed run loses at most, and one update."""
CHECKPOINT_SHARE = 0.02
"""Largest share of a run's time that goes into checkpoints: one of 3.5 GB (ARC's puzzle table) takes many seconds."""

Report = Callable[[float, str], bool]
"""Called with (progress 0 to 1, a short text); returns False to ask the run to stop and leave a checkpoint."""

Say = Callable[[str], None]
"""Called with a sentence that belongs into the run's log, and before the user's eyes."""


@dataclass(frozen=True)
class Options:
    """How a run is carried out. Nothing here changes a number, so nothing of it is in the cell."""

    checkpoint_seconds: float = CHECKPOINT_SECONDS
    sinks: tuple[str, ...] = ()  # names of harness/sinks.py


class Interrupted(Exception):
    """The run was asked to stop; it left a checkpoint and can go on."""


@dataclass
class Progress:
    """What a run has found so far beside its weights."""

    curves: list[dict[str, Any]] = field(default_factory=list)
    selected: int = -1  # index into curves
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    evaluation_seconds: float = 0.0
    next_point: int = 1
    stopped_early: bool = False


def run_cell(
    cell: Cell,
    folder: Path,
    data: DataSet,
    report: Report = lambda progress, text: True,
    options: Options = Options(),
    say: Say = print,
    ranks: Ranks = ALONE,
) -> None:
    """Run a cell to its end, from its checkpoint if the folder holds one, and write record.json last.

    The caller holds the cell's lock. Raises Interrupted when `report` says stop, and Diverged when the loss is not
    finite. Of several ranks, all of which call this, the first alone evaluates, reports, and writes; what it raises
    there, the others raise as Interrupted or Failed.
    """
    started = datetime.now(UTC)
    ranks.lead(lambda: _open(cell, folder))
    torch.set_num_threads(cell.threads)
    if cell.precision == "float32":
        torch.set_float32_matmul_precision("highest")
    device = torch.device(cell.device)
    reset_peak_memory(cell.device)
    set_deterministic(cell.deterministic)
    # nothing here draws from torch's global generator; a plug-in may, and must not depend on the cells before it
    torch.manual_seed(seeds.key(cell.task, cell.arm, "global", cell.seed))
    task = create_task(cell.registered_task, cell.settings)
    task.get_ready()
    splits = data.load()
    if cell.purpose == "control":
        splits = side_runs.shuffled(splits, cell)
    trainer = Trainer(cell, task, splits, device, ranks)
    progress = Progress()
    _resume(trainer, progress, folder, device, say)
    validation = limited(splits["validation"], cell.recipe.evaluation.validation_examples)
    sinks = Teller(options.sinks if ranks.leads and cell.purpose == "run" else ())
    with sinks.told(cell, folder, trainer.updates):
        train(trainer, progress, validation, folder, report, options, say, sinks)
        if cell.purpose != "run":
            _end_side_run(cell, task, splits, trainer, progress, folder, started, report, say)
            return
        notes = []
        if ranks.size > 1:
            notes.append(f"trained by {ranks.size} processes together; peak memory is the first one's")
        if progress.stopped_early:
            notes.append(
                f"stopped early at update {trainer.updates}: {cell.recipe.early_stopping} points without a better one"
            )
        if trainer.seconds > options.checkpoint_seconds:
            _save(trainer, progress, folder, say)  # a test of many examples may take long, too

        report(1.0, "test")
        trainer.evaluated.load_state_dict(progress.best)
        clock = time.perf_counter()
        scored = {
            name: limited(part, cell.recipe.evaluation.test_examples)
            for name, part in splits.items()
            if name not in ("train", "validation")
        }
        scored, unread = readable(trainer.evaluated, scored)
        evaluations: dict[str, Evaluation] = {}

        def test() -> None:
            tick = partial(_tick, report, trainer)
            for name, part in scored.items():
                evaluations[name] = _evaluate(trainer, part, folder, partial(tick, name))
            if cell.recipe.evaluation.votes:
                notes.extend(vote(cell, task, trainer.evaluated, scored["test"], folder, partial(tick, "votes")))

        try:
            _led(ranks, test)
        except Interrupted:
            _save(trainer, progress, folder, say)  # with the selected weights in it, which are all that is needed now
            raise
        if not ranks.leads:
            return
        progress.evaluation_seconds += time.perf_counter() - clock

        checkpoint.save_weights(folder, progress.best)
        curves = [point | {"selected": i == progress.selected} for i, point in enumerate(progress.curves)]
        write_run_tables(folder, cell, task, curves, scored, evaluations)
        record = _record(  # with the run's peak of memory, before traces and gates take theirs
            cell, task, trainer, progress, evaluations["test"], data, started, len(validation), len(splits["train"])
        )
        try:
            shown, states = chosen(scored["test"]), StateRecorder(cell.loop.segments)
            found = trace(trainer.evaluated, task, cell.loop, shown, evaluations["test"].depth, states=states)
            text = json.dumps(document(task, shown, found), separators=(",", ":"), allow_nan=False)
            write_text(folder / TRACE_FILE, text)
            write_states(folder, cell, states.rows())
            notes += [states.problem] if states.problem else []
            record["seconds_per_answer"] = seconds_per_answer(trainer.evaluated, task, cell.loop, shown)
        except Exception as error:  # what a report shows of a run is not worth the run
            notes.append(f"no traces: {type(error).__name__}: {error}")
        write_json(folder / GATES_FILE, gates.check(cell, task, splits, data, device))
        if record["sandbox"] == UNSANDBOXED:
            notes.append("UNSANDBOXED: written programs ran without isolation (--allow-unsafe)")
        sinks.close(record)
        record["notes"] = " | ".join([*data.notes, *notes, *unread, *sinks.notes])
        write_json(folder / RECORD, record)
        checkpoint.drop_state(folder)


def _open(cell: Cell, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    write_json(folder / "cell.json", cell.model_dump(mode="json"))


def _led(ranks: Ranks, work: Callable[[], Any]) -> Any:
    """What rank 0 does while the others wait; where it is asked to stop, all of them are."""
    try:
        return ranks.lead(work)
    except Failed as failed:
        raise Interrupted(str(failed)) if failed.kind == Interrupted.__name__ else failed from None


def _end_side_run(
    cell: Cell,
    task: Task,
    splits: Splits,
    trainer: Trainer,
    progress: Progress,
    folder: Path,
    started: datetime,
    report: Report,
    say: Say,
) -> None:
    """A trial has all that it is for; a control, as it stands after its last update, is scored on test."""
    scored: list[Evaluation] = []

    def score() -> None:
        examples = side_runs.held_out(splits, cell)
        scored.append(_evaluate(trainer, examples, folder, partial(_tick, report, trainer, "test")))

    if cell.purpose == "control":
        try:
            _led(trainer.ranks, score)
        except Interrupted:
            _save(trainer, progress, folder, say)
            raise
    if not trainer.ranks.leads:
        return
    test = scored[0] if scored else None
    curves, selected = progress.curves, progress.selected
    row = side_runs.record(cell, task, splits, started, curves, selected, trainer.seconds, test)
    write_json(folder / RECORD, row)
    checkpoint.drop_state(folder)


def train(
    trainer: Trainer,
    progress: Progress,
    validation: Examples,
    folder: Path,
    report: Report,
    options: Options,
    say: Say = print,
    sinks: Teller | None = None,
) -> None:
    """Spend the budget, evaluating on validation at even steps of it and keeping the best weights.

    A state saved after any update goes on to the same numbers: whether an evaluation is due is decided by the state
    alone.
    """
    points, ranks = trainer.recipe.evaluation.points, trainer.ranks
    next_save = time.perf_counter() + options.checkpoint_seconds
    while True:
        if _due(trainer, progress, points):
            try:
                tick = partial(_tick, report, trainer, "validation")
                _evaluation_point(trainer, progress, validation, tick, sinks or Teller())
            except Interrupted:
                _save(trainer, progress, folder, say)
                raise
            patience = trainer.recipe.early_stopping
            progress.stopped_early = patience is not None and _points_without_progress(progress) >= patience
            while progress.next_point <= points and trainer.progress >= progress.next_point / points:
                progress.next_point += 1
        if trainer.finished or progress.stopped_early:
            return
        trainer.advance()
        if ranks.told((began := time.perf_counter()) > next_save):
            _save(trainer, progress, folder, say)
            ended = time.perf_counter()
            next_save = ended + max(options.checkpoint_seconds, (ended - began) / CHECKPOINT_SHARE)
        if not ranks.told(report(min(trainer.progress, 1.0), _status(trainer, progress))):
            _save(trainer, progress, folder, say)
            raise Interrupted(f"stopped at update {trainer.updates}; run the same command to go on")


def _due(trainer: Trainer, progress: Progress, points: int) -> bool:
    """Whether the present state is to be evaluated, and has not been yet."""
    if trainer.updates == (progress.curves[-1]["updates"] if progress.curves else 0):
        return False
    return trainer.finished or trainer.progress >= progress.next_point / points


def _points_without_progress(progress: Progress) -> int:
    """Evaluation points since the last one that was strictly better than all before it. (Selection takes the later of
    equal points, so it can't tell.)"""
    scores = [(point["validation_exact"], point["validation_token"]) for point in progress.curves]
    return len(scores) - 1 - scores.index(max(scores))


def _evaluation_point(
    trainer: Trainer, progress: Progress, validation: Examples, tick: Callable[[float], None], sinks: Teller
) -> None:
    results: list[Evaluation] = []  # the first rank's

    def score() -> tuple[float, float]:
        result = evaluate(
            trainer.evaluated,
            trainer.task,
            trainer.cell.loop,
            validation,
            segments=trainer.cell.loop.segments,
            batch_size=trainer.recipe.evaluation.batch_size,
            tick=tick,
        )
        results.append(result)
        return float(result.fixed().mean()), float(result.token_fixed().mean())

    clock = time.perf_counter()
    trainer.ranks.agree("weights", list(trainer.model.parameters()))
    exact, token = _led(trainer.ranks, score)
    progress.evaluation_seconds += time.perf_counter() - clock
    window = trainer.window()
    progress.curves.append(
        {
            "updates": trainer.updates,
            "examples": trainer.examples,
            "flops": trainer.flops,
            "seconds": trainer.seconds,
            "learning_rate": trainer.optimizers.learning_rate,
            "train_loss": window.loss,
            "train_exact": window.exact,
            "train_segments": window.segments,
            "validation_exact": exact,
            "validation_token": token,
        }
    )
    for result in results:
        sinks.point(trainer, progress.curves[-1], result, validation)
    # exact accuracy decides; token accuracy where it is equal (early on, exact is often 0); else the later point
    order = [(point["validation_exact"], point["validation_token"], i) for i, point in enumerate(progress.curves)]
    if max(order)[2] == len(order) - 1:
        progress.selected = len(order) - 1
        progress.best = {name: tensor.detach().clone() for name, tensor in trainer.evaluated.state_dict().items()}


def _evaluate(trainer: Trainer, examples: Examples, folder: Path, tick: Callable[[float], None]) -> Evaluation:
    settings = trainer.recipe.evaluation
    return evaluate(
        trainer.evaluated,
        trainer.task,
        trainer.cell.loop,
        examples,
        segments=max(*settings.segments, trainer.cell.loop.segments),
        batch_size=settings.batch_size,
        write=True,
        folder=folder,
        tick=tick,
    )


def _tick(report: Report, trainer: Trainer, what: str, share: float) -> None:
    if not report(min(trainer.progress, 1.0), f"{what} {share:.0%}"):
        raise Interrupted(f"stopped in {what}, at {share:.0%} of it; run the same command to go on")


def _status(trainer: Trainer, progress: Progress) -> str:
    last = f", validation {progress.curves[-1]['validation_exact']:.1%}" if progress.curves else ""
    return f"update {trainer.updates}{last}"


def _save(trainer: Trainer, progress: Progress, folder: Path, say: Say) -> None:
    """Leave a checkpoint. Where that fails, as on a full disk, the one before stays and the run goes on."""
    ranks, own = trainer.ranks, _generators(trainer.device)
    state = {"trainer": trainer.state_dict(), "progress": vars(progress), "generators": own}
    if ranks.size > 1:
        state["generators_of_ranks"] = ranks.gathered(own)
    try:
        if ranks.leads:
            checkpoint.save_state(folder, state, trainer.updates)
    except OSError as error:
        say(f"no checkpoint at update {trainer.updates}: {error.strerror or error}; the one before stays")


def _resume(trainer: Trainer, progress: Progress, folder: Path, device: torch.device, say: Say) -> None:
    """Go on from the folder's newest whole checkpoint if it has one, and say so: tables must not differ by it."""
    state, problems = checkpoint.load_state(folder, device)
    seen = [None if state is None else state["trainer"]["updates"], len(problems)]
    if any(other != seen for other in trainer.ranks.gathered(seen)):
        raise RankLost(f"the ranks don't see the same checkpoints in {folder}: is it one folder, shared by all?")
    for problem in problems:
        say(f"checkpoint not used: {problem}")
    if state is None:
        if problems:
            say("no checkpoint is whole: starting from the beginning")
        return
    trainer.load_state_dict(state["trainer"])
    for name, value in state["progress"].items():
        setattr(progress, name, value)
    own = state["generators_of_ranks"][trainer.ranks.rank] if trainer.ranks.size > 1 else state["generators"]
    _set_generators(own, device)
    say(f"resumed at update {trainer.updates}")


def _generators(device: torch.device) -> list[torch.Tensor]:
    """torch's global generators that a cell may use: the host's, and its GPU's."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else ())]


def _set_generators(states: list[torch.Tensor], device: torch.device) -> None:
    host, *own = (state.cpu() for state in states)
    torch.set_rng_state(host)
    for state in own:
        torch.cuda.set_rng_state(state, device)


_COSTS: dict[str, Cost] = {}
"""What was counted, by all that decides it: an arm's seeds follow one another in a process, and a count of an HRM takes
seconds."""


def _cost(cell: Cell, shape: ModelShape) -> Cost:
    arm = cell.model_dump_json(include={"model", "config", "loop", "recipe"})
    if (key := f"{arm} {shape}") not in _COSTS:
        _COSTS[key] = measure(cell.model, resolve_config(cell.model, cell.config), shape, cell.loop, cell.recipe)
    return _COSTS[key]


def _record(
    cell: Cell,
    task: Task,
    trainer: Trainer,
    progress: Progress,
    test: Evaluation,
    data: DataSet,
    started: datetime,
    validation_examples: int,
    train_examples: int,
) -> dict[str, Any]:
    cost = _cost(cell, ModelShape.of(task))
    selected = progress.curves[progress.selected]
    return {
        **identity(cell),
        **costs(cost),
        "status": "finished",
        "reason": None,
        "flops_train": trainer.flops,
        "updates": trainer.updates,
        "examples_seen": trainer.feeder.drawn,
        "examples_distinct": trainer.feeder.distinct,
        "seconds_train": trainer.seconds,
        "seconds_evaluation": progress.evaluation_seconds,
        "peak_memory_mib": peak_memory_mib(cell.device),
        "floor": data.floor,
        "data_sources": json.dumps(data.sources) if data.sources else None,
        "selected_update": selected["updates"],
        "validation_exact": selected["validation_exact"],
        "final_validation_exact": progress.curves[-1]["validation_exact"],
        "test_exact": float(test.fixed().mean()),
        "test_exact_model": float(test.model().mean()),
        "test_exact_oracle": float(test.oracle().mean()),
        "test_token": float(test.token_fixed().mean()),
        "test_halting_step": float(test.halting_step().mean()),
        "train_examples": train_examples,
        "validation_examples": validation_examples,
        "test_examples": len(test),
        "started": started.isoformat(timespec="seconds"),
        "seconds_per_answer": None,  # measured last
        "notes": None,
        **sandbox_provenance(task),
        **provenance(),
    }


__all__ = ["Diverged", "Interrupted", "Options", "run_cell"]
