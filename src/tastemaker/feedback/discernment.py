"""A Bradley-Terry model of annotators: how sharply each tells better from worse, items being unequally hard.

Every item has a latent lead d of its first response over its second. Annotator k prefers the first with
probability

    P = sigmoid(b_k d + g_k s),    s = +1 where the first was shown first, -1 where second, 0 where nobody knows

b_k is the inverse of a temperature (0 is a coin, below 0 one who errs on purpose) and g_k a leaning to what is
shown first. Crowd-BT (Chen et al. 2013, "Pairwise ranking aggregation in a crowdsourced setting", equation 3)
lets an annotator err on every pair with one probability; here errors are the more the closer the pair, which is
how people (and the town's simulated ones) err, and what tells hard items from careless people in part. Dawid
and Skene's model has no hard items.

Where nobody says what d is, it is integrated out under N(0, 1) (marginal maximum likelihood of the
two-parameter model of item response theory; Bock and Aitkin 1981): items need several labels. Where scores say
it (differences of a reward model's, standardised), one label an item is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from scipy.stats import beta

from tastemaker.feedback.annotators import Estimate

PRIOR_SHARPNESS, PRIOR_POSITION = (2.0, 2.0), (0.0, 1.0)
"""Means and standard deviations of normal priors: an annotator of few labels is taken for an ordinary one, who
is right on 80 % of items."""
PRIOR_VOTES = 2.0
"""What that counts beside votes on items whose leads are given."""
_Z = 1.959963984540054
_NODES = 41


class Vote(NamedTuple):
    """One label of a pair."""

    item: int
    annotator: str
    score: float
    """1: the item's first response is preferred; 0: the second; 1/2: a tie, half a vote for each."""
    first_shown: bool | None = None
    """Whether the item's first response was shown first; None where nobody knows."""


@dataclass(frozen=True)
class Discernment:
    """One annotator, with intervals of 95 % (Wald's)."""

    sharpness: Estimate
    """b: log-odds for each standard deviation of leads."""
    position: Estimate
    """g: log-odds for being shown first."""
    accuracy: Estimate
    """How often they prefer what is better. Without given leads: over leads from N(0, 1) and both orders, some
    points high where people err together. With them: how often their votes went the leads' way.
    """
    votes: int


@dataclass(frozen=True)
class Discerned:
    """What the model makes of votes."""

    people: Mapping[str, Discernment]
    answers: Mapping[int, float]
    """Item -> probability that its first response is the better; with given leads 0, 1/2 or 1."""


def bradley_terry_annotators(votes: Sequence[Vote], leads: Mapping[int, float] | None = None) -> Discerned:
    """Fits the model by penalised (marginal) maximum likelihood.

    `leads`: item -> score of its first response less the second's, in any unit. They are taken for the truth:
    what the scores get wrong counts as noise of everyone alike. Items without one are left out.

    Raises ValueError: no votes, a score outside [0, 1], no item with two votes (and no leads), or leads that
    are not finite or all 0.
    """
    kept = [v for v in votes if leads is None or v.item in leads]
    if not kept or any(not 0 <= v.score <= 1 for v in kept):
        raise ValueError("the model needs votes, with scores from 0 to 1")
    data = _Data(kept, leads)
    start = np.tile([1.0, 0.0], len(data.people))
    found = cast(
        Any, minimize(data.loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "gtol": 1e-7})
    )
    at = np.asarray(found.x).reshape(-1, 2)
    errors = np.sqrt(np.maximum(np.diagonal(np.linalg.pinv(data.information(at))), 0.0)).reshape(-1, 2)
    people: dict[str, Discernment] = {}
    for k, name in enumerate(data.people):
        (b, g), (sb, sg) = map(float, at[k]), map(float, errors[k])
        low, value, high = (data.accuracy(x, g) for x in (b - _Z * sb, b, b + _Z * sb))
        people[name] = Discernment(
            Estimate(b, b - _Z * sb, b + _Z * sb),
            Estimate(g, g - _Z * sg, g + _Z * sg),
            Estimate(value, low, high) if leads is None else data.agreement(k),
            int(data.counts[k]),
        )
    return Discerned(people, data.answers(at))


class _Data:
    """Votes as arrays: [V] votes over [I] items by [K] people, with [I, Q] possible leads and their weights."""

    def __init__(self, votes: Sequence[Vote], leads: Mapping[int, float] | None) -> None:
        self.items = sorted({v.item for v in votes})
        self.people = sorted({v.annotator for v in votes})
        item_at = {item: i for i, item in enumerate(self.items)}
        person_at = {name: k for k, name in enumerate(self.people)}
        self.item = np.array([item_at[v.item] for v in votes])
        self.person = np.array([person_at[v.annotator] for v in votes])
        self.y = np.array([v.score for v in votes], dtype=np.float64)
        self.side = np.array([0.0 if v.first_shown is None else 1.0 if v.first_shown else -1.0 for v in votes])
        self.counts = np.bincount(self.person, minlength=len(self.people))
        if leads is None:
            if len(votes) == len(self.items):
                raise ValueError("no item has two votes, so nothing tells annotators apart; give leads")
            nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
            self.leads = np.tile(nodes, (len(self.items), 1))
            self.log_prior = np.log(weights / weights.sum())
        else:
            given = np.array([leads[item] for item in self.items], dtype=np.float64)
            scale = float(np.sqrt((given**2).mean()))
            if not np.isfinite(given).all() or scale == 0:
                raise ValueError("leads must be finite, and not all 0")
            self.leads = (given / scale)[:, None]
            self.log_prior = np.zeros(1)
        self.prior = np.array([PRIOR_SHARPNESS, PRIOR_POSITION])

    def _posterior(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(P [V, Q] of the first response, posterior [I, Q] of leads, log-likelihood [I])."""
        eta = at[self.person, 0, None] * self.leads[self.item] + (at[self.person, 1] * self.side)[:, None]
        logs = np.tile(self.log_prior, (len(self.items), 1))
        np.add.at(logs, self.item, self.y[:, None] * log_expit(eta) + (1 - self.y)[:, None] * log_expit(-eta))
        top = logs.max(1, keepdims=True)
        total = np.exp(logs - top).sum(1, keepdims=True)
        return expit(eta), np.exp(logs - top) / total, (top + np.log(total))[:, 0]

    def loss(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """The negative penalised log-likelihood a vote, and its gradient (Fisher's identity)."""
        at = flat.reshape(-1, 2)
        p, posterior, likelihood = self._posterior(at)
        mean, sd = self.prior.T
        pull = (at - mean) / sd
        rest = (self.y[:, None] - p) * posterior[self.item]
        slope = np.zeros_like(at)
        np.add.at(slope[:, 0], self.person, (rest * self.leads[self.item]).sum(1))
        np.add.at(slope[:, 1], self.person, rest.sum(1) * self.side)
        n = len(self.y)
        value = -float(likelihood.sum()) + 0.5 * float((pull**2).sum())
        return value / n, ((pull / sd - slope) / n).ravel()

    def information(self, at: np.ndarray) -> np.ndarray:
        """[2K, 2K]: the observed information (Louis 1982): of the votes were the leads known, less what is lost
        because they are not.
        """
        p, posterior, _ = self._posterior(at)
        weight, lead = posterior[self.item], self.leads[self.item]
        x = np.stack([lead, np.broadcast_to(self.side[:, None], lead.shape)], 1)  # [V, 2, Q]
        found = np.diag(1 / (self.prior[None, :, 1] ** 2).repeat(len(at), 0).ravel())
        place = 2 * self.person[:, None] + np.arange(2)
        known = np.einsum("vq,vaq,vbq->vab", weight * p * (1 - p), x, x)
        np.add.at(found, (place[:, :, None], place[:, None, :]), known)
        score = (self.y[:, None] - p)[:, None] * x
        mean = np.einsum("vaq,vq->va", score, weight)
        one, other = _within(self.item)
        lost = np.einsum("vaq,vbq,vq->vab", score[one], score[other], weight[one])
        lost -= mean[one][:, :, None] * mean[other][:, None, :]
        np.add.at(found, (place[one][:, :, None], place[other][:, None, :]), -lost)
        return found

    def accuracy(self, sharpness: float, position: float) -> float:
        """How often such an annotator prefers what is better, over leads from N(0, 1) and both orders."""
        lead, weight = np.abs(self.leads[0]), np.exp(self.log_prior) * (self.leads[0] != 0)
        right = (expit(sharpness * lead + position) + expit(sharpness * lead - position)) / 2
        return float((right * weight).sum() / weight.sum())

    def agreement(self, person: int) -> Estimate:
        """How often a person's votes go the way of given leads, whatever shape their noise has. Equal leads say
        nothing.
        """
        lead = self.leads[self.item, 0]
        own = (self.person == person) & (lead != 0)
        hits = float(np.where(lead > 0, self.y, 1 - self.y)[own].sum())
        right, wrong = hits + PRIOR_VOTES * 0.8, int(own.sum()) - hits + PRIOR_VOTES * 0.2
        low, high = beta.ppf([0.025, 0.975], right, wrong)
        return Estimate(right / (right + wrong), float(low), float(high))

    def answers(self, at: np.ndarray) -> dict[int, float]:
        _, posterior, _ = self._posterior(at)
        better = (posterior * ((self.leads > 0) + 0.5 * (self.leads == 0))).sum(1)
        return {item: float(better[i]) for i, item in enumerate(self.items)}


def _within(item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of votes of one item, each vote with itself among them."""
    order = np.argsort(item, kind="stable")
    sizes = np.bincount(item)
    starts = np.cumsum(sizes) - sizes
    own = sizes[item[order]]
    one = np.repeat(order, own)
    step = np.arange(len(one)) - np.repeat(np.cumsum(own) - own, own)
    return one, order[np.repeat(starts[item[order]], own) + step]
