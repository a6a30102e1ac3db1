"""Metrics that add up: over microbatches, inner steps and processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tastemaker.training.distributed import World
from tastemaker.types import Metric

Entry = tuple[str, float, float]
"""(kind, total, count)"""


@dataclass
class Totals:
    """Metrics of one step, still as sums and counts."""

    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    values: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def add(self, metrics: Mapping[str, Metric]) -> None:
        """Adds one microbatch's metrics of this process."""
        for name, metric in metrics.items():
            self.merge(name, metric.kind, float(metric.total), metric.count)

    def put(self, name: str, value: float) -> None:
        """A number that is the same on all processes already; averaged over inner steps."""
        self.values.setdefault(name, []).append(value)

    def reduced(self, world: World) -> dict[str, float]:
        """The numbers over all processes. A mean over nothing is left out."""
        together = Totals()
        for entries in world.gather(self.entries):
            for name, (kind, total, count) in entries.items():
                together.merge(name, kind, total, count)
        result = {name: sum(values) / len(values) for name, values in self.values.items()}
        for name, (kind, total, count) in together.entries.items():
            if kind != "mean":
                result[name] = total
            elif count > 0:
                result[name] = total / count
        return result

    def merge(self, name: str, kind: str, total: float, count: float) -> None:
        if name not in self.entries:
            self.entries[name] = (kind, total, count)
            return
        _, before, counted = self.entries[name]
        if kind in ("min", "max"):
            chosen = min(before, total) if kind == "min" else max(before, total)
            self.entries[name] = (kind, chosen, 1.0)
        else:
            self.entries[name] = (kind, before + total, counted + count)
