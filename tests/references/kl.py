"""KL estimates (Schulman 2020), the exact KL, and the controller of Ziegler et al. 2019."""

import math

from references.scalars import clip


def estimate(kind: str, logp: float, reference_logp: float) -> float:
    r = math.exp(reference_logp - logp)  # ref / pi
    if kind == "k1":
        return -math.log(r)
    if kind == "k2":
        return math.log(r) ** 2 / 2
    assert kind == "k3"
    return (r - 1) - math.log(r)


def exact(policy: list[float], reference: list[float]) -> float:
    """Of two lists of probabilities; 0 log 0 = 0."""
    return math.fsum(p * math.log(p / q) for p, q in zip(policy, reference, strict=True) if p > 0)


def adaptive(coef: float, measured: float, target: float, horizon: float, episodes: int) -> float:
    proportional_error = clip((measured - target) / target, -0.2, 0.2)
    return coef * (1 + proportional_error * episodes / horizon)
