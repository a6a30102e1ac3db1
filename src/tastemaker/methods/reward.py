"""Reward model: a scalar that scores preferred responses higher (Bradley and Terry 1952).

Minimises, over pairs of responses to one prompt, -log sigmoid(r(x, better) - r(x, worse) - margin)
(Ouyang et al. 2022, arXiv:2203.02155, equation 1). K ranked responses make all their strict pairs, each
pair weighing the same; InstructGPT divides by K choose 2 within a prompt, which is the same where K is
uniform. `center_rewards_coefficient` adds (r(better) + r(worse))^2 per pair, which pins down the
constant that Bradley-Terry leaves free (Eisenstein et al. 2023, arXiv:2312.09244).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from tastemaker.functional import bradley_terry_loss
from tastemaker.methods.base import Offline, mean_of
from tastemaker.types import Bundles, Loss, Metric, Role, Scores, Unit


@dataclass
class RewardModel(Offline):
    """Reward model from pairwise or ranked preferences (Bradley-Terry)."""

    center_rewards_coefficient: float | None = None
    """Weight of (r(better) + r(worse))^2; None leaves the rewards' zero point free."""
    reward_head: Literal["last", "token"] = "last"
    """Where the scalar is read: at the response's last token, or summed over a score per token."""

    name: ClassVar[str] = "reward"
    roles: ClassVar[tuple[Role, ...]] = ("reward",)
    trains: ClassVar[tuple[Role, ...]] = ("reward",)
    defaults: ClassVar[Mapping[str, object]] = {"learning_rate": 1e-4, "num_train_epochs": 1.0}

    def model_options(self) -> Mapping[str, object]:
        return {"head": self.reward_head}

    def loss(self, scores: Scores, batch: Bundles) -> Loss:
        assert scores.rewards is not None
        rewards = scores.rewards
        better, worse = batch.pairs
        chosen, rejected = rewards[better], rewards[worse]
        margin = batch.tree_columns.get("margin")
        losses = bradley_terry_loss(chosen, rejected, None if margin is None else margin[batch.tree[better]])
        terms: dict[str, tuple[Tensor, Unit]] = {"bradley_terry": (losses.sum(), "pairs")}
        if self.center_rewards_coefficient is not None:
            centring = self.center_rewards_coefficient * (chosen + rejected) ** 2
            terms["center_rewards"] = (centring.sum(), "pairs")
        seen = rewards.detach()
        metrics = {
            "accuracy": mean_of((chosen > rejected).to(seen.dtype) + 0.5 * (chosen == rejected)),
            "margin": mean_of(chosen - rejected),
            "mean_reward": mean_of(seen),
            "min_reward": Metric(seen.min(), kind="min"),
            "max_reward": Metric(seen.max(), kind="max"),
        }
        return Loss(terms, metrics)
