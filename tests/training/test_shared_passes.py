"""Passes that serve several roles, roles whose activations are held one at a time: same numbers, less work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tastemaker.config import TrainSettings
from tastemaker.methods import PPO
from tastemaker.models import LoraSettings, RoleModels, build_roles, tiny_model
from tastemaker.training.distributed import World
from tastemaker.training.loop import Counters, Updates
from tastemaker.training.metrics import Totals
from tastemaker.types import Bundles, Role, Tree

ROLES: tuple[Role, ...] = ("policy", "reference", "value")


def trees(seed: int = 0) -> Bundles:
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> Tensor:
        return torch.randint(5, 100, (length,), generator=generator)

    made = tuple(
        Tree(prompt=ids(3 + i), responses=tuple(ids(4 + k) for k in range(2)), ended=(True, True), row=i)
        for i in range(3)
    )
    return Bundles(made)


def models(*, lora: bool, head: bool, family: dict[str, Any] | None = None) -> RoleModels:
    made = tiny_model(["a b c d e f"], seed=1, vocab_size=300, hidden=32, heads=2)
    found = build_roles(
        ROLES,
        ("policy", "value"),
        policy=made,
        lora=LoraSettings(r=4) if lora else None,
        value_head=head,
        value_init="policy",
        device="cpu",
    )
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for role in ("policy", "value"):
            for parameter in found.trainable(role).values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return found


def prepared(method: PPO, found: RoleModels) -> Bundles:
    batch = trees()
    count = len(batch.lengths)
    scores = torch.linspace(-1, 1, count)
    batch = batch.with_responses(score=scores, valid=torch.ones(count, dtype=torch.bool))
    with torch.no_grad():
        ready = method.prepare(found, batch, lambda t: t)
    columns = ready.token_columns
    # as after a few steps: old numbers that differ from what the models say now
    return ready.with_tokens(
        old_logps=columns["old_logps"] + 0.05 * torch.randn(len(columns["old_logps"])),
        old_values=columns["old_values"] + 0.05 * torch.randn(len(columns["old_values"])),
    )


def gradients(method: PPO, found: RoleModels, ready: Bundles) -> tuple[Tensor, dict[str, Tensor]]:
    parameters = {n: p for role in method.trains for n, p in found.trainable(role).items()}
    for p in parameters.values():
        p.grad = None
    settings = TrainSettings()
    optimizer = torch.optim.SGD(list(parameters.values()), lr=0.0)
    updates = Updates(method, found, optimizer, settings, 0.0, World())
    value, _ = updates.backward(ready, updates.unit_counts(ready))
    return value, {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_value_head_rides_on_the_policys_pass(lora: bool) -> None:
    found = models(lora=lora, head=True)
    batch = trees()
    assert found.sharing(("policy", "value")) == [("policy", "value")]
    both = found.score("policy", batch, beside=("value",), entropy=True)
    assert both.values is not None and both.logps is not None
    torch.testing.assert_close(both.values, found.score("value", batch).values, atol=1e-6, rtol=0)
    torch.testing.assert_close(both.logps, found.score("policy", batch).logps, atol=1e-6, rtol=0)
    assert set(found.trainable("value")) == {"value.head.weight", "value.head.bias"}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_its_gradients_are_those_of_two_passes(lora: bool) -> None:
    """The same weights, once with one forward and backward for both, once role by role."""
    torch.manual_seed(0)
    found = models(lora=lora, head=True)
    method = PPO(value_model="head")
    ready = prepared(method, found)
    loss, together = gradients(method, found, ready)
    joint: Callable[..., Any] = found.sharing
    found.sharing = lambda roles: [(r,) for r in roles]  # pyright: ignore[reportAttributeAccessIssue]
    other, alone = gradients(method, found, ready)
    found.sharing = joint  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(loss, other, atol=1e-7, rtol=0)
    assert together.keys() == alone.keys()
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, alone[name], atol=1e-6, rtol=1e-5)


def test_the_work_is_counted_once() -> None:
    batch = trees()
    spent: list[float] = []
    for head in (True, False):
        found = models(lora=False, head=head)
        found.take_spent()
        method = PPO(value_model="head" if head else "own")
        ready = prepared(method, found)
        scoring = found.take_spent()
        gradients(method, found, ready)
        updates = found.take_spent()
        assert scoring.tokens["scoring"] == (2 if head else 3) * batch.size
        assert updates.tokens["updates"] == (1 if head else 2) * batch.size
        spent.append(updates.flops["updates"])
    assert spent[0] < 0.65 * spent[1]


class Joint(PPO):
    """PPO whose roles are computed together, as methods that couple them are."""

    @property
    def apart(self) -> bool:
        return False


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_one_role_at_a_time_gives_the_same_numbers_and_holds_less(lora: bool) -> None:
    torch.manual_seed(0)
    found = models(lora=lora, head=False)
    ready = prepared(PPO(), found)
    loss, apart = gradients(PPO(), found, ready)
    other, joint = gradients(Joint(), found, ready)
    torch.testing.assert_close(loss, other, atol=1e-7, rtol=0)
    assert apart.keys() == joint.keys()
    for name, gradient in apart.items():
        assert torch.equal(gradient, joint[name])
    assert most_held(lambda: gradients(PPO(), found, ready)) < 0.7 * most_held(
        lambda: gradients(Joint(), found, ready)
    )


def most_held(work: Callable[[], object]) -> int:
    """Bytes of activations that wait for a backward pass, at the most, each storage once."""
    held: dict[int, tuple[int, int]] = {}
    most = now = 0

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal most, now
            self.tensor = tensor
            self.key = tensor.untyped_storage().data_ptr()
            count, size = held.get(self.key, (0, tensor.untyped_storage().nbytes()))
            if not count and not isinstance(tensor, torch.nn.Parameter):
                now += size
                most = max(most, now)
            held[self.key] = count + 1, size

        def __del__(self) -> None:
            nonlocal now
            count, size = held[self.key]
            if count == 1:
                now -= 0 if isinstance(self.tensor, torch.nn.Parameter) else size
                del held[self.key]
            else:
                held[self.key] = count - 1, size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        work()
    return most


def test_gradients_are_gone_when_the_next_batch_is_sampled_and_scored() -> None:
    method, found = PPO(value_model="head"), models(lora=False, head=True)
    batch = prepared(method, found)
    parameters = [p for role in method.trains for p in found.trainable(role).values()]
    before = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    settings = TrainSettings(learning_rate=0.1, device="cpu")
    updates = Updates(
        method, found, optimizer, settings, 0.1, World.from_environment(torch.device("cpu")), total=2
    )
    counters = Counters()
    for _ in range(2):
        updates.step(batch, Totals(), counters)
        assert all(p.grad is None for p in parameters)
    assert counters.optimizer_steps == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
