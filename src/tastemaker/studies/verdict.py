"""What a comparison may conclude.

Differences are paired: the same prompts and seeds for both sides, seeds the outer unit. An arm wins where its
difference to EVERY other arm excludes zero in its favour; "no winner" is an ordinary result. That rule needs
no correction for the number of arms: all of its comparisons must hold at once (an intersection-union test,
Berger 1982), and among several identical arms the best must lead the second-best as if it were alone. Picking
single pairs out of many does need one, so which pairs are told apart is said by Holm's (1979) procedure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from tastemaker.functional import standard_error
from tastemaker.studies.matching import Point as Point
from tastemaker.studies.matching import at_kl as at_kl
from tastemaker.studies.matching import matched_kl
from tastemaker.studies.paired import Scores, as_dict, difference, over_seeds, subtracted
from tastemaker.studies.power import power_of
from tastemaker.studies.wins import win_rates
from tastemaker.studies.wording import verdict_words

ALPHA = 0.05


def verdict(
    scores: Mapping[str, Scores],
    baselines: Mapping[str, Scores],
    points: Mapping[str, Sequence[Sequence[Point]]],
    judge: str,
    greedy: Mapping[str, Scores],
    *,
    proxy: bool = False,
    shared_prompts: bool = False,
    edges: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Who wins, in words and numbers; keys as in docs/compare.md.

    `scores[arm][s]` [P]: the arm at its chosen setting on seed s, sampled, and `greedy[arm][s]` greedily;
    `baselines[name][s]` the same for policies that cost nothing (`sft_greedy` among them);
    `points[arm][s]` all its settings. `judge` is its name, `proxy` whether it is one. `shared_prompts`: the
    prompts are the same in every seed, entry by entry. `edges`: for arms whose chosen setting stands at the
    end of what they tried, a sentence. With one seed there are no intervals and no winner.
    """
    names = list(scores)
    digits = digits_of([*scores.values(), *(v for k, v in baselines.items() if k == "sft_sampled")])
    wins = win_rates(scores, greedy, baselines, shared_prompts=shared_prompts)
    between = {(a, b): subtracted(scores[a], scores[b]) for a, b in combinations(names, 2)}
    apart = told_apart(list(between.values()), shared_prompts=shared_prompts)
    pairs: list[dict[str, Any]] = []
    for (a, b), told in zip(between, apart, strict=True):
        pairs.append(
            {
                "a": a,
                "b": b,
                "difference": as_dict(over_seeds(between[a, b], shared_prompts=shared_prompts)),
                "apart": told,
                "matched_kl": matched_kl(points[a], points[b], shared_prompts=shared_prompts, digits=digits),
                "power": power_of(between[a, b], shared_prompts=shared_prompts, digits=digits),
                "wins": next(w for w in wins if (w["a"], w["b"], w["how"]) == (a, b, "sampled")),
            }
        )

    def against(a: Scores, b: Scores) -> dict[str, float]:
        return as_dict(difference(a, b, shared_prompts=shared_prompts))

    found: dict[str, Any] = {
        "winner": best_of(names, pairs),
        "arms": names,
        "seeds": len(scores[names[0]]),
        "judge": judge,
        "proxy": proxy,
        "digits": digits,
        "settings": {arm: len(points[arm][0]) for arm in names},
        "pairs": pairs,
        "wins": wins,
        "against_baselines": {
            arm: {name: against(scores[arm], values) for name, values in baselines.items()} for arm in names
        },
        "greedy_against_sft_greedy": {arm: against(greedy[arm], baselines["sft_greedy"]) for arm in names},
    }
    found["edges"] = dict(edges or {})
    return {"text": verdict_words(found), **found}


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


def told_apart(differences: Sequence[Sequence[Tensor]], *, shared_prompts: bool = False) -> list[bool]:
    """Which of several paired differences are not zero, at 5% for all of them together.

    Holm (1979, Scandinavian Journal of Statistics 6): from the clearest on, the i-th of m must exclude zero at
    confidence 1 - alpha / (m - i + 1); the first that does not ends it. `differences[d][s]`: [P_s].
    """

    def clearness(values: Sequence[Tensor]) -> float:
        found = over_seeds(values, shared_prompts=shared_prompts)
        half = (found.high - found.low) / 2
        return abs(found.estimate) / half if half > 0 else math.inf if found.estimate else 0.0

    apart = [False] * len(differences)
    order = list(range(len(differences)))
    if len(order) > 1:
        order.sort(key=lambda i: -clearness(differences[i]))
    for rank, i in enumerate(order):
        confidence = 1 - ALPHA / (len(order) - rank)
        found = over_seeds(differences[i], shared_prompts=shared_prompts, confidence=confidence)
        if not (found.low > 0 or found.high < 0):
            break
        apart[i] = True
    return apart


def digits_of(policies: Sequence[Scores]) -> int:
    """Digits that scores deserve: two, or three where all are known to better than 0.05 over prompts."""
    halves = [1.96 * sum(standard_error(s) ** 2 for s in seeds) ** 0.5 / len(seeds) for seeds in policies]
    known = [h for h in halves if h == h]
    return 3 if known and max(known) < 0.05 else 2


def choose(candidates: Mapping[str, Sequence[float]]) -> str:
    """The setting with the highest mean over seeds on the tuning prompts; the first of equals."""
    means = {
        label: torch.tensor(values, dtype=torch.float64).mean().item() for label, values in candidates.items()
    }
    return max(means, key=lambda label: means[label])
