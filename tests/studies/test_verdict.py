"""The verdict: a winner only where the interval says so; one KL only where both arms have been."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tastemaker.studies.verdict import Point, at_kl, choose, matched_kl, verdict


def scores(level: float, seeds: int, prompts: int = 200, spread: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    prompt_effect = torch.randn(seeds, prompts, generator=generator, dtype=torch.float64) * spread
    return [level + prompt_effect[s] for s in range(seeds)]


def noisy(level: float, seeds: int, seed: int, between: float = 0.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shift = between * torch.randn(seeds, generator=generator, dtype=torch.float64)
    noise = torch.randn(seeds, 200, generator=generator, dtype=torch.float64)
    return [base + shift[s] + 0.5 * noise[s] for s, base in enumerate(scores(level, seeds))]


def said(a: list[Tensor], b: list[Tensor]) -> dict[str, object]:
    points = {"a": [[Point(1.0, x)] for x in a], "b": [[Point(1.0, x)] for x in b]}
    base = {"sft_sampled": scores(0.0, len(a)), "sft_greedy": scores(0.0, len(a))}
    return verdict({"a": a, "b": b}, base, points, "gold reward", {"a": a, "b": b})


def test_a_clear_difference_is_found_and_has_the_right_sign():
    found = said(noisy(1.0, 5, 1), noisy(0.2, 5, 2))
    assert found["winner"] == "a"
    assert "a comes out ahead of b" in str(found["text"])
    assert said(noisy(0.2, 5, 2), noisy(1.0, 5, 1))["winner"] == "b"


def test_equal_arms_rarely_win():
    """Arms that are the same but for the luck of seeds and prompts: no winner in at least 93% of studies."""
    wins = sum(
        said(noisy(0.5, 3, 2 * i, between=0.3), noisy(0.5, 3, 2 * i + 1, between=0.3))["winner"] is not None
        for i in range(100)
    )
    assert wins <= 7


def test_no_winner_is_said_in_words():
    same = noisy(0.5, 3, 3)
    found = said(same, [x + 1e-9 for x in reversed(same)])
    assert found["winner"] is None
    assert str(found["text"]).startswith("No winner: a and b are not told apart.")


def test_scores_are_interpolated_at_one_kl():
    points = [Point(3.0, torch.tensor([3.0, 0.0])), Point(1.0, torch.tensor([1.0, 2.0]))]
    assert at_kl(points, 1.5).tolist() == pytest.approx([1.5, 1.5])
    assert at_kl(points, 3.0).tolist() == [3.0, 0.0]
    with pytest.raises(ValueError, match="no two settings"):
        at_kl(points, 3.5)


def test_arms_that_reach_no_kl_in_common_are_not_comparable():
    low = [[Point(0.5, torch.zeros(4)), Point(1.0, torch.zeros(4))]]
    high = [[Point(2.0, torch.ones(4)), Point(3.0, torch.ones(4))]]
    found = matched_kl(low, high)
    assert found["comparable"] is False
    assert "not comparable" in found["text"]
    near = [[Point(0.9, torch.ones(4)), Point(3.0, torch.ones(4))]]
    found = matched_kl(low, near)
    assert found["comparable"] is True
    assert found["range"] == [0.9, 1.0]
    assert found["difference"]["mean"] == pytest.approx(-1.0)


def test_the_setting_is_chosen_by_its_mean_over_seeds():
    assert choose({"x": [1.0, 0.0], "y": [0.6, 0.6]}) == "y"
    assert choose({"x": [1.0], "y": [1.0]}) == "x"
