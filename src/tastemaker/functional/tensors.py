"""Sums over segments and statistics that can be summed over microbatches and processes."""

import torch
from torch import Tensor


def segment_sum(values: Tensor, segment: Tensor, n: int) -> Tensor:
    """Sums the values of each segment: out[s] = sum of values[i] over segment[i] == s.

    Shapes: `values` [N], `segment` [N] int64 in [0, n), in any order -> [n]. A segment without values
    gives 0.
    """
    return torch.zeros(n, dtype=values.dtype, device=values.device).index_add(0, segment, values)


def moments(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Count, sum and sum of squares (about 0) of the values where `mask` holds.

    Shapes: `values` [N], `mask` [N] bool or None for all -> [3] float64. They add: the sum of the moments
    of parts, over microbatches and processes, is the moments of the whole. float64 keeps the variance
    that is later formed from them free of cancellation. Masked values may be anything, NaN included.
    """
    kept = values.double()
    if mask is None:
        count = kept.new_tensor(kept.numel())
    else:
        kept = torch.where(mask, kept, 0.0)
        count = mask.sum().double()
    return torch.stack((count, kept.sum(), kept.square().sum()))


def mean_and_variance(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (ddof 0) from `moments` [3] -> two float64 scalars; both 0 where the count is 0."""
    count, total, squares = moments.unbind()
    count = count.clamp(min=1)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0)


def whiten(values: Tensor, moments: Tensor, *, shift_mean: bool, eps: float = 1e-8) -> Tensor:
    """Scales values to variance 1, and to mean 0 if `shift_mean` (else their mean stays where it was).

        (v - mean) / sqrt(variance + eps)   [+ mean]

    As in the code of Ziegler et al. 2019 (arXiv:1909.08593): advantages with `shift_mean`, rewards without.
    Variance has ddof 0 as there (TRL divides by n - 1), and mean and variance are those of `moments` [3],
    which the caller may have summed over all processes: whitening must not depend on how a batch is cut.
    Equal values give 0 (their mean, without shift). Shapes: `values` [N] -> [N].
    """
    mean, variance = mean_and_variance(moments)
    scaled = (values - mean.to(values.dtype)) * torch.rsqrt(variance + eps).to(values.dtype)
    return scaled if shift_mean else scaled + mean.to(values.dtype)


def explained_variance(returns: Tensor, residuals: Tensor) -> Tensor:
    """How much of the returns' variance the values explain: 1 - Var[returns - values] / Var[returns].

    Both arguments are `moments` [3]: of the returns, and of returns - values over the same tokens, so
    that they can be summed over processes first. 1 is perfect, 0 no better than a constant, below 0
    worse. -> float64 scalar; NaN where the returns do not vary, since there is nothing to explain.
    """
    _, total = mean_and_variance(returns)
    _, left = mean_and_variance(residuals)
    return torch.where(total > 0, 1 - left / total, torch.nan)
