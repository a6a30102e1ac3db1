"""Win rates: counts by hand, ties, intervals, and who meets whom."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tastemaker.studies.wins import win_rate, win_rates

A = [torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([1.0, 1.0])]
B = [torch.tensor([0.0, 2.0, 1.0, 5.0]), torch.tensor([0.0, 1.0])]


def test_wins_ties_and_losses_are_counted_and_seeds_weigh_the_same() -> None:
    found = win_rate(A, B)
    assert (found["wins"], found["ties"], found["losses"]) == (3, 2, 1)
    # 2.5 of 4 and 1.5 of 2
    assert found["rate"]["mean"] == pytest.approx((0.625 + 0.75) / 2)
    swapped = win_rate(B, A)
    assert (swapped["wins"], swapped["ties"], swapped["losses"]) == (1, 2, 3)
    assert swapped["rate"]["mean"] == pytest.approx(1 - found["rate"]["mean"])
    assert swapped["rate"]["low"] == pytest.approx(1 - found["rate"]["high"])


def test_ties_are_within_a_tolerance() -> None:
    a = [torch.ones(2, dtype=torch.float64)]
    b = [torch.tensor([1.0 + 1e-9, 1.4], dtype=torch.float64)]
    assert win_rate(a, b)["ties"] == 1
    assert win_rate(a, b, ties_within=0.5)["ties"] == 2
    assert win_rate(a, b, ties_within=0)["ties"] == 0


def test_one_seed_has_no_interval() -> None:
    rate = win_rate(A[:1], B[:1])["rate"]
    assert rate["mean"] == 0.625
    assert math.isnan(rate["low"])


def test_seeds_that_disagree_make_the_interval_wide() -> None:
    """Student on two rates, 0.2 and 0.6: wider than the whole range."""
    ones = [torch.tensor([1.0] * w + [-1.0] * (10 - w)) for w in (2, 6)]
    zeros = [torch.zeros(10)] * 2
    assert win_rate(ones, zeros)["rate"] == {"mean": pytest.approx(0.4), "low": 0.0, "high": 1.0}
    three = [torch.tensor([1.0] * w + [-1.0] * (100 - w)) for w in (50, 55, 60)]
    rate = win_rate(three, [torch.zeros(100)] * 3)["rate"]
    assert rate["high"] - rate["mean"] == pytest.approx(4.302652729749 * 0.05 / math.sqrt(3), abs=1e-8)


def test_all_wins_are_no_certainty() -> None:
    """Wilson's interval of 10 of 10: from n / (n + z^2)."""
    found = win_rate([torch.ones(5)] * 2, [torch.zeros(5)] * 2)["rate"]
    assert found["mean"] == 1
    assert found["high"] == 1
    assert found["low"] == pytest.approx(10 / (10 + 1.959963985**2))


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_the_interval_covers(rate: float) -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        wins = [(torch.rand(60, generator=generator) < rate).double() - 0.5 for _ in range(3)]
        found = win_rate(wins, [torch.zeros(60)] * 3)["rate"]
        covered += found["low"] <= rate <= found["high"]
    assert covered / 400 >= 0.93


def test_who_meets_whom() -> None:
    def policy(level: float) -> list[Tensor]:
        return [torch.full((3,), level)] * 2

    found = win_rates(
        {"a": policy(2), "b": policy(1), "c": policy(0)},
        {"a": policy(3), "b": policy(3), "c": policy(5)},
        {"sft_sampled": policy(-1), "sft_greedy": policy(4)},
    )
    by_match = {(w["a"], w["b"], w["how"]): w["rate"]["mean"] for w in found}
    assert len(by_match) == len(found) == 3 + 3 + 6 + 3
    assert by_match["a", "b", "sampled"] == 1
    assert by_match["a", "b", "greedy"] == 0.5
    assert by_match["b", "c", "greedy"] == 0
    assert by_match["b", "sft_sampled", "sampled"] == 1
    assert by_match["c", "sft_greedy", "sampled"] == 0
    assert by_match["c", "sft_greedy", "greedy"] == 1
