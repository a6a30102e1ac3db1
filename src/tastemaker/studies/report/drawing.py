"""How every picture is drawn: matplotlib's settings, two widths, and what is kept of each.

Each is drawn for a screen and again for a phone, because a picture that is merely shrunk cannot be read.
Sizes are in CSS pixels (72 to the inch).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tastemaker.studies.report.svg import LIGHT, for_file, inline

WIDE, HALF, NARROW = 1060, 530, 350
"""The whole page, one of two beside each other, a phone."""
Draw = Callable[[Figure, bool], None]
"""Draws into the figure; the flag says whether there is little room."""


@dataclass(frozen=True)
class Picture:
    """One figure. `svg` and `png` stand alone; `inline` and `narrow` are for inside the page."""

    name: str
    title: str
    svg: str
    png: bytes
    inline: str
    narrow: str = ""
    group: str = ""


@contextmanager
def style() -> Generator[None]:
    """Matplotlib's settings for the time of drawing; nothing is left changed."""
    ours: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "tastemaker",
        "font.family": ["DejaVu Sans"],
        "font.size": 12,
        "text.color": LIGHT["ink"],
        "text.parse_math": False,
        "axes.edgecolor": LIGHT["rule"],
        "axes.facecolor": LIGHT["paper"],
        "axes.labelcolor": LIGHT["muted"],
        "axes.linewidth": 1.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "grid.color": LIGHT["rule"],
        "grid.linewidth": 0.6,
        "xtick.color": LIGHT["muted"],
        "ytick.color": LIGHT["muted"],
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "figure.facecolor": LIGHT["paper"],
        "savefig.facecolor": LIGHT["paper"],
    }
    with mpl.rc_context(ours):
        yield


def picture(
    name: str,
    heading: str,
    words: str,
    draw: Draw,
    *,
    height: int,
    narrow: int,
    width: int = WIDE,
    group: str = "",
) -> Picture:
    """Draws wide and narrow; `height` and `narrow` are the heights of the two."""
    wide_svg, png = drawn(draw, width, height, narrow=False)
    narrow_svg, _ = drawn(draw, NARROW, narrow, narrow=True, png=False)
    return Picture(
        name,
        heading,
        for_file(wide_svg),
        png,
        inline(wide_svg, name, words),
        inline(narrow_svg, f"{name}-narrow", words),
        group,
    )


def drawn(draw: Draw, width: int, height: int, *, narrow: bool, png: bool = True) -> tuple[str, bytes]:
    """SVG text and PNG bytes of one figure."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure, narrow)
    text, pixels = io.StringIO(), io.BytesIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(text, format="svg", metadata=nothing)
    if png:
        figure.savefig(pixels, format="png", dpi=144, metadata={"Software": None})
    return text.getvalue(), pixels.getvalue()
