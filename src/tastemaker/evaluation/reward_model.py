"""Reading a reward model: how often it orders held-out pairs as people did, and as the truth does."""

from __future__ import annotations

import torch
from torch import Tensor

from tastemaker.functional import mean_interval
from tastemaker.types import Bundles, Models


def pair_accuracy(rewards: Tensor, pairs: tuple[Tensor, Tensor]) -> Tensor:
    """[Q]: 1 where the better response scores higher, 0.5 on a tie, 0 otherwise."""
    better, worse = rewards[pairs[0]], rewards[pairs[1]]
    return (better > worse).double() + 0.5 * (better == worse).double()


def reward_accuracy(models: Models, held_out: Bundles, gold: Tensor | None = None) -> dict[str, float]:
    """Accuracy of the role `reward` on held-out comparisons, with a 95% interval.

    `gold` [R], where the truth is known, gives two more figures over pairs whose gold differs: how often
    the reward model agrees with gold, and how often the labels do (the ceiling that label noise sets), and
    the correlation of score and gold.
    """
    rewards = models.score("reward", held_out).rewards
    assert rewards is not None
    rewards = (rewards.mean(-1) if rewards.dim() == 2 else rewards).double().cpu()
    agrees = pair_accuracy(rewards, held_out.pairs)
    interval = mean_interval(agrees)
    result = {
        "accuracy": float(agrees.mean()),
        "low": interval.low,
        "high": interval.high,
        "pairs": float(len(agrees)),
    }
    if gold is not None:
        better, worse = held_out.pairs
        differs = gold[better] != gold[worse]
        up, down = better[differs], worse[differs]
        swap = gold[up] < gold[down]
        truth = (torch.where(swap, down, up), torch.where(swap, up, down))
        result["gold_accuracy"] = float(pair_accuracy(rewards, truth).mean())
        result["label_gold_agreement"] = float((~swap).double().mean())
        result["gold_correlation"] = float(torch.corrcoef(torch.stack([rewards, gold.double()]))[0, 1])
        result["gold_pairs"] = float(differs.sum())
    return result
