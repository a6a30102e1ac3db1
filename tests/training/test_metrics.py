"""Metrics over microbatches and processes."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from tastemaker.training.distributed import World
from tastemaker.training.metrics import Totals
from tastemaker.types import Metric


class Two:
    """A world whose other process has the totals of `other`."""

    def __init__(self, other: Totals) -> None:
        self.other = other

    def gather(self, item: object) -> list[object]:
        return [item, self.other.read()]


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


def filled(*values: float) -> Totals:
    totals = Totals()
    for value in values:
        totals.add(
            {
                "mean": Metric(scalar(value), 2.0),
                "sum": Metric(scalar(value), kind="sum"),
                "least": Metric(scalar(value), kind="min"),
                "most": Metric(scalar(value), kind="max"),
                "nothing": Metric(scalar(0.0), 0.0),
            }
        )
    totals.put("norm", values[0])
    return totals


def test_over_microbatches() -> None:
    found = filled(1.0, -4.0, 9.0).reduced(World())
    assert found == {"norm": 1.0, "mean": 1.0, "sum": 6.0, "least": -4.0, "most": 9.0}


def test_over_processes() -> None:
    """What a process puts as a value is the same on all; what only one of them knows counts, too."""
    other = filled(20.0, -8.0)
    other.add({"alone": Metric(scalar(3.0), 4.0)})
    found = filled(1.0, -4.0, 9.0).reduced(cast(World, Two(other)))
    assert found == {"norm": 1.0, "mean": 1.8, "sum": 18.0, "least": -8.0, "most": 20.0, "alone": 0.75}


def test_nothing_is_read_before_the_end() -> None:
    """Totals stay where they were made, in float64 and without their graph."""
    totals = Totals()
    made = scalar(1.0).requires_grad_()
    for _ in range(3):
        totals.add({"x": Metric(made * 0.1, 1.0)})
    total = totals.entries["x"][1]
    assert isinstance(total, Tensor) and total.dtype == torch.float64 and not total.requires_grad
    assert abs(totals.reduced(World())["x"] - float(scalar(0.1))) < 1e-15
