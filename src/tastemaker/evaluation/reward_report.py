"""Reading a reward model on held-out pairs in full: how often right, how sure, what it leans on, what is
wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tastemaker.errors import TastemakerError
from tastemaker.functional import (
    best_of_n_expectation,
    best_of_n_kl,
    bootstrap_interval,
    brier_score,
    calibration_error,
    fit_temperature,
    log_loss,
    orient,
    reliability,
)

BINS = 10
MATCHED = 0.1
"""Lengths within this share of their mean count as matched."""
FEW = 20
"""Pairs below which a slice is shown and nothing is concluded from it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredPairs:
    """Scores of the two sides of n pairs, chosen and rejected, and what is known of each pair."""

    chosen: Tensor
    """[n] or [n, H] for an ensemble of H heads."""
    rejected: Tensor
    chosen_lengths: Tensor
    """[n] characters."""
    rejected_lengths: Tensor
    tied: Tensor
    """[n] bool: people called these a tie; in no accuracy."""
    subset: Sequence[str] = ()
    annotator: Sequence[str] = ()
    rows: Sequence[str] = ()
    gold: Tensor | None = None
    """[n] true margin, chosen less rejected, where the truth is known."""

    def __post_init__(self) -> None:
        for side in (self.chosen, self.rejected):
            wrong = ~side.isfinite().reshape(len(side), -1).all(1)
            if bool(wrong.any()):
                at = int(wrong.nonzero()[0])
                row = self.rows[at] if self.rows else f"pair {at}"
                raise TastemakerError(
                    f"{row}: the reward model gave a score that is not finite ({side[at].tolist()}). Its "
                    "weights or their precision are broken; load it in float32 and look at this row."
                )

    @property
    def margins(self) -> Tensor:
        """[n] float64: chosen less rejected, the mean over heads."""
        return _mean(self.chosen) - _mean(self.rejected)


def reward_report(pairs: ScoredPairs, *, seed: int = 0, bins: int = BINS) -> dict[str, Any]:
    """Every figure of a reward model on held-out pairs, and `findings`: what is wrong with it, in words.

    Ties of scores count half in `accuracy`; pairs that people tied are read apart (`label_ties`). Calibration
    is measured with the pairs in random order from `seed`, since pairs that are all oriented chosen first
    would show one class alone; the temperature is fitted on half of them and judged on the other. Undefined
    figures (one class only, no pair) are NaN.

    Raises TastemakerError where there is no pair that people ordered.
    """
    ordered = ~pairs.tied
    if not bool(ordered.any()):
        raise TastemakerError("no pair of the data is ordered: all are ties, which say nothing of accuracy.")
    margins = pairs.margins
    right = _right(margins)
    report: dict[str, Any] = {
        "pairs": int(ordered.sum()),
        "accuracy": _share(right[ordered], seed),
        "score_ties": int((margins[ordered] == 0).sum()),
        "label_ties": _label_ties(margins, pairs.tied),
        "calibration": _calibration(margins[ordered], seed, bins),
        "subsets": _by(pairs.subset, right, ordered, seed),
        "annotators": _by(pairs.annotator, right, ordered, seed),
        "lengths": _lengths(pairs, right, ordered, seed),
        "ensemble": _ensemble(pairs, right, ordered),
        "scores": _spread(pairs),
    }
    if pairs.gold is not None:
        report["gold"] = _gold(margins, pairs.gold, right, ordered)
    return report | {"findings": findings(report)}


def best_of_n_curve(scores: Tensor, values: Tensor) -> list[dict[str, float]]:
    """What best-of-n by the reward model gets, for n = 1, 2, 4, ... up to N, without bias from N samples a
    prompt.

    Shapes: `scores` [P, N] of the reward model, `values` [P, N] of what counts (gold, ranks by people). Each
    entry: `n`, `kl` (of the closed form), `value` and `se` over prompts, `best` (the most that the samples
    held) and `random`.
    """
    if scores.shape != values.shape or scores.dim() != 2:
        raise ValueError(f"scores {list(scores.shape)} and values {list(values.shape)} must be [P, N] alike")
    if not bool(scores.isfinite().all() & values.isfinite().all()):
        raise TastemakerError("best-of-n needs finite scores and values; leave the prompts out that have none.")
    found: list[dict[str, float]] = []
    n = 1
    while n <= scores.shape[1]:
        by_prompt = best_of_n_expectation(values.double(), scores.double(), n)
        best = best_of_n_expectation(values.double(), values.double(), n)
        se = float(by_prompt.std(correction=1)) / len(by_prompt) ** 0.5 if len(by_prompt) > 1 else math.nan
        entry = {"n": float(n), "kl": best_of_n_kl(n), "value": float(by_prompt.mean()), "se": se}
        found.append(entry | {"best": float(best.mean()), "random": float(values.double().mean())})
        n *= 2
    return found


def findings(report: Mapping[str, Any]) -> list[str]:
    """What is wrong with the reward model, each in one sentence; "nothing was found" is one too."""
    said = [*_accuracy_words(report), *_calibration_words(report["calibration"]), *_length_words(report)]
    for kind in ("subsets", "annotators"):
        weak = [s for s in report[kind] if s["n"] >= FEW and s["high"] < report["accuracy"]["low"]]
        for slice_ in weak[:5]:
            said.append(
                f"On {kind[:-1]} {slice_['name']} it is right in {_pct(slice_['accuracy'])} of {slice_['n']} "
                f"pairs, below its {_pct(report['accuracy']['estimate'])} overall."
            )
    ensemble = report["ensemble"]
    if (
        ensemble
        and ensemble["unsure"]["n"] >= FEW
        and ensemble["sure"]["accuracy"] <= ensemble["unsure"]["accuracy"]
    ):
        said.append(
            "The spread of its heads does not tell where it errs: it is right as often where they disagree "
            "most as where they disagree least."
        )
    return said or ["Nothing was found wrong with it on these pairs; other pairs may say more."]


# ------------------------------------------------------------------------------------------- figures


def _mean(scores: Tensor) -> Tensor:
    return scores.double().mean(-1) if scores.dim() == 2 else scores.double()


def _right(margins: Tensor) -> Tensor:
    return (margins > 0).double() + 0.5 * (margins == 0).double()


def _share(right: Tensor, seed: int) -> dict[str, float]:
    interval = bootstrap_interval(right, seed=seed)
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def _label_ties(margins: Tensor, tied: Tensor) -> dict[str, float]:
    """Whether scores are closer where people saw no difference."""
    apart, alike = margins[~tied].abs(), margins[tied].abs()
    return {
        "n": float(len(alike)),
        "mean_margin": float(alike.mean()) if len(alike) else math.nan,
        "mean_margin_ordered": float(apart.mean()),
    }


def _calibration(margins: Tensor, seed: int, bins: int) -> dict[str, Any]:
    p, y = orient(margins, seed)
    table = reliability(p, y, bins=bins)
    half = torch.randperm(len(margins), generator=torch.Generator().manual_seed(seed + 1))
    fitted, judged = half[: len(half) // 2], half[len(half) // 2 :]
    temperature = fit_temperature(margins[fitted])
    usable = math.isfinite(temperature) and temperature > 0
    cooled = margins[judged] / temperature if usable else margins[judged]
    cooled_p, cooled_y = orient(cooled, seed)
    return {
        "bins": bins,
        "seed": seed,
        "ece": calibration_error(p, y, bins=bins),
        "ece_mass": calibration_error(p, y, bins=bins, kind="mass"),
        "brier": _share(brier_score(p, y), seed),
        "log_loss": _share(log_loss(p, y), seed),
        "temperature": temperature,
        "log_loss_before": float(log_loss(*orient(margins[judged], seed)).mean()),
        "log_loss_after": float(log_loss(cooled_p, cooled_y).mean()) if usable else math.nan,
        "ece_after": calibration_error(cooled_p, cooled_y, bins=bins) if usable else math.nan,
        "reliability": [
            {"predicted": float(a), "observed": float(o), "n": float(n), "se": float(e)}
            for a, o, n, e in zip(table.predicted, table.observed, table.number, table.error, strict=True)
        ],
    }


def _by(names: Sequence[str], right: Tensor, ordered: Tensor, seed: int) -> list[dict[str, Any]]:
    """Accuracy by name, where there are at least two."""
    found: list[dict[str, Any]] = []
    for name in sorted(set(names)):
        here = torch.tensor([n == name for n in names]) & ordered
        if bool(here.any()):
            share = _share(right[here], seed)
            found.append(
                {"name": name or "(none)", "n": int(here.sum()), "accuracy": share["estimate"]} | share
            )
    return found if len(found) > 1 else []


def _lengths(pairs: ScoredPairs, right: Tensor, ordered: Tensor, seed: int) -> dict[str, Any]:
    """Accuracy where lengths match, where the chosen answer is longer, where it is shorter; scores against
    length.
    """
    a, b = pairs.chosen_lengths.double(), pairs.rejected_lengths.double()
    matched = (a - b).abs() <= MATCHED * (a + b) / 2
    slices = {"matched": matched, "chosen longer": ~matched & (a > b), "chosen shorter": ~matched & (a < b)}
    found = [
        {"name": name, "n": int((here & ordered).sum()), "accuracy": share["estimate"]} | share
        for name, here in slices.items()
        if bool((here & ordered).any()) and (share := _share(right[here & ordered], seed))
    ]
    lengths = torch.cat([a, b])
    scores = torch.cat([_mean(pairs.chosen), _mean(pairs.rejected)])
    return {
        "slices": found,
        "score_length_correlation": correlation(scores, lengths),
        "score_length_rank_correlation": correlation(ranks(scores), ranks(lengths)),
        "margin_length_correlation": correlation(pairs.margins[ordered], (a - b)[ordered]),
        "labels_prefer_longer": float((a > b)[ordered].double().mean()),
        "model_prefers_longer": _prefers_longer(pairs.margins, a, b),
    }


def _prefers_longer(margins: Tensor, a: Tensor, b: Tensor) -> float:
    differ = (a != b) & (margins != 0)
    if not bool(differ.any()):
        return math.nan
    return float(((margins > 0) == (a > b))[differ].double().mean())


def _ensemble(pairs: ScoredPairs, right: Tensor, ordered: Tensor) -> dict[str, Any] | None:
    """How far the heads disagree on the margin, and whether they err more where they do."""
    if pairs.chosen.dim() != 2 or pairs.chosen.shape[1] < 2:
        return None
    by_head = (pairs.chosen - pairs.rejected).double()[ordered]
    spread = by_head.std(1, correction=1)
    order = spread.argsort()
    third = max(1, len(order) // 3)
    known = right[ordered]

    def slice_(at: Tensor) -> dict[str, float]:
        return {"n": len(at), "accuracy": float(known[at].mean()), "spread": float(spread[at].mean())}

    return {
        "heads": pairs.chosen.shape[1],
        "mean_spread": float(spread.mean()),
        "head_accuracy": [float(_right(m).mean()) for m in by_head.T],
        "sure": slice_(order[:third]),
        "unsure": slice_(order[-third:]),
    }


def _spread(pairs: ScoredPairs) -> dict[str, float]:
    scores = torch.cat([_mean(pairs.chosen), _mean(pairs.rejected)])
    return {
        "mean": float(scores.mean()),
        "sd": float(scores.std(correction=0)),
        "different": float(len(scores.unique())),
    }


def _gold(margins: Tensor, gold: Tensor, right: Tensor, ordered: Tensor) -> dict[str, float]:
    """Against the truth: the labels' own accuracy is the ceiling."""
    known = ordered & (gold != 0)
    agrees = _right(margins * gold.sign())[known]
    return {
        "accuracy": float(agrees.mean()) if len(agrees) else math.nan,
        "labels": float((gold > 0)[known].double().mean()) if len(agrees) else math.nan,
        "correlation": correlation(margins[known], gold[known]),
        "n": float(known.sum()),
    }


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's, NaN where either does not vary."""
    if len(x) < 2 or float(x.double().std()) == 0 or float(y.double().std()) == 0:
        return math.nan
    return float(torch.corrcoef(torch.stack([x.double(), y.double()]))[0, 1])


def ranks(x: Tensor) -> Tensor:
    """[n]: mean ranks, equal values sharing theirs."""
    ordered = x.sort().values
    low, high = torch.searchsorted(ordered, x), torch.searchsorted(ordered, x, right=True)
    return (low + high - 1).double() / 2


# ------------------------------------------------------------------------------------------- words


def _accuracy_words(report: Mapping[str, Any]) -> list[str]:
    accuracy, said = report["accuracy"], list[str]()
    if report["scores"]["different"] == 1:
        return ["It gives every response the same score: it has learned nothing, or reads nothing of them."]
    if accuracy["high"] < 0.5:
        said.append(
            f"It orders pairs the wrong way round ({_pct(accuracy['estimate'])} right): chosen and rejected "
            "may have been swapped in its training data or in these."
        )
    elif accuracy["low"] <= 0.5:
        said.append(
            f"Not told apart from guessing: {_pct(accuracy['estimate'])} of {report['pairs']} pairs right."
        )
    if report["score_ties"] > 0.02 * report["pairs"]:
        said.append(f"It gives both sides the same score in {report['score_ties']} of {report['pairs']} pairs.")
    ties = report["label_ties"]
    if ties["n"] >= FEW and ties["mean_margin"] > 0.9 * ties["mean_margin_ordered"]:
        said.append("Where people saw no difference it is as decided as elsewhere.")
    gold = report.get("gold")
    if gold and gold["n"] >= FEW and gold["accuracy"] < gold["labels"] - 0.05:
        said.append(
            f"It agrees with the truth in {_pct(gold['accuracy'])}, the labels themselves do in "
            f"{_pct(gold['labels'])}: there is more in the labels than it learned."
        )
    return said


def _calibration_words(calibration: Mapping[str, Any]) -> list[str]:
    t = calibration["temperature"]
    if math.isnan(calibration["ece"]):
        return ["Calibration is undefined: after random orientation only one class is left."]
    if t == math.inf:
        return ["Its margins carry no information on these pairs: the best temperature is infinite."]
    if math.isnan(t):
        return [
            "It orders every pair rightly, so that no temperature can be fitted: give harder or more pairs."
        ]
    gain = calibration["log_loss_before"] - calibration["log_loss_after"]
    if t > 1.25 and gain > 0.002:
        return [
            f"It is too sure of itself: its margins should be divided by {t:.2f} (log loss {gain:.3f} lower)."
        ]
    if t < 0.8 and gain > 0.002:
        return [f"It is less sure than it might be: margins times {1 / t:.2f} (log loss falls by {gain:.3f})."]
    return []


def _length_words(report: Mapping[str, Any]) -> list[str]:
    lengths = report["lengths"]
    slices = {s["name"]: s for s in lengths["slices"]}
    said: list[str] = []
    longer, shorter = slices.get("chosen longer"), slices.get("chosen shorter")
    if longer and shorter and min(longer["n"], shorter["n"]) >= FEW:
        for more, less, what in ((longer, shorter, "longer"), (shorter, longer, "shorter")):
            if more["low"] > less["high"]:
                said.append(
                    f"It leans on length: right in {_pct(more['accuracy'])} where the chosen answer is {what} "
                    f"and in {_pct(less['accuracy'])} where it is not."
                )
    matched = slices.get("matched")
    if matched and matched["n"] >= FEW and matched["high"] < report["accuracy"]["low"]:
        said.append(f"At equal length it is right in {_pct(matched['accuracy'])} only.")
    prefers, people = lengths["model_prefers_longer"], lengths["labels_prefer_longer"]
    if not math.isnan(prefers) and abs(prefers - people) > 0.1:
        said.append(f"It prefers the longer answer in {_pct(prefers)} of pairs, people do in {_pct(people)}.")
    return said


def _pct(share: float) -> str:
    return f"{100 * share:.1f} %"
