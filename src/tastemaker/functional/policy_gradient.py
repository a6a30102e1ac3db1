"""Policy-gradient and value losses, per token. Advantages, old log-probs and returns are constants."""

import torch
from torch import Tensor

LOGRATIO_LIMIT = 20.0
"""exp of a log-ratio beyond this is taken as exp(20), about 5e8: far outside any clip range, still finite."""


def ppo_clip_loss(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, *, cliprange_low: float, cliprange_high: float
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate of PPO.

        rho = pi(y_t) / pi_old(y_t)
        -min(rho A, clip(rho, 1 - cliprange_low, 1 + cliprange_high) A)

    Schulman et al. 2017 (arXiv:1707.06347), equation 7; two clip ranges as in DAPO (arXiv:2503.14476,
    section 3.1). Shapes: all [N] -> (loss [N], clipped [N] bool). `clipped` marks the tokens whose gradient
    is stopped: rho above the range with A > 0 or below it with A < 0. At pi == pi_old the gradient is that of
    REINFORCE, -A. Departure: PPO does not bound rho where A < 0; here the log-ratio is capped at
    `LOGRATIO_LIMIT`, past which the loss stays finite, has no gradient, and the token counts as clipped.
    Entries do not mix; a NaN stays in its own entry, so leave out masked tokens *before* calling where
    they may hold NaN (a zero times NaN in the backward pass is NaN).
    """
    logratio = logps - old_logps
    ratio = logratio.clamp(max=LOGRATIO_LIMIT).exp()
    unclipped = -advantages * ratio
    bounded = -advantages * ratio.clamp(1 - cliprange_low, 1 + cliprange_high)
    over = bounded > unclipped
    # where, not maximum: what is called clipped is then exactly what has no gradient, ties included
    loss = torch.where(over, bounded, unclipped)
    return loss, over | ((logratio > LOGRATIO_LIMIT) & (advantages != 0))


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, cliprange: float
) -> tuple[Tensor, Tensor]:
    """Squared error of the values, pessimistic about moves beyond the clip range.

        V_clip = V_old + clip(V - V_old, -cliprange, cliprange)
        1/2 max((V - R)^2, (V_clip - R)^2)

    As in OpenAI's baselines and Ziegler et al. 2019 (arXiv:1909.08593), with the 1/2 included. Shapes: all
    [N] -> (loss [N], clipped [N] bool: the clipped error is the larger, so no gradient flows).
    """
    bounded = old_values + (values - old_values).clamp(-cliprange, cliprange)
    error = (values - returns).square()
    bounded_error = (bounded - returns).square()
    clipped = bounded_error > error
    return 0.5 * torch.where(clipped, bounded_error, error), clipped
