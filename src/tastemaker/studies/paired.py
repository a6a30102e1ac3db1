"""Differences between two policies that answered the same prompts on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from tastemaker.functional import Interval, paired_interval

Scores = Sequence[Tensor]
"""For every seed [P]: the judge's score of each prompt's answer."""


def subtracted(a: Scores, b: Scores) -> list[Tensor]:
    """Differences `a` - `b` by seed and prompt."""
    return [x - y for x, y in zip(a, b, strict=True)]


def over_seeds(values: Scores, *, shared_prompts: bool = False, confidence: float = 0.95) -> Interval:
    """The mean of `values[s]` [P_s] with its interval; without bounds (NaN) where there is one seed, since
    one seed cannot show how much seeds differ.
    """
    found = paired_interval(values, shared_prompts=shared_prompts, confidence=confidence)
    return found if len(values) > 1 else Interval(found.estimate, math.nan, math.nan)


def difference(a: Scores, b: Scores, *, shared_prompts: bool = False, confidence: float = 0.95) -> Interval:
    """Mean of a - b and its interval. `a[s]`, `b[s]`: [P] scores of seed s on the same prompts.

    `shared_prompts`: the prompts are also the same in every seed.
    """
    return over_seeds(subtracted(a, b), shared_prompts=shared_prompts, confidence=confidence)


def as_dict(interval: Interval) -> dict[str, float]:
    """For JSON; a bound that is not known is NaN, and null in `results.json`."""
    return {"mean": interval.estimate, "low": interval.low, "high": interval.high}
