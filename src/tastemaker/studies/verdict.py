"""What a comparison may conclude, and in which words.

Differences are paired: the same prompts and seeds for both sides, seeds the outer unit. A winner is named
only where the interval of the difference excludes zero; "no winner" is an ordinary result. Two frontiers
are compared at one KL by linear interpolation between an arm's own settings, at KLs that both arms
reached; where their ranges do not overlap they are not comparable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tastemaker.functional import Interval, paired_interval


@dataclass(frozen=True)
class Point:
    """One setting of one arm on one seed: where it went and what the judge said, per prompt."""

    kl: float
    """Nats per response from the SFT policy."""
    scores: Tensor
    """[P] on the same prompts as every other point of the seed."""


def difference(a: Sequence[Tensor], b: Sequence[Tensor], *, seed: int = 0) -> Interval:
    """Mean of a - b and its 95% interval. `a[s]`, `b[s]`: [P] scores of seed s on the same prompts."""
    return paired_interval([x - y for x, y in zip(a, b, strict=True)], seed=seed)


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


def matched_kl(a: Sequence[Sequence[Point]], b: Sequence[Sequence[Point]]) -> dict[str, Any]:
    """a[s], b[s]: the settings of both arms on seed s. Compares them in the middle of the range of KL that
    both reached on every seed.
    """
    ranges = [(min(p.kl for p in points), max(p.kl for p in points)) for arm in (a, b) for points in arm]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    if low > high:
        return {
            "comparable": False,
            "text": f"not comparable at equal KL: the arms' settings reach no KL in common "
            f"(one arm stays above {low:.2f} or the other below {high:.2f} nats)",
        }
    kl = (low + high) / 2
    found = difference([at_kl(p, kl) for p in a], [at_kl(p, kl) for p in b])
    return {
        "comparable": True,
        "kl": kl,
        "range": [low, high],
        "difference": as_dict(found),
        "text": f"at {kl:.2f} nats of KL the difference is {spoken(found)}",
    }


def verdict(
    scores: Mapping[str, Sequence[Tensor]],
    baselines: Mapping[str, Sequence[Tensor]],
    points: Mapping[str, Sequence[Sequence[Point]]],
    judge: str,
    greedy: Mapping[str, Sequence[Tensor]],
) -> dict[str, Any]:
    """Who wins, in words and numbers.

    `scores[arm][s]` [P]: the arm at its chosen setting on seed s, sampled, and `greedy[arm][s]` greedily;
    `baselines[name][s]` the same for policies that cost nothing (`sft_greedy` among them);
    `points[arm][s]` all its settings.
    """
    names = list(scores)
    pairs: list[dict[str, Any]] = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            found = difference(scores[a], scores[b])
            matched = matched_kl(points[a], points[b])
            pairs.append({"a": a, "b": b, "difference": as_dict(found), "matched_kl": matched})
    winner = best_of(names, pairs)
    against = {
        arm: {name: as_dict(difference(scores[arm], values)) for name, values in baselines.items()}
        for arm in names
    }
    sentences = [headline(winner, names, pairs, judge)]
    sentences += [against_baselines(arm, against[arm]) for arm in names]
    plainly = {arm: as_dict(difference(greedy[arm], baselines["sft_greedy"])) for arm in names}
    listed = ", ".join(f"{arm} {spoken_dict(found)}" for arm, found in plainly.items())
    sentences.append(f"Read greedily, against SFT read greedily: {listed}.")
    seeds = len(next(iter(scores.values())))
    if seeds < 3:
        sentences.append(f"With {seeds} seed{'s' * (seeds > 1)} this is a first look, not a finding.")
    return {
        "winner": winner,
        "text": " ".join(sentences),
        "pairs": pairs,
        "against_baselines": against,
        "greedy_against_sft_greedy": plainly,
    }


def best_of(names: Sequence[str], pairs: Sequence[Mapping[str, Any]]) -> str | None:
    """The arm whose difference to every other arm excludes zero in its favour."""
    for name in names:
        beaten: set[str] = set()
        for pair in pairs:
            if pair["a"] == name and pair["difference"]["low"] > 0:
                beaten.add(pair["b"])
            if pair["b"] == name and pair["difference"]["high"] < 0:
                beaten.add(pair["a"])
        if beaten == set(names) - {name} and beaten:
            return name
    return None


def headline(winner: str | None, names: Sequence[str], pairs: Sequence[Mapping[str, Any]], judge: str) -> str:
    if len(names) == 1:
        return f"One arm ran ({names[0]}), so there is nothing to win."
    listed = "; ".join(
        f"{p['a']} − {p['b']}: {spoken_dict(p['difference'])}, and {p['matched_kl']['text']}" for p in pairs
    )
    if winner is None:
        return f"No winner by {judge}: {listed}."
    return f"{winner} wins by {judge}, each arm at its chosen setting: {listed}."


def against_baselines(arm: str, against: Mapping[str, Mapping[str, float]]) -> str:
    """How an arm stands to the policies that cost nothing."""
    parts: list[str] = []
    for name, found in against.items():
        relation = "beats" if found["low"] > 0 else "falls behind" if found["high"] < 0 else "is not told from"
        parts.append(f"{relation} {name.replace('_', ' ')} ({spoken_dict(found)})")
    return f"{arm} " + " and ".join(parts) + "." if parts else ""


def as_dict(interval: Interval) -> dict[str, float]:
    return {"mean": interval.estimate, "low": interval.low, "high": interval.high}


def spoken(interval: Interval) -> str:
    return spoken_dict(as_dict(interval))


def spoken_dict(found: Mapping[str, float]) -> str:
    if found["low"] != found["low"]:
        return f"{found['mean']:+.2f} (no interval: too little to tell)"
    return f"{found['mean']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


def choose(candidates: Mapping[str, Sequence[float]]) -> str:
    """The setting with the highest mean over seeds on the tuning prompts; the first of equals."""
    means = {
        label: torch.tensor(values, dtype=torch.float64).mean().item() for label, values in candidates.items()
    }
    return max(means, key=lambda label: means[label])
