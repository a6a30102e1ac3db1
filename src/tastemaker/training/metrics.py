"""Metrics that add up: over microbatches, inner steps and processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tastemaker.training.distributed import World
from tastemaker.types import Metric

Entry = tuple[str, Tensor, float]
"""(kind, total, count); the total stays where it was made"""
Number = tuple[str, float, float]
"""The same, read"""


@dataclass
class Totals:
    """Metrics of one step, still as sums and counts.

    They are read once, when the step has ended: reading a number from a GPU waits for all work before it.
    """

    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    values: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def add(self, metrics: Mapping[str, Metric]) -> None:
        """Adds one microbatch's metrics of this process."""
        for name, metric in metrics.items():
            total = metric.total.detach().double()
            before = self.entries.get(name)
            if before is None:
                self.entries[name] = (metric.kind, total, metric.count)
            elif metric.kind in ("min", "max"):
                chosen = torch.minimum if metric.kind == "min" else torch.maximum
                self.entries[name] = (metric.kind, chosen(before[1], total), 1.0)
            else:
                self.entries[name] = (metric.kind, before[1] + total, before[2] + metric.count)

    def put(self, name: str, value: float) -> None:
        """A number that is the same on all processes already; averaged over inner steps."""
        self.values.setdefault(name, []).append(value)

    def reduced(self, world: World) -> dict[str, float]:
        """The numbers over all processes. A mean over nothing is left out."""
        together: dict[str, Number] = {}
        for numbers in world.gather(self.read()):
            for name, number in numbers.items():
                together[name] = _merged(together[name], number) if name in together else number
        result = {name: sum(values) / len(values) for name, values in self.values.items()}
        for name, (kind, total, count) in together.items():
            if kind != "mean":
                result[name] = total
            elif count > 0:
                result[name] = total / count
        return result

    def read(self) -> dict[str, Number]:
        """This process's entries as numbers, with one wait for the device they lie on."""
        by_device: dict[torch.device, list[str]] = {}
        for name, (_, total, _) in self.entries.items():
            by_device.setdefault(total.device, []).append(name)
        totals: dict[str, float] = {}
        for names in by_device.values():
            stacked = torch.stack([self.entries[name][1].reshape(()) for name in names])
            totals.update(zip(names, stacked.tolist(), strict=True))
        return {name: (kind, totals[name], count) for name, (kind, _, count) in self.entries.items()}


def _merged(one: Number, other: Number) -> Number:
    kind, total, count = one
    if kind in ("min", "max"):
        return kind, min(total, other[1]) if kind == "min" else max(total, other[1]), 1.0
    return kind, total + other[1], count + other[2]
