"""The arithmetic that a task needs, and how fast this machine multiplies matrices of its shapes.

Needed means: every prompt once, the output head at response positions alone, attention over what is seen.
What repeats or pads is not counted: the share of the matrix rate says how much of the machine does useful work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from common import Size

SECONDS = 0.3
"""Processor time spent on each shape."""


@dataclass(frozen=True)
class Work:
    """What one optimiser step of a task multiplies."""

    stream: int
    """Tokens, prompts once."""
    responses: int
    """Tokens whose log-probability is wanted; 0 where a scalar head reads one state a response."""
    seen: int
    """Pairs of a token and one that it attends to."""

    @staticmethod
    def of(trees: list[tuple[int, tuple[int, ...]]], *, head: bool) -> Work:
        """From the lengths of each tree's prompt and responses."""
        own = [n for _, responses in trees for n in responses]
        seen = sum(p * (p + 1) // 2 + sum(n * p + n * (n + 1) // 2 for n in ns) for p, ns in trees)
        return Work(sum(p for p, _ in trees) + sum(own), sum(own) if head else 0, seen)

    def products(self, size: Size) -> list[tuple[tuple[int, int, int], int]]:
        """((m, k, n), how often) of the forward's matrix products, attention apart."""
        d, f, layers = size.hidden, size.intermediate, size.layers
        found = [
            ((self.stream, d, d), 2 * layers),
            ((self.stream, d, size.kv_width), 2 * layers),
            ((self.stream, d, f), 2 * layers),
            ((self.stream, f, d), layers),
        ]
        return [*found, ((self.responses, d, size.vocabulary), 1)] if self.responses else found

    def flops(self, size: Size) -> float:
        """Forward and backward: three times the forward."""
        dense = sum(2 * m * k * n * times for (m, k, n), times in self.products(size))
        return 3.0 * (dense + 4 * self.seen * size.hidden * size.layers)


def matrix_rate(work: Work, size: Size, dtype: torch.dtype, device: str) -> float:
    """FLOP/s of the task's own products, forward, input and weight gradients, weighed by their FLOPs."""
    flops = seconds = 0.0
    for (m, k, n), times in work.products(size):
        x, w, y = (torch.randn(s, device=device).to(dtype) for s in ((m, k), (n, k), (m, n)))
        for left, right in ((x, w.t()), (y, w), (y.t(), x)):
            each = _seconds(left, right, device)
            flops += 2.0 * m * k * n * times
            seconds += each * times
    return flops / seconds


def _seconds(left: torch.Tensor, right: torch.Tensor, device: str) -> float:
    for _ in range(3):
        left @ right
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    start, count = clock(), 0
    while clock() - start < SECONDS / 3 or count < 3:
        left @ right
        count += 1
        if device != "cpu":
            torch.cuda.synchronize()
    return (clock() - start) / count
