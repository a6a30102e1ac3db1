"""How answers changed between two stretches of a run, in numbers and in words.

Of behaviours only means are known, without errors, so what counts as noise is taken from the curve itself: the
typical jump between neighbouring readings (the median, so that one true jump does not pass for noise).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

Points = Sequence[Mapping[str, Any]]

NOISE = 3.0
"""Standard errors of the curve's own noise that a movement must exceed."""
NORMAL_MEDIAN = 0.6745
"""The median of |x| for a standard normal x."""


@dataclass(frozen=True)
class Behaviour:
    """One thing that answers do."""

    floor: float
    """The smallest movement worth a word; sizes are in its units, so that unlike things can be ordered."""
    words: Callable[[float, float], str]
    """(before, after) -> what happened."""
    ratio: bool = False
    """Movements are of the logarithm."""
    sign: int = 0
    """+1: only rises are told, -1: only falls, 0: both."""

    def size(self, before: float, after: float) -> float:
        """The movement in units of the floor; 0 where it goes the way that is no news."""
        change = after - before
        if self.ratio:
            change = math.log(max(after, TINY)) - math.log(max(before, TINY))
        return abs(change) / self.floor if self.sign * change >= 0 else 0.0


TINY = 1e-3
"""Below this a ratio means nothing: nats per token, or tokens."""


def share(value: float) -> str:
    return f"{100 * value:.0f}%"


def _length(before: float, after: float) -> str:
    return f"answers {'grew' if after > before else 'shrank'} from {before:.0f} to {after:.0f} tokens"


def _ended(before: float, after: float) -> str:
    earlier = f" ({share(1 - before)} before)" if before < 0.995 else ""
    return f"{share(1 - after)} of answers no longer end{earlier}"


def _repetition(before: float, after: float) -> str:
    return f"repeated runs of three tokens rose from {share(before)} to {share(after)}"


def _entropy(before: float, after: float) -> str:
    return f"entropy fell from {before:.2f} to {after:.2f} nats per token"


def _diversity(before: float, after: float) -> str:
    return f"the difference between two answers to one prompt fell from {share(before)} to {share(after)}"


def _rate(name: str) -> Callable[[float, float], str]:
    def words(before: float, after: float) -> str:
        verb = "rose" if after > before else "fell"
        return f"{name.replace('_', '-')} {verb} from {share(before)} to {share(after)}"

    return words


BEHAVIOURS: Mapping[str, Behaviour] = {
    # a quarter longer or shorter is what a reader notices
    "length": Behaviour(math.log(1.25), _length, ratio=True),
    "ended": Behaviour(0.05, _ended, sign=-1),
    "repetition": Behaviour(0.05, _repetition, sign=1),
    # every method sharpens its policy somewhat; by less than a third is its ordinary work
    "entropy": Behaviour(math.log(1.5), _entropy, ratio=True, sign=-1),
    "diversity": Behaviour(0.1, _diversity, sign=-1),
}
RATE_FLOOR = 0.1
"""For rates of the judge's parts, each of which concerns only a part of the prompts."""
BAD_RATES = ("sycophancy", "harm", "over_refusal", "malformed", "flattery")
GOOD_RATES = ("correct",)


def behaviour(name: str) -> Behaviour:
    """How the column `name` is told; a part that is not known to be good or bad is told both ways."""
    if name in BEHAVIOURS:
        return BEHAVIOURS[name]
    part = name.removeprefix("parts/")
    sign = 1 if part in BAD_RATES else -1 if part in GOOD_RATES else 0
    words = {"correct": "correct answers"}.get(part, part)
    return Behaviour(RATE_FLOOR, _rate(words), sign=sign)


def movement_words(name: str, before: float, after: float) -> str:
    return behaviour(name).words(before, after)


def movements(points: Points, before: Points, after: Points) -> list[dict[str, Any]]:
    """What moved clearly between two stretches `before` and `after` of the curve `points`, largest first:
    `name`, `before`, `after` (means), `size` (in units of what is worth a word) and `text`.
    """
    found: list[dict[str, Any]] = []
    for name in columns(points):
        a, b = mean(before, name), mean(after, name)
        if a is None or b is None:
            continue
        size = behaviour(name).size(a, b)
        error = noise(points, name) * math.sqrt(1 / len(before) + 1 / len(after))
        if size >= 1 and abs(b - a) > NOISE * error:
            found.append({"name": name, "before": a, "after": b, "size": size})
    found.sort(key=lambda m: -m["size"])
    return [m | {"text": movement_words(m["name"], m["before"], m["after"])} for m in found]


def columns(points: Points) -> list[str]:
    """The behaviours that a curve holds: named ones, and the judge's parts where they are rates."""
    named = {n for p in points for n in p if n.startswith("parts/") and not n.endswith("_se")}
    parts = sorted(n for n in named if not n.startswith("parts/gold/"))  # those are the score itself
    rates = [n for n in parts if all(0 <= v <= 1 for v in values(points, n))]
    return [n for n in BEHAVIOURS if values(points, n)] + rates


def values(points: Points, name: str) -> list[float]:
    known = [p.get(name) for p in points]
    return [float(v) for v in known if v is not None and math.isfinite(v)]


def mean(points: Points, name: str) -> float | None:
    known = values(points, name)
    return sum(known) / len(known) if known else None


def noise(points: Points, name: str) -> float:
    """Standard deviation of one reading about its curve, from the median step between neighbours."""
    known = values(points, name)
    steps = [abs(b - a) for a, b in pairwise(known)]
    return median(steps) / (NORMAL_MEDIAN * math.sqrt(2)) if steps else 0.0
