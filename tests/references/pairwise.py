"""Losses on pairs, number by number, from the papers named beside them."""

import math

from references.scalars import log_sigmoid, sigmoid


def bradley_terry(better: float, worse: float, margin: float = 0.0) -> float:
    """-log P(better wins), P = sigmoid(r_better - r_worse - margin). Bradley and Terry 1952; Touvron et al.
    2023, eq. 2.
    """
    return -log_sigmoid(better - worse - margin)


def dpo(
    policy_chosen: float,
    policy_rejected: float,
    reference_chosen: float,
    reference_rejected: float,
    beta: float,
    flip: float = 0.0,
) -> float:
    """Expected -log likelihood of the label when it is flipped with probability `flip`. Rafailov et al. 2023,
    eq. 7; Mitchell 2023 (cDPO).
    """
    chosen_reward = beta * (policy_chosen - reference_chosen)
    rejected_reward = beta * (policy_rejected - reference_rejected)
    as_labelled = -log_sigmoid(chosen_reward - rejected_reward)
    as_flipped = -log_sigmoid(rejected_reward - chosen_reward)
    return (1 - flip) * as_labelled + flip * as_flipped


def dpo_gradient_of_chosen(logratio: float, beta: float) -> float:
    """Rafailov et al. 2023, section 4: -beta sigmoid(rejected reward - chosen reward)"""
    return -beta * sigmoid(-beta * logratio)


# Below: w, v are log pi/ref of the chosen and of the rejected response.


def robust(w: float, v: float, beta: float, flip: float) -> float:
    """Ray Chowdhury et al. 2024: [(1 - e) L(w, l) - e L(l, w)] / (1 - 2e), L is DPO's loss."""
    return ((1 - flip) * -log_sigmoid(beta * (w - v)) - flip * -log_sigmoid(beta * (v - w))) / (1 - 2 * flip)


def hinge(w: float, v: float, beta: float) -> float:
    """Zhao et al. 2023, Liu et al. 2024 (RSO)."""
    return max(0.0, 1.0 - (beta * w - beta * v))


def ipo(w: float, v: float, tau: float) -> float:
    """Azar et al. 2024, eq. 17."""
    return (w - v - 1 / (2 * tau)) * (w - v - 1 / (2 * tau))


def exo(w: float, v: float, beta: float, smoothing: float) -> float:
    """Ji et al. 2024: KL(softmax(beta w, beta v) || (1 - s, s))."""
    top = max(beta * w, beta * v)
    a, b = math.exp(beta * w - top), math.exp(beta * v - top)
    p, q = a / (a + b), b / (a + b)
    return sum(x * math.log(x / y) for x, y in ((p, 1 - smoothing), (q, smoothing)) if x > 0)


def nca(w: float, v: float, beta: float) -> float:
    """Chen et al. 2024 (NCA): w as data against w and v as noise samples, half a weight each."""
    return -math.log(sigmoid(beta * w)) - sum(math.log(1 - sigmoid(beta * x)) for x in (w, v)) / 2


def bco(w: float, v: float, beta: float) -> float:
    """Jung et al. 2024: binary cross-entropy, chosen is class 1 and rejected class 0."""
    return -math.log(sigmoid(beta * w)) - math.log(1 - sigmoid(beta * v))


def sppo(w: float, v: float, beta: float) -> float:
    """Wu et al. 2024, eq. 4.7: (log ratio - eta (P - 1/2))^2 with eta = 1 / beta and P = 1, 0."""
    return sum((x - (p - 0.5) / beta) ** 2 for x, p in ((w, 1.0), (v, 0.0)))


def apo_zero(w: float, v: float, beta: float) -> float:
    """D'Oosterlinck et al. 2024, eq. 7, plus the constant that makes it positive."""
    return -sigmoid(beta * w) + sigmoid(beta * v) + 1


def apo_down(w: float, v: float, beta: float) -> float:
    """D'Oosterlinck et al. 2024, eq. 8, likewise."""
    return sigmoid(beta * w) - sigmoid(beta * (w - v)) + 1


def discopop(w: float, v: float, beta: float, tau: float) -> float:
    """Lu et al. 2024, eq. 5."""
    rho = beta * (w - v)
    s = sigmoid(rho / tau)
    return (1 - s) * math.log(1 + math.exp(-rho)) + s * math.exp(-rho)


def f_score(logratio: float, kind: str, coefficient: float = 0.5) -> float:
    """Wang et al. 2023: f'(u) of each divergence, less f'(1); alpha of the paper is 1 - coefficient."""
    u = math.exp(logratio)
    if kind == "forward_kl":
        return -1 / u - (-1 / 1)
    if kind == "js_divergence":
        return math.log(2 * u / (1 + u))
    if kind == "alpha_divergence":
        alpha = 1 - coefficient
        return (1 - u**-alpha) / alpha
    return math.log(u)


def rao_kupper(d: float, nu: float) -> tuple[float, float]:
    """(P(win), P(tie)) for strengths e^d and 1. Rao and Kupper 1967."""
    a, b = math.exp(d), 1.0
    return a / (a + nu * b), (nu * nu - 1) * a * b / ((a + nu * b) * (b + nu * a))


def davidson(d: float, nu: float) -> tuple[float, float]:
    """(P(win), P(tie)) for strengths e^d and 1. Davidson 1970."""
    a, b = math.exp(d), 1.0
    total = a + b + 2 * nu * math.sqrt(a * b)
    return a / total, 2 * nu * math.sqrt(a * b) / total


# Below: w, v are mean log-probabilities per token.


def simpo(w: float, v: float, beta: float, gamma: float) -> float:
    """Meng et al. 2024, eq. 6."""
    return -log_sigmoid(beta * w - beta * v - gamma)


def alphapo_reward(logp: float, alpha: float) -> float:
    """Gupta et al. 2025."""
    return (1 - math.exp(logp) ** -alpha) / alpha


def log_odds_ratio(w: float, v: float) -> float:
    """Hong et al. 2024, eqs. 3 and 4."""
    p, q = math.exp(w), math.exp(v)
    return math.log((p / (1 - p)) / (q / (1 - q)))
