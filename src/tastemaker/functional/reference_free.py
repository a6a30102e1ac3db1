"""Pair losses without a reference model: SimPO, AlphaPO's reward, ORPO's odds ratio. CPO's is DPO's formula."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tastemaker.functional.pairwise import dpo_loss


def simpo_loss(
    difference: Tensor, *, beta: float = 2.0, gamma: float = 1.0, label_smoothing: float = 0.0
) -> Tensor:
    """Simple preference optimisation: a target margin between mean log-probabilities.

        d = 1/|y_w| log pi(y_w|x) - 1/|y_l| log pi(y_l|x)
        -log sigmoid(beta d - gamma)

    Meng et al. 2024 (arXiv:2405.14734), equation 6. `label_smoothing` mixes in the flipped pair as in
    `dpo_loss`, margin kept: -log sigmoid(gamma - beta d). Shapes: `difference` [Q] = d -> [Q].
    """
    return dpo_loss(beta * difference - gamma, beta=1.0, label_smoothing=label_smoothing)


def alphapo_reward(logps: Tensor, *, alpha: float = 0.0) -> Tensor:
    """AlphaPO's shape of a reward: (1 - p^-alpha) / alpha with p = exp(logps); log p where alpha is 0.

    Gupta et al. 2025 (arXiv:2501.03884), on mean log-probabilities. Exponents are held below 80.
    Shapes: any, elementwise.
    """
    if alpha == 0.0:
        return logps
    return -torch.expm1((-alpha * logps).clamp(max=80)) / alpha


def log_odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Log of [p_w / (1 - p_w)] / [p_l / (1 - p_l)], p = exp of the mean log-probability per token.

    Hong et al. 2024 (ORPO, arXiv:2403.07691), equations 3 and 4. Shapes: mean log-probabilities `chosen`,
    `rejected` [Q] -> [Q]. Accurate for p near 0 and 1; p within one unit of rounding of 1 counts as that.
    """
    return chosen - rejected - (_log_complement(chosen) - _log_complement(rejected))


def odds_ratio_loss(log_odds: Tensor) -> Tensor:
    """-log sigmoid(log odds ratio), ORPO's relative term (equation 7). Shapes: [Q] -> [Q]; ln 2 for equals."""
    return -logsigmoid(log_odds)


def _log_complement(logp: Tensor) -> Tensor:
    """log(1 - e^logp), by the branch that loses no digits (Mächler 2012)."""
    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    small = logp > -0.6931471805599453
    # each branch sees harmless values where the other is taken, so that no NaN enters the gradient
    near = torch.log(-torch.expm1(torch.where(small, logp, torch.full_like(logp, -1.0))))
    far = torch.log1p(-torch.exp(torch.where(small, torch.full_like(logp, -1.0), logp)))
    return torch.where(small, near, far)
