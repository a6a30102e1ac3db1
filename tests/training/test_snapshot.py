"""Optimiser and random state are put back exactly: a resumed training goes on bit for bit."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from tastemaker.errors import TastemakerError
from tastemaker.training.checkpoint import (
    load_latest,
    pack_optimizer,
    restore_rng,
    rng_state,
    save,
    unpack_optimizer,
)

# ------------------------------------------------------------------------------------------- optimiser


class Net(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.one, self.two = nn.Linear(6, 32), nn.Linear(32, 1)
        self.dropout = dropout

    def forward(self, x):
        return self.two(nn.functional.dropout(torch.tanh(self.one(x)), self.dropout, self.training))


def adamw(model, *, reverse=False):
    """Two groups with hyperparameters of their own; `reverse` turns every order round."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": 0.1, "betas": (0.8, 0.95)},
        {"params": vectors, "weight_decay": 0.0, "lr": 3e-2},
    ]
    if reverse:
        groups = [{**g, "params": g["params"][::-1]} for g in groups[::-1]]
    return torch.optim.AdamW(groups, lr=1e-2, amsgrad=True)


def advance(model, optimizer, steps):
    for _ in range(steps):
        loss = (model(torch.randn(8, 6)) - 1).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.9


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("reverse", [False, True])
def test_E4_a_resumed_training_goes_on_bit_for_bit(tmp_path, dropout, reverse):
    torch.manual_seed(3)
    model = Net(dropout)
    optimizer = adamw(model)
    advance(model, optimizer, 4)
    moments, groups = pack_optimizer(optimizer, dict(model.named_parameters()))
    numbers, rng = rng_state()
    files = {"model": model.state_dict(), "optimizer": moments, "rng": numbers}
    save(tmp_path, 4, files, {"optimizer": groups, "rng": rng})
    advance(model, optimizer, 5)

    torch.manual_seed(99)
    again = Net(dropout)
    resumed = adamw(again, reverse=reverse)
    advance(again, resumed, 2)
    found = load_latest(tmp_path)
    again.load_state_dict(found.tensors("model"))
    parameters = dict(again.named_parameters())
    if reverse:
        parameters = dict(reversed(parameters.items()))
    unpack_optimizer(resumed, parameters, found.tensors("optimizer"), found.state["optimizer"])
    restore_rng(found.tensors("rng"), found.state["rng"])
    advance(again, resumed, 5)

    for name, parameter in model.named_parameters():
        other = again.get_parameter(name)
        assert torch.equal(parameter, other), name
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(value, resumed.state[other][key]), (name, key)
    ours = {g["weight_decay"]: {k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups}
    theirs = {g["weight_decay"]: {k: v for k, v in g.items() if k != "params"} for g in resumed.param_groups}
    assert ours == theirs
    assert isinstance(theirs[0.1]["betas"], tuple)


def test_optimizers_with_numbers_nothing_and_tensors_for_settings():
    model = Net(0.0)
    parameters = dict(model.named_parameters())
    for make in (
        lambda: torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9, nesterov=True),
        lambda: torch.optim.AdamW(parameters.values(), lr=torch.tensor(0.1), foreach=False),
        lambda: torch.optim.RMSprop(parameters.values(), centered=True),
    ):
        fresh = make()
        assert pack_optimizer(fresh, parameters)[1]["numbers"] == {}
        for steps in (0, 1, 3):
            optimizer = make()
            advance(model, optimizer, steps)
            tensors, state = pack_optimizer(optimizer, parameters)
            other = make()
            advance(Net(0.0), other, 1)
            other.state[model.one.bias]["stale"] = torch.ones(1)
            unpack_optimizer(other, parameters, tensors, json.loads(json.dumps(state)))
            again, same = pack_optimizer(other, parameters)
            assert same == state
            assert set(again) == set(tensors)
            assert all(torch.equal(again[k], v) for k, v in tensors.items())
            assert all(again[k].data_ptr() != v.data_ptr() for k, v in tensors.items())


def test_an_optimizer_of_other_parameters_is_refused():
    model, other = Net(0.0), Net(0.0)
    optimizer = adamw(model)
    advance(model, optimizer, 1)
    tensors, state = pack_optimizer(optimizer, dict(model.named_parameters()))
    renamed = {name.replace("two", "three"): p for name, p in other.named_parameters()}
    with pytest.raises(TastemakerError, match=r"missing now: two\.bias, two\.weight; new: three\.bias"):
        unpack_optimizer(adamw(other), renamed, tensors, state)
    one_group = torch.optim.AdamW(other.parameters())
    with pytest.raises(TastemakerError, match="in other groups"):
        unpack_optimizer(one_group, dict(other.named_parameters()), tensors, state)
    with pytest.raises(ValueError, match="has no name"):
        pack_optimizer(optimizer, dict(other.named_parameters()))
    other.one = nn.Linear(7, 32)
    with pytest.raises(TastemakerError, match=r"one\.weight has shape \(32, 6\), the parameter \(32, 7\)"):
        unpack_optimizer(adamw(other), dict(other.named_parameters()), tensors, state)


# ------------------------------------------------------------------------------------------- random state


def draw(generator):
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.normal()),
        int(np.random.randint(1 << 30)),
        torch.randn(3).tolist(),
        torch.rand(2, generator=generator).tolist(),
    ]


@pytest.mark.parametrize("draws_before", [0, 1, 2])
def test_E4_every_source_of_randomness_goes_on_where_it_was(tmp_path, draws_before):
    generator = torch.Generator().manual_seed(5)
    for _ in range(draws_before):  # an odd number leaves a second Gaussian waiting in python and numpy
        draw(generator)
    tensors, state = rng_state({"loader": generator})
    save(tmp_path, 1, {"rng": tensors}, {"rng": state})
    expected = [draw(generator) for _ in range(3)]
    torch.manual_seed(8)
    random.seed(8)
    np.random.seed(8)
    found = load_latest(tmp_path)
    other = torch.Generator()
    restore_rng(found.tensors("rng"), found.state["rng"], {"loader": other})
    assert [draw(other) for _ in range(3)] == expected
    with pytest.raises(ValueError, match="loader"):
        restore_rng(found.tensors("rng"), found.state["rng"])


@pytest.mark.gpu
def test_E4_training_on_cuda_goes_on_bit_for_bit(tmp_path):
    model = Net(0.5).cuda()
    parameters = dict(model.named_parameters())
    torch.set_default_device("cuda")
    try:
        for options in ({"fused": True}, {"capturable": True}, {"foreach": True}):
            optimizer = torch.optim.AdamW(parameters.values(), **options)
            advance(model, optimizer, 2)
            moments, groups = pack_optimizer(optimizer, parameters)
            numbers, rng = rng_state()
            files = {"model": dict(model.state_dict()), "optimizer": moments, "rng": numbers}
            shutil.rmtree(tmp_path / "c", ignore_errors=True)
            save(tmp_path / "c", 1, files, {"optimizer": groups, "rng": rng})
            advance(model, optimizer, 3)
            expected = {n: p.detach().clone() for n, p in parameters.items()}
            found = load_latest(tmp_path / "c")
            model.load_state_dict(found.tensors("model", "cuda"))
            optimizer = torch.optim.AdamW(parameters.values(), **options)
            unpack_optimizer(optimizer, parameters, found.tensors("optimizer"), found.state["optimizer"])
            restore_rng(found.tensors("rng"), found.state["rng"])
            advance(model, optimizer, 3)
            assert all(torch.equal(expected[n], p) for n, p in parameters.items()), options
    finally:
        torch.set_default_device(None)
