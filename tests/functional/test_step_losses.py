"""A process reward model's loss, and one number out of many steps."""

from __future__ import annotations

import math

import pytest
import torch

from references import steps as reference
from tastemaker.functional import aggregate_steps, step_loss

F64 = torch.float64
SCORES = torch.tensor([2.0, -1.0, 0.5, 3.0, -0.2, 40.0, -800.0], dtype=F64)
RESPONSE = torch.tensor([0, 0, 0, 1, 3, 3, 4])


def test_the_loss_is_the_cross_entropy_of_each_label():
    right = torch.tensor([True, False, False, True, True, False, True])
    expected = [reference.loss(s, y) for s, y in zip(SCORES.tolist(), right.tolist(), strict=True)]
    assert torch.allclose(step_loss(SCORES, right), torch.tensor(expected, dtype=F64), rtol=1e-12)
    assert float(step_loss(torch.zeros((), dtype=F64), torch.tensor(True))) == pytest.approx(math.log(2))
    scores = SCORES[:5].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: step_loss(x, right[:5]), scores)


@pytest.mark.parametrize("how", ["min", "product", "last"])
def test_steps_become_one_number_a_response(how: str):
    found = aggregate_steps(SCORES, RESPONSE, 5, how)  # pyright: ignore[reportArgumentType]
    for response in (0, 1, 3, 4):
        own = SCORES[response == RESPONSE].tolist()
        assert float(found[response]) == pytest.approx(reference.aggregate(own, how), rel=1e-12)
    assert math.isnan(float(found[2]))
    assert aggregate_steps(SCORES[:0], RESPONSE[:0], 0, how).shape == (0,)  # pyright: ignore[reportArgumentType]


def test_the_ways_agree_on_one_step_and_differ_on_several():
    ways = [aggregate_steps(SCORES, RESPONSE, 5, how) for how in ("min", "product", "last")]
    assert ways[0][1] == ways[1][1] == ways[2][1]
    assert float(ways[1][0]) < float(ways[0][0]) < float(ways[2][0])
    with pytest.raises(ValueError, match="mean"):
        aggregate_steps(SCORES, RESPONSE, 5, "mean")  # pyright: ignore[reportArgumentType]
