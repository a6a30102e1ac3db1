"""KTO against TRL 1.16: the same model, reference and batch, loss and gradient in float32.

TRL is no dependency: `make test-oracle` installs it; without it this is skipped.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.cases import start
from tastemaker.config import TrainSettings
from tastemaker.methods import KTO
from tastemaker.models import build_roles
from tastemaker.training.distributed import World
from tastemaker.training.loop import Updates
from tastemaker.types import Bundles, Tree

pytest.importorskip("trl", reason="TRL is not installed (make test-oracle installs it)")
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]

TOLERANCE = 1e-5


def trees() -> tuple[Tree, ...]:
    """Five responses, uneven in all lengths."""
    generator = torch.Generator().manual_seed(5)

    def ids(length: int) -> Tensor:
        return torch.randint(5, 250, (length,), generator=generator)

    shapes = ((3, 4), (6, 5), (1, 3), (4, 1), (2, 7))
    return tuple(
        Tree(prompt=ids(p), responses=(ids(r),), ended=(True,), row=i) for i, (p, r) in enumerate(shapes)
    )


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any, Any]:
    """Policy, reference (moved a little away) and tokenizer."""
    policy, tokenizer = start(0, torch.float32)
    reference = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return policy, reference, tokenizer


def ours(method: KTO, models: Any, desirable: Tensor) -> tuple[float, dict[str, Tensor], dict[str, float]]:
    policy, reference, tokenizer = models
    built = build_roles(
        method.roles,
        method.trains,
        policy=(policy, tokenizer),
        reference=(reference, tokenizer),
        dtype="float32",
    )
    batch = Bundles(
        trees=trees(),
        response_columns={"desirable": desirable, "rank": torch.zeros(5, dtype=torch.int64)},
        tree_columns={"position": torch.arange(5)},
    )
    with torch.no_grad():
        ready = method.prepare(built, batch, lambda x: x)
    parameters = built.trainable("policy")
    optimizer = torch.optim.SGD(parameters.values(), lr=0.0)
    updates = Updates(method, built, optimizer, TrainSettings(), 0.0, World())
    counts = updates.unit_counts(ready)
    total = sum(float(updates.backward(micro, counts)[0]) for micro in ready.cut(20))
    grads = {n.removeprefix("policy."): p.grad.clone() for n, p in parameters.items() if p.grad is not None}
    _, sums = updates.backward(ready, counts)
    return total, grads, {n: float(m.total) / m.count for n, m in sums.items() if m.kind == "mean" and m.count}


def theirs(
    options: Any, models: Any, desirable: Tensor, tmp: Any
) -> tuple[float, dict[str, Tensor], dict[str, float]]:
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    policy, reference, tokenizer = models
    trainer = KTOTrainer(
        model=copy.deepcopy(policy),
        ref_model=copy.deepcopy(reference),
        args=KTOConfig(
            output_dir=str(tmp), report_to=[], bf16=False, use_cpu=True, gradient_checkpointing=False, **options
        ),
        train_dataset=Dataset.from_list([{"prompt": "the cat", "completion": " sat", "label": True}] * 4),
        processing_class=tokenizer,
    )
    of = trees()
    rows = [
        {
            "prompt_ids": tree.prompt.tolist(),
            "completion_ids": tree.responses[0].tolist(),
            "KL_completion_ids": of[i - 1].responses[0].tolist(),
            "label": bool(desirable[i]),
        }
        for i, tree in enumerate(of)
    ]
    model = trainer.model.train(False)
    loss = trainer._compute_loss(model, DataCollatorForUnpairedPreference(pad_token_id=0)(rows), False)
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), grads, {n: v[-1] for n, v in trainer._metrics["eval"].items()}


MIXED = torch.tensor([True, False, False, True, False])
CASES: dict[str, tuple[dict[str, Any], Tensor]] = {
    "kto": ({}, MIXED),
    "weights": ({"desirable_weight": 1.5, "undesirable_weight": 0.6}, MIXED),
    "good alone": ({}, torch.ones(5, dtype=torch.bool)),
    "bad alone": ({}, torch.zeros(5, dtype=torch.bool)),
    "apo_zero_unpaired": ({"loss_type": "apo_zero_unpaired"}, MIXED),
}


@pytest.mark.parametrize("name", CASES)
def test_kto(name: str, models: Any, tmp_path: Any):
    options, desirable = CASES[name]
    mine = ours(KTO(beta=0.3, **options), models, desirable)
    its = theirs({"beta": 0.3, **options}, models, desirable, tmp_path)
    assert mine[0] == pytest.approx(its[0], abs=TOLERANCE, rel=TOLERANCE)
    assert mine[1].keys() == its[1].keys()
    largest = max(float(g.abs().max()) for g in its[1].values())
    assert largest > 1e-6
    for parameter, gradient in mine[1].items():
        assert float((gradient - its[1][parameter]).abs().max()) <= TOLERANCE * max(1.0, largest), parameter
    if "loss_type" not in options:
        assert its[2]["kl"] > 0.01, "a reference point of 0 would prove nothing"
    for metric in ("kl", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "entropy"):
        assert (metric in mine[2]) == (metric in its[2]) or metric == "kl", metric
        if metric in mine[2]:
            assert mine[2][metric] == pytest.approx(its[2][metric], rel=1e-4, abs=1e-4), metric
