"""docs/tasks.md: a page per task, made from its own docstring and data. `python -m harness.task_pages` writes it.

Examples are shown only of data that are generated or come with an installed package.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from pydantic import BaseModel

from harness.axes import Axes
from tasks.base import TASKS, DataFolder, Splits, Task, create_task

HEAD = """# The tasks

Generated from the task files by `python -m harness.task_pages`; a test keeps it true. Sizes, floors and examples are
those of the default settings.

## Settings of every task

`settings: {axes: {…}}` in a suite, or `--set tasks.NAME.settings.axes.KEY=VALUE`. (Augmentation is switched by
`recipe.augmentation`.)
"""


def markdown() -> str:
    """The whole page; builds every task that needs no data folder."""
    parts = [HEAD, _settings(Axes()), ""]
    for name in TASKS:
        if TASKS.get(name).__module__.startswith("tasks."):  # a plug-in's page is its author's
            parts.append(_page(create_task(name)))
    return "\n".join(parts).rstrip() + "\n"


def _page(task: Task) -> str:
    data_are_free = not task.real_data or bool(task.package)
    splits = task.splits(0, DataFolder()) if data_are_free else {}
    facts = [
        ("version", str(task.version)),
        ("source", task.source),
        ("licence", task.licence),
        ("right means", task.exact_means),
        ("difficulty", task.difficulty_unit),
        ("floor", task.floor_note + (f": {100 * task.floor(splits):.1f} %" if splits else "")),
        ("examples", ", ".join(f"{split} {len(part):,}" for split, part in splits.items())),
        ("positions", f"{task.sequence_length} in, {task.answer_length} out, {len(task.vocabulary)} symbols"),
        ("not held out", "; ".join(f"{split}: {reason}" for split, reason in task.in_sample.items())),
    ]
    lines = [f"## {task.name}\n", f"{task.summary}\n", inspect.cleandoc(type(task).__doc__ or ""), ""]
    lines += ["| | |", "|---|---|", *(f"| {key} | {_cell(text)} |" for key, text in facts if text), ""]
    if len(type(task).model_fields) > 1:
        lines += [_settings(task, without="axes"), ""]
    notes = task.metric_notes()
    if notes:
        lines += ["Further figures:\n", *(f"* `{name}`: {text}" for name, text in notes.items()), ""]
    if splits:
        lines += [_example(task, splits), ""]
    return "\n".join(lines)


def _settings(model: BaseModel, without: str = "") -> str:
    """Every setting with its default, as a suite file writes it."""
    values = model.model_dump(mode="json")
    rows = [
        f"| `{key}` | `{json.dumps(values[key], ensure_ascii=False)}` | {_cell(info.description or '')} |"
        for key, info in type(model).model_fields.items()
        if key != without
    ]
    return "\n".join(["| setting | default | |", "|---|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _example(task: Task, splits: Splits) -> str:
    """The first test example as the task itself writes it."""
    test = splits["test"]
    shown = [("asked", test.inputs[0]), ("answer", test.labels[0])]
    if task.causal:  # the inputs hold the answer, too
        shown[0] = ("asked", test.inputs[0, : int(test.facts["prompt_length"][0])])
    parts = [f"{title}\n{task.decode(tokens)}" for title, tokens in shown]
    return "\n".join(["```", "\n\n".join(parts), "```"])


if __name__ == "__main__":
    import tasks

    tasks.load_all()
    Path("docs/tasks.md").write_text(markdown(), encoding="utf-8")
