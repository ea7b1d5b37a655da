"""`report`: one self-contained page, the same as Markdown, and the figures, from a suite's tables."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import jinja2

from harness.analysis.results import read_tables
from harness.analysis.traces import read_traces
from harness.files import write_text
from harness.report import content
from harness.report.figures import Figure, draw
from harness.report.main import main_markdown, main_table
from harness.report.overview import all_figures
from harness.report.page import Cell, Table
from harness.report.watch import browser_data

TEMPLATES = Path(__file__).parent / "templates"
ASSETS = ("report.css", "report.js", "watch.js")


def build(results: Path, reports: Path) -> Path:
    """Write `reports/<suite>/index.html`, `report.md`, `main.md` and `figures/`; return the page's path.

    Raises UserError when the results folder is absent, of another version or not collected.
    """
    tables = read_tables(results)
    folder = reports / tables.suite.name
    figures = dict(all_figures(tables))
    _draw(figures, folder / "figures")
    href = quote(Path(os.path.relpath(results, folder)).as_posix())
    page = content.page(tables, figures, href)
    page.browser = browser_data(tables, read_traces(results, list(tables.suite.tasks)))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markdown_table"] = markdown_table
    style, *scripts = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ASSETS)
    html = environment.get_template("report.html.j2").render(page=page, style=style, script="\n".join(scripts))
    write_text(folder / "index.html", html)
    write_text(folder / "report.md", environment.get_template("report.md.j2").render(page=page))
    table = markdown_table(main_table(tables, page.answers))
    write_text(folder / "main.md", main_markdown(page.overview[0], table, page.headline, page.command, page.warning))
    return folder / "index.html"


def _draw(figures: dict[str, list[Figure]], folder: Path) -> None:
    """Draw them all, and remove figures of an earlier report that this one has not."""
    kept = set()
    for figure in (figure for group in figures.values() for figure in group):
        draw(figure, folder)
        if not figure.missing:
            kept |= {f"{figure.name}.svg", *([f"{figure.name}.png"] if figure.png else [])}
    for old in folder.glob("*.*"):
        if old.suffix in (".svg", ".png") and old.name not in kept:
            old.unlink()


def markdown_table(table: Table) -> str:
    """A table in Markdown: figures aligned right, bars escaped."""
    titles = [column.title for column in table.columns]
    rules = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [[_markdown(cell) for cell in row.cells] for row in table.rows]
    return "\n".join("| " + " | ".join(fields) + " |" for fields in (titles, rules, *rows))


def _markdown(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|").replace("\n", " ")
    if cell.code:
        return f"`{text}`"
    if cell.tone:
        return f"**{text}**"
    return f"[{text}]({cell.href})" if cell.href and not cell.href.startswith("#") else text
