"""Two frontiers at one KL: by interpolation between an arm's own settings, at KLs that both arms reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor

from tastemaker.studies.paired import as_dict, difference
from tastemaker.studies.written import counted, interval, number

Z = 1.96
"""Two ends of KL ranges are told apart where they differ by this many standard errors."""


@dataclass(frozen=True)
class Point:
    """One setting of one arm on one seed: where it went and what the judge said, per prompt."""

    kl: float
    """Nats per response from the SFT policy."""
    scores: Tensor
    """[P] on the same prompts as every other point of the seed."""
    kl_se: float = 0.0
    """Standard error of `kl` over prompts."""


class Reach(NamedTuple):
    """The settings with the least and the most KL of one arm on one seed."""

    low: Point
    high: Point


Arm = Sequence[Sequence[Point]]
"""For every seed the settings of one arm."""


def reach(points: Sequence[Point]) -> Reach:
    ordered = sorted(points, key=lambda p: p.kl)
    return Reach(ordered[0], ordered[-1])


def at_kl(points: Sequence[Point], kl: float) -> Tensor:
    """[P]: scores at `kl`, linear between the two settings around it; a setting's own where it stands there."""
    ordered = sorted(points, key=lambda p: p.kl)
    for point in ordered:
        if point.kl == kl:
            return point.scores
    for low, high in pairwise(ordered):
        if low.kl <= kl <= high.kl:
            share = (kl - low.kl) / (high.kl - low.kl)
            return (1 - share) * low.scores + share * high.scores
    raise ValueError(f"no two settings stand around a KL of {kl}")


def overlap(ranges: Sequence[Reach]) -> tuple[float, float] | str:
    """The KLs that all ranges reach, or why there are none.

    Every range must end above every other's beginning by more than the error of the two KLs (1.96 standard
    errors of their difference): where it does not, the overlap may be the luck of the prompts drawn. A narrow
    range well inside the others is no such case, and neither is a single setting.
    """
    if any(not math.isfinite(p.kl) or math.isnan(p.kl_se) for r in ranges for p in r):
        return "KL is not known"
    low, high = max(r.low.kl for r in ranges), min(r.high.kl for r in ranges)
    if low > high:
        return "the settings reach no KL in common"
    for i, one in enumerate(ranges):
        for j, other in enumerate(ranges):
            if i != j and one.high.kl - other.low.kl < Z * math.hypot(one.high.kl_se, other.low.kl_se):
                return "the range of KL reached by both is narrower than the error of the KL"
    return low, high


def matched_kl(a: Arm, b: Arm, *, shared_prompts: bool = False, digits: int = 2) -> dict[str, Any]:
    """Compares two arms at equal KL. `a[s]`, `b[s]`: the settings of both on seed s.

    In the middle of the range that both reached on every seed (`how` "common"). Where there is none, but each
    seed has such a range of its own, seed by seed in the middle of that ("by seed"). Otherwise they are not
    comparable, and no number is given. `text` says it as a clause.
    """
    seeds = [(reach(one), reach(other)) for one, other in zip(a, b, strict=True)]
    common = overlap([r for both in seeds for r in both])
    if not isinstance(common, str):
        how, ranges = "common", [common] * len(seeds)
    else:
        how = "by seed"
        each = [overlap(both) for both in seeds]
        ranges = [found for found in each if not isinstance(found, str)]
        if len(ranges) < len(seeds):
            reasons = [found for found in each if isinstance(found, str)]
            found = {"comparable": False, "reason": reasons[0], "on": len(reasons), "seeds": len(seeds)}
            return found | {"text": matched_words(found, digits)}
    kls = [(low + high) / 2 for low, high in ranges]
    at = difference(
        [at_kl(points, kl) for points, kl in zip(a, kls, strict=True)],
        [at_kl(points, kl) for points, kl in zip(b, kls, strict=True)],
        shared_prompts=shared_prompts,
    )
    found = {
        "comparable": True,
        "how": how,
        "kl": sum(kls) / len(kls),
        "kls": kls,
        "range": list(common) if not isinstance(common, str) else None,
        "ranges": [list(r) for r in ranges],
        "difference": as_dict(at),
    }
    return found | {"text": matched_words(found, digits)}


def matched_words(found: dict[str, Any], digits: int) -> str:
    """What the arms' comparison at equal KL came to, as a clause."""
    if not found["comparable"]:
        where = f" on {found['on']} of {counted(found['seeds'], 'seed')}" if found["seeds"] > 1 else ""
        return f"at equal KL they are not comparable: {found['reason']}{where}"
    if found["how"] == "common":
        kl = f"at equal KL ({number(found['kl'])} nats)"
    else:
        kls = ", ".join(number(k) for k in found["kls"])
        kl = f"at equal KL, matched seed by seed for lack of one KL reached on all ({kls} nats),"
    return f"{kl} it is {interval(found['difference'], digits)}"
