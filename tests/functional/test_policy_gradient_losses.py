"""PPO's clipped surrogate and its value loss."""

import pytest
import torch
from torch import Tensor

from references import policy_gradient as reference
from tastemaker.functional import clipped_value_loss, ppo_clip_loss

F64 = torch.float64
CLIPS = {"cliprange_low": 0.2, "cliprange_high": 0.28}


def random(n: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=F64)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def test_ppo_clip_equals_the_reference() -> None:
    logps, old, advantages = random(200, 1), random(200, 2), random(200, 3)
    advantages[:5] = 0.0
    logps[5:10] = old[5:10]
    loss, clipped = ppo_clip_loss(logps, old, advantages, **CLIPS)
    kinds: set[tuple[bool, bool]] = set()
    for n in range(200):
        expected, stopped = reference.ppo_clip(float(logps[n]), float(old[n]), float(advantages[n]), 0.2, 0.28)
        assert float(loss[n]) == pytest.approx(expected, abs=1e-12)
        assert bool(clipped[n]) == stopped
        kinds.add((stopped, bool(advantages[n] > 0)))
    assert len(kinds) == 4  # both signs, clipped and not: the draw covers every branch


def test_ppo_clip_gradcheck() -> None:
    old, advantages = random(30, 2), random(30, 3)
    logps = (old + random(30, 1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ppo_clip_loss(x, old, advantages, **CLIPS)[0], logps)


def test_B7_ratio_1_has_the_gradient_of_reinforce() -> None:
    """At pi == pi_old: loss -A, gradient -A for every token, nothing clipped, none of it halved by a tie."""
    logps = random(8, 1).requires_grad_()
    advantages = random(8, 2)
    loss, clipped = ppo_clip_loss(logps, logps.detach(), advantages, **CLIPS)
    (grad,) = torch.autograd.grad(loss.sum(), logps)
    assert torch.equal(loss.detach(), -advantages)
    assert torch.equal(grad, -advantages)
    assert not clipped.any()


@pytest.mark.parametrize(
    "ratio, advantage, stopped",
    [
        (1.5, 1.0, True),  # already more likely, and good: enough
        (1.5, -1.0, False),  # more likely, yet bad: back
        (0.5, 1.0, False),  # less likely, yet good: back
        (0.5, -1.0, True),  # already less likely, and bad: enough
        (1.25, 1.0, False),  # between the two clip ranges
        (1.29, 1.0, True),
        (0.79, -1.0, True),
        (0.81, -1.0, False),
    ],
)
def test_clip_stops_the_gradient_on_the_right_side(ratio: float, advantage: float, stopped: bool) -> None:
    logps = tensor(ratio).log().requires_grad_()
    loss, clipped = ppo_clip_loss(logps, tensor(0.0), tensor(advantage), **CLIPS)
    (grad,) = torch.autograd.grad(loss.sum(), logps)
    assert bool(clipped) == stopped
    assert float(grad) == pytest.approx(0.0 if stopped else -ratio * advantage, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_extreme_logratios_stay_finite(dtype: torch.dtype) -> None:
    logps = torch.tensor([1e4, 1e4, 1e4, -1e4, -1e4], dtype=dtype, requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0], dtype=dtype)
    loss, clipped = ppo_clip_loss(logps, torch.zeros_like(logps), advantages, **CLIPS)
    (grad,) = torch.autograd.grad(loss.sum(), logps)
    expected = torch.tensor([-1.28, torch.e**20, 0.0, 0.0, 0.8], dtype=dtype)
    torch.testing.assert_close(loss.detach(), expected)
    assert torch.equal(grad, torch.zeros_like(grad))
    assert clipped.tolist() == [True, True, False, False, True]


def test_the_cap_begins_at_20() -> None:
    logps = tensor(19.99, 20.01).requires_grad_()
    loss, clipped = ppo_clip_loss(logps, tensor(0.0, 0.0), tensor(-1.0, -1.0), **CLIPS)
    (grad,) = torch.autograd.grad(loss.sum(), logps)
    assert clipped.tolist() == [False, True]
    assert float(grad[0]) == pytest.approx(torch.e**19.99, rel=1e-12)
    assert float(grad[1]) == 0


def test_clipped_value_loss_equals_the_reference() -> None:
    values, old, returns = random(200, 1), random(200, 2), random(200, 3)
    loss, clipped = clipped_value_loss(values, old, returns, cliprange=0.2)
    for n in range(200):
        expected, stopped = reference.clipped_value(float(values[n]), float(old[n]), float(returns[n]), 0.2)
        assert float(loss[n]) == pytest.approx(expected, abs=1e-12)
        assert bool(clipped[n]) == stopped
    assert 20 < int(clipped.sum()) < 180


def test_D5_value_loss_by_hand() -> None:
    """1/2 (V - R)^2 inside the range; outside it the worse of the two; a clipped value moves no more."""
    values = tensor(0.1, 1.0, -1.0, 1.0).requires_grad_()
    loss, clipped = clipped_value_loss(values, tensor(0, 0, 0, 0), tensor(1.0, 1.0, 1.0, 0.0), cliprange=0.2)
    torch.testing.assert_close(loss.detach(), tensor(0.405, 0.32, 2.0, 0.5))
    assert clipped.tolist() == [False, True, False, False]
    (grad,) = torch.autograd.grad(loss.sum(), values)
    torch.testing.assert_close(grad, tensor(-0.9, 0.0, -2.0, 1.0))


def test_clipped_value_loss_gradcheck() -> None:
    values, old, returns = random(30, 1).requires_grad_(), random(30, 2), random(30, 3)
    assert torch.autograd.gradcheck(lambda v: clipped_value_loss(v, old, returns, cliprange=0.3)[0], values)


def test_D5_values_equal_to_the_old_ones_are_never_clipped() -> None:
    values = random(6, 1).requires_grad_()
    loss, clipped = clipped_value_loss(values, values.detach(), random(6, 2), cliprange=0.2)
    (grad,) = torch.autograd.grad(loss.sum(), values)
    assert not clipped.any()
    torch.testing.assert_close(grad, values.detach() - random(6, 2))


def test_masked_tokens_left_out_first_may_hold_nan() -> None:
    """Selecting before the loss is what keeps NaN out of the gradient; the other entries never see it."""
    mask = torch.tensor([True, False, True])
    logps = tensor(0.1, 0.2, 0.3).requires_grad_()
    old = tensor(0.0, torch.nan, 0.0)
    advantages = tensor(1.0, torch.nan, -1.0)
    kept, _ = ppo_clip_loss(logps[mask], old[mask], advantages[mask], **CLIPS)
    (grad,) = torch.autograd.grad(kept.sum(), logps)
    assert grad.isfinite().all()
    assert grad[1] == 0
    whole, _ = ppo_clip_loss(logps, old, advantages, **CLIPS)
    assert torch.equal(whole[mask], kept)
