"""What a receipt counts with: named rows, lengths, and how much longer chosen responses are."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

from tastemaker.data.visible import visible
from tastemaker.functional import student_quantile

SHOWN = 20
"""Rows named of each finding; all are counted."""
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Rows:
    """Rows that something was found in; the first 20 by name."""

    count: int = 0
    rows: tuple[str, ...] = ()

    def named(self, most: int = 3) -> str:
        """The first few names, fit to print."""
        return _listed([visible(row) for row in self.rows[:most]], self.count)


@dataclass(frozen=True)
class Linked:
    """Rows, each with the row it repeats or contradicts; the first 20 by name."""

    count: int = 0
    rows: tuple[tuple[str, str], ...] = ()

    def named(self, word: str, most: int = 3) -> str:
        """The first few, e.g. "7 as 2, 9 as 2, ..." where `word` is "as"."""
        return _listed([f"{visible(a)} {word} {visible(b)}" for a, b in self.rows[:most]], self.count)


def _listed(names: Sequence[str], count: int) -> str:
    return ", ".join([*names, "..."] if count > len(names) else names)


@dataclass
class RowTally:
    """Collects `Rows`; `most` by name, all where it is None."""

    most: int | None = SHOWN
    count: int = 0
    rows: list[str] = field(default_factory=list[str])

    def add(self, row: str) -> None:
        self.count += 1
        if self.most is None or len(self.rows) < self.most:
            self.rows.append(row)

    def done(self) -> Rows:
        return Rows(self.count, tuple(self.rows))


@dataclass
class LinkTally:
    """Collects `Linked`; `most` by name, all where it is None."""

    most: int | None = SHOWN
    count: int = 0
    rows: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def add(self, row: str, other: str) -> None:
        self.count += 1
        if self.most is None or len(self.rows) < self.most:
            self.rows.append((row, other))

    def done(self) -> Linked:
        return Linked(self.count, tuple(self.rows))


# ------------------------------------------------------------------------------------------- lengths


@dataclass(frozen=True)
class Lengths:
    """Lengths in tokens or characters. `p50` and `p95`: the smallest length that at least 50% and 95% do not
    exceed.
    """

    mean: float
    p95: int
    max: int
    p50: int = 0


def lengths(values: Iterable[int]) -> Lengths:
    """Mean, median and 95th percentile (nearest rank) and maximum; zeros where there are no values."""
    ordered = sorted(values)
    if not ordered:
        return Lengths(0.0, 0, 0)
    p50, p95 = (ordered[-(-percent * len(ordered) // 100) - 1] for percent in (50, 95))
    return Lengths(mean=sum(ordered) / len(ordered), p50=p50, p95=p95, max=ordered[-1])


def ordered_pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """(better, worse) for every two responses that the ranks order strictly; 0 is best."""
    return [(i, j) for i, a in enumerate(ranks) for j, b in enumerate(ranks) if a < b]


@dataclass(frozen=True)
class LengthBias:
    """How much longer chosen responses are than rejected ones, over pairs. Intervals are of 95%."""

    pairs: int
    longer: int
    """Pairs whose chosen response is the longer one."""
    shorter: int
    equal: int
    share: float | None
    """longer / (longer + shorter); none where all lengths are equal."""
    share_low: float | None
    share_high: float | None
    mean_difference: float
    """Mean of chosen minus rejected."""
    difference_low: float | None
    """None where fewer than two prompts are compared."""
    difference_high: float | None

    def words(self, unit: str) -> str:
        """One line for a person."""
        if self.share is None:
            return f"chosen and rejected responses are equally long, in {unit}"
        return (
            f"the chosen response is the longer one in {self.share_words('of pairs ')}, by "
            f"{self.difference_words(f'{unit} on average ')}"
        )

    def share_words(self, of: str = "") -> str:
        """The share and its interval, e.g. "44% of pairs (42% to 47%)"."""
        if self.share is None or self.share_low is None or self.share_high is None:
            return "none"
        return f"{self.share:.0%} {of}({self.share_low:.0%} to {self.share_high:.0%})"

    def difference_words(self, of: str = "") -> str:
        """The mean difference and its interval, e.g. "-44.7 characters on average (-55.7 to -33.7)"."""
        if self.difference_low is None or self.difference_high is None:
            return f"{self.mean_difference:+.1f} {of}".rstrip()
        return f"{self.mean_difference:+.1f} {of}({self.difference_low:+.1f} to {self.difference_high:+.1f})"


def length_bias(sizes: Sequence[tuple[int, int]], prompts: Sequence[Hashable]) -> LengthBias | None:
    """Length bias of pairs (chosen, rejected) of one prompt each; None where there are no pairs.

    Pairs of one prompt (rankings, several annotators) are not independent, so intervals take prompts as their
    unit: the variance of the ratio longer/unequal, and of the mean difference, from sums within prompts
    (Cochran 1977, Sampling Techniques, chapter 2.11 and 3.12). The share's interval is Wilson's (1927) with n
    divided by the design effect where that is above 1; with one pair a prompt it is Wilson's own. The
    difference's is Student's with one degree of freedom less than there are prompts.
    """
    if not sizes:
        return None
    longer = sum(c > r for c, r in sizes)
    shorter = sum(c < r for c, r in sizes)
    by_prompt: dict[Hashable, list[int]] = defaultdict(list)
    for (chosen, rejected), prompt in zip(sizes, prompts, strict=True):
        by_prompt[prompt].append(chosen - rejected)
    share_low, share_high = _share_interval(longer, longer + shorter, list(by_prompt.values()))
    mean = sum(c - r for c, r in sizes) / len(sizes)
    half = _difference_half(mean, len(sizes), list(by_prompt.values()))
    return LengthBias(
        pairs=len(sizes),
        longer=longer,
        shorter=shorter,
        equal=len(sizes) - longer - shorter,
        share=longer / (longer + shorter) if longer + shorter else None,
        share_low=share_low,
        share_high=share_high,
        mean_difference=mean,
        difference_low=None if half is None else mean - half,
        difference_high=None if half is None else mean + half,
    )


def _share_interval(
    longer: int, unequal: int, prompts: Sequence[Sequence[int]]
) -> tuple[float | None, float | None]:
    if not unequal:
        return None, None
    share = longer / unequal
    variance = 0.0
    for differences in prompts:
        of_unequal = sum(d != 0 for d in differences)
        variance += (sum(d > 0 for d in differences) - share * of_unequal) ** 2
    n = float(unequal)
    if variance > 0:
        n = min(n, share * (1 - share) * unequal**2 / variance)
    else:  # all alike: as many as there are prompts that tell
        n = float(sum(any(d != 0 for d in differences) for differences in prompts))
    z = NormalDist().inv_cdf(0.5 + _CONFIDENCE / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _difference_half(mean: float, n: int, prompts: Sequence[Sequence[int]]) -> float | None:
    groups = len(prompts)
    if groups < 2:
        return None
    squares = sum(sum(d - mean for d in differences) ** 2 for differences in prompts)
    error = math.sqrt(groups / (groups - 1) * squares) / n
    return student_quantile(0.5 + _CONFIDENCE / 2, groups - 1) * error
