"""What a column of a table is, and the columns that name a cell."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    name: str
    kind: str  # "str", "int", "float" or "bool": how readers parse it; an empty field means "does not apply"
    meaning: str


def columns(*rows: tuple[str, str, str]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


CELL = columns(
    ("cell_id", "str", "Hash of every resolved field that can change a number of this cell."),
    ("task", "str", "Task as named in the suite."),
    ("arm", "str", "Arm: a model as configured and matched in the suite."),
    ("seed", "int", "Seed: data and stream depend on (task, seed), initial weights on (arm, seed)."),
)
