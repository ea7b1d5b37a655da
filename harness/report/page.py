"""The parts a page is made of. Both the HTML page and the Markdown file are written from them."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.report.figures import Figure


@dataclass(frozen=True)
class Source:
    """The runs behind a figure, and the command that makes them again."""

    cells: str  # ids, space between
    links: tuple[tuple[str, str], ...]  # (what it is called, where it leads)
    command: str


@dataclass(frozen=True)
class Cell:
    """One field of a table. `sort` orders the column; `chip` and `glyph` are an arm's colour and
    marker, `tone` is a verdict's, `mark` sets a figure off from its neighbours."""

    text: str
    sort: float | str | None = None
    href: str = ""
    source: Source | None = None  # shown on request, behind the text
    mark: bool = False
    chip: str = ""
    glyph: str = ""
    tone: str = ""
    code: bool = False  # folded away, in fixed-width type


@dataclass(frozen=True)
class Column:
    title: str
    numeric: bool = False
    prose: bool = False


@dataclass
class Row:
    cells: list[Cell]
    anchor: str = ""


@dataclass
class Table:
    caption: str
    columns: list[Column]
    rows: list[Row] = field(default_factory=list)
    note: str = ""
    source: Source | None = None  # of a table whose rows do not name their own


@dataclass(frozen=True)
class Question:
    """What a doubtful reader asks of an answer, and what there is to say, one click away."""

    title: str
    lines: list[str]
    table: Table | None = None
    source: Source | None = None


@dataclass(frozen=True)
class Answer:
    """What the report says of one task, first."""

    task: str
    label: str
    tone: str
    brief: str
    sentence: str
    anchor: str
    why: str = ""  # it cannot be told
    questions: list[Question] = field(default_factory=list)


@dataclass
class Part:
    """Tables and figures of a task on one topic, folded away unless `open`."""

    title: str
    anchor: str
    tables: list[Table]
    figures: list[Figure]
    open: bool = False


@dataclass
class TaskSection:
    name: str
    anchor: str
    answer: Answer
    facts: list[tuple[str, str]]
    parts: list[Part]

    @property
    def tables(self) -> list[Table]:
        """Of all its parts."""
        return [table for part in self.parts for table in part.tables]


@dataclass
class Page:
    title: str
    suite: str
    summary: str
    meta: str
    headline: str
    answers: list[Answer]
    overview: list[Figure]
    compared: list[Table]
    tasks: list[TaskSection]
    claims: list[Table]
    how: list[tuple[str, str]]  # heading, paragraph
    how_tables: list[Table]
    proxy: str
    limits: list[str]
    limit_tables: list[Table]
    runs: Table
    command: str
    warning: str = ""  # above everything: what makes figures worthless
    browser: str = ""  # JSON of the example browser


def column(title: str) -> Column:
    """A column of words."""
    return Column(title)


def number(title: str) -> Column:
    """A column of figures, aligned at the right."""
    return Column(title, numeric=True)


def prose(title: str) -> Column:
    """A column of sentences, which may wrap."""
    return Column(title, prose=True)
