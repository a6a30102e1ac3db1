"""Findings about learning from pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tastemaker.methods import METHODS
from tastemaker.studies.diagnosis.evidence import ArmEvidence, Finding, graded, joined, mean_error, percent
from tastemaker.studies.diagnosis.limits import LIMITS
from tastemaker.studies.overoptimisation import Difference, finite


class Numbers(dict[str, float]):
    """Readings of pairs with NaN for what is not known, of which no comparison holds."""

    def __init__(self, read: Mapping[str, object]) -> None:
        super().__init__({name: float(value) if finite(value) else math.nan for name, value in read.items()})

    def __missing__(self, name: str) -> float:
        return math.nan


@dataclass(frozen=True)
class Moved:
    """Where the likelihood of pairs went, nats per response."""

    chosen: float
    error: float
    rejected: float
    start: float
    """Log-probability of a chosen response at the start."""
    where: str


def moved(e: ArmEvidence) -> Moved | None:
    """On pairs never trained on where they were read, else on trained ones, else in the run's last metrics."""
    if e.online:
        return None
    for name, where in (("held_out", "held-out pairs"), ("train", "trained pairs")):
        if e.pairs is not None and e.pairs.get(name):
            read = Numbers(e.pairs[name])
            return Moved(
                chosen=read["chosen_logratio"],
                error=read["chosen_logratio_se"],
                rejected=read["rejected_logratio"],
                start=read["reference_chosen_logp_per_token"] * read["chosen_length"],
                where=where,
            )
    return moved_in_training(e)


def moved_in_training(e: ArmEvidence) -> Moved | None:
    """Logged rewards are beta times the log-ratio where the method has a reference."""
    beta = e.settings.get("beta")
    if e.method not in METHODS or "reference" not in METHODS[e.method].roles or not beta:
        return None
    chosen, rejected = e.late("rewards/chosen", 0.25), e.late("rewards/rejected", 0.25)
    logps = e.late("logps/chosen", 0.25)
    if len(chosen) < LIMITS.few or not rejected or not logps:
        return None
    mean, error = mean_error(chosen)
    return Moved(
        chosen=mean / beta,
        error=error / beta,
        rejected=mean_error(rejected)[0] / beta,
        start=mean_error(logps)[0] - mean / beta,
        where="the last training batches",
    )


def displacement(e: ArmEvidence) -> Finding | None:
    """Chosen responses became less likely, and nothing better came of it."""
    found = moved(e)
    if found is None:
        return None
    fall, kl = -found.chosen, e.mean("kl")
    floor = max(LIMITS.displaced, LIMITS.displaced_share * abs(found.start))
    if fall < floor or not fall > LIMITS.clear * found.error:
        return None
    if e.outcome in ("better", "unknown") and (kl is None or fall < LIMITS.displaced_kl * kl):
        return None
    both = found.rejected < 0
    numbers = {
        "chosen_logratio": found.chosen,
        "rejected_logratio": found.rejected,
        "chosen_start": found.start,
    }
    if kl is not None:
        numbers["kl"] = kl
    return Finding(
        "displacement",
        graded(e),
        joined(
            f"the log-probability of chosen responses fell from {found.start:.1f} to "
            f"{found.start - fall:.1f} nats ({found.where})",
            f"that of rejected ones by {-found.rejected:.1f}, so likelihood went to responses outside of both"
            if both
            else f"that of rejected ones rose by {found.rejected:.1f}",
            f"it {'did no harm' if e.outcome == 'better' else 'matters'} here: {e.scores()}"
            if e.scores()
            else "",
        ),
        numbers,
        "raise beta or lower the learning rate; keep chosen responses likely (an SFT term on them), and leave "
        "out pairs whose two sides are nearly the same",
    )


def pairs_overfitted(e: ArmEvidence) -> Finding | None:
    """Trained pairs are ordered far better than held-out ones."""
    if e.online or e.pairs is None or not e.pairs.get("train") or not e.pairs.get("held_out"):
        return None
    train, held = Numbers(e.pairs["train"]), Numbers(e.pairs["held_out"])
    gap = Difference(held["accuracy"], train["accuracy"], math.hypot(train["accuracy_se"], held["accuracy_se"]))
    if gap.change < LIMITS.overfitted or gap.z < LIMITS.clear:
        return None
    guess = held["accuracy"] - 0.5 < LIMITS.gain * held["accuracy_se"]
    return Finding(
        "pairs_overfitted",
        "problem" if guess else graded(e, better="warning"),
        joined(
            f"{percent(train['accuracy'])} of trained pairs are ordered as labelled, but "
            f"{percent(held['accuracy'])} of held-out ones" + (", no better than a guess" if guess else ""),
            f"margins {train['margin']:.1f} against {held['margin']:.1f} nats",
        ),
        {
            "train_accuracy": train["accuracy"],
            "held_out_accuracy": held["accuracy"],
            "train_margin": train["margin"],
            "held_out_margin": held["margin"],
            "held_out_chosen_logratio": held["chosen_logratio"],
        },
        "fewer epochs or more pairs; a larger beta or a lower learning rate also helps",
    )


def pairs_off_policy(e: ArmEvidence) -> Finding | None:
    """The pairs are not what this policy would have written."""
    if e.online or e.pairs is None or not e.pairs.get("train") or e.pairs.get("own_logp_per_token") is None:
        return None
    train, own = Numbers(e.pairs["train"]), float(e.pairs["own_logp_per_token"])
    sides = [train[f"reference_{side}_logp_per_token"] for side in ("chosen", "rejected")]
    error = max(train[f"reference_{side}_logp_per_token_se"] for side in ("chosen", "rejected"))
    level = sum(sides) / 2
    gap = own - level
    if gap < max(LIMITS.foreign * abs(own), LIMITS.foreign_nats) or not gap > LIMITS.clear * error:
        return None
    return Finding(
        "pairs_off_policy",
        graded(e),
        joined(
            f"the pairs are far from what the SFT policy writes: {level:.2f} nats per token under it, its own "
            f"samples {own:.2f}",
            e.scores(),
        ),
        {
            "pairs_logp_per_token": level,
            "chosen_logp_per_token": sides[0],
            "rejected_logp_per_token": sides[1],
            "own_logp_per_token": own,
        },
        "train SFT on the chosen responses first, or label pairs sampled from the SFT policy itself; an online "
        "method does not have this trouble",
    )
