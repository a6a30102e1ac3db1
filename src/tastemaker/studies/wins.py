"""How often one policy's answer is scored above another's to the same prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from statistics import NormalDist
from typing import Any

from tastemaker.functional import Interval
from tastemaker.studies.paired import Scores, as_dict, over_seeds, subtracted

TIES_WITHIN = 1e-6
"""Scores are kept to six digits."""


def win_rate(
    a: Scores, b: Scores, *, shared_prompts: bool = False, ties_within: float = TIES_WITHIN
) -> dict[str, Any]:
    """The share of prompts on which `a` is scored above `b`, ties (within `ties_within`) counting half.

    `a[s]`, `b[s]`: [P] scores of seed s on the same prompts. Returns the counts `wins`, `ties`, `losses` over
    all seeds and `rate`: the mean over seeds of their rates with its 95% interval, cut to [0, 1]. The interval
    is that of every difference here, seeds being the outer unit, but at least Wilson's (1927) for as many
    independent prompts: five wins of five are no certainty.
    """
    differences = subtracted(a, b)
    outcomes = [((d > ties_within).double() - (d < -ties_within).double() + 1) / 2 for d in differences]
    wins = sum(int((o == 1).sum()) for o in outcomes)
    losses = sum(int((o == 0).sum()) for o in outcomes)
    total = sum(len(o) for o in outcomes)
    found = over_seeds(outcomes, shared_prompts=shared_prompts)
    return {
        "wins": wins,
        "ties": total - wins - losses,
        "losses": losses,
        "rate": as_dict(at_least_wilson(found, len(outcomes[0]) if shared_prompts else total)),
    }


def at_least_wilson(found: Interval, prompts: int, *, confidence: float = 0.95) -> Interval:
    """`found` widened to Wilson's score interval of a share of so many prompts, and cut to [0, 1]."""
    if math.isnan(found.low):
        return found
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, weight = found.estimate, z * z / prompts
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / prompts + weight / (4 * prompts)) / (1 + weight)
    return Interval(share, max(0.0, min(found.low, centre - half)), min(1.0, max(found.high, centre + half)))


def win_rates(
    sampled: Mapping[str, Scores],
    greedy: Mapping[str, Scores],
    baselines: Mapping[str, Scores],
    *,
    shared_prompts: bool = False,
    ties_within: float = TIES_WITHIN,
) -> list[dict[str, Any]]:
    """Win rates of all pairs of arms, read alike, and of every arm against what costs nothing.

    `how` says how `a` was read, "sampled" or "greedy"; arms among each other are compared in both ways. A
    sampled arm meets every baseline, a greedy one `sft_greedy`.
    """
    readings = {"sampled": sampled, "greedy": greedy}
    matches = [
        (a, b, how, arms[a], arms[b]) for how, arms in readings.items() for a, b in combinations(arms, 2)
    ]
    matches += [(arm, name, "sampled", sampled[arm], baselines[name]) for arm in sampled for name in baselines]
    if "sft_greedy" in baselines:
        matches += [(arm, "sft_greedy", "greedy", greedy[arm], baselines["sft_greedy"]) for arm in greedy]
    return [
        {"a": a, "b": b, "how": how}
        | win_rate(one, other, shared_prompts=shared_prompts, ties_within=ties_within)
        for a, b, how, one, other in matches
    ]
