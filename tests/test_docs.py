"""What the documentation says is what the code does."""

from __future__ import annotations

from pathlib import Path

from harness import tables

ROOT = Path(__file__).parents[1]


def test_the_page_of_tables_is_the_schema():
    assert (ROOT / "docs/tables.md").read_text() == tables.markdown(), "run: python -m harness.tables"


def test_every_column_has_a_sentence_and_a_type():
    for table, columns in tables.TABLES.items():
        assert len({c.name for c in columns}) == len(columns), table
        for column in columns:
            assert column.kind in ("str", "int", "float", "bool")
            assert column.meaning.endswith(".")
