"""How every figure looks, and how it is drawn and saved. What the figures show is in plots.py.

Colour and marker belong to the arm, in every figure of a suite. Colours are Okabe and Ito's, which colour-blind readers
tell apart (jfly.uni-koeln.de/color); the marker says the same again.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.files import write_atomically, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
"""matplotlib's name of each marker and the letter that looks like it, for the page's own legends."""

GREY = "#5f6b76"

PANEL = (4.6, 2.9)
"""Inches. At 9 points of type a panel stays legible across half a desktop page and across a whole phone."""

LEFT = 0.62
"""Inches between a panel's left edge and its axes."""
HEAD = 0.1
"""Inches above the panels, beside the legend."""

STYLE: Any = {  # matplotlib types every key by its name
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": "#9aa4ae",
    "axes.labelcolor": "#2b333b",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ec",
    "grid.linewidth": 0.7,
    "xtick.color": "#9aa4ae",
    "ytick.color": "#9aa4ae",
    "xtick.labelcolor": "#2b333b",
    "ytick.labelcolor": "#2b333b",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.image_inline": True,
    "path.simplify": True,
}


class Look(NamedTuple):
    colour: str
    marker: str
    glyph: str
    label: str


def looks(arms: dict[str, str]) -> dict[str, Look]:
    """Colour and marker of every arm, from name → label in the suite's order."""
    markers = list(MARKERS.items())
    return {
        arm: Look(COLOURS[i % len(COLOURS)], *markers[(i + i // len(COLOURS)) % len(markers)], label)
        for i, (arm, label) in enumerate(arms.items())
    }


@dataclass
class Figure:
    """One or several panels under one caption; `missing` says why there are none.

    `alt` tells a reader who can't see the figure what it shows; `arms` are those with a place in its legend.
    """

    name: str
    title: str
    caption: str = ""
    alt: str = ""
    arms: list[Look] = field(default_factory=list)
    panels: list[Callable[[Axes], None]] = field(default_factory=list)
    height: float = PANEL[1]
    missing: str = ""
    png: bool = False  # beside the SVG: for pages that show no SVG; it takes as long again to draw
    topic: str = ""  # the part of a task's section that it belongs to
    inline: list[str] = field(default_factory=list)  # SVG of each panel, once drawn


def draw(figure: Figure, folder: Path) -> None:
    """Save `figures/<name>.svg`, perhaps `.png` (all panels, a legend), and fill `figure.inline` (panels without)."""
    import matplotlib as mpl

    if figure.missing:
        return
    with mpl.rc_context(STYLE | {"svg.hashsalt": figure.name}):
        whole = _canvas(figure)
        svg = _svg(whole)
        write_text(folder / f"{figure.name}.svg", svg)
        if figure.png:
            write_atomically(
                folder / f"{figure.name}.png",
                lambda out: whole.savefig(out, format="png", dpi=150, metadata={"Software": None}),
            )
    figure.inline = panels_of(svg, figure)


POINTS = 72
"""Per inch: the unit of matplotlib's SVG."""


def panels_of(svg: str, figure: Figure) -> list[str]:
    """The panels of a figure's SVG as markup for the page, each in an element of its own, so that they can stand below
    one another on a phone. Cut out, not drawn again: drawing is most of a report's time."""
    groups = re.findall(r'^  <g id="axes_\d+">\n.*?^  </g>$', svg, flags=re.DOTALL | re.MULTILINE)
    clips = svg[svg.rindex(" </g>") :].removeprefix(" </g>").removesuffix("</svg>\n")  # what the groups share
    columns, head = _layout(figure)
    found = []
    for i, group in enumerate(groups):
        row, column = divmod(i, columns)
        left, top = PANEL[0] * column, head - HEAD + figure.height * row
        box = " ".join(f"{POINTS * length:g}" for length in (left, top, PANEL[0], figure.height + HEAD))
        markup = f'<svg viewBox="{box}">{group}{clips if i == 0 else ""}</svg>'
        found.append(embeddable(markup, figure.name))
    return found


def _layout(figure: Figure) -> tuple[int, float]:
    """Panels in a row, and inches above the first row."""
    columns = min(2, len(figure.panels))
    return columns, HEAD + 0.22 * -(-len(figure.arms) // (3 * columns))


def _canvas(figure: Figure) -> Canvas:
    """Panels two in a row. Margins are fixed in inches, so that axes line up from figure to figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    columns, head = _layout(figure)
    rows = -(-len(figure.panels) // columns)
    width, height = PANEL[0] * columns, figure.height * rows + head
    canvas = Canvas(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(canvas)
    left, right, bottom, top = LEFT, 0.14, 0.5, 0.1
    for i, panel in enumerate(figure.panels):
        row, column = divmod(i, columns)
        axes = canvas.add_axes((
            (column * PANEL[0] + left) / width,
            ((rows - 1 - row) * figure.height + bottom) / height,
            (PANEL[0] - left - right) / width,
            (figure.height - bottom - top) / height,
        ))  # fmt: skip
        panel(axes)
    if figure.arms:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], color=a.colour, marker=a.marker, label=a.label) for a in figure.arms]
        canvas.legend(handles=handles, loc="upper left", ncols=3 * columns, bbox_to_anchor=(0.35 / width, 1))
    return canvas


def _svg(canvas: Canvas) -> str:
    out = io.BytesIO()
    canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return out.getvalue().decode()


def embeddable(svg: str, prefix: str) -> str:
    """An SVG file as markup for the page: no prologue or metadata, ids of its own, its size left to the style sheet.

    Ids must be unique on a page; matplotlib gives every figure an `axes_1`.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", head) + ">" + body
    svg = re.sub(r"<style.*?</style>|font-family: [^;\"]*; ", "", svg, flags=re.DOTALL)  # the page's own style sheet
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]*)"', rf'href="#{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)", svg)
    return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1).strip()
