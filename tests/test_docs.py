"""What the documentation says is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from harness import recipe_page, tables
from harness.training.losses import LOSSES
from models.base import Prediction
from tasks.base import TASKS, Batch, DataFolder, create_task

ROOT = Path(__file__).parents[1]


def test_the_page_of_tables_is_the_schema():
    assert (ROOT / "docs/tables.md").read_text() == tables.markdown(), "run: python -m harness.tables"


def test_the_page_of_recipes_is_the_schema_and_its_loss_can_be_used():
    assert (ROOT / "docs/recipe.md").read_text() == recipe_page.page(), "run: python -m harness.recipe_page"
    (code,) = re.findall(r"```py\n(.*?)```", recipe_page.HEAD, re.S)
    try:
        exec(code, {})
        batch = Batch(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int32), torch.zeros(2))
        prediction = Prediction(torch.zeros(2, 3, 4))
        assert torch.equal(
            LOSSES.get("half-softmax")(prediction, batch), 0.5 * LOSSES.get("softmax")(prediction, batch)
        )
    finally:
        LOSSES._items.pop("half-softmax", None)


def test_every_column_has_a_sentence_and_a_type():
    for table, columns in tables.TABLES.items():
        assert len({c.name for c in columns}) == len(columns), table
        for column in columns:
            assert column.kind in ("str", "int", "float", "bool")
            assert column.meaning.endswith(".")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs/adding-a-task.md").read_text(), re.S)


def test_the_tasks_without_a_class_that_the_page_shows_can_be_had(tmp_path):
    table, mixed, varied = blocks("yaml")
    tables, mixtures, axes = map(yaml.safe_load, (table, mixed, varied.splitlines()[2]))
    settings = tables["tasks"]["my-words"]["settings"]
    (tmp_path / "mine").mkdir()
    train = [f"{'abc' * (1 + i % 3)}{'a' * (i // 3)},yes" for i in range(9)]
    for name, rows in ((settings["train"], train), (settings["test"], ["cab,no"])):
        (tmp_path / name).write_text("\n".join(["input,label", *rows]) + "\n")
    test = create_task("table", settings).splits(0, DataFolder(tmp_path))["test"]
    assert test.labels.tolist() == [[5]]  # after padding, a, b, c and yes
    mixture = create_task("mixture", mixtures["tasks"]["both"]["settings"])
    assert mixture.num_puzzles == 3
    assert create_task("parity", axes["settings"]).axes.corruption == (0.05, 0.2)
    (code,) = blocks("py")
    exec(code, {})
    try:
        task = create_task("majority")
        task.check(task.splits(0, DataFolder()))
    finally:
        TASKS._items.pop("majority")


@pytest.mark.slow  # it builds every task
def test_the_page_of_tasks_is_made_of_the_tasks():
    from harness import task_pages

    assert (ROOT / "docs/tasks.md").read_text() == task_pages.markdown(), "run: python -m harness.task_pages"


def test_every_task_has_a_page_with_its_own_text():
    page = (ROOT / "docs/tasks.md").read_text()
    for name in TASKS:
        cls = TASKS.get(name)
        if cls.__module__.startswith("tasks."):
            assert f"\n## {name}\n\n{cls.summary}\n" in page, "run: python -m harness.task_pages"
