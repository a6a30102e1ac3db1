"""How far the people of a project agree: beyond chance, two by two, and within groups of annotators and
between.

Intervals are of 95 %, from bootstrap samples over items; what is undefined is None, never 1.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, TypeVar

import torch

from tastemaker.feedback.annotators import Label
from tastemaker.functional.agreement import (
    category_counts,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    raw_agreement,
)
from tastemaker.functional.win_rates import wilson_interval

RESAMPLES = 200
_PAIRS_SHOWN = 12
_SHARED = 10
"""Items that two people must share for their kappa to be told."""
_CONTESTED = 100
_Unit = TypeVar("_Unit")
ByItem = Mapping[int, Mapping[str, str]]
"""Item -> annotator -> category."""


def agreement(labels: Sequence[Label]) -> dict[str, Any]:
    """Raw agreement, Krippendorff's alpha (nominal), Fleiss' kappa over the items that have the commonest
    number of labels, and Cohen's kappa: of each two people who share items, and their mean weighted by shared
    items.
    """
    by_item = _by_item(labels)
    several = [list(said.values()) for said in by_item.values() if len(said) > 1]
    categories = sorted({c for _, _, c in labels})
    found: dict[str, Any] = {"items": len(several), "raters": len({who for _, who, _ in labels})}
    for name, measure in (("raw", raw_agreement), ("alpha", krippendorff_alpha)):
        found[name] = _of_counts(several, categories, measure)
    usual = Counter(map(len, several)).most_common(1)
    alike = [unit for unit in several if len(unit) == usual[0][0]]
    fleiss = _of_counts(alike, categories, fleiss_kappa)
    found["fleiss"] = None if fleiss is None else {**fleiss, "items": len(alike), "ratings": usual[0][0]}
    found["cohen"], found["pairs"] = _cohen(by_item, categories)
    return found


def _by_item(labels: Sequence[Label]) -> dict[int, dict[str, str]]:
    found: dict[int, dict[str, str]] = {}
    for item, who, category in labels:
        found.setdefault(item, {})[who] = category
    return found


def _of_counts(
    units: Sequence[Sequence[object]], categories: Sequence[object], measure: Callable[..., float]
) -> dict[str, float] | None:
    counts = category_counts(units, categories)
    return resampled(list(range(len(units))), lambda drawn: measure(counts[drawn]))


def resampled(units: Sequence[_Unit], measure: Callable[[list[_Unit]], float]) -> dict[str, float] | None:
    """A figure of `units` with its percentile bootstrap interval; None for fewer than two units, or where it is
    not defined.
    """
    value = measure(list(units)) if len(units) > 1 else math.nan
    if math.isnan(value):
        return None
    rng = random.Random(0)
    samples = (measure(rng.choices(units, k=len(units))) for _ in range(RESAMPLES))
    drawn = sorted(v for v in samples if not math.isnan(v))
    if not drawn:
        return {"value": value, "low": value, "high": value}
    low, high = drawn[int(0.025 * len(drawn))], drawn[min(len(drawn) - 1, int(0.975 * len(drawn)))]
    return {"value": value, "low": low, "high": high}


def _cohen(by_item: ByItem, categories: Sequence[str]) -> tuple[dict[str, float] | None, list[dict[str, Any]]]:
    """(the mean over pairs of people, by shared items; the pairs that share most)."""
    place = {c: i for i, c in enumerate(categories)}
    shared: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for item, said in by_item.items():
        for a, b in combinations(sorted(said), 2):
            shared.setdefault((a, b), []).append((item, place[said[a]], place[said[b]]))
    enough = {two: cells for two, cells in shared.items() if len(cells) >= _SHARED}

    def kappa(cells: Sequence[tuple[int, int, int]]) -> float:
        flat = torch.tensor([i * len(place) + j for _, i, j in cells])
        return cohen_kappa(torch.bincount(flat, minlength=len(place) ** 2).reshape(len(place), -1))

    def mean(items: list[int]) -> float:
        times = Counter(items)
        total = weight = 0.0
        for cells in enough.values():
            drawn = [cell for cell in cells for _ in range(times[cell[0]])]
            value = kappa(drawn) if drawn else math.nan
            if not math.isnan(value):
                total, weight = total + value * len(drawn), weight + len(drawn)
        return total / weight if weight else math.nan

    shown = sorted(enough.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:_PAIRS_SHOWN]
    pairs = [
        {"people": list(two), "items": len(cells), **(resampled(cells, kappa) or {"value": None})}
        for two, cells in shown
    ]
    items = sorted({item for cells in enough.values() for item, _, _ in cells})
    return resampled(items, mean), pairs


# ------------------------------------------------------------------------------------ groups of annotators


def group_agreement(
    labels: Sequence[Label], groups: Mapping[str, str], names: Mapping[int, str]
) -> dict[str, Any] | None:
    """Whose taste is it? Agreement within groups of annotators and between them; None with fewer than two
    groups.

    Of each group: people, labels, share of all labels, alpha within, and how often its majority is the majority
    of everyone. `gap`: how much more often two people of one group agree than two of different groups, over
    items on which both can be seen (0 where groups do not differ in taste). `contested`: items whose groups
    have different majorities. People without a group are left out.
    """
    own = [(item, who, said) for item, who, said in labels if groups.get(who)]
    everyone = sorted({groups[who] for _, who, _ in own})
    if len(everyone) < 2:
        return None
    by_item = _by_item(own)
    tops = {item: _tops(said, groups) for item, said in by_item.items()}
    told = [_group(group, own, by_item, groups, tops) for group in everyone]
    contested = [
        {"item": item, "name": names.get(item, ""), "said": found}
        for item, found in tops.items()
        if len(set(found.values())) > 1
    ]
    units = [pair for said in by_item.values() if (pair := _inside_and_across(said, groups)) is not None]
    gap = resampled(units, lambda drawn: sum(a - b for a, b in drawn) / len(drawn))
    return {
        "groups": told,
        "gap": None if gap is None else {**gap, "items": len(units)},
        "contested": contested[:_CONTESTED],
        "contested_items": len(contested),
        "shared_items": sum(len(found) > 1 for found in tops.values()),
    }


def _group(
    group: str,
    labels: Sequence[Label],
    by_item: ByItem,
    groups: Mapping[str, str],
    tops: Mapping[int, Mapping[str, str]],
) -> dict[str, Any]:
    own = [label for label in labels if groups[label[1]] == group]
    units = [list(said.values()) for said in _by_item(own).values() if len(said) > 1]
    hits = [
        tops[item][group] == best
        for item, said in by_item.items()
        if group in tops[item] and len(tops[item]) > 1 and (best := majority(said.values())) is not None
    ]
    share = wilson_interval(sum(hits) / len(hits), len(hits)) if hits else None
    return {
        "group": group,
        "people": len({who for _, who, _ in own}),
        "labels": len(own),
        "share": len(own) / len(labels),
        "alpha": _of_counts(units, sorted({c for _, _, c in labels}), krippendorff_alpha),
        "with_all": None
        if share is None
        else {"value": share[0], "low": share[1], "high": share[2], "n": len(hits)},
    }


def majority(said: Iterable[str] | Mapping[str, int]) -> str | None:
    """The commonest of categories (or of counts by category); None where two are as common."""
    top = Counter[str](said).most_common(2)
    return top[0][0] if top and (len(top) == 1 or top[0][1] > top[1][1]) else None


def _tops(said: Mapping[str, str], groups: Mapping[str, str]) -> dict[str, str]:
    """Group -> its majority on one item, where it has one."""
    parts: dict[str, list[str]] = {}
    for who, category in said.items():
        parts.setdefault(groups[who], []).append(category)
    return {group: top for group, given in parts.items() if (top := majority(given)) is not None}


def _inside_and_across(said: Mapping[str, str], groups: Mapping[str, str]) -> tuple[float, float] | None:
    """How often two people of one group agree on an item, and two of different groups; None without both."""
    inside: list[bool] = []
    across: list[bool] = []
    for a, b in combinations(said, 2):
        (inside if groups[a] == groups[b] else across).append(said[a] == said[b])
    return (sum(inside) / len(inside), sum(across) / len(across)) if inside and across else None
