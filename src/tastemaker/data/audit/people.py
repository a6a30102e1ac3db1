"""Whose taste is it: how labels are spread over annotators and groups of them, and how far these agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tastemaker.data.measures import LengthBias, length_bias
from tastemaker.functional.agreement import category_counts, krippendorff_alpha, raw_agreement
from tastemaker.types import Comparison

SHUFFLES = 999
"""Random groupings that a grouping is held against."""
RESAMPLES = 200
_SEED = 0
TIE = "tie"
MOST_PEOPLE = 50
"""Annotators told of one by one, those with the most labels."""


@dataclass(frozen=True)
class Vote:
    """What one label says of two responses."""

    who: str
    """The annotator; of somebody unnamed, something that no other label has."""
    named: bool
    said: str
    """Which is the better response, "0" or "1" in the order of their digests, or `TIE`."""
    groups: Mapping[str, str]


@dataclass
class Voices:
    """Every label of a pair of responses, by the pair."""

    units: dict[bytes, list[Vote]] = field(default_factory=dict[bytes, list[Vote]])
    sizes: dict[str, list[tuple[int, int]]] = field(default_factory=dict[str, list[tuple[int, int]]])
    """Annotator -> lengths of chosen and rejected."""
    first: dict[str, list[tuple[int, int]]] = field(default_factory=dict[str, list[tuple[int, int]]])
    """Annotator -> (1, 0) where the chosen response was shown first, (0, 1) where the rejected was."""

    def add(
        self,
        record: Comparison,
        prompt: bytes,
        said: Sequence[bytes],
        who: str,
        groups: Mapping[str, str],
        sizes: Sequence[int],
    ) -> None:
        """One label; rankings give one vote for each two responses. `who` is "" where nobody is named."""
        ranks, topic = record.ranking, prompt + record.objective.encode()
        for i, j in combinations(range(len(said)), 2):
            if said[i] == said[j]:
                continue
            both = sorted((said[i], said[j]))
            best = TIE if ranks[i] == ranks[j] else str(both.index(said[i] if ranks[i] < ranks[j] else said[j]))
            unit = topic + b"".join(both)
            votes = self.units.setdefault(unit, [])
            votes.append(Vote(who or f"\0{len(self.units)}.{len(votes)}", bool(who), best, groups))
            if best == TIE:
                continue
            good, bad = (i, j) if ranks[i] < ranks[j] else (j, i)
            self.sizes.setdefault(who, []).append((sizes[good], sizes[bad]))
            if record.shown_order is not None and len(said) == 2:
                lead = record.shown_order[0] == good
                self.first.setdefault(who, []).append((int(lead), int(not lead)))


# ------------------------------------------------------------------------------------------ everybody


def spread(voices: Voices) -> dict[str, Any]:
    """Agreement over all labels, and each annotator beside the others; plain values, None where undefined."""
    several = [votes for votes in voices.units.values() if len({v.who for v in votes}) > 1]
    people = Counter(v.who for votes in voices.units.values() for v in votes if v.named)
    total = sum(len(votes) for votes in voices.units.values())
    majority = _with_others(several)
    found: dict[str, Any] = {
        "votes": total,
        "unnamed": total - sum(people.values()),
        "units": len(voices.units),
        "units_with_several": len(several),
        "unanimous": sum(len({v.said for v in votes}) == 1 for votes in several),
        "people": len(people),
        "agreement": _agreement(several),
        "annotators": [
            {
                "name": who,
                "votes": n,
                "share": n / total,
                "with_others": _rate(majority.get(who, [])),
                "longer": _bias(length_bias(s, range(len(s)))) if (s := voices.sizes.get(who)) else None,
                "first": _bias(length_bias(f, range(len(f)))) if (f := voices.first.get(who)) else None,
            }
            for who, n in people.most_common(MOST_PEOPLE)
        ],
    }
    return found


def _agreement(several: Sequence[Sequence[Vote]]) -> dict[str, Any] | None:
    """Raw agreement and Krippendorff's alpha (nominal) over pairs with several labels, with percentile
    bootstrap intervals over pairs.
    """
    if len(several) < 2:
        return None
    counts = category_counts([[v.said for v in votes] for votes in several], ["0", "1", TIE])
    generator = torch.Generator().manual_seed(_SEED)
    found: dict[str, Any] = {"pairs": len(several)}
    for name, measure in (("raw", raw_agreement), ("alpha", krippendorff_alpha)):
        value = measure(counts)
        drawn = sorted(
            v
            for _ in range(RESAMPLES)
            if (v := measure(counts[torch.randint(len(counts), (len(counts),), generator=generator)])) == v
        )
        low, high = (drawn[int(q * (len(drawn) - 1))] for q in (0.025, 0.975)) if drawn else (value, value)
        found[name] = None if math.isnan(value) else {"value": value, "low": low, "high": high}
    return found


def _with_others(several: Sequence[Sequence[Vote]]) -> dict[str, list[bool]]:
    """Annotator -> for each pair where the others have a majority, whether they are with it."""
    found: dict[str, list[bool]] = {}
    for votes in several:
        counts = Counter(v.said for v in votes)
        for vote in votes:
            others = counts - Counter([vote.said])
            top = others.most_common(2)
            if vote.named and top and (len(top) == 1 or top[0][1] > top[1][1]):
                found.setdefault(vote.who, []).append(vote.said == top[0][0])
    return found


def _rate(hits: Sequence[bool]) -> dict[str, Any] | None:
    """A share of hits with Wilson's interval, each hit counting on its own."""
    bias = length_bias([(int(h), int(not h)) for h in hits], range(len(hits)))
    return _bias(bias)


def _bias(bias: LengthBias | None) -> dict[str, Any] | None:
    if bias is None or bias.share is None:
        return None
    return {
        "value": bias.share,
        "low": bias.share_low,
        "high": bias.share_high,
        "n": bias.longer + bias.shorter,
    }


# --------------------------------------------------------------------------------------------- groups


def by_group(voices: Voices, name: str) -> dict[str, Any]:
    """How far groups of annotators agree among themselves and with each other.

    Agreement of two labels of one pair by two annotators is counted over all such pairs of labels, within a
    group and across groups. The p-value is of a permutation test: annotators (labels, where nobody is named)
    are dealt to the groups at random, 999 times; it is the share of dealings whose difference (within minus
    across) is as large, the real one counted too (Phipson and Smyth 2010).
    """
    labels = Counter(v.groups[name] for votes in voices.units.values() for v in votes if v.groups.get(name))
    names = [group for group, _ in labels.most_common()]
    total = sum(labels.values())
    agreeing = _Agreeing(voices, name, names)
    majorities = _majorities(voices, name)
    apart: list[dict[str, Any]] = []
    for a, b in combinations(names, 2):
        both = [(m[a], m[b]) for m in majorities if a in m and b in m]
        n, agree = agreeing.between(a, b)
        apart.append(
            {
                "groups": [a, b],
                "agreement": agree / n if n else None,
                "label_pairs": n,
                "pairs": len(both),
                "opposed": sum(x != y for x, y in both),
            }
        )
    return {
        "name": name,
        "labels": total,
        "groups": [
            {
                "name": group,
                "votes": n,
                "share": n / total,
                "people": len(agreeing.members.get(group, ())),
                "within": agreeing.within(group),
            }
            for group, n in labels.most_common()
        ],
        "between": apart,
        **agreeing.test(),
    }


def _majorities(voices: Voices, name: str) -> list[dict[str, str]]:
    """Of each pair, what most of each group say; groups without a clear majority are left out."""
    found: list[dict[str, str]] = []
    for votes in voices.units.values():
        by: dict[str, Counter[str]] = {}
        for vote in votes:
            group = vote.groups.get(name)
            if group:
                by.setdefault(group, Counter())[vote.said] += 1
        clear: dict[str, str] = {}
        for group, counts in by.items():
            top = counts.most_common(2)
            if len(top) == 1 or top[0][1] > top[1][1]:
                clear[group] = top[0][0]
        if len(clear) > 1:
            found.append(clear)
    return found


class _Agreeing:
    """Counts of agreeing labels by two annotators, so that annotators can be dealt to groups again."""

    def __init__(self, voices: Voices, name: str, names: Sequence[str]) -> None:
        numbers: dict[str, int] = {}
        groups: dict[int, Counter[str]] = {}
        tally: dict[tuple[int, int], list[int]] = {}
        for votes in voices.units.values():
            known = [v for v in votes if v.groups.get(name)]
            for vote in known:
                own = numbers.setdefault(vote.who, len(numbers))
                groups.setdefault(own, Counter())[vote.groups[name]] += 1
            for a, b in combinations(known, 2):
                if a.who != b.who:
                    key = (numbers[a.who], numbers[b.who])
                    entry = tally.setdefault((min(key), max(key)), [0, 0])
                    entry[0] += 1
                    entry[1] += a.said == b.said
        self.names = {group: k for k, group in enumerate(names)}
        # Somebody labelled under two groups counts to the one they labelled under most.
        self.of = np.array([self.names[groups[k].most_common(1)[0][0]] for k in range(len(groups))], np.int64)
        self.members: dict[str, set[str]] = {}
        for who, k in numbers.items():
            self.members.setdefault(names[int(self.of[k])], set()).add(who)
        self.left = np.array([a for a, _ in tally], np.int64)
        self.right = np.array([b for _, b in tally], np.int64)
        self.n = np.array([n for n, _ in tally.values()], np.float64)
        self.agree = np.array([agree for _, agree in tally.values()], np.float64)

    def between(self, a: str, b: str) -> tuple[int, int]:
        """(pairs of labels across two groups, those that agree)."""
        x, y = self.of[self.left], self.of[self.right]
        i, j = self.names[a], self.names[b]
        chosen = ((x == i) & (y == j)) | ((x == j) & (y == i))
        return int(self.n[chosen].sum()), int(self.agree[chosen].sum())

    def within(self, group: str) -> dict[str, Any]:
        """Agreement of labels within a group; None where no two of its members labelled one pair."""
        own = self.names[group]
        chosen = (self.of[self.left] == own) & (self.of[self.right] == own)
        n = float(self.n[chosen].sum())
        return {"value": float(self.agree[chosen].sum()) / n if n else None, "label_pairs": int(n)}

    def _difference(self, of: NDArray[np.int64]) -> tuple[float | None, float | None]:
        same = of[self.left] == of[self.right]
        inside, across = float(self.n[same].sum()), float(self.n[~same].sum())
        return (
            float(self.agree[same].sum()) / inside if inside else None,
            float(self.agree[~same].sum()) / across if across else None,
        )

    def test(self) -> dict[str, Any]:
        """Agreement within and across all groups, and the p-value of their difference."""
        within, across = self._difference(self.of)
        if within is None or across is None:
            return {"within": within, "across": across, "p": None, "shuffles": 0}
        random = np.random.default_rng(_SEED)
        as_large = 1
        for _ in range(SHUFFLES):
            w, a = self._difference(random.permutation(self.of))
            as_large += w is not None and a is not None and w - a >= within - across - 1e-12
        return {"within": within, "across": across, "p": as_large / (SHUFFLES + 1), "shuffles": SHUFFLES}
