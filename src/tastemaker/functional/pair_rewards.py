"""Losses on pairs that look at each response's own log-ratio, not at the difference alone.

`chosen` and `rejected` are log pi(y|x)/ref(y|x) of whole responses, [Q] each; the losses are [Q]. Because
the two enter apart, these losses can hold up (or push down) the likelihood of what was chosen, and the
constant beta log Z(x), which cancels in a difference, does not cancel here.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def nca_pair_loss(chosen: Tensor, rejected: Tensor, *, beta: float = 0.1) -> Tensor:
    """Noise contrastive alignment for pairs.

        -log sigmoid(r_w) - 1/2 log sigmoid(-r_w) - 1/2 log sigmoid(-r_l),    r = beta * log-ratio

    Chen et al. 2024 (arXiv:2402.05369), in its pairwise form (hard labels, K = 2). In r_w alone
    the minimum is r_w = ln 2: the chosen response's likelihood cannot fall without end. 2 ln 2 where pi == ref.
    """
    better, worse = beta * chosen, beta * rejected
    return -logsigmoid(better) - 0.5 * logsigmoid(-better) - 0.5 * logsigmoid(-worse)


def bco_pair_loss(chosen: Tensor, rejected: Tensor, *, beta: float = 0.1) -> Tensor:
    """Binary classifier optimisation on pairs, without a shift.

        -log sigmoid(r_w) - log sigmoid(-r_l),    r = beta * log-ratio

    Jung et al. 2024 (arXiv:2404.04656), the bound on DPO's loss with reward shift 0. 2 ln 2 where pi == ref.
    """
    return -logsigmoid(beta * chosen) - logsigmoid(-beta * rejected)


def sppo_hard_loss(chosen: Tensor, rejected: Tensor, *, beta: float = 0.1) -> Tensor:
    """Self-play preference optimisation with winning probabilities 1 and 0.

        (log-ratio_w - 1 / (2 beta))^2 + (log-ratio_l + 1 / (2 beta))^2

    Wu et al. 2024 (arXiv:2405.00675), equation 4.7 with P = 1 and 0; beta is 1 / eta.
    """
    return (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2


def apo_zero_loss(chosen: Tensor, rejected: Tensor, *, beta: float = 0.1) -> Tensor:
    """Anchored preference optimisation, for data better than the model: chosen up, rejected down.

        (1 - sigmoid(beta chosen)) + sigmoid(beta rejected)

    D'Oosterlinck et al. 2024 (arXiv:2408.06266), equation 7. 1 where pi == ref.
    """
    return (-beta * chosen).sigmoid() + (beta * rejected).sigmoid()


def apo_down_loss(chosen: Tensor, rejected: Tensor, *, beta: float = 0.1) -> Tensor:
    """Anchored preference optimisation, for data worse than the model: chosen down, rejected further down.

        sigmoid(beta chosen) + (1 - sigmoid(beta (chosen - rejected)))

    D'Oosterlinck et al. 2024 (arXiv:2408.06266), equation 8. 1 where pi == ref.
    """
    return (beta * chosen).sigmoid() + (-beta * (chosen - rejected)).sigmoid()


def f_divergence_score(logratio: Tensor, kind: str = "reverse_kl", *, coefficient: float = 0.5) -> Tensor:
    """f'(u) at u = pi/ref: what takes the log-ratio's place where DPO is regularised by another divergence.

        reverse_kl         log u
        forward_kl         1 - 1/u
        js_divergence      log(2u / (1 + u))
        alpha_divergence   (u^(a-1) - 1) / (a - 1),   a = coefficient; a = 1 is reverse_kl, a = 0 forward_kl

    Wang et al. 2023 (arXiv:2309.16240); up to a constant, which cancels in the
    difference that the loss takes. `coefficient` is TRL's; the paper's alpha is 1 - a. Exponents are held
    below 80, so that values stay finite in float32: a response e^80 times less likely than under the reference
    gets no gradient. Shapes: any, elementwise. All are 0 with slope 1 at u = 1.
    """
    if kind == "reverse_kl" or (kind == "alpha_divergence" and abs(coefficient - 1) < 1e-6):
        return logratio
    if kind == "forward_kl":
        return 1 - torch.exp((-logratio).clamp(max=80))
    if kind == "js_divergence":
        return logsigmoid(logratio) + torch.tensor(2.0, dtype=logratio.dtype, device=logratio.device).log()
    if kind == "alpha_divergence":
        power = coefficient - 1
        return torch.expm1((power * logratio).clamp(max=80)) / power
    raise ValueError(f"unknown divergence {kind!r}")
