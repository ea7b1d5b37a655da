"""The commands. Each imports what it needs when it runs, so that --help and list answer at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.errors import BenchError, UserError, did_you_mean
from harness.options import (
    REPORTS,
    RESULTS,
    AllowUnsafe,
    Arms,
    Assign,
    BatchSize,
    CheckpointSeconds,
    ControlRuns,
    DataDir,
    Device,
    Executor,
    GpusPerCell,
    HangMinutes,
    MaxExamples,
    MaxMinutes,
    MaxUpdates,
    Plugins,
    Precision,
    Reports,
    Results,
    SandboxTier,
    Seeds,
    SinkNames,
    Smoke,
    SuiteName,
    Tasks,
    TaskSetting,
    TensorBoard,
)
from harness.request import (
    SuiteRequest,
    assigned,
    choose_sandbox,
    data_folder,
    load_plugins,
    positive,
    split,
)
from harness.saying import finish, print_json, say

EPILOG = """
[bold]Examples[/bold]

python run_benchmarks.py --suite tiny                          the whole tiny suite, then the report

python run_benchmarks.py plan --suite small                    what it would cost, and what is missing

python run_benchmarks.py --suite tiny --tasks parity --seeds 6 --set recipe.optimizer.learning_rate=3e-4

python run_benchmarks.py list tasks

A run may be stopped (Ctrl-C) and started again: finished cells are kept, the others go on.
Exit codes: 0 done · 1 some cells failed · 2 bad input · 3 nothing was left to run · 130 stopped early.
"""


class InOrder(TyperGroup):
    """Lists the verbs in the order a user needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


app = typer.Typer(
    cls=InOrder,
    help="Does the Hierarchical Reasoning Model beat a fairly matched transformer, where, and at what compute?",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

# -- verbs -----------------------------------------------------------------------------------------------------------


@app.command()
def run(
    suite: SuiteName,
    set_: Assign = None,
    tasks: Tasks = None,
    arms: Arms = None,
    seeds: Seeds = None,
    smoke: Smoke = False,
    max_updates: MaxUpdates = None,
    max_examples: MaxExamples = None,
    batch_size: BatchSize = None,
    controls: ControlRuns = None,
    max_minutes: MaxMinutes = None,
    jobs: Annotated[
        str, typer.Option("--jobs", metavar="N|auto", help="Cells at a time. Changes no number, only the time.")
    ] = "auto",
    executor: Executor = "local",
    gpus_per_cell: GpusPerCell = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Only the I-th of N shares of the cells, from 1.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed and diverged cells again.")] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Strict deterministic algorithms on CUDA (on CPU every run is).")
    ] = False,
    checkpoint_seconds: CheckpointSeconds = 60.0,
    tensorboard: TensorBoard = False,
    sink: SinkNames = None,
    hang_minutes: HangMinutes = 30.0,
    device: Device = None,
    precision: Precision = None,
    results: Results = RESULTS,
    reports: Reports = REPORTS,
    data: DataDir = None,
    plugin: Plugins = None,
    sandbox: SandboxTier = "auto",
    allow_unsafe: AllowUnsafe = False,
) -> None:
    """Train and score a suite's cells, then write tables and report. What a bare --suite means."""
    from harness.execution import together
    from harness.running import Execution, run_suite

    together.prepare(jobs, executor, device)
    choose_sandbox(sandbox, allow_unsafe)
    how = Execution.of(
        jobs, shard, retry_failed, max_minutes, hang_minutes, checkpoint_seconds, executor, gpus_per_cell, sink,
        tensorboard,
    )  # fmt: skip
    request = SuiteRequest(
        suite, set_, tasks, arms, seeds, smoke, max_updates, max_examples, batch_size, controls, device, precision,
        results, data, plugin, deterministic, together.number_of_ranks(),
    )  # fmt: skip
    code = run_suite(request, how, reports)
    if code:
        raise typer.Exit(code)


@app.command()
def plan(
    suite: SuiteName,
    set_: Assign = None,
    tasks: Tasks = None,
    arms: Arms = None,
    seeds: Seeds = None,
    smoke: Smoke = False,
    max_updates: MaxUpdates = None,
    max_examples: MaxExamples = None,
    batch_size: BatchSize = None,
    controls: ControlRuns = None,
    device: Device = None,
    precision: Precision = None,
    results: Results = RESULTS,
    data: DataDir = None,
    plugin: Plugins = None,
) -> None:
    """Show what a run would do: cells, parameters, FLOPs, memory, disk, minutes, missing data, reachable verdicts."""
    made, folder = SuiteRequest(
        suite, set_, tasks, arms, seeds, smoke, max_updates, max_examples, batch_size, controls, device, precision,
        results, data, plugin,
    ).planned()  # fmt: skip
    from harness.estimate import show_plan

    print_json(show_plan(made, folder))


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="tasks|arms|suites|models")],
    suite: Annotated[str | None, typer.Option("--suite", metavar="NAME|FILE", help="Arms of this suite only.")] = None,
    task: Annotated[str | None, typer.Option("--task", metavar="T", help="models: what each costs on task T.")] = None,
    set_: TaskSetting = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="tasks: without sizes and floors, so nothing is built.")
    ] = False,
    data: DataDir = None,
    results: Results = RESULTS,
    plugin: Plugins = None,
) -> None:
    """Show the registered tasks or models, or the suites and their arms."""
    from harness import listing

    kinds = {
        "tasks": lambda: listing.tasks(data_folder(data), results / "data", quick),
        "arms": lambda: listing.arms(suite),
        "suites": listing.suites,
        "models": (lambda: listing.costs(task, assigned(set_))) if task else listing.models,
    }
    if what not in kinds:
        raise UserError(f'list: no "{what}" to list{did_you_mean(what, kinds)}')
    if (what != "models" and task) or (set_ and not task):
        raise UserError("list: --task belongs to list models, and --set to --task")
    load_plugins(plugin, models=what == "models")
    kinds[what]()


@app.command()
def evaluate(
    place: Annotated[Path, typer.Argument(metavar="RUN_FOLDER|CHECKPOINT")],
    task: Annotated[str | None, typer.Option("--task", metavar="T", help="Default: the run's own.")] = None,
    set_: TaskSetting = None,
    splits: Annotated[str | None, typer.Option("--split", metavar="A,B", help="Default: test and ood-….")] = None,
    segments: Annotated[str | None, typer.Option("--segments", metavar="1,4,16", help="Depths of depth.csv.")] = None,
    family: Annotated[str | None, typer.Option("--family", metavar="hrm|trm", help="A published checkpoint.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="A registered model's weights.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", metavar="NAME", help="Of a checkpoint's model.")] = None,
    config: Annotated[
        list[str] | None, typer.Option("--config", metavar="KEY=VALUE", help="Of a checkpoint's model. Repeatable.")
    ] = None,
    trained: Annotated[
        int | None, typer.Option("--trained", min=1, metavar="N", help="Segments a checkpoint was trained with (16).")
    ] = None,
    most: Annotated[int | None, typer.Option("--max-examples", min=1, metavar="N", help="Per split.")] = None,
    at_once: Annotated[int | None, typer.Option("--batch-size", min=1, metavar="N", help="Examples at a time.")] = None,
    device: Device = None,
    precision: Precision = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: results/evaluate/NAME.")] = None,
    data: DataDir = None,
    plugin: Plugins = None,
    sandbox: SandboxTier = "auto",
    allow_unsafe: AllowUnsafe = False,
) -> None:
    """Score a finished run, or a published checkpoint, on any split, at any depth; write the tables of a run."""
    choose_sandbox(sandbox, allow_unsafe)
    load_plugins(plugin, models=True)
    from harness.evaluation.rescore import Request, rescore

    request = Request(
        task, assigned(set_), split(splits) or (), [positive("--segments", n) for n in split(segments) or ()], most,
        at_once, device, precision, family, model, preset, assigned(config, "--config"), trained,
    )  # fmt: skip
    document = rescore(place, request, data_folder(data), out)
    if document["same_data_as_the_run"] is False:
        say("note: the data are no longer those that the run was scored on, so its own figures may not come back")
    print_json(document)


@app.command("complete")
def complete_(
    writer: Annotated[str, typer.Argument(metavar="RUN_FOLDER|hf:NAME_OR_FOLDER", help="hf: also a .gguf file.")],
    task: Annotated[str, typer.Option("--task", metavar="T", help="A code task.")] = "humaneval",
    set_: TaskSetting = None,
    one_split: Annotated[str, typer.Option("--split", metavar="A")] = "test",
    samples: Annotated[int, typer.Option("--samples", min=1, metavar="N", help="Programs per problem.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", metavar="T", help="0: greedy.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of sampling.")] = 0,
    k: Annotated[str, typer.Option("--k", metavar="1,10", help="Which pass@k.")] = "1",
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=1, metavar="N", help="Most tokens written.")] = 256,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the model's own chat template.")] = False,
    most: Annotated[int | None, typer.Option("--max-examples", min=1, metavar="N", help="Evenly spaced.")] = None,
    at_once: Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Problems at a time.")] = 8,
    device: Device = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: results/complete/NAME.")] = None,
    data: DataDir = None,
    plugin: Plugins = None,
    sandbox: SandboxTier = "auto",
    allow_unsafe: AllowUnsafe = False,
) -> None:
    """Let a trained run, or a pretrained language model, write programs; run them in the sandbox and print pass@k."""
    choose_sandbox(sandbox, allow_unsafe)
    load_plugins(plugin, models=True)
    from harness.evaluation.pass_at_k import Ask, complete

    ks = [positive("--k", value) for value in split(k) or ()] or [1]
    ask = Ask(
        task, assigned(set_), one_split, samples, temperature, seed, ks, new_tokens, chat, most, at_once,
        device or "auto",
    )  # fmt: skip
    print_json(complete(writer, ask, data_folder(data), out))


@app.command()
def solve(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER")],
    puzzle: Annotated[
        str, typer.Argument(metavar="PUZZLE", help="Text, a file that holds it, or SPLIT:N, such as test:0.")
    ],
    segments: Annotated[
        int | None, typer.Option("--segments", min=1, metavar="N", help="Default: as many as in training.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE.npz", help="Save states, attention and q values there.")
    ] = None,
    device: Device = None,
    precision: Precision = None,
    data: DataDir = None,
    plugin: Plugins = None,
) -> None:
    """Show how a finished run's model answers a puzzle: segment by segment, when it would halt, whether it is right.

    PUZZLE is what the run's task reads: 16 or 81 characters of a Sudoku (. for a blank), the lines of a maze, a number
    T for arithmetic proofs, bits for parity, an ARC task file.
    """
    load_plugins(plugin, models=True)
    from harness.evaluation.solving import solve as answer

    print_json(answer(folder, puzzle, data_folder(data), segments, trace, device, precision))


@app.command()
def report(
    suite: Annotated[str, typer.Option("--suite", metavar="NAME", help="Name of the results: results/NAME.")],
    results: Results = RESULTS,
    reports: Reports = REPORTS,
) -> None:
    """Rebuild tables and report from the run folders. Needs no torch."""
    from harness.analysis.collect import collect
    from harness.analysis.results import read_suite
    from harness.files import held
    from harness.report import html

    folder = results / suite
    read_suite(folder)
    with held(folder, say):
        collect(folder)
        page = html.build(folder, reports)
    finish(folder, page, None)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="RESULTS_A", help="A results folder, such as results/tiny.")],
    b: Annotated[Path, typer.Argument(metavar="RESULTS_B", help="Another one, of this suite or of another.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: results/compare/A-B.")] = None,
) -> None:
    """Compare two results folders arm by arm: A minus B, paired where they can be, with intervals and verdicts.

    A run of A and a run of B are paired where task, arm and seed are the same and so are the data, byte by byte; then
    example by example. What can't be paired is listed with the reason. Settings, machine, precision and versions may
    differ, and are named: they are what is compared. Writes between.csv (docs/tables.md) and between.md into DIR.

    Example: run a suite once more with --set recipe.loss=softmax --results results-softmax, then
    compare results/tiny results-softmax/tiny
    """
    from harness.comparing import compare_folders

    print_json(compare_folders(a, b, out or RESULTS / "compare" / f"{a.resolve().name}-{b.resolve().name}"))


@app.command()
def merge(
    into: Annotated[Path, typer.Argument(metavar="INTO", help="The results folder that takes them; may be new.")],
    others: Annotated[list[Path], typer.Argument(metavar="FROM...", help="Results folders of the same suite.")],
    reports: Reports = REPORTS,
) -> None:
    """Merge results folders of one suite, such as the shards of several machines, then write tables and report.

    Finished cells are copied by their id, with every file's SHA-256 checked before and after. A cell that both have
    with the same numbers stays as it is in INTO; one whose numbers differ is named, and nothing is merged at all.
    FROM stays as it is. The tasks must have been asked for in the same way.

    Example: on each machine --suite medium --shard I/8; copy the folders together; then
    merge results/medium from-machine-1/medium from-machine-2/medium
    """
    from harness.merging import merge_folders

    page, document = merge_folders(into, others, reports)
    finish(into, page, None, document)


@app.command()
def reproduce(
    claim: Annotated[str, typer.Argument(metavar="CLAIM", help="R01 to R40 and others: claims.csv lists them.")],
    seeds: Seeds = None,
    smoke: Smoke = False,
    max_minutes: MaxMinutes = None,
    jobs: Annotated[str, typer.Option("--jobs", metavar="N|auto", help="Cells at a time.")] = "auto",
    device: Device = None,
    results: Results = RESULTS,
    reports: Reports = REPORTS,
    data: DataDir = None,
) -> None:
    """Run just the cells that a published claim needs, and say what comes of it."""
    from harness import reproducing

    tested = reproducing.needs(claim)
    if tested is None:
        reproducing.compute(claim)
        return
    ending = None
    try:
        run(
            suite=tested.suite,
            tasks=",".join(tested.tasks),
            arms=",".join(tested.arms),
            seeds=seeds or tested.seeds,
            smoke=smoke,
            max_minutes=max_minutes,
            jobs=jobs,
            device=device,
            results=results,
            reports=reports,
            data=data,
        )
    except typer.Exit as exit_:  # some cells failed or are left: the tables are made of the others
        ending = exit_
    reproducing.say_verdict(claim, results / (tested.suite + "-smoke" * smoke))
    if ending is not None:
        raise ending


@app.command()
def doctor(data: DataDir = None, results: Results = RESULTS, plugin: Plugins = None) -> None:
    """Show device, precision, versions, data with remedies, and what is lacking: the text for a bug report."""
    from harness import doctor as doctors

    load_plugins(plugin, models=False)
    for line in doctors.report(data_folder(data), results):
        print(line, flush=True)


@app.command("new-task")
def new_task(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as word-sort.")],
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Default: the project's tasks folder.")] = None,
) -> None:
    """Write a task file that works as it stands, with the lines to change marked."""
    from harness import new_task as templates

    load_plugins(None, models=False)
    path = templates.write(name, to or templates.TASKS_FOLDER)
    print(templates.advice(name, path))


@app.command("score-code")
def score_code(
    samples: Annotated[
        Path, typer.Option("--samples", metavar="FILE.jsonl", help='Rows of {"task_id": ..., "completion": ...}.')
    ],
    problems: Annotated[
        Path | None,
        typer.Option("--problems", metavar="FILE.jsonl", help="Default: HumanEval's 164.", show_default=False),
    ] = None,
    k: Annotated[str, typer.Option("--k", metavar="1,10,100", help="Which pass@k.")] = "1,10,100",
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", help="Wall-clock seconds per program.")] = 3.0,
    sandbox: SandboxTier = "auto",
    allow_unsafe: AllowUnsafe = False,
    jobs: Annotated[str, typer.Option("--jobs", metavar="N|auto", help="Programs at a time.")] = "auto",
) -> None:
    """Run a file of generated programs in a sandbox and print pass@k. For any model's samples, in HumanEval's format.

    Writes FILE.jsonl_results.jsonl: the samples with "result" and "passed". Nothing is scored unless the problems' own
    canonical solutions pass here first. docs/sandbox.md says what the sandbox keeps out.
    """
    from harness.sandbox import scoring

    number = len(os.sched_getaffinity(0)) if jobs == "auto" else positive("--jobs", jobs)
    ks = [positive("--k", value) for value in split(k) or ()]
    print_json(scoring.score(samples, problems, ks, timeout, sandbox, allow_unsafe, number))


def main(argv: list[str]) -> int:
    """Run a command line; returns the exit code. Errors a user can mend are one line on standard error."""
    verbs = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    if argv and argv[0].startswith("-") and argv[0] not in ("--help", "-h"):
        argv = ["run", *argv]
    try:
        if argv and not argv[0].startswith("-") and argv[0] not in verbs:
            raise UserError(f'unknown verb "{argv[0]}"{did_you_mean(argv[0], verbs)}')
        code = app(argv, prog_name="run_benchmarks.py", standalone_mode=False)
    except BenchError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
            raise
        say(f"error: {error.filename or 'writing'}: {error.strerror}; what is written so far stays, so that the same")
        say("command goes on from there")
        return 1
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's usage errors
            say(f"error: {error.format_message()}")
            return int(error.exit_code)
        raise
    return code if isinstance(code, int) else 0  # typer hands back the code of an Exit
