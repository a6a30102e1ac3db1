"""Process reward model: says after every step of a response whether it was right (Lightman et al. 2023).

A scalar head reads the hidden state at each step's last token, and cross-entropy teaches it the step's label
(arXiv:2305.20050; Uesato et al. 2022, arXiv:2211.14275). Every labelled step counts the same, whatever its
length and however many its response has. What a step is, the data say: `{"prompt", "completions": [...],
"labels": [...]}`, TRL's stepwise format; steps are joined by a newline, which belongs to the step it closes.

At use the steps' probabilities become one reward by minimum, product or last step: `rewards.ProcessReward`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tastemaker.functional import step_loss
from tastemaker.methods.base import Offline, mean_of
from tastemaker.types import Bundles, Loss, Role, Scores, StepLabels, Unit


@dataclass
class ProcessReward(Offline):
    """Process reward model from steps marked right or wrong."""

    train_on_last_step_only: bool = False
    """Learn from each response's last step alone, which makes an outcome reward model."""

    name: ClassVar[str] = "process_reward"
    consumes: ClassVar[type] = StepLabels
    roles: ClassVar[tuple[Role, ...]] = ("reward",)
    trains: ClassVar[tuple[Role, ...]] = ("reward",)
    defaults: ClassVar[Mapping[str, object]] = {"learning_rate": 1e-5, "num_train_epochs": 1.0}

    def model_options(self) -> Mapping[str, object]:
        return {"head": "step"}

    def units(self, batch: Bundles) -> Mapping[Unit, int]:
        """Tokens: those that close a step which is learned from."""
        return {**batch.units(), "tokens": int(self._learned(batch).sum())}

    def loss(self, scores: Scores, batch: Bundles) -> Loss:
        assert scores.values is not None
        at = self._learned(batch)
        score, right = scores.values[at], batch.token_columns["step_label"][at] > 0.5
        found = ((score.detach() > 0) == right).to(score.dtype)
        chance = score.detach().sigmoid()
        steps = torch.zeros(len(batch.lengths), dtype=score.dtype, device=score.device)
        missed = steps.index_add(0, batch.response[at], 1 - found)
        metrics = {
            "accuracy": mean_of(found),
            "accuracy/right": mean_of(found, right),
            "accuracy/wrong": mean_of(found, ~right),
            "accuracy/responses": mean_of((missed == 0).to(score.dtype)),
            "mean_score/right": mean_of(chance, right),
            "mean_score/wrong": mean_of(chance, ~right),
        }
        return Loss({"process_reward": (step_loss(score, right).sum(), "tokens")}, metrics)

    def _learned(self, batch: Bundles) -> Tensor:
        """[N] bool: tokens that close a step, or the last step."""
        ends = batch.token_columns["step_end"]
        if not self.train_on_last_step_only:
            return ends
        place = torch.arange(len(ends), device=ends.device)
        last = torch.full((len(batch.lengths),), -1, dtype=torch.int64, device=ends.device)
        last = last.scatter_reduce(0, batch.response[ends], place[ends], "amax")
        return ends & (place == last[batch.response])
