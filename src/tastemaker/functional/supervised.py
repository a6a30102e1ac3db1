"""Losses of supervised learning: imitation of a demonstrated response."""

from torch import Tensor


def nll_loss(logps: Tensor) -> Tensor:
    """Negative log-likelihood of each token: -log pi(y_t | x, y_<t). Shapes: [N] -> [N].

    The cross-entropy of supervised fine-tuning (Ouyang et al. 2022, arXiv:2203.02155, section 3.5), per
    token; which tokens count and what the sum is divided by is the caller's.
    """
    return -logps
