"""A process reward model's loss and what becomes of its steps; no tensors."""

from __future__ import annotations

import math

from references.scalars import log_sigmoid, sigmoid


def loss(score: float, right: bool) -> float:
    return -log_sigmoid(score) if right else -log_sigmoid(-score)


def aggregate(scores: list[float], how: str) -> float:
    chances = [sigmoid(s) for s in scores]
    return {"min": min(chances), "product": math.prod(chances), "last": chances[-1]}[how]
