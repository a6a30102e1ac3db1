"""Supervised fine-tuning: maximise the log-likelihood of demonstrated responses.

Minimises the mean over response tokens of -log pi(token | all before it). Prompt tokens never carry
loss, in a conversation only the answer's own turns do. Phase one of RLHF (Ouyang et al. 2022,
arXiv:2203.02155, section 3.5) and the start of every comparison here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tastemaker.functional import nll_loss
from tastemaker.methods.base import Offline, mean_of
from tastemaker.types import Bundles, Demonstration, Loss, Metric, Scores


@dataclass
class SFT(Offline):
    """Supervised fine-tuning on demonstrations (prompt, response)."""

    name: ClassVar[str] = "sft"
    consumes: ClassVar[type] = Demonstration
    defaults: ClassVar[Mapping[str, object]] = {"learning_rate": 2e-5}

    def loss(self, scores: Scores, batch: Bundles) -> Loss:
        assert scores.logps is not None
        losses = nll_loss(scores.logps)
        total = losses.where(batch.trained, losses.new_zeros(())).sum()
        metrics: dict[str, Metric] = {}
        if scores.entropy is not None:
            metrics["entropy"] = mean_of(scores.entropy, batch.trained)
        return Loss({"nll": (total, "tokens")}, metrics)
