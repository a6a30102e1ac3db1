"""The frontier: judge's score against KL to the SFT policy, every setting of every arm on every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tastemaker.studies.report.numbers import (
    Z,
    entry,
    finite,
    half,
    largest_best_of_n,
    mean,
    number,
    score_digits,
    title,
)
from tastemaker.studies.report.svg import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

MARKERS = "os^DvP"
Spot = tuple[float, float]
Label = tuple["Annotation", list[Spot]]
"""A label and the points of which any one may carry it."""
PLACES = [
    (side * far, up, {1: "left", -1: "right", 0: "center"}[side])
    for far in (10, 22)
    for side, up in (
        (1, 9),
        (-1, 9),
        (0, 14),
        (1, -9),
        (-1, -9),
        (0, -14),
        (1, 20),
        (-1, 20),
        (1, -20),
        (-1, -20),
    )
]
"""Where a label may stand beside its point: right, up (pixels), which edge faces the point."""


def frontier_words(results: Mapping[str, Any]) -> str:
    """The figure for who cannot see it."""
    digits = score_digits(results)
    sft = results["baselines"]["sft"]
    parts = [
        f"SFT sampled {number(mean(sft, 'sampled', 'score'), digits)} at KL 0",
        f"SFT greedy {number(mean(sft, 'greedy', 'score'), digits)}",
    ]
    for name, arm in results["arms"].items():
        kl, score = (number(mean(arm, "sampled", key), digits) for key in ("kl", "score"))
        parts.append(f"{title(name)} ({arm['chosen']}) {score} at KL {kl}")
    best = largest_best_of_n(results)
    if best is not None:
        parts.append(
            f"best of {number(best['n'], 0)} {number(best['score'], digits)} at KL {number(best['kl'])}"
        )
    return f"{results['judge']['name']} against KL. " + "; ".join(parts)


def draw_frontier(axes: Axes, results: Mapping[str, Any], *, narrow: bool) -> None:
    """Arms, then baselines, then labels where there is room."""
    labels: list[Label] = []
    spots = draw_baselines(axes, results, labels, narrow=narrow)
    for place, (name, arm) in enumerate(results["arms"].items()):
        color, marker = LIGHT[f"arm{place % 6}"], MARKERS[place % len(MARKERS)]
        points = known(p for p in results["frontier"] if p["arm"] == name)
        spots += [spot for p in points for spot in covered_by(p)] + along(points)
        draw_arm(axes, points, color, marker)
        for label in dict.fromkeys(p["label"] for p in points):
            same = [p for p in points if p["label"] == label]
            at = [(p["kl"], p["score"]) for p in same]
            chosen = label == arm["chosen"]
            words = label if not chosen else title(name) if label == "default" else f"{title(name)} {label}"
            if chosen or not narrow:
                labels.append(note(axes, words, at, color, strong=chosen))
    axes.set_xlabel("KL to the SFT policy, nats per response")
    axes.set_title(results["judge"]["name"], loc="left", fontsize=12, color=LIGHT["muted"], pad=10)
    axes.margins(0.08, 0.14)
    greedy = mean(results["baselines"]["sft"], "greedy", "score")
    if greedy is not None and spots:
        far = max(kl for kl, _ in spots)
        spots += [(far * i / 60, greedy) for i in range(61)]
    place_labels(axes, labels, spots)


def known(points: Any) -> list[Mapping[str, Any]]:
    return [p for p in points if finite(p["kl"]) and finite(p["score"])]


def covered_by(p: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Places on a mark and along its error bars."""
    wide = Z * p["kl_se"] if finite(p["kl_se"]) else 0.0
    high = Z * p["score_se"] if finite(p["score_se"]) else 0.0
    shares = [i / 10 - 1 for i in range(21)]
    bars = [(p["kl"] + s * wide, p["score"]) for s in shares] + [
        (p["kl"], p["score"] + s * high) for s in shares
    ]
    return [(p["kl"], p["score"])] * 5 + bars


def along(points: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Places along the lines that join the settings of one seed."""
    found: list[tuple[float, float]] = []
    for seed in {p["seed"] for p in points}:
        own = sorted((p["kl"], p["score"]) for p in points if p["seed"] == seed)
        for (x0, y0), (x1, y1) in pairwise(own):
            found += [(x0 + i / 30 * (x1 - x0), y0 + i / 30 * (y1 - y0)) for i in range(31)]
    return found


def draw_arm(axes: Axes, points: Sequence[Mapping[str, Any]], color: str, marker: str) -> None:
    """Thin lines join the settings of one seed; filled marks are the chosen setting."""
    for seed in sorted({p["seed"] for p in points}):
        own = sorted((p for p in points if p["seed"] == seed), key=lambda p: p["kl"])
        axes.plot([p["kl"] for p in own], [p["score"] for p in own], color=color, linewidth=1, alpha=0.45)
    for p in points:
        axes.errorbar(
            p["kl"],
            p["score"],
            xerr=Z * p["kl_se"] if finite(p["kl_se"]) else None,
            yerr=Z * p["score_se"] if finite(p["score_se"]) else None,
            fmt=marker,
            color=color,
            markersize=8,
            markerfacecolor=color if p["chosen"] else LIGHT["paper"],
            markeredgewidth=1.6,
            elinewidth=1,
            zorder=4 if p["chosen"] else 3,
        )


def draw_baselines(
    axes: Axes, results: Mapping[str, Any], labels: list[Label], *, narrow: bool
) -> list[tuple[float, float]]:
    """SFT, best-of-n and the tilted policy, which cost no training. Returns what labels must not cover."""
    base, spots = results["baselines"], list[tuple[float, float]]()
    ink, muted = LIGHT["ink"], LIGHT["muted"]
    greedy = mean(base["sft"], "greedy", "score")
    if greedy is not None:
        axes.axhline(greedy, color=ink, linewidth=1.3, zorder=2)
        spread = half(entry(base["sft"], "greedy", "score"))
        if spread is not None:
            axes.axhspan(greedy - spread, greedy + spread, color=muted, alpha=0.1, linewidth=0)
        axes.annotate(
            "SFT greedy",
            (1, greedy),
            xycoords=axes.get_yaxis_transform(),
            xytext=(-2, 4),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=11,
        )
    sampled = mean(base["sft"], "sampled", "score")
    if sampled is not None:
        spread = half(entry(base["sft"], "sampled", "score"))
        axes.errorbar(0, sampled, yerr=spread, fmt="X", color=ink, markersize=9, elinewidth=1, zorder=4)
        labels.append(note(axes, "SFT sampled", [(0, sampled)], ink))
        spots.append((0, sampled))
    for key, style, words in (
        ("best_of_n", "--", "best of n"),
        ("tilted", ":", "gold-tilted SFT" if results["judge"]["kind"] == "gold" else "judge-tilted SFT"),
    ):
        points = known(base.get(key) or ())
        if not points:
            continue
        ordered = sorted(points, key=lambda p: p["kl"])
        xs, ys = [p["kl"] for p in ordered], [p["score"] for p in ordered]
        axes.plot(xs, ys, style, marker=".", color=muted, linewidth=1.5, markersize=7, zorder=2)
        end = f", n = {number(ordered[-1]['n'], 0)}" if key == "best_of_n" and not narrow else ""
        labels.append(note(axes, words + end, list(zip(xs, ys, strict=True))[len(xs) // 2 :], muted))
        spots += along([{"seed": 0, **p} for p in points])
    return spots


def note(axes: Axes, words: str, at: list[Spot], color: str, *, strong: bool = False) -> Label:
    made = axes.annotate(
        words,
        at[-1],
        xytext=(0, 0),
        textcoords="offset pixels",
        color=color,
        fontsize=12 if strong else 11,
        fontweight="bold" if strong else "normal",
        va="center",
        zorder=6,
        bbox={"facecolor": LIGHT["paper"], "edgecolor": "none", "pad": 1, "alpha": 0.75},
    )
    return made, at


def place_labels(axes: Axes, labels: Sequence[Label], spots: Sequence[tuple[float, float]]) -> None:
    """Moves every label to the first place beside its point where it covers the least."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    canvas = axes.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    renderer = canvas.get_renderer()
    room = axes.get_window_extent(renderer)
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in axes.transData.transform(list(spots))]
    free = [label for label, _ in labels]
    taken += [t.get_window_extent(renderer) for t in axes.texts if t not in free]
    for label, at in sorted(labels, key=lambda found: found[0].get_fontweight() != "bold"):
        choices = [(spot, place) for spot in reversed(at) for place in PLACES]
        best = min(choices, key=lambda choice: badness(label, *choice, room, taken, renderer))
        put(label, *best)
        # Other words are worse to cover than marks.
        taken += [label.get_window_extent(renderer)] * 4


def put(label: Annotation, spot: Spot, place: tuple[int, int, str]) -> None:
    label.xy = spot
    label.xyann = place[:2]
    label.set_horizontalalignment(place[2])  # pyright: ignore[reportArgumentType]


def badness(
    label: Annotation,
    spot: Spot,
    place: tuple[int, int, str],
    room: Bbox,
    taken: Sequence[Bbox],
    renderer: RendererBase,
) -> float:
    """Pixels covered or outside, and a little for distance."""
    put(label, spot, place)
    own = label.get_window_extent(renderer)
    outside = max(0.0, room.x0 - own.x0) + max(0.0, own.x1 - room.x1)
    outside += max(0.0, room.y0 - own.y0) + max(0.0, own.y1 - room.y1)
    covered = sum(overlap(own, other) for other in taken)
    return 20 * outside + covered + 0.1 * (abs(place[0]) + abs(place[1]))


def overlap(a: Bbox, b: Bbox) -> float:
    """Area in common, pixels squared."""
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    high = min(a.y1, b.y1) - max(a.y0, b.y0)
    return wide * high if wide > 0 and high > 0 else 0.0
