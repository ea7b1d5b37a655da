"""The commands. Each imports what it needs when it runs, so that --help and list answer at once."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from harness.errors import BenchError, NothingToRun, UserError, did_you_mean

if TYPE_CHECKING:
    from harness.execution.local import Outcome
    from harness.plan import Plan
    from harness.suite import Suite

DATA_VARIABLE = "HRM_BENCH_DATA"

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

# -- options that several verbs share --------------------------------------------------------------------------------

SuiteName = Annotated[str, typer.Option("--suite", metavar="NAME|FILE", help="tiny, small, medium, or a YAML file.")]
Assign = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any suite key, dotted: recipe.batch_size=32. Repeatable."),
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
RESULTS, REPORTS = Path("results"), Path("reports")


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
    max_minutes: Annotated[
        float | None, typer.Option("--max-minutes", metavar="M", help="Stop after M minutes; the same command goes on.")
    ] = None,
    jobs: Annotated[
        str, typer.Option("--jobs", metavar="N|auto", help="Cells at a time. Changes no number, only the time.")
    ] = "auto",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed and diverged cells again.")] = False,
    device: Device = None,
    precision: Precision = None,
    results: Results = RESULTS,
    reports: Reports = REPORTS,
    data: DataDir = None,
    plugin: Plugins = None,
) -> None:
    """Train and score a suite's cells, then write tables and report. What a bare --suite means."""
    if max_minutes is not None and max_minutes <= 0:
        raise UserError(f"--max-minutes {max_minutes:g}: must be above 0")
    number_of_jobs = None if jobs == "auto" else positive("--jobs", jobs)
    started = time.monotonic()
    plan, folder = planned(
        suite,
        set_,
        tasks,
        arms,
        seeds,
        smoke,
        max_updates,
        max_examples,
        batch_size,
        device,
        precision,
        results,
        data,
        plugin,
    )
    from harness.analysis.collect import collect
    from harness.execution import local
    from harness.execution.progress import monitor
    from harness.report import html
    from harness.results import check_writable, describe, locked

    check_writable(reports, "--reports")
    with locked(folder):
        describe(plan, folder, command_line())
        announce(plan)
        outcome = local.run(
            plan,
            folder,
            jobs=number_of_jobs or local.default_jobs(plan),
            monitor=monitor(),
            retry_failed=retry_failed,
            plugins=[str(path) for path in plugin or ()],
            deadline=None if max_minutes is None else started + 60 * max_minutes,
        )
        collect(folder)
        page = html.build(folder, reports)
    summarise(plan, outcome, time.monotonic() - started)
    finish(folder, page, outcome)
    if outcome.failed:
        raise typer.Exit(1)
    if outcome.left:
        raise typer.Exit(130)
    if outcome.skipped == len(plan.cells):
        raise NothingToRun("nothing was left to run: every cell asked for was skipped, for the reasons above")


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
    device: Device = None,
    precision: Precision = None,
    results: Results = RESULTS,
    data: DataDir = None,
    plugin: Plugins = None,
) -> None:
    """Show what a run would do: cells, parameters, FLOPs, memory, disk, minutes, missing data, reachable verdicts."""
    made, folder = planned(
        suite,
        set_,
        tasks,
        arms,
        seeds,
        smoke,
        max_updates,
        max_examples,
        batch_size,
        device,
        precision,
        results,
        data,
        plugin,
    )
    from harness.estimate import show_plan

    print_json(show_plan(made, folder))


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="tasks|arms|suites|models")],
    suite: Annotated[str | None, typer.Option("--suite", metavar="NAME|FILE", help="Arms of this suite only.")] = None,
    data: DataDir = None,
    plugin: Plugins = None,
) -> None:
    """Show the registered tasks or models, or the suites and their arms."""
    from harness import listing

    kinds = {
        "tasks": lambda: listing.tasks(data_folder(data)),
        "arms": lambda: listing.arms(suite),
        "suites": listing.suites,
        "models": listing.models,
    }
    if what not in kinds:
        raise UserError(f'list: no "{what}" to list{did_you_mean(what, kinds)}')
    load_plugins(plugin, models=what == "models")
    kinds[what]()


@app.command()
def report(
    suite: Annotated[str, typer.Option("--suite", metavar="NAME", help="Name of the results: results/NAME.")],
    results: Results = RESULTS,
    reports: Reports = REPORTS,
) -> None:
    """Rebuild tables and report from the run folders. Needs no torch."""
    from harness.analysis.collect import collect
    from harness.report import html

    folder = results / suite
    collect(folder)
    finish(folder, html.build(folder, reports), None)


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
    sandbox: Annotated[
        str, typer.Option("--sandbox", metavar="auto|namespaces|landlock", help="auto: the best that holds here.")
    ] = "auto",
    allow_unsafe: Annotated[
        bool, typer.Option("--allow-unsafe", help="Where no sandbox holds, run without: the programs can do anything.")
    ] = False,
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


# -- shared steps ----------------------------------------------------------------------------------------------------


def planned(
    suite: str,
    assignments: list[str] | None,
    tasks: str | None,
    arms: str | None,
    seeds: int | None,
    smoke: bool,
    max_updates: int | None,
    max_examples: int | None,
    batch_size: int | None,
    device: str | None,
    precision: str | None,
    results: Path,
    data: Path | None,
    plugin: list[Path] | None,
) -> tuple[Plan, Path]:
    """The plan that a command line asks for, and its results folder."""
    for option, value in (
        ("--seeds", seeds),
        ("--max-updates", max_updates),
        ("--max-examples", max_examples),
        ("--batch-size", batch_size),
    ):
        if value is not None:
            positive(option, value)
    recipe: dict[str, Any] = {}
    if max_updates is not None:
        recipe["max_updates"] = max_updates
    if batch_size is not None:
        recipe["batch_size"] = batch_size
    if precision is not None:
        recipe["precision"] = precision
    if max_examples is not None:
        recipe["evaluation"] = {"validation_examples": max_examples, "test_examples": max_examples}
    checked = read(suite, assignments, smoke, recipe, device, precision, plugin)
    folder = data_folder(data)

    from harness.plan import Selection, make_plan
    from harness.results import check_schema, check_writable

    check_writable(results, "--results")
    check_schema(results / checked.name)
    load_plugins(plugin, models=True)
    selection = Selection(split(tasks), split(arms), 1 if smoke and seeds is None else seeds)
    place = results / checked.name
    return make_plan(checked, folder, place, selection), place


def read(
    suite: str,
    assignments: list[str] | None,
    smoke: bool,
    recipe: dict[str, Any],
    device: str | None,
    precision: str | None,
    plugin: list[Path] | None,
) -> Suite:
    """The suite as the command line changes it: tasks that join by themselves, --smoke, shortcuts, --set last."""
    from harness import suite as suites
    from harness.training.device import DEVICES, PRECISIONS
    from tasks.base import TASKS

    if precision is not None and precision not in PRECISIONS:
        raise UserError(f'--precision: unknown precision "{precision}"{did_you_mean(precision, PRECISIONS)}')
    if device is not None and device not in DEVICES:
        raise UserError(f'--device: unknown device "{device}"{did_you_mean(device, DEVICES)}')
    load_plugins(plugin, models=False)
    document, label = suites.read_suite(suite)
    name = document.get("name")
    joined = {task: TASKS.get(task).suites[name] for task in TASKS if name in TASKS.get(task).suites}
    document = suites.with_tasks(document, joined)
    if smoke:
        document = suites.smoke(document)
    document = suites.with_recipe(document, recipe)
    if device is not None:
        document["device"] = device
    return suites.load_suite(document, label, assignments or ())


def load_plugins(plugin: list[Path] | None, *, models: bool) -> None:
    """Fill the registries: built-in files, installed plug-ins, --plugin files."""
    import tasks
    from harness.registry import load_entry_points, load_plugin

    tasks.load_all()
    if models:
        import models as model_files

        model_files.load_all()
    load_entry_points()
    for path in plugin or ():
        load_plugin(path)


def data_folder(option: Path | None) -> Any:
    """--data, else the environment variable, else none. A folder that does not exist is an error, not an absence."""
    from tasks.base import DataFolder

    given = option or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if given is not None and not given.is_dir():
        raise UserError(f"{'--data' if option else DATA_VARIABLE} {given}: no such folder")
    return DataFolder(given)


def positive(option: str, value: str | int) -> int:
    try:
        number = int(value)
    except ValueError:
        raise UserError(f"{option} {value}: must be a whole number above 0") from None
    if number < 1:
        raise UserError(f"{option} {value}: must be a whole number above 0")
    return number


def split(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def announce(plan: Plan) -> None:
    """Device, precision and what is skipped, before anything runs."""
    say(f"HRM-Bench: suite {plan.suite.name}, {len(plan.cells)} cells")
    say(f"device {plan.device.value}: {plan.device.reason}")
    for value, reason in sorted({(choice.value, choice.reason) for choice in plan.precision.values()}):
        say(f"precision {value}: {reason}")
    for task in plan.skipped():
        assert task.skipped is not None
        say(f"skipped {task.name}: {task.skipped.reason}; remedy: {task.skipped.remedy}")


def summarise(plan: Plan, outcome: Outcome, seconds: float) -> None:
    parts = [f"{outcome.finished} cells finished"]
    if outcome.before:
        parts.append(f"{outcome.before} were finished before")
    if outcome.left:
        parts.append(f"{outcome.left} left for the next time")
    if outcome.skipped:
        parts.append(f"{outcome.skipped} skipped ({', '.join(task.name for task in plan.skipped())}: data absent)")
    if outcome.failed:
        parts.append(f"{len(outcome.failed)} FAILED")
    say(f"{'; '.join(parts)}; {seconds / 60:.1f} minutes")
    for cell, reason in outcome.failed:
        say(f"failed: {cell.name} ({cell.run_folder}): {reason}")


def finish(results: Path, page: Path, outcome: Outcome | None) -> None:
    """The last line on standard output: one JSON document naming tables and report."""
    tables = {path.name.split(".")[0]: str(path) for path in sorted(results.glob("*.csv*"))}
    document: dict[str, Any] = {"results": str(results), "tables": tables, "report": str(page)}
    if outcome is not None:
        document["cells"] = {
            "finished": outcome.finished + outcome.before,
            "failed": len(outcome.failed),
            "skipped": outcome.skipped,
            "left": outcome.left,
        }
    say(f"report: {page}")
    print_json(document)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_json(document: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # whoever read the output has seen enough
        print(json.dumps(document, ensure_ascii=False), flush=True)


def command_line() -> str:
    import shlex

    return shlex.join(["python", "run_benchmarks.py", *sys.argv[1:]])


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
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's usage errors
            say(f"error: {error.format_message()}")
            return int(error.exit_code)
        raise
    return code if isinstance(code, int) else 0  # typer hands back the code of an Exit
