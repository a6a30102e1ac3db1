"""Functions of one number that do not overflow."""

import math


def log_sigmoid(x: float) -> float:
    """log(1 / (1 + e^-x))"""
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return math.exp(log_sigmoid(x))


def clip(x: float, low: float, high: float) -> float:
    if x < low:
        return low
    if x > high:
        return high
    return x
