"""Preference likelihoods that give ties a probability of their own.

`difference` is the better response's reward less the worse one's, r_i - r_j (for DPO: beta times the
difference of log-ratios), [Q]; `nu` says how common ties are. Chen et al. 2024 ("On Extending Direct
Preference Optimization to Accommodate Ties", arXiv:2409.17431).
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def rao_kupper_loss(difference: Tensor, *, nu: float = 3.0, tied: bool = False) -> Tensor:
    """Negative log-likelihood of a win, or of a tie, after Rao and Kupper 1967.

        P(win) = sigmoid(d - log nu)
        P(tie) = (nu^2 - 1) sigmoid(d - log nu) sigmoid(-d - log nu)

    A tie is a difference within log nu of zero. `nu` > 1; nu = 1 knows no ties and is Bradley-Terry; with
    nu = 3 equals tie half of the time. Shapes: [Q] -> [Q].
    """
    if nu < 1 or (tied and nu == 1):
        raise ValueError(f"nu must be above 1 for ties to have a probability; got {nu}")
    width = math.log(nu)
    win = -logsigmoid(difference - width)
    if not tied:
        return win
    return win - logsigmoid(-difference - width) - math.log(nu * nu - 1)


def davidson_loss(difference: Tensor, *, nu: float = 1.0, tied: bool = False) -> Tensor:
    """Negative log-likelihood of a win, or of a tie, after Davidson 1970.

        P(win) = 1 / (1 + e^-d + 2 nu e^(-d/2))
        P(tie) = 2 nu e^(-d/2) P(win)

    `nu` >= 0; nu = 0 is Bradley-Terry; with nu = 1 equals tie half of the time. Shapes: [Q] -> [Q].
    """
    if nu < 0 or (tied and nu == 0):
        raise ValueError(f"nu must be above 0 for ties to have a probability; got {nu}")
    zero = torch.zeros_like(difference)
    if nu == 0:
        return torch.logsumexp(torch.stack([zero, -difference]), 0)
    middle = math.log(2 * nu) - difference / 2
    win = torch.logsumexp(torch.stack([zero, -difference, middle]), 0)
    return win - middle if tied else win
