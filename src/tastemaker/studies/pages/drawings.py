"""Figures that several pages share: intervals side by side, courses with bands, scatters and heatmaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tastemaker.studies.report.drawing import HALF, Picture, picture, style
from tastemaker.studies.report.svg import LIGHT
from tastemaker.studies.written import finite, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARMS = [LIGHT[f"arm{i}"] for i in range(6)]
FAINT = 0.06
"""How much of its colour the palest cell of a heatmap has."""


def shortened(label: str, most: int) -> str:
    """A label without its middle where it is too long for a figure; tables have all of it."""
    if len(label) <= most:
        return label
    kept = most - 1
    return f"{label[: kept - kept // 2]}…{label[-(kept // 2) :]}"


def forest(
    name: str,
    words: str,
    bars: Sequence[tuple[str, float, float, float]],
    *,
    middle: float,
    percent: bool = True,
) -> Picture:
    """(label, estimate, low, high) as points with intervals, a line at `middle`."""
    times = 100.0 if percent else 1.0

    def draw(figure: Figure, narrow: bool) -> None:
        axes: Axes = figure.add_subplot()
        axes.axvline(times * middle, color=LIGHT["muted"], linewidth=1.2, zorder=1)
        for i, (label, value, low, high) in enumerate(bars):
            y = -float(i)
            if not finite(value):
                continue
            if finite(low) and finite(high):
                axes.plot(
                    [times * low, times * high], [y, y], color=ARMS[0], linewidth=2.4, solid_capstyle="butt"
                )
            axes.plot([times * value], [y], "o", color=ARMS[0], markersize=7)
            axes.text(
                -0.015,
                y,
                shortened(label, 20 if narrow else 48),
                transform=axes.get_yaxis_transform(),
                ha="right",
                va="center",
                fontsize=11,
            )
        axes.set_ylim(-len(bars) + 0.4, 0.6)
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("per cent" if percent else "")

    height = 30 * len(bars) + 70
    with style():
        return picture(name, words, words, draw, height=height, narrow=height)


def lines(name: str, words: str, course: Mapping[str, Sequence[float]], *, middle: float) -> Picture:
    """`mean` over its index with a band from `low` to `high`."""

    def draw(figure: Figure, narrow: bool) -> None:
        axes: Axes = figure.add_subplot()
        x = range(1, len(course["mean"]) + 1)
        axes.fill_between(x, course["low"], course["high"], color=ARMS[0], alpha=0.18, linewidth=0)
        axes.plot(x, course["mean"], color=ARMS[0], linewidth=1.6)
        axes.axhline(middle, color=LIGHT["muted"], linewidth=1.2)
        axes.set_xlabel("verdicts")
        axes.margins(x=0.01)

    with style():
        return picture(name, words, words, draw, height=280, narrow=240, width=HALF)


def curves(
    name: str,
    words: str,
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    diagonal: bool = False,
    marks: bool = False,
    bounds: Sequence[tuple[float, float]] | None = None,
    width: int = HALF,
) -> Picture:
    """(label, xs, ys) as lines, or as points with `marks`; `diagonal` draws y = x; `bounds`, the (low, high) of
    the first series.
    """

    def draw(figure: Figure, narrow: bool) -> None:
        axes: Axes = figure.add_subplot()
        if diagonal:
            axes.plot([0, 1], [0, 1], color=LIGHT["muted"], linewidth=1.2, linestyle="dashed")
        if bounds is not None:
            low, high = zip(*bounds, strict=True)
            axes.vlines(series[0][1], low, high, color=ARMS[0], linewidth=1.4)
        for i, (label, xs, ys) in enumerate(series):
            look: dict[str, Any] = {"color": ARMS[i % 6], "label": label}
            if marks:
                axes.plot(xs, ys, ".", markersize=5, alpha=0.6, **look)
            else:
                axes.plot(xs, ys, "o-", markersize=4, linewidth=1.8, **look)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=10)

    with style():
        return picture(name, words, words, draw, height=340, narrow=280, width=width)


def course(
    name: str,
    words: str,
    points: Sequence[tuple[float, float, float]],
    *,
    mark: float,
    x: str,
    y: str,
) -> Picture:
    """(x, mean, half its interval) as a line with error bars; a line at `mark`."""

    def draw(figure: Figure, narrow: bool) -> None:
        axes: Axes = figure.add_subplot()
        axes.axvline(mark, color=LIGHT["muted"], linewidth=1.4, linestyle="dashed")
        at, mean, half = zip(*points, strict=True)
        bars = [h if finite(h) else 0.0 for h in half]
        axes.errorbar(at, mean, yerr=bars, color=ARMS[0], marker="o", markersize=4, linewidth=1.8, capsize=2)
        axes.set_xlabel(x)
        axes.set_ylabel(y)

    with style():
        return picture(name, words, words, draw, height=340, narrow=280, width=HALF)


def heatmap(
    name: str,
    words: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    digits: int = 2,
    centre: float | None = None,
) -> Picture:
    """A table of numbers as colours, each written in its cell where there are few. NaN is left blank.

    Cells are one colour of the page, more or less of it, so that they are right on dark paper too; with
    `centre` two, for what lies above and below.
    """
    from matplotlib.patches import Rectangle

    known = [v for row in values for v in row if finite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    reach = max(abs(low - centre), abs(high - centre), 1e-12) if centre is not None else max(high - low, 1e-12)

    def draw(figure: Figure, narrow: bool) -> None:
        axes: Axes = figure.add_subplot()
        axes.grid(False)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                if finite(value):
                    size = (value - (low if centre is None else centre)) / reach
                    own = ARMS[0] if size >= 0 else ARMS[1]
                    look: dict[str, Any] = {"facecolor": own, "alpha": FAINT + (0.85 - FAINT) * abs(size)}
                    axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, linewidth=0, **look))
        below = [shortened(c, 12 if narrow else 24) for c in columns]
        axes.set_xticks(range(len(columns)), below, rotation=45 if narrow or len(columns) > 8 else 0)
        step = max(1, len(rows) // 32)
        labels = [shortened(rows[i], 20 if narrow else 48) for i in range(0, len(rows), step)]
        axes.set_yticks(range(0, len(rows), step), labels)
        if len(rows) <= 32 and len(columns) <= (6 if narrow else 14):
            for i, row in enumerate(values):
                for j, value in enumerate(row):
                    if finite(value):
                        words = number(value, digits)
                        axes.text(j, i, words, ha="center", va="center", fontsize=10, color=LIGHT["ink"])

    height = min(900, 30 * len(rows) + 90)
    with style():
        return picture(name, words, words, draw, height=height, narrow=height)
