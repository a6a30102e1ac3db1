"""Simple preference optimisation: no reference, lengths divided out, a margin to reach (Meng et al. 2024).

Minimises -log sigmoid(beta * (mean log pi(chosen) - mean log pi(rejected)) - gamma), means per token
(arXiv:2405.14734, equation 6). With `alpha` the reward log p takes AlphaPO's shape (1 - p^-alpha) / alpha
(arXiv:2501.03884). Nothing but the learning rate and the margin's saturation holds the policy near its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tastemaker.functional import alphapo_reward, simpo_loss
from tastemaker.methods import pairs
from tastemaker.methods.base import Offline, mean_of
from tastemaker.types import Bundles, Loss, Scores, TastemakerError, Unit


@dataclass
class SimPO(Offline):
    """SimPO: preferences without a reference, by mean log-probabilities and a target margin."""

    beta: float = 2.0
    """Scale of the mean log-probability as a reward."""
    simpo_gamma: float = 1.0
    """How much better the chosen response's reward should be: gamma of the paper."""
    alpha: float = 0.0
    """Shape of the reward as in AlphaPO; 0 is SimPO itself (AlphaPO: 0.25 or so)."""
    label_smoothing: float = 0.0
    """Probability, in [0, 0.5), that a preference label is wrong."""

    name: ClassVar[str] = "simpo"
    defaults: ClassVar[Mapping[str, object]] = {"learning_rate": 1e-6, "num_train_epochs": 1.0}

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise TastemakerError(f"beta is {self.beta}; it must be above 0 (2 is usual)")
        if self.simpo_gamma < 0:
            raise TastemakerError(f"simpo_gamma is {self.simpo_gamma}; a margin must not be negative")
        if not 0 <= self.label_smoothing < 0.5:
            raise TastemakerError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 0.5)")

    def units(self, batch: Bundles) -> Mapping[Unit, int]:
        return pairs.pair_units(batch)

    def loss(self, scores: Scores, batch: Bundles) -> Loss:
        assert scores.logps is not None
        better, worse = batch.pairs
        reward = alphapo_reward(pairs.mean_logps(batch, scores.logps), alpha=self.alpha)
        losses = simpo_loss(
            reward[better] - reward[worse],
            beta=self.beta,
            gamma=self.simpo_gamma,
            label_smoothing=self.label_smoothing,
        )
        summed = batch.sum_by_response(scores.logps.detach(), batch.trained)
        metrics = pairs.pair_metrics(batch, self.beta * reward[better], self.beta * reward[worse], summed)
        if scores.entropy is not None:
            metrics["entropy"] = mean_of(scores.entropy, batch.trained)
        return Loss({"simpo": (losses.sum(), "pairs")}, metrics)
