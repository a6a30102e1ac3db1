"""DPO's family on one pair of token lists, with every switch, from the papers; no tensors."""

import math

from references import pairwise
from references.scalars import log_sigmoid

Tokens = list[float]


def side(tokens: Tokens, shared: int | None, alpha: float) -> float:
    """LD-DPO (Liu et al. 2024): tokens past the shared length count alpha."""
    return sum(x if shared is None or i < shared else alpha * x for i, x in enumerate(tokens))


def pair_loss(
    kind: str,
    chosen: Tokens,
    rejected: Tokens,
    ref_chosen: Tokens,
    ref_rejected: Tokens,
    *,
    beta: float,
    smoothing: float = 0.0,
    divergence: str = "reverse_kl",
    coefficient: float = 0.5,
    ld_alpha: float | None = None,
    length_penalty: float = 0.0,
    dpop_lambda: float = 0.0,
    offset: float = 0.0,
    tau: float = 0.05,
    nu: float = 3.0,
    tied: bool = False,
) -> float:
    shared = None if ld_alpha is None else min(len(chosen), len(rejected))
    cut = 1.0 if ld_alpha is None else ld_alpha
    w = side(chosen, shared, cut) - side(ref_chosen, shared, cut)
    v = side(rejected, shared, cut) - side(ref_rejected, shared, cut)
    each = {
        "nca_pair": pairwise.nca,
        "bco_pair": pairwise.bco,
        "sppo_hard": pairwise.sppo,
        "apo_zero": pairwise.apo_zero,
        "apo_down": pairwise.apo_down,
    }
    if kind in each:
        return each[kind](w, v, beta)
    a, b = (pairwise.f_score(x, divergence, coefficient) for x in (w, v))
    if kind.endswith("_norm"):
        a, b = a / len(chosen), b / len(rejected)
    # Smaug: a penalty where the chosen response fell below the reference; R-DPO: a reward per token taken
    if not tied:
        a -= dpop_lambda * max(0.0, -w) + offset / beta
    a += length_penalty * len(chosen) / beta
    b += length_penalty * len(rejected) / beta
    if kind in ("sigmoid", "sigmoid_norm"):
        return pairwise.dpo(a, b, 0.0, 0.0, beta, smoothing)
    if kind in ("ipo", "ipo_norm"):
        return pairwise.ipo(a, b, beta)
    if kind == "robust":
        return pairwise.robust(a, b, beta, smoothing)
    if kind == "exo_pair":
        return pairwise.exo(a, b, beta, smoothing)
    if kind == "hinge":
        return pairwise.hinge(a, b, beta)
    if kind == "discopop":
        return pairwise.discopop(a, b, beta, tau)
    model = pairwise.rao_kupper if kind == "rao_kupper" else pairwise.davidson
    return -math.log(model(beta * (a - b), nu)[1 if tied else 0])


def aot(differences: list[float], beta: float, smoothing: float) -> float:
    """Melnyk et al. 2024 (arXiv:2406.05882): differences of the k-th smallest numbers of either side."""
    return sum(
        -(1 - smoothing) * log_sigmoid(beta * d) - smoothing * log_sigmoid(-beta * d) for d in differences
    )
