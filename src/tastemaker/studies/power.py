"""What a study could have found, and what it would take to decide.

A paired difference between two arms scatters over seeds (variance s^2) and over prompts (w^2). Over S seeds of
P prompts its mean has variance V = (s^2 + w^2 / P) / S, and it counts as found where `paired_interval` excludes
zero on its side. That interval's width is itself random: the seed means scatter as chi-square with S - 1
degrees of freedom, so

    power(d) = E_q Phi((d - half(q)) / sqrt(V)),   half(q)^2 = max(t[S-1]^2 V q / (S - 1), z^2 w^2 / (P S))

for q ~ chi-square[S - 1] (without the second term, the floor, this is the power of Student's t test). More
prompts shrink w^2 / P alone: where s^2 / S is too much by itself, no number of prompts will do.

s^2 and w^2 are estimated from the same study, s^2 from S values only; so the figures are rough for few
seeds, and for a difference that looks larger than it is they are too hopeful.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import optimize, special
from torch import Tensor

from tastemaker.functional import Spread, paired_spread
from tastemaker.studies.paired import over_seeds
from tastemaker.studies.written import above, below, counted, number

PROBABILITY = 0.8
MOST_SEEDS, MOST_PROMPTS = 100, 100_000
"""Beyond these nothing is promised."""
FEW_SEEDS = 4
"""Up to here the scatter over seeds is hardly known."""
_NODES = 256


def power(effect: float, spread: Spread, seeds: int, prompts: float, *, confidence: float = 0.95) -> float:
    """The probability that `paired_interval` excludes zero on the side of a true difference `effect`.

    `prompts` (infinity allowed) is for each seed. NaN for one seed or a spread that is not known.
    """
    if seeds < 2 or math.isnan(spread.seeds):
        return math.nan
    luck = spread.within / prompts / seeds
    own, shared = spread.seeds / seeds + luck, spread.prompts / prompts
    if own + shared == 0:
        return float(effect != 0)
    tail = 0.5 + confidence / 2
    among_seeds = special.stdtrit(seeds - 1, tail) ** 2 * own * _scatter(seeds - 1)
    floor = special.stdtrit(max(1.0, min(seeds * (prompts - 1), 1e9)), tail) ** 2 * luck
    of_prompts = special.stdtrit(max(1.0, min(prompts - 1, 1e9)), tail) ** 2 * shared
    half = np.sqrt(np.maximum(among_seeds, floor) + of_prompts)
    return float(special.ndtr((abs(effect) - half) / math.sqrt(own + shared)).mean())


def detectable(spread: Spread, seeds: int, prompts: float, *, probability: float = PROBABILITY) -> float:
    """The smallest true difference that is found with this probability; NaN for one seed."""
    if seeds < 2 or math.isnan(spread.seeds):
        return math.nan
    top = math.sqrt((spread.seeds + spread.within / prompts) / seeds + spread.prompts / prompts)
    if top == 0:
        return 0.0
    while power(top, spread, seeds, prompts) < probability:
        top *= 2
    found: Any = optimize.brentq(lambda d: power(d, spread, seeds, prompts) - probability, 0, top)
    return float(found)


def seeds_needed(
    effect: float, spread: Spread, prompts: float, *, probability: float = PROBABILITY
) -> int | None:
    """The fewest seeds of `prompts` prompts that find `effect`; None beyond MOST_SEEDS."""
    tried = range(2, MOST_SEEDS + 1)
    at = bisect_left(tried, True, key=lambda n: power(effect, spread, n, prompts) >= probability)
    return tried[at] if at < len(tried) else None


def prompts_needed(
    effect: float, spread: Spread, seeds: int, *, probability: float = PROBABILITY
) -> float | None:
    """The fewest prompts a seed that find `effect` with this many seeds; None beyond MOST_PROMPTS, infinity
    where no number of prompts would.
    """
    if not power(effect, spread, seeds, math.inf) >= probability:
        return math.inf
    tried = range(2, MOST_PROMPTS + 1)
    at = bisect_left(tried, True, key=lambda n: power(effect, spread, seeds, n) >= probability)
    return tried[at] if at < len(tried) else None


def power_of(differences: Sequence[Tensor], *, shared_prompts: bool = False, digits: int = 2) -> dict[str, Any]:
    """What this study could find and what deciding it would take, from `differences[s]` [P_s] by seed.

    `detectable`: the smallest difference found with 80% probability; `seeds_needed` (at the present number of
    prompts) and `prompts_needed` (for each of the present seeds), were the true difference the one observed;
    None where unknown or beyond what would help; `sd_seeds`, `sd_prompts` (of one prompt's difference), and
    `sd_shared` for the part of it that is the same in every seed; `text`: one sentence, with `digits` digits.
    """
    seeds = len(differences)
    sizes = [len(d) for d in differences]
    prompts = seeds / sum(1 / n for n in sizes)
    spread = paired_spread(differences, shared_prompts=shared_prompts)
    found = over_seeds(differences, shared_prompts=shared_prompts)
    effect = found.estimate
    enough = seeds_needed(effect, spread, prompts) if seeds > 1 else None
    longer = prompts_needed(effect, spread, seeds) if seeds > 1 else None
    least = detectable(spread, seeds, prompts)
    bounds = {"low": found.low, "high": found.high}
    size = f"{counted(seeds, 'seed')} of {counted(round(prompts), 'prompt')}"
    if seeds == 1:
        text = one_seed(effect, spread, prompts)
    else:
        text = f"{size} find a difference of {number(least, digits)} with {PROBABILITY:.0%} probability"
        if not above(bounds) and not below(bounds):
            text += f"; for the {number(effect, digits, sign=True)} seen here it would take "
            text += needed(enough, longer, seeds, math.sqrt(spread.seeds), digits)
    return {
        "detectable": None if math.isnan(least) else least,
        "seeds_needed": enough,
        "prompts_needed": int(longer) if longer is not None and math.isfinite(longer) else None,
        "sd_seeds": None if math.isnan(spread.seeds) else math.sqrt(spread.seeds),
        "sd_prompts": math.sqrt(spread.within + spread.prompts),
        "sd_shared": math.sqrt(spread.prompts),
        "seeds": seeds,
        "prompts": round(prompts),
        "probability": PROBABILITY,
        "text": text + ".",
    }


def one_seed(effect: float, spread: Spread, prompts: float) -> str:
    """What can be said without knowing how much seeds differ."""
    alike = seeds_needed(effect, spread._replace(seeds=0.0), prompts)
    least = f"{alike} seeds" if alike is not None else f"more than {MOST_SEEDS} seeds"
    return (
        f"One seed cannot show how much seeds differ; even if they did not, {least} of "
        f"{counted(round(prompts), 'prompt')} would be needed for a difference as small as this"
    )


def needed(enough: int | None, longer: float | None, seeds: int, sd_seeds: float, digits: int) -> str:
    """Seeds or prompts, as the second half of a sentence."""
    if enough is None:
        text = f"more than {MOST_SEEDS} seeds"
    else:
        text = f"about {enough} seeds" + (f" ({enough - seeds} more)" if enough > seeds else "")
    if longer is None:
        text += f", or more than {MOST_PROMPTS:,} prompts a seed".replace(",", "\u202f", 1)
    elif math.isinf(longer):
        text += (
            f", and with {seeds} seeds no number of prompts will do: seeds differ too much "
            f"(standard deviation {number(sd_seeds, digits)})"
        )
    else:
        text += f", or {number(longer, 0)} prompts for each of the {seeds}"
    if seeds <= FEW_SEEDS:
        text += f"; these are rough figures, since {seeds} seeds hardly show how much seeds differ"
    return text


@lru_cache(maxsize=256)
def _scatter(df: int) -> Any:
    """Chi-square over its degrees of freedom at the middles of equally likely slices [_NODES]."""
    middles = (np.arange(_NODES) + 0.5) / _NODES
    return 2 * special.gammaincinv(df / 2, middles) / df
