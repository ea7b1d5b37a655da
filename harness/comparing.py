"""`compare RESULTS_A RESULTS_B`: what two results folders differ by, as a table on the screen, a CSV and a page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.analysis import between as two
from harness.analysis.between import Folder
from harness.analysis.compare import interval, p_text, points
from harness.analysis.unsafe import unsafe_runs, warning
from harness.errors import UserError
from harness.files import write_text
from harness.listing import table
from harness.saying import say
from harness.tables import BETWEEN

Row = dict[str, Any]

TITLES = ["task", "arm", "split", "A", "B", "A − B", "95 % interval", "p (Holm)", "seeds × examples", "verdict"]


def compare_folders(a: Path, b: Path, out: Path) -> dict[str, Any]:
    """Compare, print, and write `out`/between.csv and between.md; returns what the last line says.

    Raises UserError where a folder is none, of another version, or the same twice.
    """
    if a.resolve() == b.resolve():
        raise UserError(f"compare {a} {b}: name two different results folders")
    one, other = Folder.read(a), Folder.read(b)
    unsafe = warning(run["task"] for folder in (one, other) for run in unsafe_runs(folder.runs))
    rows, notes = two.between(one, other), [*two.conditions(one, other), *two.only_in_one(one, other)]
    notes = [unsafe, *notes] if unsafe else notes
    if not rows:
        raise UserError(f"compare: {a} and {b} share no arm on any task: {'; '.join(notes) or 'both are empty'}")
    shown = [_shown(row) for row in rows]
    say(f"A is {a} (suite {one.suite.name}), B is {b} (suite {other.suite.name})")
    table("", TITLES, shown)
    remarks = [f"{row['task']} · {row['arm']} · {row['split']}: {text}" for row in rows for text in _remarks(row)]
    for line in (*notes, *remarks):
        print(f"  {line}")
    write_text(out / "between.csv", _csv(rows))
    write_text(out / "between.md", _markdown(a, b, shown, [*notes, *remarks]))
    return {
        "a": str(a),
        "b": str(b),
        "table": str(out / "between.csv"),
        "page": str(out / "between.md"),
        "compared": sum(row["seeds"] > 0 for row in rows),
        "not_compared": sum(row["seeds"] == 0 for row in rows),
        "verdicts": {f"{r['task']} · {r['arm']}": r["verdict"] for r in rows if r["split"] == "test"},
    }


def _shown(row: Row) -> list[str]:
    head = [row["task"], row["arm"], row["split"]]
    if not row["seeds"]:
        return [*head, "–", "–", "–", "–", "–", "–", row["verdict"]]
    p = row["p"] if row["p_adjusted"] is None else row["p_adjusted"]
    means = [f"{100 * row[name]:.1f} %" for name in ("mean_a", "mean_b")]
    difference = [points(row["difference"]), interval(row["low"], row["high"])]
    size = f"{row['seeds']} × {row['examples']}"
    return [*head, *means, *difference, "–" if math.isnan(p) else p_text(p), size, row["verdict"]]


def _remarks(row: Row) -> list[str]:
    """What a reader must know of a row, each said once per arm, with its test split."""
    found = [row["reason"] or ""]
    if row["split"] == "test":
        found += [f"not paired: {row['not_paired']}" if row["not_paired"] else ""]
        found += [f"differs in {row['differs']}" if row["differs"] else ""]
    return [text for text in found if text]


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [column.name for column in BETWEEN]
    writer.writerow(names)
    for row in rows:
        values = [row[name] for name in names]
        writer.writerow("" if v is None or (isinstance(v, float) and math.isnan(v)) else v for v in values)
    return text.getvalue()


def _markdown(a: Path, b: Path, shown: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    lines = [
        f"# {a} against {b}",
        "",
        "Exact accuracy, A minus B, paired by seed and example; the statistics are those of comparisons.csv.",
        "",
        f"| {' | '.join(TITLES)} |",
        "|---" * len(TITLES) + "|",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in shown),
        "",
        *(f"* {note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"
