"""The Plackett-Luce likelihood of rankings, against its definition."""

from __future__ import annotations

import math

import pytest
import torch

from references import listwise, pairwise
from tastemaker.functional import plackett_luce_loss

F64 = torch.float64
RANKINGS: tuple[tuple[int, ...], ...] = ((2, 0, 1), (0, 1), (3, 1, 0, 2), (1, 0), (0,), (4, 3, 2, 1, 0))
REWARDS = torch.randn(17, generator=torch.Generator().manual_seed(0), dtype=F64) * 2


def flat(rankings: tuple[tuple[int, ...], ...]) -> tuple[torch.Tensor, torch.Tensor]:
    rank = torch.tensor([r for ranking in rankings for r in ranking])
    return rank, torch.repeat_interleave(torch.arange(len(rankings)), torch.tensor([len(r) for r in rankings]))


def test_rankings_of_every_size_are_the_papers():
    rank, group = flat(RANKINGS)
    ours = plackett_luce_loss(REWARDS, rank, group)
    parts = REWARDS.split([len(r) for r in RANKINGS])
    expected = [listwise.plackett_luce(p.tolist(), list(r)) for p, r in zip(parts, RANKINGS, strict=True)]
    assert torch.allclose(ours, torch.tensor(expected, dtype=F64), rtol=1e-12, atol=1e-12)
    assert ours[4] == 0
    assert float(ours[1]) == pytest.approx(pairwise.bradley_terry(*parts[1].tolist(), 0.0), rel=1e-12)


@pytest.mark.parametrize("ranking", [(0, 1, 1, 1), (1, 0, 2, 2), (1, 1, 0), (0, 1, 2, 2)])
def test_ties_at_the_end_are_a_partial_ranking(ranking: tuple[int, ...]):
    rank, group = flat((ranking,))
    rewards = REWARDS[: len(ranking)]
    expected = listwise.partial(rewards.tolist(), list(ranking))
    assert float(plackett_luce_loss(rewards, rank, group)) == pytest.approx(expected, rel=1e-12)


def test_ties_further_up_do_not_compete_with_each_other():
    a, b, c = REWARDS[:3].tolist()
    rank, group = flat(((0, 0, 1),))
    expected = math.log1p(math.exp(c - a)) + math.log1p(math.exp(c - b))
    assert float(plackett_luce_loss(REWARDS[:3], rank, group)) == pytest.approx(expected, rel=1e-12)
    assert float(plackett_luce_loss(REWARDS[:3], torch.zeros(3), group)) == 0


def test_all_orders_of_one_prompt_share_out_all_probability():
    from itertools import permutations

    rewards = REWARDS[:4]
    group = torch.zeros(4, dtype=torch.int64)
    total = sum(
        math.exp(-float(plackett_luce_loss(rewards, torch.tensor(p), group))) for p in permutations(range(4))
    )
    assert total == pytest.approx(1.0, rel=1e-12)


def test_gradients_are_those_of_the_values_and_ignore_a_constant():
    rank, group = flat((*RANKINGS[:4], (0, 1, 1)))
    rewards = REWARDS[: len(rank)].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: plackett_luce_loss(x, rank, group), rewards)
    (gradient,) = torch.autograd.grad(plackett_luce_loss(rewards, rank, group).sum(), rewards)
    sums = torch.zeros(5, dtype=F64).index_add(0, group, gradient)
    assert torch.allclose(sums, torch.zeros(5, dtype=F64), atol=1e-12)
    far = plackett_luce_loss(1e4 * rewards.detach(), rank, group)
    assert torch.isfinite(far).all()


def test_no_rankings_at_all():
    assert plackett_luce_loss(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.int64)).shape == (0,)
