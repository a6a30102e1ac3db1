"""Losses on pairs of responses to one prompt, one better than the other. All return one loss per pair.

Here: losses of the difference between the two responses' log-ratios (or rewards). `pair_rewards` holds those
that look at each response's own log-ratio, `ties` those that know ties, `reference_free` those without a
reference.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu


def bradley_terry_loss(better: Tensor, worse: Tensor, margin: Tensor | None = None) -> Tensor:
    """Negative log-likelihood that the better response wins.

        -log sigmoid(r_better - r_worse - margin)

    Bradley and Terry 1952; for reward models Ouyang et al. 2022 (arXiv:2203.02155), equation 1. The margin,
    how much better people said it is, follows Touvron et al. 2023 (arXiv:2307.09288), equation 2.
    Shapes: `better`, `worse` [Q] rewards, `margin` [Q] or None -> [Q]. Equal rewards give ln 2. Linear, never
    inf, where the difference is large.
    """
    difference = better - worse
    return -logsigmoid(difference if margin is None else difference - margin)


def dpo_loss(logratios: Tensor, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """Direct preference optimisation, with label smoothing (cDPO).

        h = beta * (log pi(y_w|x)/ref(y_w|x) - log pi(y_l|x)/ref(y_l|x))
        -(1 - label_smoothing) log sigmoid(h) - label_smoothing log sigmoid(-h)

    Rafailov et al. 2023 (arXiv:2305.18290), equation 7; `label_smoothing` is the probability that a label is
    flipped (Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO"), in
    [0, 0.5]; at 0.5 the pair is a tie. Shapes: `logratios` [Q] = chosen minus rejected log-ratio, each
    summed over its whole response, nothing divided by length -> [Q]. Gradient in `logratios` without
    smoothing: -beta sigmoid(-h). Where pi == ref the loss is ln 2. Linear, never inf, for large h.
    """
    if not 0.0 <= label_smoothing <= 0.5:
        raise ValueError(f"label_smoothing is the share of flipped labels, in [0, 0.5]; got {label_smoothing}")
    h = beta * logratios
    if label_smoothing == 0.0:
        return -logsigmoid(h)
    return torch.add(-(1 - label_smoothing) * logsigmoid(h), logsigmoid(-h), alpha=-label_smoothing)


def robust_dpo_loss(logratios: Tensor, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
    """Robust DPO: its expectation under flipped labels is DPO's loss on the true ones.

        h as in `dpo_loss`, e = label_smoothing
        (-(1 - e) log sigmoid(h) + e log sigmoid(-h)) / (1 - 2e)

    Ray Chowdhury et al. 2024 (arXiv:2403.00409). `label_smoothing` is the probability that a label
    was flipped, in [0, 0.5). Unlike cDPO's this loss has no lower bound where e > 0: it falls without end as
    -e h / (1 - 2e), and its gradient never changes sign. Shapes: `logratios` [Q] -> [Q].
    """
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is the share of flipped labels, in [0, 0.5); got {label_smoothing}")
    h = beta * logratios
    mixed = torch.add(-(1 - label_smoothing) * logsigmoid(h), logsigmoid(-h), alpha=label_smoothing)
    return mixed / (1 - 2 * label_smoothing)


def hinge_loss(logratios: Tensor, *, beta: float = 0.1) -> Tensor:
    """Hinge loss on the implicit reward: max(0, 1 - beta * logratios).

    Zhao et al. 2023 (SLiC-HF, arXiv:2305.10425), with the reference's log-ratios as in Liu et al. 2024 (RSO,
    arXiv:2309.06657). Where pi == ref the loss is 1; from logratios = 1 / beta on it is 0 and
    has no gradient. Shapes: [Q] -> [Q].
    """
    return relu(1 - beta * logratios)


def ipo_loss(logratios: Tensor, *, beta: float = 0.1) -> Tensor:
    """Identity preference optimisation: (logratios - 1 / (2 beta))^2.

    Azar et al. 2024 (arXiv:2310.12036), equation 17, beta is the paper's tau. The log-ratio has a finite
    optimum, 1 / (2 beta), also where one response always wins; for preference probability p it is
    (p - 1/2) / beta. The formula takes `logratios` [Q] as it is given: summed over the response (the paper),
    or divided by length.
    """
    return (logratios - 1 / (2 * beta)) ** 2


def exo_pair_loss(logratios: Tensor, *, beta: float = 0.1, label_smoothing: float = 1e-3) -> Tensor:
    """Efficient exact optimisation on pairs: KL from the policy's choice to the smoothed label.

        q = sigmoid(h), h as in `dpo_loss`;  p = 1 - label_smoothing
        q log(q / p) + (1 - q) log((1 - q) / (1 - p))

    Ji et al. 2024 (arXiv:2402.00856), equation 16, for K = 2. Reverse KL, so smoothing must be in (0, 0.5):
    with hard labels it is infinite. Its minimum 0 lies at h = logit(1 - label_smoothing), and far below it
    the gradient vanishes. Shapes: [Q] -> [Q].
    """
    if not 0.0 < label_smoothing < 0.5:
        raise ValueError(f"label_smoothing of a reverse KL lies in (0, 0.5); got {label_smoothing}")
    h = beta * logratios
    won = h.sigmoid() * (logsigmoid(h) - math.log1p(-label_smoothing))
    return won + (-h).sigmoid() * (logsigmoid(-h) - math.log(label_smoothing))


def discopop_loss(logratios: Tensor, *, beta: float = 0.1, tau: float = 0.05) -> Tensor:
    """The log-ratio modulated loss that a search by language models discovered (DiscoPOP).

        s = sigmoid(h / tau), h as in `dpo_loss`;  -(1 - s) log sigmoid(h) + s exp(-h)

    Lu et al. 2024 (arXiv:2406.08414), equation 5. Not convex: it has a small dip left of h = 0. Where
    pi == ref it is (ln 2 + 1) / 2. Shapes: [Q] -> [Q]. Finite for large negative h (0 < tau < 1).
    """
    if tau <= 0:
        raise ValueError(f"tau divides; it must be above 0, got {tau}")
    h = beta * logratios
    exponential = torch.exp(logsigmoid(h / tau) - h)  # s exp(-h) without 0 * inf
    return -(-h / tau).sigmoid() * logsigmoid(h) + exponential
