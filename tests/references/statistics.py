"""What the estimators of `functional.statistics` estimate, by enumeration."""

import itertools
import math


def best_of_n(values: list[float], scores: list[float], n: int) -> float:
    """Mean over all subsets of n of the value of the best score, ties shared evenly."""
    outcomes: list[float] = []
    for subset in itertools.combinations(range(len(values)), n):
        top = max(scores[i] for i in subset)
        best = [values[i] for i in subset if scores[i] == top]
        outcomes.append(math.fsum(best) / len(best))
    return math.fsum(outcomes) / len(outcomes)


def tilted(values: list[float], scores: list[float], beta: float) -> tuple[float, float, float]:
    """(mean, KL, effective samples) of weights proportional to exp(score / beta)."""
    largest = max(scores)
    raw = [math.exp((s - largest) / beta) for s in scores]
    total = math.fsum(raw)
    weights = [w / total for w in raw]
    mean = math.fsum(w * v for w, v in zip(weights, values, strict=True))
    uniform = 1 / len(weights)
    kl = math.fsum(w * math.log(w / uniform) for w in weights if w > 0)
    return mean, kl, 1 / math.fsum(w * w for w in weights)


def mean_and_standard_error(values: list[float]) -> tuple[float, float]:
    n = len(values)
    mean = math.fsum(values) / n
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    return mean, math.sqrt(variance / n)
