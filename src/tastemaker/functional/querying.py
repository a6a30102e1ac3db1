"""Which pairs to ask people about next: how unsure a reward model is of them, and how unlike each other they
are.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pair_uncertainty(leads: Tensor) -> Tensor:
    """[Q]: p (1 - p) of p, the probability that the first response wins under Bradley-Terry: the Fisher
    information that a label of the pair has on its lead, at most 1/4.

    `leads` [Q], reward of the first response less the second's, or [Q, H] of an ensemble, whose probabilities
    are averaged.
    """
    p = leads.double().sigmoid()
    p = p.mean(-1) if p.dim() == 2 else p
    return p * (1 - p)


def ensemble_disagreement(leads: Tensor) -> Tensor:
    """[Q]: the mutual information of the label and the head, in nats (BALD: Houlsby et al. 2011,
    arXiv:1112.5745).

        H[mean_h p_h] - mean_h H[p_h],  p_h = sigmoid(lead_h)

    What heads disagree on can be learned; what they all find even (0 here) is a coin that no label settles.
    `leads` [Q, H] with H >= 2. Raises ValueError for fewer heads.
    """
    if leads.dim() != 2 or leads.shape[1] < 2:
        raise ValueError(f"disagreement is of two heads or more; got leads of shape {list(leads.shape)}")
    p = leads.double().sigmoid()
    return (_entropy(p.mean(-1)) - _entropy(p).mean(-1)).clamp(min=0)


def _entropy(p: Tensor) -> Tensor:
    return -(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p))


def informative_order(
    worth: Tensor, features: Tensor, count: int, *, seen_worth: Tensor | None = None, seen: Tensor | None = None
) -> Tensor:
    """[count] int64: pairs in the order to ask for them, each adding most to what is known by then.

        next = argmax_q worth_q x_q' A^-1 x_q,   A = c I + sum over seen and chosen of worth x x'

    x is the difference of the two responses' features. With worth p (1 - p) this is greedy D-optimal design for
    a logistic model on the features (the gain in log det A; Shen et al. 2025, arXiv:2502.04354, take a reward
    model's last layer); with another worth, that worth times how new the pair is. A pair like one that was
    chosen gains little, which is what makes a batch diverse. c is the mean of worth |x|^2 over dimensions, so
    that scales of features and worth do not matter. Ties go to the first.

    Shapes: `worth` [Q] >= 0, `features` [Q, d]; of pairs labelled already `seen_worth` [S], `seen` [S, d].
    `count` is cut at Q.
    """
    x = features.double() * worth.double().sqrt()[:, None]
    size, width = x.shape
    mean = float(x.square().sum() / max(1, size * width))
    known = torch.eye(width, dtype=torch.float64) * (mean or 1.0)
    if seen is not None:
        weight = torch.ones(len(seen), dtype=torch.float64) if seen_worth is None else seen_worth.double()
        known = known + seen.double().T @ (seen.double() * weight[:, None])
    inverse = torch.linalg.inv(known)
    gain = ((x @ inverse) * x).sum(1)
    left = torch.ones(size, dtype=torch.bool)
    chosen: list[int] = []
    for _ in range(min(count, size)):
        at = int(gain.masked_fill(~left, -1.0).argmax())
        chosen.append(at)
        left[at] = False
        # Sherman and Morrison: one more pair in A changes its inverse by one product
        along = inverse @ x[at]
        scale = 1 + float(x[at] @ along)
        inverse -= torch.outer(along, along) / scale
        gain -= (x @ along).square() / scale
    return torch.tensor(chosen, dtype=torch.int64)
