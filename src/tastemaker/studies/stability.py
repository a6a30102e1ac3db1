"""How much an arm's outcome varies over seeds, and whether one arm varies less than another.

The seeds' means scatter because trained policies differ and because each is read on some prompts only. What
drawing prompts alone would cause is known from the readings (the pooled standard error) and is taken out of
the spread that is reported.

Two arms are compared by the ratio of the variances of their seed means, with its F interval. That interval
assumes normal, independent means. Arms that share a seed's start are correlated, which makes it wider than it
need be (Pitman 1939), never narrower. It is not robust to single wild runs, so the runs that stopped early are
counted beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from scipy import special

from tastemaker.functional import standard_error
from tastemaker.studies.paired import Scores
from tastemaker.studies.written import counted, number, percent, title

ALPHA = 0.05
SEEDS_LEAST = 3
"""Of two seeds the F interval rests on one difference each, and trusts in normality where nothing shows it."""
QUANTITIES: Mapping[str, str] = {"score": "in score", "kl": "in KL"}

Outcome = Mapping[str, Scores]
"""arm -> seed -> [P]."""


def stability(
    scores: Outcome, kls: Outcome, stopped: Mapping[str, Sequence[str | None]] | None = None
) -> dict[str, Any]:
    """The spread over seeds of every arm's mean score and mean KL, and which arms differ in it.

    `scores[arm][s]`, `kls[arm][s]`: [P] of seed s at the chosen setting; `stopped[arm]`: for every run of the
    arm why it ended early or diverged, None where it did not. Returns `arms`: arm -> `score` and `kl` (see
    `spread`), `runs`, `stopped`, `reasons`; `pairs`: `a`, `b` and for score and KL the `ratio` of variances,
    a over b, with `low`, `high` (intervals that hold for all pairs together, by Bonferroni) and `apart`; and
    `text`.
    """
    outcomes = {"score": scores, "kl": kls}
    arms: dict[str, dict[str, Any]] = {}
    for arm in scores:
        reasons = list((stopped or {}).get(arm, ()))
        arms[arm] = {
            **{name: spread(outcome[arm]) for name, outcome in outcomes.items() if arm in outcome},
            "runs": len(reasons),
            "stopped": sum(reason is not None for reason in reasons),
            "reasons": sorted({reason for reason in reasons if reason is not None}),
        }
    among = list(combinations(scores, 2))
    pairs = [
        {"a": a, "b": b}
        | {
            name: variance_ratio(arms[a][name], arms[b][name], confidence=1 - ALPHA / len(among))
            for name in outcomes
            if name in arms[a] and name in arms[b]
        }
        for a, b in among
    ]
    found = {"arms": arms, "pairs": pairs, "seeds": len(next(iter(scores.values())))}
    return {**found, "text": stability_words(found)}


def spread(values: Scores) -> dict[str, Any]:
    """How the means of `values[s]` [P] scatter over seeds.

    `mean`; `sd`, their standard deviation (ddof 1), with its 95% chi-square interval `low`, `high`;
    `sd_prompts`, what drawing prompts alone would make of it; `sd_seeds`, what is left for the seeds: the root
    of the difference of squares, 0 where prompts explain it all. None where there is one seed, or one prompt.
    """
    means = torch.stack([v.double().mean() for v in values])
    errors = [standard_error(v) for v in values]
    luck = math.sqrt(sum(e * e for e in errors) / len(errors))
    known = not math.isnan(luck)
    found = {"mean": float(means.mean()), "sd": None, "low": None, "high": None, "sd_seeds": None}
    found |= {"sd_prompts": luck if known else None, "seeds": len(values)}
    if len(values) < 2:
        return found
    df, sd = len(values) - 1, float(means.std(correction=1))
    return found | {
        "sd": sd,
        "low": sd * math.sqrt(df / special.chdtri(df, 0.025)),
        "high": sd * math.sqrt(df / special.chdtri(df, 0.975)),
        "sd_seeds": math.sqrt(max(0.0, sd * sd - luck * luck)) if known else None,
    }


def variance_ratio(
    a: Mapping[str, Any], b: Mapping[str, Any], *, confidence: float = 1 - ALPHA
) -> dict[str, Any]:
    """The variance of one arm's seed means over another's, from their `spread`, with its F interval.

    `apart`: the arms' seeds differ in spread, and not only the luck of prompts. Were the seeds' parts equal,
    the ratio would lie between that of the prompts' parts (seeds alike) and 1 (seeds far apart), so the
    interval must leave out all of that, from no fewer than three seeds. None where a variance is not known
    or is zero.
    """
    if not a["sd"] or not b["sd"]:
        return {"ratio": None, "low": None, "high": None, "apart": False}
    ratio = (a["sd"] / b["sd"]) ** 2
    tail = (1 + confidence) / 2
    low = ratio / float(special.fdtri(a["seeds"] - 1, b["seeds"] - 1, tail))
    high = ratio * float(special.fdtri(b["seeds"] - 1, a["seeds"] - 1, tail))
    luck = (a["sd_prompts"] / b["sd_prompts"]) ** 2 if a["sd_prompts"] and b["sd_prompts"] else 1.0
    apart = min(a["seeds"], b["seeds"]) >= SEEDS_LEAST and (low > max(1.0, luck) or high < min(1.0, luck))
    return {"ratio": ratio, "low": low, "high": high, "apart": apart}


def stability_words(found: Mapping[str, Any]) -> str:
    """What may be said of the arms' spread over seeds."""
    sentences = [pair_words(pair, found["arms"], found["seeds"]) for pair in found["pairs"]]
    for arm, each in found["arms"].items():
        if each["stopped"]:
            sentences.append(
                f"{each['stopped']} of {counted(each['runs'], 'run')} of {title(arm)} ended early: "
                f"{'; '.join(each['reasons'])}."
            )
    if any(each["runs"] for each in found["arms"].values()) and not any(
        each["stopped"] for each in found["arms"].values()
    ):
        sentences.append("No run ended early.")
    return " ".join(sentences)


def pair_words(pair: Mapping[str, Any], arms: Mapping[str, Any], seeds: int) -> str:
    """Whether the first or the second of two arms varies less, in score and in KL."""
    a, b = pair["a"], pair["b"]
    if seeds < 2:
        return f"One seed cannot show how much {title(a)} and {title(b)} vary over seeds."
    told: list[str] = []
    rest: list[str] = []
    for name, where in QUANTITIES.items():
        if name not in pair:
            continue
        one, other, ratio = arms[a][name], arms[b][name], pair[name]
        first, second = (a, b) if not ratio["apart"] or ratio["high"] < 1 else (b, a)
        smaller, larger = (one, other) if first == a else (other, one)
        figures = (
            f"standard deviation {number(smaller['sd'], digits_for(smaller['sd']))} "
            f"against {number(larger['sd'], digits_for(larger['sd']))}"
        )
        if ratio["apart"]:
            figures += at_levels(smaller["mean"], larger["mean"], smaller["sd"], larger["sd"]) * (name == "kl")
            told.append(f"{title(first)} varies less than {title(second)} over seeds {where}: {figures}")
        else:
            rest.append(f"{where} ({figures})")
    if rest:
        told.append(
            f"With {seeds} seeds {title(a)} and {title(b)} are not told apart in how much they vary, "
            + " or ".join(rest)
        )
    return " ".join(f"{sentence}." for sentence in told)


def at_levels(mean: float, other: float, sd: float, other_sd: float) -> str:
    """The KLs that two spreads of KL belong to: farther from the start seeds scatter more, by any method."""
    if min(mean, other) <= 0:
        return ""
    return (
        f"; their settings led to {number(mean)} and {number(other)} nats, relative to which it is "
        f"{percent(sd / mean)} against {percent(other_sd / other)}"
    )


def digits_for(value: float | None) -> int:
    """Two digits, or as many as a small spread needs to show two figures."""
    if not value:
        return 2
    return min(6, max(2, 1 - math.floor(math.log10(value))))
