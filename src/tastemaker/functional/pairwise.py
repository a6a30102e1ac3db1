"""Losses on pairs of responses to one prompt, one better than the other. All return one loss per pair."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


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
