"""Rankings and ties: `plackett_luce` on policies, and the reward model's other likelihoods."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from methods.cases import batch_for, roles_for
from methods.test_invariances import assert_same, gradients, moved, prepared
from references import listwise, pairwise
from tastemaker.config import method_and_settings
from tastemaker.methods import DPO, METHODS, PlackettLuce, RewardModel
from tastemaker.types import Bundles, Scores, TastemakerError, Tree


def random(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rankings(batch: Bundles) -> list[tuple[slice, list[int]]]:
    rank = batch.response_columns["rank"].tolist()
    found: list[tuple[slice, list[int]]] = []
    start = 0
    for size in batch.group_sizes:
        found.append((slice(start, start + size), rank[start : start + size]))
        start += size
    return found


def uneven(seed: int = 0) -> Bundles:
    """Rankings of two to four responses in no particular order."""
    generator = torch.Generator().manual_seed(seed)

    def ids(n: int) -> Tensor:
        return torch.randint(5, 250, (n,), generator=generator)

    ranks = ((1, 0), (2, 0, 1), (3, 1, 2, 0), (0, 1), (0, 2, 1))
    trees = tuple(
        Tree(
            prompt=ids(3 + i), responses=tuple(ids(2 + k) for k in range(len(r))), ended=(True,) * len(r), row=i
        )
        for i, r in enumerate(ranks)
    )
    return Bundles(
        trees=trees,
        response_columns={"rank": torch.tensor([x for r in ranks for x in r])},
        tree_columns={"position": torch.arange(5)},
    )


def test_plackett_luce_is_the_papers():
    method, batch = PlackettLuce(beta=0.3), uneven()
    logps, ref = -random(len(batch.targets), 1).abs(), -random(len(batch.targets), 2).abs()
    loss = method.loss(Scores(logps=logps), batch.with_tokens(reference_logps=ref))
    total, unit = loss.terms["plackett_luce"]
    rewards = [0.3 * float(x.sum()) for x in (logps - ref).split(batch.lengths.tolist())]
    each = rankings(batch)
    expected = [listwise.plackett_luce(rewards[s], r) for s, r in each]
    assert unit == "trees"
    assert method.units(batch)["trees"] == 5
    assert float(total) == pytest.approx(sum(expected), rel=1e-12)
    top = sum(max(rewards[s]) == rewards[s][r.index(0)] for s, r in each)
    assert float(loss.metrics["rewards/top"].total) == top
    assert loss.metrics["rewards/top"].count == 5


def test_of_two_responses_it_is_dpo():
    pl, dpo = PlackettLuce(beta=0.4), DPO(beta=0.4)
    batch = batch_for(dpo).take(range(5))
    models = roles_for(dpo)
    ready = prepared(dpo, models, batch)
    moved(dpo, models)
    assert_same(gradients(dpo, models, ready), gradients(pl, models, prepared(pl, models, batch)), 1e-12)


def test_a_tree_that_ranks_nothing_is_no_unit():
    method, batch = PlackettLuce(), uneven()
    tied = batch.with_responses(rank=torch.where(batch.tree == 1, 0, batch.response_columns["rank"]))
    assert method.units(tied)["trees"] == 4
    reward = RewardModel(loss_type="plackett_luce")
    loss = reward.loss(Scores(rewards=random(14, 3)), tied)
    assert loss.metrics["accuracy_top"].count == 4


def test_a_reward_model_from_rankings_is_the_papers_in_any_cut():
    method, batch = RewardModel(loss_type="plackett_luce"), uneven()
    rewards = random(len(batch.lengths), 3)
    total, unit = method.loss(Scores(rewards=rewards), batch).terms["plackett_luce"]
    expected = [listwise.plackett_luce(rewards[s].tolist(), r) for s, r in rankings(batch)]
    assert unit == "trees"
    assert float(total) == pytest.approx(sum(expected), rel=1e-12)
    models = roles_for(method)
    moved(method, models)
    whole = gradients(method, models, batch)
    assert_same(whole, gradients(method, models, batch, 30))
    assert_same(whole, gradients(method, models, batch.take([4, 2, 0, 1, 3])))


@pytest.mark.parametrize(
    "kind, nu", [("rao_kupper", None), ("rao_kupper", 1.7), ("davidson", None), ("davidson", 0.4)]
)
def test_a_reward_model_learns_from_ties(kind: Any, nu: float | None):
    method, batch = RewardModel(loss_type=kind, tie_nu=nu), uneven()
    rank = batch.response_columns["rank"].clone()
    rank[:2] = 0  # a tie of two
    rank[2:5] = torch.tensor([1, 0, 0])  # one behind a tie
    batch = batch.with_responses(rank=rank).with_trees(margin=torch.linspace(0, 0.4, 5, dtype=torch.float64))
    rewards = random(len(batch.lengths), 3)
    assert method.knows_ties
    assert method.units(batch)["pairs"] == 1 + 3 + 6 + 1 + 3
    own = {"rao_kupper": 3.0, "davidson": 1.0}[kind] if nu is None else nu
    expected = 0.0
    for tree, (s, r) in enumerate(rankings(batch)):
        margin = float(batch.tree_columns["margin"][tree])
        values = rewards[s].tolist()
        for i in range(len(r)):
            for j in range(len(r)):
                if r[i] < r[j]:
                    expected += pairwise_loss(kind, values[i] - values[j] - margin, own, tied=False)
                elif r[i] == r[j] and i < j:
                    expected += pairwise_loss(kind, values[i] - values[j], own, tied=True)
    total, unit = method.loss(Scores(rewards=rewards), batch).terms[kind]
    assert unit == "pairs"
    assert float(total) == pytest.approx(expected, rel=1e-9)


def pairwise_loss(kind: str, difference: float, nu: float, *, tied: bool) -> float:
    import math

    win, tie = getattr(pairwise, kind)(difference, nu)
    return -math.log(tie if tied else win)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(TastemakerError, match="tie_nu has no effect"):
        RewardModel(tie_nu=2.0)
    with pytest.raises(TastemakerError, match="above 1"):
        RewardModel(loss_type="rao_kupper", tie_nu=1.0)
    with pytest.raises(TastemakerError, match="plackett_luce"):
        RewardModel(loss_type="placket_luce")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TastemakerError):
        method_and_settings(METHODS["reward"], {"loss_type": "placket_luce"})
    with pytest.raises(TastemakerError):
        PlackettLuce(beta=0.0)
    method = RewardModel(loss_type="plackett_luce")
    with pytest.raises(TastemakerError, match="margins"):
        method.prepare(roles_for(method), uneven().with_trees(margin=torch.ones(5)), lambda x: x)
