"""KL estimates against the exact divergence, their gradients as losses, and the adaptive coefficient."""

import math

import pytest
import torch
from torch import Tensor

from references import kl as reference
from tastemaker.functional import adaptive_kl_coef, exact_kl, kl_estimate

F64 = torch.float64
KINDS = ("k1", "k2", "k3")


def distributions(seed: int = 0, vocabulary: int = 5) -> tuple[Tensor, Tensor]:
    """(logits of the policy, log-probs of the reference)"""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(vocabulary, generator=g, dtype=F64)
    return logits, torch.randn(vocabulary, generator=g, dtype=F64).log_softmax(0)


@pytest.mark.parametrize("kind", KINDS)
def test_D8_estimates_equal_the_reference(kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    logps, ref = torch.randn(30, generator=g, dtype=F64), torch.randn(30, generator=g, dtype=F64)
    found = kl_estimate(logps, ref, kind)
    for n in range(30):
        assert float(found[n]) == pytest.approx(
            reference.estimate(kind, float(logps[n]), float(ref[n])), abs=1e-12
        )


@pytest.mark.parametrize("kind", KINDS)
def test_kl_estimate_gradcheck(kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    logps, ref = (torch.randn(9, generator=g, dtype=F64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: kl_estimate(a, b, kind), (logps, ref))


def test_D8_k1_and_k3_are_unbiased_and_k2_is_not() -> None:
    """Expectations over a 5-token vocabulary, taken exactly."""
    logits, ref = distributions()
    logps = logits.log_softmax(0)
    exact = reference.exact(logps.exp().tolist(), ref.exp().tolist())
    expected = {kind: float((logps.exp() * kl_estimate(logps, ref, kind)).sum()) for kind in KINDS}
    assert expected["k1"] == pytest.approx(exact, abs=1e-14)
    assert expected["k3"] == pytest.approx(exact, abs=1e-14)
    assert abs(expected["k2"] - exact) > 0.01 * exact
    assert bool((kl_estimate(logps, ref, "k2") >= 0).all())
    assert bool((kl_estimate(logps, ref, "k3") >= 0).all())
    assert bool((kl_estimate(logps, ref, "k1") < 0).any())


def test_D8_gradients_of_the_estimates_as_losses() -> None:
    """E[grad k2] is the gradient of KL(pi || ref); that of k1 is 0; that of k3 is that of KL(ref || pi)."""
    logits, ref = distributions()
    logits.requires_grad_()
    logps = logits.log_softmax(0)
    (exact,) = torch.autograd.grad(exact_kl(logps, ref), logits, retain_graph=True)
    (other_way,) = torch.autograd.grad(exact_kl(ref, logps), logits, retain_graph=True)
    found: dict[str, Tensor] = {}
    for kind in KINDS:
        sampled_with = logps.exp().detach()  # tokens are drawn; no gradient through the draw
        loss = (sampled_with * kl_estimate(logps, ref, kind)).sum()
        (found[kind],) = torch.autograd.grad(loss, logits, retain_graph=True)
    torch.testing.assert_close(found["k1"], torch.zeros_like(exact), rtol=0, atol=1e-15)
    torch.testing.assert_close(found["k2"], exact, rtol=0, atol=1e-14)
    torch.testing.assert_close(found["k3"], other_way, rtol=0, atol=1e-14)
    assert float((found["k3"] - exact).norm() / exact.norm()) > 0.1


def test_B7_policy_equal_to_reference_gives_0() -> None:
    logits, _ = distributions()
    logps = logits.log_softmax(0).requires_grad_()
    for kind in KINDS:
        assert torch.equal(kl_estimate(logps, logps.detach(), kind).detach(), torch.zeros(5, dtype=F64))
    assert float(exact_kl(logps.detach(), logps.detach())) == 0


def test_k3_keeps_its_digits_for_close_policies() -> None:
    """float32, log-ratio 1e-3: k3 is 5e-7 and exp(x) - 1 - x in float32 would have lost most of it."""
    logps = torch.tensor([-2.0])
    found = float(kl_estimate(logps, logps + 1e-3, "k3"))
    d = float((logps + 1e-3).double() - logps.double())
    assert found == pytest.approx(math.expm1(d) - d, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logratios_stay_finite(kind: str, dtype: torch.dtype) -> None:
    logps = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    found = kl_estimate(logps, torch.zeros_like(logps), kind)
    (grad,) = torch.autograd.grad(found.sum(), logps)
    assert found.isfinite().all()
    assert grad.isfinite().all()
    if kind == "k3":
        torch.testing.assert_close(found.detach(), torch.tensor([1e4 - 1, math.expm1(20) - 20], dtype=dtype))
        assert grad.tolist() == [1.0, 0.0]


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match="k4"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


def test_exact_kl_equals_the_reference() -> None:
    g = torch.Generator().manual_seed(0)
    logps = torch.randn(2, 3, 5, generator=g, dtype=F64).log_softmax(-1)
    ref = torch.randn(2, 3, 5, generator=g, dtype=F64).log_softmax(-1)
    found = exact_kl(logps, ref)
    assert found.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            expected = reference.exact(logps[i, j].exp().tolist(), ref[i, j].exp().tolist())
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-12)


def test_exact_kl_gradcheck() -> None:
    logits, ref = distributions()
    assert torch.autograd.gradcheck(lambda z: exact_kl(z.log_softmax(0), ref), logits.requires_grad_())


def test_exact_kl_of_impossible_tokens() -> None:
    half = math.log(0.5)
    none = -math.inf
    policy = torch.tensor([[half, half, none], [half, none, half]], dtype=F64)
    ref = torch.tensor([[half, half, none], [half, half, none]], dtype=F64)
    assert exact_kl(policy, ref).tolist() == [0.0, math.inf]
    logits = torch.tensor([0.3, 0.1, none], dtype=F64, requires_grad=True)
    masked = ref[0].clone().requires_grad_()
    for_policy, for_reference = torch.autograd.grad(exact_kl(logits.log_softmax(0), masked), (logits, masked))
    assert for_policy.isfinite().all()
    assert for_reference.isfinite().all()


TABLE = [
    # coef, measured, target, horizon, episodes -> next; by hand
    (0.2, 6.0, 6.0, 10_000, 64, 0.2),
    (0.2, 12.0, 6.0, 10_000, 64, 0.2 * (1 + 0.2 * 0.0064)),  # error +1, clipped to 0.2
    (0.2, 0.0, 6.0, 10_000, 64, 0.2 * (1 - 0.2 * 0.0064)),  # error -1, clipped to -0.2
    (0.2, 6.6, 6.0, 10_000, 64, 0.2 * (1 + 0.1 * 0.0064)),
    (0.05, 5.7, 6.0, 1_000, 500, 0.05 * (1 - 0.05 * 0.5)),
    (0.1, -1.0, 6.0, 100, 100, 0.08),
]


@pytest.mark.parametrize("coef, measured, target, horizon, episodes, expected", TABLE)
def test_D7_adaptive_kl_matches_hand_values(
    coef: float, measured: float, target: float, horizon: float, episodes: int, expected: float
) -> None:
    found = adaptive_kl_coef(coef, measured, target, horizon, episodes)
    assert found == pytest.approx(expected, rel=1e-14)
    assert found == pytest.approx(reference.adaptive(coef, measured, target, horizon, episodes), abs=1e-15)


def test_D7_the_controller_settles_at_its_target() -> None:
    """A policy whose KL falls as the coefficient rises (KL = 1/coef) is brought to the target."""
    coef = 1.0
    for _ in range(4000):
        coef = adaptive_kl_coef(coef, 1 / coef, 5.0, 1000, 50)
    assert 1 / coef == pytest.approx(5.0, rel=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0.1, math.nan, 6.0, 1000, 10), "nan"),
        ((0.1, 1.0, 0.0, 1000, 10), "target"),
        ((0.1, 1.0, 6.0, 0, 10), "horizon"),
        ((0.1, 1.0, 6.0, 10, 50), "horizon above 10"),
    ],
)
def test_D7_senseless_settings_are_refused(
    arguments: tuple[float, float, float, float, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        adaptive_kl_coef(*arguments)
