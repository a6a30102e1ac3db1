"""Bradley-Terry, DPO, cDPO and the negative log-likelihood."""

import math

import pytest
import torch
from torch import Tensor

from references import logps as logps_reference
from references import pairwise as reference
from tastemaker.functional import bradley_terry_loss, dpo_loss, nll_loss

F64 = torch.float64


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def random(n: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=F64)


def gradient(loss: Tensor, at: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(loss.sum(), at)
    return grad


# ------------------------------------------------------------------------------------ Bradley-Terry


def test_bradley_terry_equals_the_reference() -> None:
    better, worse, margin = random(20, 1), random(20, 2), random(20, 3).abs()
    for found, m in (
        (bradley_terry_loss(better, worse), [0.0] * 20),
        (bradley_terry_loss(better, worse, margin), margin.tolist()),
    ):
        for q in range(20):
            expected = reference.bradley_terry(float(better[q]), float(worse[q]), m[q])
            assert float(found[q]) == pytest.approx(expected, abs=1e-12)


def test_bradley_terry_gradcheck() -> None:
    arguments = [random(6, s).requires_grad_() for s in (1, 2, 3)]
    assert torch.autograd.gradcheck(bradley_terry_loss, arguments)


def test_C12_the_better_response_is_pushed_up() -> None:
    """Label order: the loss falls as the better one's reward rises; swapping the labels turns it round."""
    better, worse = tensor(0.3).requires_grad_(), tensor(-0.2).requires_grad_()
    loss = bradley_terry_loss(better, worse)
    assert float(gradient(loss, better)) == pytest.approx(-1 / (1 + math.exp(0.5)), abs=1e-15)
    swapped = bradley_terry_loss(worse, better)
    assert float(gradient(swapped, better)) > 0
    # -log p and -log(1 - p): the two losses are those of one probability
    assert math.exp(-loss.item()) + math.exp(-swapped.item()) == pytest.approx(1, abs=1e-15)
    assert (swapped - loss).item() == pytest.approx(0.5, abs=1e-15)  # the logit: r_better - r_worse


def test_equal_rewards_give_ln_2_and_only_differences_count() -> None:
    assert float(bradley_terry_loss(tensor(7.0), tensor(7.0))) == pytest.approx(math.log(2), abs=1e-15)
    better, worse = random(5, 1), random(5, 2)
    torch.testing.assert_close(bradley_terry_loss(better + 11, worse + 11), bradley_terry_loss(better, worse))


def test_a_margin_asks_for_more() -> None:
    better, worse = tensor(2.0, 2.0), tensor(1.0, 1.0)
    loss = bradley_terry_loss(better, worse, tensor(0.0, 1.0))
    assert float(loss[1]) == pytest.approx(math.log(2), abs=1e-15)
    assert loss[1] > loss[0]


# ------------------------------------------------------------------------------------ DPO


@pytest.mark.parametrize("beta", [0.05, 0.1, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3, 0.5])
def test_C5_dpo_equals_the_reference(beta: float, smoothing: float) -> None:
    chosen, rejected, ref_chosen, ref_rejected = (random(20, s, 8.0) for s in range(4))
    logratios = (chosen - ref_chosen) - (rejected - ref_rejected)
    found = dpo_loss(logratios, beta=beta, label_smoothing=smoothing)
    for q in range(20):
        four = (float(t[q]) for t in (chosen, rejected, ref_chosen, ref_rejected))
        assert float(found[q]) == pytest.approx(reference.dpo(*four, beta, smoothing), abs=1e-12)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_C5_gradient_of_the_chosen_logp(beta: float) -> None:
    """-beta sigmoid(-margin), and the opposite for the rejected one."""
    chosen, rejected = random(10, 1).requires_grad_(), random(10, 2).requires_grad_()
    loss = dpo_loss(chosen - rejected, beta=beta)
    up, down = torch.autograd.grad(loss.sum(), (chosen, rejected))
    for q in range(10):
        expected = reference.dpo_gradient_of_chosen((chosen[q] - rejected[q]).item(), beta)
        assert float(up[q]) == pytest.approx(expected, abs=1e-12)
        assert float(down[q]) == pytest.approx(-expected, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 0.5])
def test_dpo_gradcheck(smoothing: float) -> None:
    logratios = random(8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dpo_loss(x, beta=0.7, label_smoothing=smoothing), logratios)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_B7_policy_equal_to_reference_gives_ln_2(smoothing: float) -> None:
    loss = dpo_loss(tensor(0.0), beta=0.3, label_smoothing=smoothing)
    assert float(loss) == pytest.approx(math.log(2), abs=1e-15)


def test_C15_smoothing_one_half_is_a_tie() -> None:
    """A tie: the loss is even, its gradient odd and zero where both responses are alike."""
    logratios = random(9).requires_grad_()
    loss = dpo_loss(logratios, beta=0.5, label_smoothing=0.5)
    mirrored = dpo_loss(-logratios, beta=0.5, label_smoothing=0.5)
    torch.testing.assert_close(loss, mirrored, rtol=0, atol=1e-15)
    there, back = gradient(loss, logratios), gradient(mirrored, logratios)
    torch.testing.assert_close(there, back, rtol=0, atol=1e-15)  # d f(-x)/dx = d f(x)/dx: f' is odd
    at_zero = tensor(0.0).requires_grad_()
    assert float(gradient(dpo_loss(at_zero, beta=0.5, label_smoothing=0.5), at_zero)) == 0
    assert bool((there * logratios > 0).all())


def test_C15_smoothed_minimum_is_where_the_label_noise_says() -> None:
    """With labels flipped at rate e the best margin is logit(1 - e): cDPO stops there, DPO never does."""
    e, beta = 0.2, 0.1
    best = tensor(math.log((1 - e) / e) / beta).requires_grad_()
    assert float(gradient(dpo_loss(best, beta=beta, label_smoothing=e), best)) == pytest.approx(0, abs=1e-16)
    assert float(gradient(dpo_loss(best, beta=beta), best)) < -0.01


def test_C15_a_row_of_weight_0_has_no_gradient() -> None:
    logratios = random(4).requires_grad_()
    weights = tensor(1.0, 0.0, 2.0, 0.0)
    grad = gradient(weights * dpo_loss(logratios, beta=0.1), logratios)
    assert grad[1] == grad[3] == 0
    torch.testing.assert_close(grad[2], 2 * gradient(dpo_loss(logratios, beta=0.1), logratios)[2])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_logratios_stay_finite(dtype: torch.dtype, smoothing: float) -> None:
    logratios = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    loss = dpo_loss(logratios, beta=1.0, label_smoothing=smoothing)
    torch.testing.assert_close(
        loss.detach(), torch.tensor([smoothing * 1e4, (1 - smoothing) * 1e4], dtype=dtype)
    )
    torch.testing.assert_close(gradient(loss, logratios), torch.tensor([smoothing, smoothing - 1], dtype=dtype))
    rewards = torch.tensor([1e4, -1e4], dtype=dtype)
    torch.testing.assert_close(bradley_terry_loss(rewards, -rewards), torch.tensor([0.0, 2e4], dtype=dtype))


@pytest.mark.parametrize("smoothing", [-0.1, 0.6])
def test_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        dpo_loss(tensor(0.0), label_smoothing=smoothing)


def test_entries_do_not_mix_not_even_nan() -> None:
    clean = random(5)
    spoilt = clean.clone()
    spoilt[2] = torch.nan
    spoilt.requires_grad_()
    loss = dpo_loss(spoilt, beta=0.1, label_smoothing=0.1)
    others = torch.tensor([0, 1, 3, 4])
    assert torch.equal(loss[others].detach(), dpo_loss(clean, beta=0.1, label_smoothing=0.1)[others])
    assert gradient(loss, spoilt)[others].isfinite().all()


# ------------------------------------------------------------------------------------ likelihood


def test_nll_equals_the_reference() -> None:
    logps = -random(6).abs()
    assert nll_loss(logps).tolist() == logps_reference.nll(logps.tolist())
    logps.requires_grad_()
    assert torch.equal(gradient(nll_loss(logps), logps), torch.full((6,), -1.0, dtype=F64))
    assert torch.autograd.gradcheck(nll_loss, logps)
