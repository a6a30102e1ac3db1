"""Generalised advantage estimation over ragged responses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from references import policy_gradient as reference
from tastemaker.functional import gae

F64 = torch.float64
LENGTHS = [3, 1, 5, 0, 2]


def inputs(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    rewards = torch.randn(n, generator=g, dtype=F64)
    return rewards, torch.randn(n, generator=g, dtype=F64), torch.tensor(lengths, dtype=torch.int64)


def by_response(values: Tensor, lengths: Tensor) -> list[list[float]]:
    return [part.tolist() for part in values.split(lengths.tolist())]


@pytest.mark.parametrize("gamma, gae_lambda", [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.99, 0.0), (0.0, 0.5)])
def test_D3_gae_equals_the_sum_of_the_paper(gamma: float, gae_lambda: float) -> None:
    """Ragged, without bootstrap past the end of any response."""
    rewards, values, lengths = inputs(LENGTHS)
    advantages, returns = gae(rewards, values, lengths, gamma=gamma, gae_lambda=gae_lambda)
    parts = zip(by_response(rewards, lengths), by_response(values, lengths), strict=True)
    expected = [a for r, v in parts for a in reference.gae(r, v, gamma, gae_lambda)]
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(returns, advantages + values, rtol=0, atol=1e-12)


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_D3_gae_equals_the_sum_for_any_lengths(lengths: list[int], seed: int) -> None:
    rewards, values, lengths_ = inputs(lengths, seed)
    advantages, _ = gae(rewards, values, lengths_, gamma=0.97, gae_lambda=0.9)
    parts = zip(by_response(rewards, lengths_), by_response(values, lengths_), strict=True)
    expected = [a for r, v in parts for a in reference.gae(r, v, 0.97, 0.9)]
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-12)


def test_lambda_1_is_the_return_minus_the_value() -> None:
    rewards, values, lengths = inputs(LENGTHS)
    advantages, returns = gae(rewards, values, lengths, gamma=0.9, gae_lambda=1.0)
    expected = [g for r in by_response(rewards, lengths) for g in reference.discounted_return(r, 0.9)]
    torch.testing.assert_close(returns, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(advantages, returns - values, rtol=0, atol=1e-12)


def test_lambda_0_is_the_td_error() -> None:
    advantages, _ = gae(
        torch.tensor([1.0, 2.0, 4.0], dtype=F64),
        torch.tensor([0.5, 0.25, 8.0], dtype=F64),
        torch.tensor([2, 1]),
        gamma=0.5,
        gae_lambda=0.0,
    )
    # the second response's value 8 is nobody's successor; each last token has none
    assert advantages.tolist() == [1.0 + 0.5 * 0.25 - 0.5, 2.0 - 0.25, 4.0 - 8.0]


def test_D3_a_final_score_reaches_every_token_undiscounted() -> None:
    """gamma = 1, lambda = 1, V = 0: the usual RLHF reward on the last token is every token's advantage."""
    rewards = torch.tensor([0.0, 0.0, 3.0, 0.0, -2.0], dtype=F64)
    advantages, _ = gae(rewards, torch.zeros(5, dtype=F64), torch.tensor([3, 2]), gamma=1.0, gae_lambda=1.0)
    assert advantages.tolist() == [3.0, 3.0, 3.0, -2.0, -2.0]


def test_responses_do_not_mix_not_even_nan() -> None:
    rewards, values, lengths = inputs(LENGTHS)
    clean, _ = gae(rewards, values, lengths, gamma=1.0, gae_lambda=0.95)
    rewards[4:9] = torch.nan  # the third response
    spoilt, _ = gae(rewards, values, lengths, gamma=1.0, gae_lambda=0.95)
    others = torch.tensor([0, 1, 2, 3, 9, 10])
    assert torch.equal(spoilt[others], clean[others])
    assert spoilt[4:9].isnan().all()


def test_order_of_responses_does_not_matter() -> None:
    rewards, values, lengths = inputs([4, 2, 3])
    order = [2, 0, 1]
    index = torch.cat([torch.arange(9).split([4, 2, 3])[i] for i in order])
    straight, _ = gae(rewards, values, lengths, gamma=0.9, gae_lambda=0.95)
    moved, _ = gae(rewards[index], values[index], lengths[order], gamma=0.9, gae_lambda=0.95)
    assert torch.equal(moved, straight[index])


def test_gae_gradcheck() -> None:
    rewards, values, lengths = inputs([3, 0, 2])
    assert torch.autograd.gradcheck(
        lambda r, v: gae(r, v, lengths, gamma=0.9, gae_lambda=0.8),
        (rewards.requires_grad_(), values.requires_grad_()),
    )


def test_nothing_in_nothing_out() -> None:
    empty = torch.zeros(0, dtype=torch.float32)
    for lengths in ([], [0, 0]):
        advantages, returns = gae(
            empty, empty, torch.tensor(lengths, dtype=torch.int64), gamma=1.0, gae_lambda=0.95
        )
        assert advantages.shape == returns.shape == (0,)


def test_lengths_must_account_for_every_token() -> None:
    with pytest.raises(ValueError, match="sum to 4"):
        gae(torch.zeros(5), torch.zeros(5), torch.tensor([3, 1]), gamma=1.0, gae_lambda=0.95)
    with pytest.raises(ValueError, match="4 values"):
        gae(torch.zeros(5), torch.zeros(4), torch.tensor([3, 2]), gamma=1.0, gae_lambda=0.95)
