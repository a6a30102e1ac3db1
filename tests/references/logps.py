"""Log-softmax of a linear head."""

import math


def head_logits(
    hidden: list[float],
    weight: list[list[float]],
    bias: list[float] | None,
    scale: float,
    softcap: float | None,
    temperature: float,
) -> list[float]:
    logits: list[float] = []
    for v, row in enumerate(weight):
        z = math.fsum(h * w for h, w in zip(hidden, row, strict=True))
        if bias is not None:
            z += bias[v]
        z *= scale
        if softcap is not None:
            z = softcap * math.tanh(z / softcap)
        logits.append(z / temperature)
    return logits


def log_softmax(logits: list[float]) -> list[float]:
    largest = max(logits)
    log_total = largest + math.log(math.fsum(math.exp(z - largest) for z in logits))
    return [z - log_total for z in logits]


def entropy(logps: list[float]) -> float:
    return -math.fsum(math.exp(p) * p for p in logps)


def nll(logps: list[float]) -> list[float]:
    return [-p for p in logps]
