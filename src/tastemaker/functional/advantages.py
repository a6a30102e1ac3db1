"""Advantage estimates from rewards and values."""

import torch
from torch import Tensor


def gae(
    rewards: Tensor, values: Tensor, lengths: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over ragged responses.

        delta_t = r_t + gamma V_{t+1} - V_t        V past the last token is 0
        A_t = delta_t + gamma gae_lambda A_{t+1}   returns = A + V

    Schulman et al. 2016 (arXiv:1506.02438), equation 16. Shapes: `rewards`, `values` [N] (value n is that of
    the state before token n), `lengths` [R] int64 with sum N, 0 allowed -> (advantages [N], returns [N]).
    Nothing is bootstrapped past the end: a response cut at a length limit is treated as ended, as in the
    RLHF implementations (its missing end token is the reward's business). gae_lambda = 1 gives the
    discounted return minus V, gae_lambda = 0 the TD error. Responses do not mix, not even NaN.
    """
    n = rewards.shape[0]
    count = lengths.shape[0]
    if values.shape[0] != n or int(lengths.sum()) != n:
        raise ValueError(
            f"gae: {n} rewards, {values.shape[0]} values and lengths that sum to {int(lengths.sum())}"
        )
    if n == 0:
        return rewards.clone(), rewards + values
    longest = int(lengths.max())
    response = torch.repeat_interleave(torch.arange(count, device=lengths.device), lengths)
    at = torch.arange(n, device=lengths.device) - (lengths.cumsum(0) - lengths)[response]
    # time is the outer dimension, so that each step of the loop reads one contiguous row; the zeros after
    # a response's end make its last delta and advantage right without a mask
    padded_rewards = rewards.new_zeros(longest, count).index_put((at, response), rewards)
    padded_values = values.new_zeros(longest + 1, count).index_put((at, response), values)
    deltas = padded_rewards + gamma * padded_values[1:] - padded_values[:-1]
    advantage = deltas.new_zeros(count)
    rows: list[Tensor] = []
    for delta in reversed(deltas.unbind(0)):
        advantage = torch.add(delta, advantage, alpha=gamma * gae_lambda)
        rows.append(advantage)
    rows.reverse()
    advantages = torch.stack(rows)[at, response]
    return advantages, advantages + values
