"""DPO and PPO reach the optimum that theory gives: pi_ref * exp(r / beta) / Z."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from tastemaker.config import TrainSettings
from tastemaker.methods import DPO, PPO, RewardModel
from tastemaker.training.contract import check_reference
from tastemaker.training.distributed import World
from tastemaker.training.loop import Batch, Counters, fit
from tastemaker.types import Bundles, Method, Reward, TastemakerError, Tree
from worlds import Table, TableReward, optimum, pair, pairs_batch, total_variation

REFERENCE = torch.tensor([[0.5, -0.3, 0.0, 1.0], [0.0, 0.8, -0.6, 0.2]], dtype=torch.float64)
REWARDS = torch.tensor([[0.4, -0.2, 0.9, 0.0], [1.0, 0.1, -0.5, 0.3]], dtype=torch.float64)


def preference_pairs(copies: int) -> Bundles:
    """Every pair of responses to every prompt, both ways round in Bradley-Terry proportion."""
    trees: list[Tree] = []
    for context, rewards in enumerate(REWARDS):
        for i in range(len(rewards)):
            for j in range(i + 1, len(rewards)):
                wins = round(copies * float(torch.sigmoid(rewards[i] - rewards[j])))
                trees += [pair(context, i, j)] * wins + [pair(context, j, i)] * (copies - wins)
    return pairs_batch(trees)


def run(
    method: Method, table: Table, batches: Iterator[Batch], steps: int, lr: float, reward: Reward | None = None
):
    parameters = [p for role in method.trains for p in table.trainable(role).values()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    settings = TrainSettings(max_grad_norm=0.0, tokens_per_microbatch=100_000)
    return list(
        fit(
            method,
            table,
            batches,
            optimizer=optimizer,
            settings=settings,
            learning_rate=lr,
            total_steps=steps,
            counters=Counters(),
            world=World(),
            generator=table,
            reward=reward,
        )
    )


def test_dpo_reaches_the_tilted_reference():
    beta = 0.5
    data = preference_pairs(400)
    table = Table(REFERENCE)
    steps = run(
        DPO(beta=beta),
        table,
        (Batch(step=s, epoch=0.0, bundles=data, records=(), size=len(data)) for s in range(1, 201)),
        200,
        0.1,
    )
    assert abs(steps[0].metrics["loss"] - math.log(2)) < 1e-9
    assert total_variation(table.policy, optimum(REFERENCE, REWARDS, beta)) < 0.02


def test_reward_model_recovers_rewards_up_to_a_constant():
    data = preference_pairs(500)
    table = Table(REFERENCE)
    run(
        RewardModel(),
        table,
        (Batch(step=s, epoch=0.0, bundles=data, records=(), size=len(data)) for s in range(1, 151)),
        150,
        0.05,
    )
    learned = table.rewards.detach() - table.rewards.detach().mean(-1, keepdim=True)
    assert torch.allclose(learned, REWARDS - REWARDS.mean(-1, keepdim=True), atol=0.03)


def test_centring_pins_down_the_constant():
    data = preference_pairs(400)
    table = Table(REFERENCE)
    with torch.no_grad():
        table.rewards += 3.0
    run(
        RewardModel(center_rewards_coefficient=0.01),
        table,
        (Batch(step=s, epoch=0.0, bundles=data, records=(), size=len(data)) for s in range(1, 301)),
        300,
        0.05,
    )
    assert table.rewards.detach().mean().abs() < 0.1


def prompts(count: int) -> Bundles:
    trees = tuple(Tree(prompt=torch.tensor([i % 2]), row=i) for i in range(count))
    return Bundles(trees=trees, tree_columns={"position": torch.arange(count)})


def test_ppo_reaches_the_tilted_reference():
    beta = 0.5
    table = Table(REFERENCE)
    method = PPO(
        kl_coef=beta,
        num_ppo_epochs=2,
        num_mini_batches=2,
        vf_coef=0.5,
        cliprange_value=10.0,
        missing_eos_penalty=None,
    )
    size = 2048
    steps = 150
    data = prompts(size)
    done = run(
        method,
        table,
        (Batch(step=s, epoch=0.0, bundles=data, records=(), size=size) for s in range(1, steps + 1)),
        steps,
        0.05,
        TableReward(REWARDS),
    )
    assert abs(done[0].metrics["objective/kl"]) < 1e-9
    assert total_variation(table.policy, optimum(REFERENCE, REWARDS, beta)) < 0.02
    # the value of a prompt is the expected reward less the penalty; at the optimum that is beta * log Z
    log_z = (REFERENCE.log_softmax(-1) + REWARDS / beta).logsumexp(-1)
    assert torch.allclose(table.values.detach(), beta * log_z, atol=0.1)


def test_ppo_without_penalty_prefers_the_best_response():
    table = Table(REFERENCE)
    method = PPO(kl_coef=0.0, num_ppo_epochs=2, missing_eos_penalty=None)
    data = prompts(512)
    run(
        method,
        table,
        (Batch(step=s, epoch=0.0, bundles=data, records=(), size=512) for s in range(1, 121)),
        120,
        0.1,
        TableReward(REWARDS),
    )
    assert (table.policy.argmax(-1) == REWARDS.argmax(-1)).all()
    assert (table.policy.max(-1).values > 0.9).all()


def test_B7_a_reference_that_is_not_the_start_stops_the_run():
    data = preference_pairs(4)
    table = Table(REFERENCE)
    assert check_reference(table, data, temperature=1.0, exact=True) == 0.0
    with torch.no_grad():
        table.logits[0, 0] += 0.01
    with pytest.raises(TastemakerError, match="--ref-model"):
        check_reference(table, data, temperature=1.0, exact=True)
    # what was computed beforehand is held to the same rule
    stale = torch.zeros(len(data.targets), dtype=torch.float64)
    with pytest.raises(TastemakerError, match="ln 2"):
        check_reference(Table(REFERENCE), data.with_tokens(reference_logps=stale), temperature=1.0, exact=True)
