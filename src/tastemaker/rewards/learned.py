"""A reward model that reads the policy's own tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tastemaker.rewards.results import Normalisation, rewarded
from tastemaker.types import Bundles, Models, Record, Rewarded, Role, TastemakerError


class LearnedReward:
    """`types.Reward` from one of the run's models.

    Scores token ids as they are, so the model must share the policy's tokenizer; for one that does not, see
    `TextReward`. Parts: `raw`, what the model said. Total: the same after `normalisation`, applied here and
    only here. An ensemble gives the mean of its heads, and `uncertainty`, their standard deviation.
    """

    def __init__(
        self,
        models: Models,
        role: Role = "reward",
        *,
        normalisation: Normalisation | None = None,
        uncertainty_penalty: float = 0.0,
        name: str = "reward_model",
    ):
        """`normalisation`: what was kept with the model (`Normalisation.load(folder)`); None: raw rewards.
        `uncertainty_penalty`: standard deviations among an ensemble's heads taken off their mean.

        Raises:
            TastemakerError: a negative penalty.
        """
        if uncertainty_penalty < 0:
            raise TastemakerError(f"uncertainty_penalty is {uncertainty_penalty}; it must not be negative")
        self._penalty = uncertainty_penalty
        self.name = name
        self._models = models
        self._role: Role = role
        self._normalisation = normalisation or Normalisation()

    def __call__(self, batch: Bundles, records: Sequence[Record]) -> Rewarded:
        """Scores [R].

        Raises:
            TastemakerError: a reward that is not finite, naming its row.
        """
        scores = self._models.score(self._role, batch).rewards
        if scores is None:
            raise ValueError(f"role {self._role!r} gives no rewards")
        parts: dict[str, Tensor] = {}
        if scores.dim() == 2:
            parts["uncertainty"] = scores.std(-1)
            scores = scores.mean(-1) - self._penalty * parts["uncertainty"]
        elif self._penalty and len(scores):
            raise TastemakerError(
                f"{self.name}: uncertainty_penalty needs an ensemble; this model has one head"
            )
        raw = rewarded(scores, batch, f"{self.name} (role {self._role!r})").total
        return Rewarded(total=self._normalisation(raw), parts={"raw": raw, **parts})
