"""What the work was spent on: a bar for every stage, its parts by kind of operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tastemaker.studies.report.numbers import finite, flops
from tastemaker.studies.report.spending import KINDS, stages_of
from tastemaker.studies.report.svg import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS: Mapping[str, str] = {"rollouts": "arm4", "scoring": "muted", "updates": "arm5"}
"""Apart from those of the first arms, which mean methods."""


@dataclass(frozen=True)
class Bar:
    """One stage: operations by kind."""

    name: str
    arm: int | None
    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def shown_stages(results: Mapping[str, Any]) -> list[Bar]:
    """Stages whose operations were counted."""
    found = [
        Bar(name, place, {k: v for k in KINDS if finite(v := cost.get(f"flops_{k}"))})
        for name, place, cost in stages_of(results)
    ]
    return [bar for bar in found if bar.total > 0]


def bars_words(bars: Sequence[Bar]) -> str:
    """The figure for who cannot see it."""
    return "FLOPs by stage. " + "; ".join(f"{bar.name} {flops(bar.total)}" for bar in bars)


def draw_bars(axes: Axes, bars: Sequence[Bar], *, narrow: bool) -> None:
    """One bar a stage, its name above it, its sum at its end."""
    longest = max(bar.total for bar in bars)
    for i, bar in enumerate(bars):
        y, left = -float(i), 0.0
        for kind in KINDS:
            part = bar.parts.get(kind, 0.0)
            if part > 0:
                axes.barh(y - 0.14, part, left=left, height=0.34, color=LIGHT[COLOURS[kind]], linewidth=0)
                left += part
        color = LIGHT["ink"] if bar.arm is None else LIGHT[f"arm{bar.arm}"]
        axes.text(0, y + 0.27, bar.name, va="center", fontsize=12, color=color)
        axes.annotate(
            flops(bar.total),
            (left, y - 0.14),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=11,
            color=LIGHT["muted"],
        )
    for kind, words in KINDS.items():
        axes.barh(0, 0, color=LIGHT[COLOURS[kind]], label=words)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.005, 1.01),
        ncols=1 if narrow else len(KINDS),
        frameon=False,
        fontsize=11,
        borderaxespad=0.6,
        borderpad=0,
        handlelength=1,
        handleheight=1,
        columnspacing=1.6,
    )
    axes.set_xlim(0, longest * (1.24 if narrow else 1.09))
    axes.set_ylim(-len(bars) + 0.5, 0.62)
    axes.grid(False)
    axes.xaxis.set_visible(False)
    axes.yaxis.set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_visible(False)
