"""What the documentation says is what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import tables
from tasks.base import TASKS

ROOT = Path(__file__).parents[1]


def test_the_page_of_tables_is_the_schema():
    assert (ROOT / "docs/tables.md").read_text() == tables.markdown(), "run: python -m harness.tables"


def test_every_column_has_a_sentence_and_a_type():
    for table, columns in tables.TABLES.items():
        assert len({c.name for c in columns}) == len(columns), table
        for column in columns:
            assert column.kind in ("str", "int", "float", "bool")
            assert column.meaning.endswith(".")


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
