"""Scalar heads: what they compute, in what precision, and that they survive a save."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tastemaker.errors import TastemakerError
from tastemaker.models.heads import (
    ScalarHead,
    TokenHead,
    head_from,
    load_head,
    make_head,
    save_head,
    value_from,
)


def filled(head: torch.nn.Module, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return head


def test_scalar_head_is_a_dot_product():
    head = filled(ScalarHead(4, bias=True))
    hidden = torch.randn(3, 4)
    w, b = head.weight[0].tolist(), head.bias.item()
    by_hand = [sum(w[j] * h[j] for j in range(4)) + b for h in hidden.tolist()]
    torch.testing.assert_close(head(hidden), torch.tensor(by_hand))


def test_token_head_pairs_each_token_with_the_state_before_it():
    head = filled(TokenHead(4, 6))
    source, at, targets = torch.randn(5, 4), torch.randn(5, 4), torch.tensor([0, 5, 2, 2, 1])
    w, v, b = head.bilinear.detach(), head.state.weight.detach()[0], head.state.bias.item()
    by_hand = [float(w[y] @ source[n] + v @ at[n]) + b for n, y in enumerate(targets.tolist())]
    torch.testing.assert_close(head.token_scores(source, at, targets), torch.tensor(by_hand))


def test_fresh_token_head_scores_zero_but_learns():
    head = TokenHead(4, 6)
    source, at, targets = torch.randn(5, 4), torch.randn(5, 4), torch.tensor([0, 5, 2, 2, 1])
    scores = head.token_scores(source, at, targets)
    assert torch.equal(scores, torch.zeros(5))
    scores.sum().backward()
    assert head.bilinear.grad is not None
    torch.testing.assert_close(head.bilinear.grad[2], source[2] + source[3])
    assert float(head.bilinear.grad[3].abs().sum()) == 0.0


@pytest.mark.parametrize("inner, outer", [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_heads_compute_in_float32_or_wider_under_autocast(inner: torch.dtype, outer: torch.dtype):
    scalar, token = filled(ScalarHead(64)), filled(TokenHead(64, 6))
    hidden = torch.randn(3, 64, dtype=torch.float64).to(inner)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        score = scalar(hidden)
        tokens = token.token_scores(hidden, hidden, torch.tensor([1, 2, 3]))
    assert score.dtype == tokens.dtype == outer
    exact = hidden.double() @ scalar.weight.double()[0]
    torch.testing.assert_close(score.double(), exact, atol=1e-5, rtol=1e-5)


def test_reward_head_is_drawn_from_the_seed_with_the_published_scale():
    a, b, c = (make_head("last", 4096, 10, seed=s) for s in (0, 0, 1))
    assert isinstance(a, ScalarHead)
    assert a.bias is None
    assert torch.equal(a.weight, b.weight)
    assert not torch.equal(a.weight, c.weight)
    assert float(a.weight.detach().std()) == pytest.approx(1 / 4097**0.5, rel=0.05)


def test_D5_value_head_starts_as_the_reward_head_or_at_zero():
    reward = filled(ScalarHead(4))
    value = value_from(reward, 4)
    hidden = torch.randn(3, 4)
    assert torch.equal(value(hidden), reward(hidden))
    assert value.bias is not None
    with torch.no_grad():
        value.weight.add_(1.0)
    assert not torch.equal(value.weight, reward.weight), "the reward head is not shared"
    for other in (filled(TokenHead(4, 6)), filled(ScalarHead(5)), None):
        assert torch.equal(value_from(other, 4)(hidden), torch.zeros(3))


@pytest.mark.parametrize(
    "head", [ScalarHead(4), ScalarHead(4, bias=True), TokenHead(4, 6), ScalarHead(4).double()]
)
def test_save_and_load_give_the_same_head(head: torch.nn.Module, tmp_path: Path):
    save_head(filled(head), tmp_path)
    back = load_head(tmp_path)
    assert type(back) is type(head)
    ours, theirs = dict(head.named_parameters()), dict(back.named_parameters())
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        assert torch.equal(ours[name], theirs[name])


def test_no_head_is_none_and_a_broken_one_is_explained(tmp_path: Path):
    assert load_head(tmp_path) is None
    save_head(ScalarHead(4), tmp_path)
    (tmp_path / "head.json").write_text('{"kind": "token"}')
    with pytest.raises(TastemakerError, match=r"head\.safetensors"):
        load_head(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(TastemakerError, match="cannot be read"):
        load_head(tmp_path)


def test_head_from_refuses_tensors_that_do_not_fit():
    with pytest.raises((KeyError, RuntimeError)):
        head_from({"weight": torch.zeros(1, 4), "extra": torch.zeros(1)}, "last")
