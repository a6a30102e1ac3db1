"""What the policy-gradient methods without a value model share: rewards, the KL term, masks, metrics.

The reward of a response is its score, clipped to `reward_clip_range`, less the penalties for a missing end
and for nearing the length limit, and, where the KL term is inside the reward, less beta times the KL estimate
summed over its tokens. What baseline it is compared with, and the loss, are each method's own.

A response without a reward (`valid` False) is left out: of its group's baseline, of the loss and of every
count. So is a group with fewer than two rewards where the baseline needs two, and, with
`filter_zero_std_groups`, a group whose rewards are all equal; the loop draws other prompts in its place up to
`max_refills` times. A response that was cut keeps its place among the responses under
`mask_truncated_completions`, but its tokens carry no loss and are not counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tastemaker.functional.advantages import group_statistics, soft_overlong_penalty
from tastemaker.functional.kl import kl_estimate
from tastemaker.functional.off_policy import importance_weights
from tastemaker.functional.tensors import segment_sum
from tastemaker.methods.base import mean_of
from tastemaker.methods.on_policy import OnPolicy, validity
from tastemaker.types import Bundles, Metric, Models, Reduce, Role, TastemakerError, Unit


@dataclass
class PolicyGradient(OnPolicy, ABC):
    """Settings and passes that the methods share."""

    num_generations: int = 1
    """Responses to each prompt: the group."""
    response_length: int = 512
    """Most tokens sampled for a response."""
    beta: float = 0.05
    """Weight of the KL to the reference; 0 loads no reference."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """How each token's KL is estimated (Schulman 2020)."""
    num_iterations: int = 1
    """Passes over each batch of rollouts (GRPO's mu)."""
    num_mini_batches: int = 1
    """Optimiser steps per pass."""
    epsilon: float = 0.2
    """The policy ratio is clipped at 1 - epsilon from below."""
    epsilon_high: float | None = None
    """The ratio is clipped at 1 + epsilon_high from above (DAPO: 0.28); None: epsilon there too."""
    reward_clip_range: tuple[float, float] | None = None
    """Scores are clipped to this range; None leaves them."""
    overlong_penalty: float = 0.0
    """Most that a response pays for nearing response_length (soft overlong punishment; DAPO: 1)."""
    soft_punish_cache: int = 0
    """Last tokens before response_length over which the overlong penalty grows to its full size."""
    mask_truncated_completions: bool = False
    """Tokens of responses that were cut carry no loss."""
    filter_zero_std_groups: bool = False
    """Groups whose rewards are all equal are left out of the loss and its counts (DAPO)."""
    max_refills: int = 0
    """Times other prompts are tried in place of groups that filter_zero_std_groups leaves out."""
    importance_sampling_correction: bool = True
    """Weigh the loss by the ratio of trainer to sampling engine, where they disagree."""
    importance_sampling_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = (
        "sequence_mask"
    )
    """Ratio of each token or of the whole sequence; outside the range bounded or set to 0."""
    importance_sampling_clip_min: float | None = None
    """Least ratio of trainer to engine; None: no least."""
    importance_sampling_clip_max: float | None = 3.0
    """Largest ratio of trainer to engine; None: no largest."""

    roles: ClassVar[tuple[Role, ...]] = ("policy", "reference", "reward")
    least_group: ClassVar[int] = 1
    """Responses to a prompt that the baseline needs."""
    # TRL's; Adam's epsilon as for PPO
    defaults: ClassVar[Mapping[str, object]] = {"learning_rate": 1e-6, "adam_epsilon": 1e-5}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_ranges()
        self._check_groups()
        if self.beta == 0:  # an instance's own: without a KL term no reference is loaded
            vars(self)["roles"] = tuple(role for role in type(self).roles if role != "reference")

    def _check_ranges(self) -> None:
        for name in ("beta", "epsilon", "epsilon_high", "overlong_penalty", "soft_punish_cache", "max_refills"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise TastemakerError(f"{name} is {value}; it must not be negative")
        for name in ("num_generations", "num_iterations", "num_mini_batches"):
            if getattr(self, name) < 1:
                raise TastemakerError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.soft_punish_cache > self.response_length:
            raise TastemakerError(
                f"soft_punish_cache ({self.soft_punish_cache}) is longer than response_length "
                f"({self.response_length}); it is the last part of it"
            )
        clip = self.reward_clip_range
        if clip is not None and not clip[0] < clip[1]:
            raise TastemakerError(f"reward_clip_range is {clip[0]:g},{clip[1]:g}; give the lower end first")
        low, high = self.importance_sampling_clip_min, self.importance_sampling_clip_max
        if low is not None and high is not None and not low < high:
            raise TastemakerError(
                f"importance_sampling_clip_min ({low:g}) must be below importance_sampling_clip_max ({high:g})"
            )

    def _check_groups(self) -> None:
        if self.num_generations < self.least_group:
            raise TastemakerError(
                f"num_generations is {self.num_generations}, but {self.name} compares responses to one prompt "
                f"with each other and needs at least {self.least_group}; give num_generations of 4 to 16, or "
                "take a method that needs no group (reinforce, reinforce_pp, ppo)"
            )
        if self.filter_zero_std_groups and self.num_generations < 2:
            raise TastemakerError("filter_zero_std_groups needs groups: num_generations of at least 2")
        if self.max_refills and not self.filter_zero_std_groups:
            raise TastemakerError(
                "max_refills draws prompts in place of filtered groups; turn on filter_zero_std_groups too"
            )

    @property
    def high(self) -> float:
        """epsilon_high, or epsilon where none is given."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    @property
    def kl_inside_reward(self) -> bool:
        """Whether the KL term is taken from the reward; otherwise it is a term of the loss."""
        return True

    @property
    def inner_epochs(self) -> int:
        return self.num_iterations

    @property
    def mini_batches(self) -> int:
        return self.num_mini_batches

    @property
    def responses_per_prompt(self) -> int:
        return self.num_generations

    @property
    def refills(self) -> int:
        return self.max_refills

    # ------------------------------------------------------------------------------------- rewards, groups

    def paid(self, batch: Bundles) -> Tensor:
        """[R] clipped scores less the penalties of responses that were cut or are near the limit."""
        score = batch.response_columns["score"]
        if self.reward_clip_range is not None:
            clipped = score.clamp(*self.reward_clip_range)
            batch = batch.with_responses(score=clipped)
        return super().paid(batch) - self.overlong(batch).to(score.dtype)

    def overlong(self, batch: Bundles) -> Tensor:
        """[R] the overlong penalty; a response that was cut pays all of it."""
        pays = soft_overlong_penalty(batch.lengths, limit=self.response_length, cache=self.soft_punish_cache)
        return self.overlong_penalty * torch.where(batch.ended, pays, torch.ones_like(pays))

    def silent_groups(self, batch: Bundles) -> Tensor:
        """[B] bool: groups whose rewards say nothing, being all equal or fewer than two."""
        count, _, std = group_statistics(self.paid(batch), batch.tree, len(batch), validity(batch))
        return (count < 2) | (std == 0)

    def without_signal(self, batch: Bundles) -> Sequence[int]:
        if not self.filter_zero_std_groups:
            return []
        return self.silent_groups(batch).nonzero().flatten().tolist()

    def counted(self, batch: Bundles) -> Tensor:
        """[R] bool: responses that are learned from."""
        valid = validity(batch)
        enough = segment_sum(valid.long(), batch.tree, len(batch)) >= self.least_group
        if self.filter_zero_std_groups:
            enough = enough & ~self.silent_groups(batch)
        return valid & enough[batch.tree]

    # --------------------------------------------------------------------------------------------- prepare

    def prepare(self, models: Models, batch: Bundles, reduce: Reduce) -> Bundles:
        policy = models.score("policy", batch, temperature=self.temperature, entropy=True)
        assert policy.logps is not None and policy.entropy is not None
        batch = batch.with_tokens(old_logps=policy.logps, old_entropy=policy.entropy)
        if "reference" in self.roles:
            reference = models.score("reference", batch, temperature=self.temperature)
            assert reference.logps is not None
            batch = batch.with_tokens(reference_logps=reference.logps)
        counted = self.counted(batch)
        in_loss = counted[batch.response] & batch.trained
        if self.mask_truncated_completions:
            in_loss = in_loss & batch.ended[batch.response]
        batch = batch.with_responses(counted=counted).with_tokens(in_loss=in_loss)
        if self.importance_sampling_correction and "sampled_logps" in batch.token_columns:
            batch = batch.with_tokens(importance=self.importance(batch))
        return self.with_advantages(batch, reduce)

    def importance(self, batch: Bundles) -> Tensor:
        """[N] trainer over engine."""
        columns = batch.token_columns
        return importance_weights(
            columns["old_logps"],
            columns["sampled_logps"].to(columns["old_logps"].dtype),
            batch.response,
            len(batch.lengths),
            columns["in_loss"],
            mode=self.importance_sampling_mode,
            low=self.importance_sampling_clip_min,
            high=self.importance_sampling_clip_max,
        )

    def engine_ratio(self, batch: Bundles) -> Tensor:
        """[R] trainer over engine of each response, for a loss that takes responses as actions."""
        in_loss = batch.token_columns["in_loss"]
        count = batch.sum_by_response(in_loss.to(torch.float64)).clamp(min=1)
        weight = batch.token_columns["importance"]  # the same for all tokens of a response
        return batch.sum_by_response(weight, in_loss) / count.to(weight.dtype)

    def require_sequence_ratio(self) -> None:
        """Refuses token-wise engine ratios, for a loss that takes responses as actions."""
        if self.importance_sampling_correction and self.importance_sampling_mode.startswith("token"):
            raise TastemakerError(
                f"importance_sampling_mode is {self.importance_sampling_mode}, but {self.name} takes whole "
                "responses as actions; give sequence_truncate or sequence_mask"
            )

    @abstractmethod
    def with_advantages(self, batch: Bundles, reduce: Reduce) -> Bundles:
        """The batch with the token column `advantages` and what else the loss needs: each method's own."""

    def returns(self, batch: Bundles) -> Tensor:
        """[R] what each response is worth: its reward, less beta KL where that is inside the reward."""
        old = batch.token_columns["old_logps"]
        worth = self.paid(batch).to(old.dtype)
        if self.beta == 0 or not self.kl_inside_reward:
            return worth
        return worth - self.beta * batch.sum_by_response(self.token_kl(batch), batch.trained)

    def token_kl(self, batch: Bundles) -> Tensor:
        """[N] the estimate of the rollouts' KL to the reference."""
        columns = batch.token_columns
        return kl_estimate(columns["old_logps"], columns["reference_logps"], self.kl_estimator)

    def units(self, batch: Bundles) -> Mapping[Unit, int]:
        counted = batch.response_columns["counted"]
        return {
            "tokens": int(batch.token_columns["in_loss"].sum()),
            "responses": int(counted.sum()),
            "trees": len(batch.tree[counted].unique()),
        }

    # --------------------------------------------------------------------------------------------- metrics

    def observe(self, batch: Bundles) -> Mapping[str, Metric]:
        columns = batch.token_columns
        in_loss = columns["in_loss"]
        metrics = {**super().observe(batch), "entropy": mean_of(columns["old_entropy"], in_loss)}
        if "reference_logps" in columns:
            metrics["kl"] = mean_of(self.token_kl(batch), in_loss)
            apart = columns["old_logps"] - columns["reference_logps"]
            metrics["objective/kl"] = mean_of(batch.sum_by_response(apart))
        if self.num_generations > 1:
            metrics |= self._group_metrics(batch)
        if "importance" in columns:
            name, weight = "sampling/importance_sampling_ratio", columns["importance"][in_loss]
            metrics[f"{name}/mean"] = mean_of(weight)
            if len(weight):
                metrics[f"{name}/min"] = Metric(weight.min(), kind="min")
                metrics[f"{name}/max"] = Metric(weight.max(), kind="max")
        return metrics

    def _group_metrics(self, batch: Bundles) -> dict[str, Metric]:
        """What groups say, those included that were drawn again."""
        silent = self.silent_groups(batch).double()
        draws = batch.tree_columns.get("draws", torch.ones(len(batch), dtype=torch.int64, device=batch.device))
        left_out = ~segment_sum(batch.response_columns["counted"].long(), batch.tree, len(batch)).bool()
        return {
            "frac_reward_zero_std": Metric((silent + draws - 1).sum(), float(draws.sum())),
            "groups/left_out": mean_of(left_out.double()),
            "groups/draws": mean_of(draws.double()),
        }


def drift_metrics(logratio: Tensor, mask: Tensor) -> dict[str, Metric]:
    """How far the policy has moved from the one that wrote, over entries (tokens or responses) of `mask`."""
    logratio = logratio.detach()
    return {
        "val/ratio": mean_of(logratio.exp(), mask),
        "policy/approxkl_avg": mean_of(0.5 * logratio**2, mask),
    }


def clip_metrics(
    logratio: Tensor, advantages: Tensor, mask: Tensor, owner: Tensor, *, low: float, high: float
) -> dict[str, Metric]:
    """`clip_ratio/*` as TRL has them: shares of entries (tokens or responses) whose ratio the clip stops, and
    their extremes over responses. `owner` says which response an entry belongs to.
    """
    ratio = logratio.detach().exp()
    below, above = (ratio < 1 - low) & (advantages < 0), (ratio > 1 + high) & (advantages > 0)
    metrics = {
        "clip_ratio/low_mean": mean_of(below.to(ratio.dtype), mask),
        "clip_ratio/high_mean": mean_of(above.to(ratio.dtype), mask),
        "clip_ratio/region_mean": mean_of((below | above).to(ratio.dtype), mask),
    }
    if bool(mask.any()):
        of, number = owner[mask], int(owner.max()) + 1
        count = segment_sum(torch.ones_like(ratio[mask]), of, number)
        low_share, high_share = (
            (segment_sum(clipped[mask].to(ratio.dtype), of, number) / count)[count > 0]
            for clipped in (below, above)
        )
        metrics["clip_ratio/low_min"] = Metric(low_share.min(), kind="min")
        metrics["clip_ratio/high_max"] = Metric(high_share.max(), kind="max")
    return metrics


def deviation(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (ddof 1; 0 of a single value) from `moments` [3]."""
    count, total, squares = moment.unbind()
    mean = total / count.clamp(min=1)
    variance = (squares - count * mean.square()) / (count - 1).clamp(min=1)
    return mean, variance.clamp(min=0).sqrt()
