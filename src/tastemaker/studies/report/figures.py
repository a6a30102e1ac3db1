"""Pictures of a comparison: the frontier, the differences with their intervals, the training curves.

Each is drawn by matplotlib in two widths, for a screen and for a phone, because a picture that is merely
shrunk cannot be read. Sizes are in CSS pixels (72 to the inch).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tastemaker.studies.report.curves import Panel, panels
from tastemaker.studies.report.frontier import draw_frontier, frontier_words
from tastemaker.studies.report.numbers import finite, interval, score_digits, title
from tastemaker.studies.report.svg import LIGHT, for_file, inline
from tastemaker.studies.report.words import BASELINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, NARROW = 1060, 350
PANEL = (220, 135)
Draw = Callable[["Axes", bool], None]
"""Draws into the axes; the flag says whether there is little room."""


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


def draw_figures(results: Mapping[str, Any]) -> list[Picture]:
    """All figures for which there are numbers; `results` without NaN."""
    found: list[Picture] = []
    with style():
        if any(finite(p["kl"]) and finite(p["score"]) for p in results["frontier"]):
            words = frontier_words(results)

            def draw(axes: Axes, narrow: bool) -> None:
                draw_frontier(axes, results, narrow=narrow)

            found.append(picture("frontier", "Score against KL", words, draw, height=500, narrow=380))
        lines = differences(results)
        if lines:
            words = "Differences with 95% intervals. " + "; ".join(f"{n}: {t}" for n, t, _ in lines)
            height = 46 * len(lines) + 50

            def forest(axes: Axes, narrow: bool) -> None:
                draw_differences(axes, lines)

            found.append(picture("differences", "Differences", words, forest, height=height, narrow=height))
        found += [curve_picture(panel) for panel in panels(results)]
    return found


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


def picture(name: str, heading: str, words: str, draw: Draw, *, height: int, narrow: int) -> Picture:
    """Draws wide and narrow."""
    wide_svg, png = drawn(draw, WIDE, height, narrow=False)
    narrow_svg, _ = drawn(draw, NARROW, narrow, narrow=True, png=False)
    return Picture(
        name,
        heading,
        for_file(wide_svg),
        png,
        inline(wide_svg, name, words),
        inline(narrow_svg, f"{name}-narrow", words),
    )


def drawn(draw: Draw, width: int, height: int, *, narrow: bool, png: bool = True) -> tuple[str, bytes]:
    """SVG text and PNG bytes of one figure."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.add_subplot(), narrow)
    text, pixels = io.StringIO(), io.BytesIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(text, format="svg", metadata=nothing)
    if png:
        figure.savefig(pixels, format="png", dpi=144, metadata={"Software": None})
    return text.getvalue(), pixels.getvalue()


def differences(results: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, float]]]:
    """(name, number, interval) of every difference between arms and to SFT that is known."""
    verdict = results["verdict"]
    found: list[tuple[str, Mapping[str, Any]]] = []
    for pair in verdict["pairs"]:
        name = f"{title(pair['a'])} − {title(pair['b'])}"
        found.append((name, pair["difference"]))
        if pair["matched_kl"].get("comparable"):
            found.append((f"{name}, at equal KL", pair["matched_kl"]["difference"]))
    for arm, entry in results["arms"].items():
        for baseline, difference in entry["difference"].items():
            found.append((f"{title(arm)} − {BASELINES.get(baseline, baseline)}", difference))
    digits = score_digits(results)
    return [(name, interval(d, digits), d) for name, d in found if finite(d.get("mean"))]


def draw_differences(axes: Axes, lines: Sequence[tuple[str, str, Mapping[str, float]]]) -> None:
    """One interval a line, its name above it on the left and its numbers on the right."""
    axes.axvline(0, color=LIGHT["muted"], linewidth=1.2, zorder=1)
    for i, (name, text, found) in enumerate(lines):
        low, high = found.get("low"), found.get("high")
        y = -float(i)
        sure = finite(low) and finite(high) and (low > 0 or high < 0)
        color = LIGHT["arm0"] if sure else LIGHT["muted"]
        if finite(low) and finite(high):
            axes.plot([low, high], [y, y], color=color, linewidth=2.4, solid_capstyle="butt")
        axes.plot([found["mean"]], [y], "o", color=color, markersize=7)
        across = axes.get_yaxis_transform()
        behind = {"facecolor": LIGHT["paper"], "edgecolor": "none", "pad": 1.5}
        axes.text(0, y + 0.42, name, transform=across, va="center", fontsize=12, bbox=behind)
        axes.text(
            1,
            y + 0.42,
            text,
            transform=across,
            ha="right",
            va="center",
            fontsize=11,
            color=LIGHT["muted"],
            bbox=behind,
        )
    axes.set_ylim(-len(lines) + 0.55, 0.8)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)


def curve_picture(panel: Panel) -> Picture:
    """A small training curve: every seed pale, its running mean strong."""
    color = LIGHT[f"arm{panel.place % 6}"]

    def draw(axes: Axes, narrow: bool) -> None:
        for steps, values, smooth in panel.lines:
            axes.plot(steps, values, color=color, linewidth=0.8, alpha=0.35)
            axes.plot(steps, smooth, color=color, linewidth=1.8)
        axes.locator_params(axis="both", nbins=4)
        axes.tick_params(labelsize=11.5)
        axes.margins(x=0.01)

    svg, png = drawn(draw, *PANEL, narrow=True)
    words = f"{title(panel.arm)}: {panel.metric} over training steps, one line a seed"
    return Picture(
        panel.name, panel.metric, for_file(svg), png, inline(svg, panel.name, words), group=panel.arm
    )
