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


def own_prompts(rows: list[list[float]]) -> tuple[float, float, float]:
    """(estimate, variance of the seed means, pooled variance within seeds), each seed with its own prompts."""
    means = [math.fsum(row) / len(row) for row in rows]
    estimate = math.fsum(means) / len(means)
    scatter = math.fsum((m - estimate) ** 2 for m in means) / (len(means) - 1)
    squares = math.fsum((v - m) ** 2 for row, m in zip(rows, means, strict=True) for v in row)
    return estimate, scatter, squares / sum(len(row) - 1 for row in rows)


def shared_prompts(rows: list[list[float]]) -> tuple[float, float, float, float]:
    """(estimate, variance of the seed means, the interaction's mean square, the prompts' variance component)
    of a two-way table without replication.
    """
    seeds, prompts = len(rows), len(rows[0])
    estimate, scatter, _ = own_prompts(rows)
    means = [math.fsum(row) / prompts for row in rows]
    columns = [math.fsum(row[p] for row in rows) / seeds for p in range(prompts)]
    rest = math.fsum(
        (rows[s][p] - means[s] - columns[p] + estimate) ** 2 for s in range(seeds) for p in range(prompts)
    ) / ((seeds - 1) * (prompts - 1))
    between = math.fsum((c - estimate) ** 2 for c in columns) / (prompts - 1)
    return estimate, scatter, rest, max(0.0, between - rest / seeds)
