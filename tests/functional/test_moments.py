"""Segment sums, moments, whitening and explained variance."""

import math

import pytest
import torch
from torch import Tensor

from references import policy_gradient as reference
from tastemaker.functional import explained_variance, mean_and_variance, moments, segment_sum, whiten

F64 = torch.float64


def random(n: int, seed: int = 0) -> Tensor:
    return 2 + 3 * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_segment_sum_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    assert segment_sum(values, torch.tensor([2, 0, 2, 0, 3]), 5).tolist() == [10.0, 0.0, 5.0, 16.0, 0.0]
    assert segment_sum(values[:0], torch.zeros(0, dtype=torch.int64), 2).tolist() == [0.0, 0.0]


def test_segment_sum_keeps_segments_apart() -> None:
    found = segment_sum(torch.tensor([1.0, torch.nan, 3.0]), torch.tensor([0, 1, 2]), 3)
    assert found[0] == 1
    assert found[2] == 3


def test_segment_sum_gradcheck() -> None:
    values = random(5).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: segment_sum(v, torch.tensor([2, 0, 2, 0, 1]), 4), values)


def test_moments_by_hand_and_additive() -> None:
    values = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float32)
    assert moments(values).tolist() == [3.0, 7.0, 21.0]
    assert moments(values).dtype == F64
    mask = torch.tensor([True, False, True])
    assert moments(values, mask).tolist() == [2.0, 5.0, 17.0]
    whole, parts = random(30), random(30).split([7, 1, 0, 22])
    torch.testing.assert_close(sum(moments(p) for p in parts), moments(whole), rtol=1e-14, atol=0)


def test_nan_in_masked_positions_is_harmless_to_moments() -> None:
    values = torch.tensor([1.0, torch.nan, 4.0, torch.inf], dtype=F64, requires_grad=True)
    mask = torch.tensor([True, False, True, False])
    found = moments(values, mask)
    assert found.tolist() == [2.0, 5.0, 17.0]
    (grad,) = torch.autograd.grad(found.sum(), values)
    assert grad.tolist() == [3.0, 0.0, 9.0, 0.0]


def test_moments_of_nothing() -> None:
    assert moments(torch.zeros(0)).tolist() == [0.0, 0.0, 0.0]
    assert moments(torch.ones(2), torch.zeros(2, dtype=torch.bool)).tolist() == [0.0, 0.0, 0.0]
    mean, variance = mean_and_variance(torch.zeros(3, dtype=F64))
    assert float(mean) == float(variance) == 0


@pytest.mark.parametrize("shift_mean", [True, False])
def test_D4_whitening_equals_the_reference(shift_mean: bool) -> None:
    values = random(25)
    mask = torch.rand(25, generator=torch.Generator().manual_seed(1)) < 0.6
    found = whiten(values, moments(values, mask), shift_mean=shift_mean)
    expected = reference.whiten(values.tolist(), mask.tolist(), shift_mean)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-12)


def test_D4_advantages_lose_their_mean_and_rewards_keep_it() -> None:
    values = random(50)
    advantages = whiten(values, moments(values), shift_mean=True)
    rewards = whiten(values, moments(values), shift_mean=False)
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-12)
    assert float(rewards.mean()) == pytest.approx(float(values.mean()), abs=1e-12)
    for whitened in (advantages, rewards):
        assert float(whitened.var(correction=0)) == pytest.approx(1, abs=1e-8)


def test_D4_whitening_uses_the_global_batch() -> None:
    """Two processes that sum their moments whiten as one process would; each on its own would not."""
    whole = random(20)
    left, right = whole[:5], whole[5:]
    total = moments(left) + moments(right)
    pieces = torch.cat([whiten(part, total, shift_mean=True) for part in (left, right)])
    torch.testing.assert_close(pieces, whiten(whole, moments(whole), shift_mean=True), rtol=0, atol=1e-12)
    alone = torch.cat([whiten(part, moments(part), shift_mean=True) for part in (left, right)])
    assert not torch.allclose(pieces, alone, atol=0.01)


def test_whitening_of_equal_values_and_of_one() -> None:
    for n in (1, 4):
        values = torch.full((n,), 3.7, dtype=torch.float32)
        assert float(whiten(values, moments(values), shift_mean=True).abs().max()) < 1e-3
        torch.testing.assert_close(whiten(values, moments(values), shift_mean=False), values, rtol=0, atol=1e-3)


def test_whitening_keeps_float32_and_survives_a_large_mean() -> None:
    values = (1000 + random(100)).float()
    found = whiten(values, moments(values), shift_mean=True)
    assert found.dtype == torch.float32
    expected = reference.whiten(values.tolist(), [True] * 100, True)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-3)


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whiten_gradcheck(shift_mean: bool) -> None:
    values = random(6).requires_grad_()
    constant = moments(values.detach())
    assert torch.autograd.gradcheck(lambda v: whiten(v, constant, shift_mean=shift_mean), values)
    assert torch.autograd.gradcheck(lambda v: whiten(v, moments(v), shift_mean=shift_mean), values)


def test_explained_variance() -> None:
    returns, noise = random(40), random(40, seed=1)

    def explained(values: Tensor) -> float:
        return float(explained_variance(moments(returns), moments(returns - values)))

    assert explained(returns) == 1
    assert explained(returns + 5) == pytest.approx(1, abs=1e-12)  # an offset is not unexplained variance
    assert explained(torch.full_like(returns, 9.0)) == pytest.approx(0, abs=1e-12)
    assert explained(-returns) == pytest.approx(-3, abs=1e-12)
    expected = 1 - float((returns - noise).var(correction=0) / returns.var(correction=0))
    assert explained(noise) == pytest.approx(expected, abs=1e-12)


def test_explained_variance_of_constant_returns_is_undefined() -> None:
    constant = torch.ones(4, dtype=F64)
    assert math.isnan(float(explained_variance(moments(constant), moments(random(4)))))
