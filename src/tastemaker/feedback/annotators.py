"""How far each annotator can be relied on, and which way they lean.

`dawid_skene` needs several labels an item and no truth (Dawid and Skene 1979): an annotator's confusion matrix
and every item's likely answer explain each other. `leanings` explains one annotator's choices by what was shown
first, by length and by quality, where something says what quality is (a reward model, a consensus, the truth
of a test world).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.optimize import minimize

Label = tuple[int, str, str]
"""(item, annotator, category)"""
_Z = 1.959963984540054


@dataclass(frozen=True)
class Consensus:
    """What Dawid and Skene's model makes of labels."""

    categories: tuple[str, ...]
    answers: Mapping[int, Mapping[str, float]]
    """Item -> category -> probability."""
    accuracy: Mapping[str, float]
    """Annotator -> probability of the right category, over categories as common as they are."""
    confusion: Mapping[str, Sequence[Sequence[float]]]
    """Annotator -> [right category][given category]."""


def dawid_skene(labels: Sequence[Label], *, smoothing: float = 1.0, rounds: int = 200) -> Consensus:
    """Maximum a posteriori by expectation-maximisation, from the share of votes. Each row of a confusion matrix
    has a Dirichlet prior: `smoothing` of a label on every category and as much again on the right one, so that
    an annotator of a few labels is taken for an ordinary one.
    """
    items = sorted({item for item, _, _ in labels})
    people = sorted({who for _, who, _ in labels})
    categories = tuple(sorted({said for _, _, said in labels}))
    at_item = {item: i for i, item in enumerate(items)}
    at_person = {who: i for i, who in enumerate(people)}
    at_category = {said: i for i, said in enumerate(categories)}
    coded = [[at_item[i], at_person[p], at_category[c]] for i, p, c in labels]
    given = np.array(coded, dtype=np.int64).reshape(-1, 3)
    n, m, k = len(items), len(people), len(categories)
    votes = np.zeros((n, k))
    np.add.at(votes, (given[:, 0], given[:, 2]), 1.0)
    belief = votes / votes.sum(1, keepdims=True)
    prior = smoothing * (np.ones((k, k)) + np.eye(k))
    confusion = np.full((m, k, k), 1 / max(1, k))
    for _ in range(rounds):
        counts = np.tile(prior, (m, 1, 1))
        for true in range(k):
            at = (given[:, 1], np.full(len(given), true), given[:, 2])
            np.add.at(counts, at, belief[given[:, 0], true])
        confusion = counts / counts.sum(2, keepdims=True)
        common = (belief.sum(0) + smoothing) / (n + k * smoothing)
        logs = np.tile(np.log(common), (n, 1))
        np.add.at(logs, given[:, 0], np.log(confusion[given[:, 1], :, given[:, 2]]))
        logs -= logs.max(1, keepdims=True)
        updated = np.exp(logs)
        updated /= updated.sum(1, keepdims=True)
        moved = float(np.abs(updated - belief).max())
        belief = updated
        if moved < 1e-8:
            break
    common = belief.mean(0)
    right = {who: float((common * np.diagonal(confusion[p])).sum()) for who, p in at_person.items()}
    answers = {item: dict(zip(categories, map(float, belief[i]), strict=True)) for item, i in at_item.items()}
    return Consensus(categories, answers, right, {who: confusion[p].tolist() for who, p in at_person.items()})


def weight_of(accuracy: float, categories: int = 2) -> float:
    """Accuracy beyond chance, 0 to 1: what an annotator's labels count. Chance or worse counts nothing."""
    chance = 1 / max(2, categories)
    return max(0.0, (accuracy - chance) / (1 - chance))


def noise_of(accuracies: Mapping[str, float], counts: Mapping[str, int]) -> float:
    """Share of wrong labels over annotators: what robust DPO and cDPO take as `label_smoothing`."""
    total = sum(counts.get(who, 0) for who in accuracies)
    return sum((1 - a) * counts.get(who, 0) for who, a in accuracies.items()) / total if total else math.nan


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Leanings:
    """One annotator's choices: log-odds of taking what was shown first."""

    position: Estimate
    """For being first, all else equal."""
    length: Estimate
    """For each word more."""
    quality: Estimate
    """For each unit of quality more."""
    lapses: Estimate
    """Share of choices made by a coin; its interval (from the profile likelihood) ends at 0.4."""
    labels: int

    def in_units_of_quality(self) -> tuple[float, float]:
        """(position, length) as what they are worth in quality."""
        return self.position.value / self.quality.value, self.length.value / self.quality.value


LAPSES = tuple(i / 50 for i in range(21))
"""Lapse rates that are tried, 0 to 0.4."""
_UNLIKELY = 1.92
"""Nats below the best log-likelihood from which on a lapse rate is ruled out (95 %, one parameter)."""


def leanings(
    first_chosen: Sequence[bool], quality: Sequence[float], length: Sequence[float], *, lapses: bool = True
) -> Leanings:
    """Fits P(first chosen) = (1 - e) sigmoid(a + b dq + c dl) + e / 2 by maximum likelihood; `quality` and
    `length` are differences first minus second (length in words). e is the likeliest of a grid; intervals are
    Wald's, widened over every e that the data do not rule out, since e and the slopes make up for each other.

    Raises ValueError for fewer than 20 choices, or where all went one way.
    """
    y = np.array(first_chosen, dtype=np.float64)
    if len(y) < 20 or y.min() == y.max():
        raise ValueError("leanings need 20 choices or more, and both outcomes among them")
    x = np.stack([np.ones_like(y), np.array(quality, dtype=np.float64), np.array(length, dtype=np.float64)], 1)
    scale = np.maximum(x.std(0), 1e-9)
    scale[0] = 1.0
    fits = [(slip, *_fit(y, x / scale, slip)) for slip in (LAPSES if lapses else (0.0,))]
    likeliest = min(loss for _, loss, _, _ in fits)
    kept = [fit for fit in fits if fit[1] <= likeliest + _UNLIKELY]
    slip, _, best, _ = min(fits, key=_loss)

    def told(i: int) -> Estimate:
        low = min(float(at[i] - _Z * error[i]) for _, _, at, error in kept)
        high = max(float(at[i] + _Z * error[i]) for _, _, at, error in kept)
        return Estimate(float(best[i] / scale[i]), low / float(scale[i]), high / float(scale[i]))

    spared = Estimate(slip, *_ends([(fit[0], fit[1] - likeliest - _UNLIKELY) for fit in fits]))
    return Leanings(told(0), told(2), told(1), spared, len(y))


def _ends(profile: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The ends of where a profile (place, height), looked at in steps, lies below 0; straight lines between."""
    below = [i for i, (_, height) in enumerate(profile) if height <= 0]

    def crossing(inside: int, outside: int) -> float:
        if not 0 <= outside < len(profile):
            return profile[inside][0]
        (x, y), (u, v) = profile[inside], profile[outside]
        return x + (u - x) * y / (y - v)

    return crossing(below[0], below[0] - 1), crossing(below[-1], below[-1] + 1)


def _loss(fit: tuple[float, float, np.ndarray, np.ndarray]) -> float:
    return fit[1]


def _fit(y: np.ndarray, x: np.ndarray, slip: float) -> tuple[float, np.ndarray, np.ndarray]:
    """(negative log-likelihood, parameters, their standard errors) at one lapse rate."""

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        s = 1 / (1 + np.exp(-np.clip(x @ at, -60, 60)))
        p = np.clip((1 - slip) * s + slip / 2, 1e-12, 1 - 1e-12)
        slope = (p - y) / (p * (1 - p)) * (1 - slip) * s * (1 - s)
        return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).sum()) / len(y), x.T @ slope / len(y)

    found = cast(Any, minimize(loss, np.zeros(3), jac=True, method="BFGS", options={"gtol": 1e-7}))
    at = np.asarray(found.x)
    s = 1 / (1 + np.exp(-np.clip(x @ at, -60, 60)))
    p = np.clip((1 - slip) * s + slip / 2, 1e-12, 1 - 1e-12)
    weight = ((1 - slip) * s * (1 - s)) ** 2 / (p * (1 - p))
    covariance = np.linalg.pinv(x.T @ (x * weight[:, None]))  # expected information
    return float(found.fun) * len(y), at, np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
