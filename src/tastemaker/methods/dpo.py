"""Direct preference optimisation: the policy is its own reward model (Rafailov et al. 2023).

The policy that maximises E[r] - beta KL(pi || ref) is pi* = ref exp(r / beta) / Z; solved for r, the
Bradley-Terry likelihood of the preferences becomes a loss on the policy alone (arXiv:2305.18290,
equation 7): -log sigmoid(beta * (log pi/ref(better) - log pi/ref(worse))). The reference is the starting
policy unless another is named; where it is, the first step's loss must be ln 2 and the loop checks it.

`label_smoothing` is the probability that a preference is flipped (cDPO: Mitchell 2023); unlike TRL's it
works with the sigmoid loss. Ranked responses make all their strict pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tastemaker.functional import dpo_loss
from tastemaker.methods.base import Offline, mean_of
from tastemaker.types import Bundles, Loss, Models, Reduce, Role, Scores, TastemakerError

LOSSES: Mapping[str, Callable[..., Tensor]] = {"sigmoid": dpo_loss}


@dataclass
class DPO(Offline):
    """Direct preference optimisation from (prompt, chosen, rejected)."""

    beta: float = 0.1
    """Strength of the pull towards the reference; larger stays closer."""
    loss_type: str = "sigmoid"
    """The formula applied to the difference of log-ratios."""
    label_smoothing: float = 0.0
    """Probability, in [0, 0.5), that a preference label is wrong."""

    name: ClassVar[str] = "dpo"
    roles: ClassVar[tuple[Role, ...]] = ("policy", "reference")
    defaults: ClassVar[Mapping[str, object]] = {"learning_rate": 1e-6}

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise TastemakerError(f"beta is {self.beta}; it must be above 0 (0.1 is usual)")
        if not 0 <= self.label_smoothing < 0.5:
            raise TastemakerError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 0.5)")
        if self.loss_type not in LOSSES:
            raise TastemakerError(f"loss_type {self.loss_type!r} is unknown; known: {', '.join(LOSSES)}")

    def prepare(self, models: Models, batch: Bundles, reduce: Reduce) -> Bundles:
        if "reference_logps" in batch.token_columns:  # precomputed for the whole data set
            return batch
        reference = models.score("reference", batch).logps
        assert reference is not None
        return batch.with_tokens(reference_logps=reference)

    def loss(self, scores: Scores, batch: Bundles) -> Loss:
        assert scores.logps is not None
        mask = batch.trained
        logps = batch.sum_by_response(scores.logps, mask)
        reference = batch.sum_by_response(batch.token_columns["reference_logps"], mask)
        logratios = logps - reference
        better, worse = batch.pairs
        margins = logratios[better] - logratios[worse]
        losses = LOSSES[self.loss_type](margins, beta=self.beta, label_smoothing=self.label_smoothing)
        metrics = {
            "rewards/chosen": mean_of(self.beta * logratios[better]),
            "rewards/rejected": mean_of(self.beta * logratios[worse]),
            "rewards/margins": mean_of(self.beta * margins),
            "rewards/accuracies": mean_of((margins > 0).to(margins.dtype)),
            "logps/chosen": mean_of(logps[better]),
            "logps/rejected": mean_of(logps[worse]),
            "lengths/chosen": mean_of(batch.lengths[better].to(margins.dtype)),
            "lengths/rejected": mean_of(batch.lengths[worse].to(margins.dtype)),
        }
        if scores.entropy is not None:
            metrics["entropy"] = mean_of(scores.entropy, mask)
        return Loss({"dpo": (losses.sum(), "pairs")}, metrics)
