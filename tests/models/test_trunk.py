"""The quicker way through the layers against the model's own code, written as plainly as can be."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from models.tiny_families import BATCH, each_alone, tiny
from tastemaker.models.backbone import HeadRule
from tastemaker.models.forward import Scorer
from tastemaker.models.probe import ProbeResult
from tastemaker.types import Bundles

STREAM = ProbeResult("stream", HeadRule("chunked"))


def loss_of(logps: Tensor, batch: Bundles) -> Tensor:
    """DPO's between the first two responses of each tree, and a little of everything else."""
    sums = batch.sum_by_response(logps)
    return -torch.nn.functional.logsigmoid(0.1 * (sums[0] - sums[1])) + 0.01 * sums.square().sum()


def milder(model: nn.Module) -> nn.Module:
    """Weights of a usual size: large ones make rounding large."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(0.3)
    return model


def test_float32_is_exact_to_rounding() -> None:
    """Loss and every gradient against float64: full logits, each response alone, by autograd."""
    model = milder(tiny("llama", torch.float32))
    exact = copy.deepcopy(model).double()
    truth = loss_of(each_alone(exact, BATCH), BATCH)
    truth.backward()
    scorer = Scorer(model, STREAM)
    assert scorer.trunk is not None
    loss = loss_of(scorer(BATCH).logps, BATCH)
    loss.backward()
    assert abs(loss.item() - truth.item()) < 1e-5 * abs(truth.item())
    for (name, mine), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert float((mine.grad.double() - theirs.grad).norm() / theirs.grad.norm()) < 1e-5, name
