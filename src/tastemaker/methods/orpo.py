"""Odds ratio preference optimisation: supervised fine-tuning that also tells the two apart (Hong et al. 2024).

Minimises NLL(chosen) - beta * log sigmoid(log odds(chosen) - log odds(rejected)), where odds = p / (1 - p) and
log p is the mean log-probability per token (arXiv:2403.07691, equations 3 to 7; beta is the paper's lambda). No
reference, no stage of fine-tuning before it. The likelihood term counts response tokens; TRL's counts the
prompt's as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tastemaker.functional import log_odds_ratio, odds_ratio_loss
from tastemaker.methods import pairs
from tastemaker.methods.base import Offline, mean_of
from tastemaker.types import Bundles, Loss, Metric, Scores, TastemakerError, Unit


@dataclass
class ORPO(Offline):
    """ORPO: fine-tuning on the chosen responses and an odds ratio against the rejected, in one stage."""

    beta: float = 0.1
    """Weight of the odds ratio term: lambda of the paper."""

    name: ClassVar[str] = "orpo"
    defaults: ClassVar[Mapping[str, object]] = {"learning_rate": 8e-6}

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise TastemakerError(f"beta is {self.beta}; it must not be negative (0.1 is usual)")

    def units(self, batch: Bundles) -> Mapping[Unit, int]:
        return pairs.pair_units(batch)

    def loss(self, scores: Scores, batch: Bundles) -> Loss:
        assert scores.logps is not None
        better, worse = batch.pairs
        mean = pairs.mean_logps(batch, scores.logps)
        odds = log_odds_ratio(mean[better], mean[worse])
        losses = odds_ratio_loss(odds)
        likelihood, tokens = pairs.likelihood_of_best(batch, scores.logps)
        summed = batch.sum_by_response(scores.logps.detach(), batch.trained)
        metrics = {
            **pairs.pair_metrics(batch, self.beta * mean[better], self.beta * mean[worse], summed),
            "nll_loss": Metric(-likelihood.detach().sum(), float(tokens.sum())),
            "log_odds_ratio": mean_of(-losses),
            "log_odds_chosen": mean_of(odds),
        }
        if scores.entropy is not None:
            metrics["entropy"] = mean_of(scores.entropy, batch.trained)
        terms: dict[str, tuple[Tensor, Unit]] = {
            "nll": (-likelihood.sum(), "tokens"),
            "odds_ratio": (self.beta * losses.sum(), "pairs"),
        }
        return Loss(terms, metrics)
