"""The losses on single good/bad responses, against their papers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from references import unpaired as reference
from tastemaker.functional import apo_zero_unpaired_loss, bco_loss, kto_loss

F64 = torch.float64
B = 0.4
LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[float, bool], float]]] = {
    "kto": (lambda x, y: kto_loss(x, y, 0.7, beta=B), lambda x, y: reference.kto(x, y, 0.7, B)),
    "apo_zero_unpaired": (
        lambda x, y: apo_zero_unpaired_loss(x, y, beta=B),
        lambda x, y: reference.apo_zero(x, y, B),
    ),
    "bco": (lambda x, y: bco_loss(x, y, 0.3, beta=B), lambda x, y: reference.bco(x, y, 0.3, B)),
}
every = pytest.mark.parametrize("name", LOSSES)


def labelled(scale: float = 3.0) -> tuple[Tensor, Tensor]:
    logratio = scale * torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=F64)
    return logratio, torch.arange(12) % 3 == 0


@every
def test_values_are_the_papers(name: str):
    ours, theirs = LOSSES[name]
    logratio, desirable = labelled()
    expected = [theirs(x, y) for x, y in zip(logratio.tolist(), desirable.tolist(), strict=True)]
    assert torch.allclose(ours(logratio, desirable), torch.tensor(expected, dtype=F64), rtol=1e-12, atol=0)


@every
def test_gradients_are_those_of_the_values(name: str):
    logratio, desirable = labelled(1.0)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name][0](x, desirable), logratio.requires_grad_())


@every
def test_good_rises_and_bad_falls_and_far_values_stay_finite(name: str):
    far = torch.tensor([-1e4, -1.0, 1.0, 1e4] * 2, dtype=F64, requires_grad=True)
    desirable = torch.tensor([True] * 4 + [False] * 4)
    losses = LOSSES[name][0](far, desirable)
    (gradient,) = torch.autograd.grad(losses.sum(), far)
    assert torch.isfinite(losses).all()
    assert torch.isfinite(gradient).all()
    assert (gradient[:4] <= 0).all()
    assert (gradient[4:] >= 0).all()
    assert (gradient[[1, 2, 5, 6]].abs() > 1e-3).all()


def test_where_policy_and_reference_agree():
    nothing, labels = torch.zeros(2, dtype=F64), torch.tensor([True, False])
    assert torch.equal(kto_loss(nothing, labels, 0.0), torch.full((2,), 0.5, dtype=F64))
    assert torch.allclose(bco_loss(nothing, labels, 0.0), torch.full((2,), math.log(2), dtype=F64))


def test_no_gradient_passes_through_the_reference_point_or_the_shift():
    logratio, desirable = labelled()
    for loss in (kto_loss, bco_loss):
        constant = torch.tensor(0.3, dtype=F64, requires_grad=True)
        total = loss(logratio.clone().requires_grad_(), desirable, constant).sum()
        total.backward()
        assert constant.grad is None
