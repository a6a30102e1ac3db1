"""The arithmetic that a task needs, and how fast this machine multiplies matrices of its shapes.

Needed means: every prompt once, the output head at response positions alone, of the last layer what is read,
attention over what is seen.
What repeats or pads is not counted: the share of the matrix rate says how much of the machine does useful work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from common import TASKS, Size, rows_of
from transformers import AutoTokenizer

SECONDS = 0.3
"""Processor time spent on each shape."""


@dataclass(frozen=True)
class Work:
    """What one optimiser step of a task multiplies."""

    stream: int
    """Tokens, prompts once."""
    responses: int
    """Tokens whose log-probability is wanted; 0 where a scalar head reads one state a response."""
    read: int
    """Tokens whose last state is read; the last layer's other tokens need but their keys and values."""
    seen: int
    """Pairs of a token and one that it attends to."""
    seen_last: int
    """Those of the tokens that are read."""

    @staticmethod
    def of(trees: list[tuple[int, tuple[int, ...]]], *, head: bool) -> Work:
        """From the lengths of each tree's prompt and responses."""
        each = [(p, n) for p, ns in trees for n in ns]
        own = sum(n for _, n in each)
        of_responses = sum(n * p + n * (n + 1) // 2 for p, n in each)
        return Work(
            stream=sum(p for p, _ in trees) + own,
            responses=own if head else 0,
            read=own if head else len(each),
            seen=sum(p * (p + 1) // 2 for p, _ in trees) + of_responses,
            seen_last=of_responses if head else sum(p + n for p, n in each),
        )

    def products(self, size: Size) -> list[tuple[tuple[int, int, int], int]]:
        """((m, k, n), how often) of the forward's matrix products, attention apart."""
        d, f, layers = size.hidden, size.intermediate, size.layers
        found = [((self.stream, d, size.kv_width), 2 * layers)]
        for tokens, times in ((self.stream, layers - 1), (self.read, 1)):
            found += [((tokens, d, d), 2 * times), ((tokens, d, f), 2 * times), ((tokens, f, d), times)]
        found = [(shape, times) for shape, times in found if times]
        return [*found, ((self.responses, d, size.vocabulary), 1)] if self.responses else found

    def flops(self, size: Size) -> float:
        """Forward and backward: three times the forward."""
        dense = sum(2 * m * k * n * times for (m, k, n), times in self.products(size))
        return 3.0 * (dense + 4 * (self.seen * (size.layers - 1) + self.seen_last) * size.hidden)


def lengths(prepared: Path, size: str, task: str, steps: int, batch: int) -> list[tuple[int, tuple[int, ...]]]:
    """Tokens of the prompt and responses of each row of the measured steps, end token included."""
    tokenizer = AutoTokenizer.from_pretrained(prepared / f"model-{size}")
    sides = ("completion",) if task == "sft" else ("chosen", "rejected")
    first = TASKS[task].warmup * batch
    rows = rows_of(
        prepared, "demonstrations" if task == "sft" else "pairs", first + steps * batch, ordered=True
    )
    found = []
    for row in rows[first:]:
        prompt = len(tokenizer(row["prompt"]).input_ids)
        whole = [len(tokenizer(row["prompt"] + row[side]).input_ids) + 1 for side in sides]
        found.append((prompt, tuple(n - prompt for n in whole)))
    return found


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
