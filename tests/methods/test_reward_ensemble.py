"""An ensemble of heads: each learns as it would alone, is kept whole, and says how sure it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from methods.cases import batch_for, roles_for
from methods.test_invariances import assert_same, gradients, moved
from tastemaker.methods import PPO, RewardModel
from tastemaker.models import EnsembleHead, ScalarHead, build_roles, tiny_model
from tastemaker.models.heads import make_head, value_from
from tastemaker.rewards import LearnedReward
from tastemaker.training import train
from tastemaker.types import Scores, TastemakerError

PAIRS = [
    {"prompt": f"what is {a} ?", "chosen": f"it is {a} .", "rejected": f"no {b} idea ."}
    for a in ("a cat", "a dog", "the sky", "rain")
    for b in ("good", "bad", "old")
]


@pytest.mark.parametrize("loss_type", ["bradley_terry", "davidson", "plackett_luce"])
def test_the_loss_is_the_mean_of_what_each_head_alone_would_have(loss_type: Any):
    method = RewardModel(loss_type=loss_type, ensemble=3, center_rewards_coefficient=0.1)
    batch = batch_for(method)
    rewards = torch.randn(
        len(batch.lengths), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    loss = method.loss(Scores(rewards=rewards), batch)
    alone = [method.loss(Scores(rewards=rewards[:, h]), batch) for h in range(3)]
    for name, (total, unit) in loss.terms.items():
        assert float(total) == pytest.approx(sum(float(a.terms[name][0]) for a in alone) / 3, rel=1e-12)
        assert unit == alone[0].terms[name][1]
    spread = loss.metrics["uncertainty"]
    assert float(spread.total) / spread.count == pytest.approx(float(rewards.std(1).mean()), rel=1e-12)
    mean = method.loss(Scores(rewards=rewards.mean(1)), batch)
    assert float(loss.metrics["accuracy"].total) == float(mean.metrics["accuracy"].total)


def test_microbatches_change_nothing():
    method = RewardModel(ensemble=3)
    batch = batch_for(method)
    models = roles_for(method)
    moved(method, models)
    assert_same(gradients(method, models, batch), gradients(method, models, batch, 40))


def test_heads_have_seeds_of_their_own_and_the_first_is_the_single_heads():
    several, single = make_head("ensemble", 16, 50, seed=3, heads=4), make_head("last", 16, 50, seed=3)
    assert isinstance(several, EnsembleHead)
    assert isinstance(single, ScalarHead)
    assert torch.equal(several.weight[0], single.weight[0])
    assert torch.unique(several.weight, dim=0).shape[0] == 4
    value = value_from(several, 16)
    assert torch.equal(value.weight[0], several.weight.mean(0))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_it_is_kept_whole_and_says_mean_and_uncertainty(lora: bool, tmp_path: Path):
    texts = [" ".join(p.values()) for p in PAIRS]
    start = tiny_model(texts, seed=0, vocab_size=300, hidden=16, heads=2)
    common: dict[str, Any] = {"max_steps": 3, "learning_rate": 1e-2, "max_length": 64, "num_samples": 0}
    run = train(RewardModel(ensemble=3), model=start, data=PAIRS, out=tmp_path / "rm", use_peft=lora, **common)
    assert "uncertainty" in run.metrics()[0]
    models = build_roles(("reward",), (), policy=None, reward=run.model_dir, dtype="float32")
    batch = batch_for(RewardModel())
    rewards = models.score("reward", batch).rewards
    assert rewards is not None
    assert rewards.shape == (len(batch.lengths), 3)
    assert (rewards.std(1) > 0).all()
    said = LearnedReward(models)(batch, [])
    assert torch.allclose(said.total, rewards.mean(1))
    assert torch.allclose(said.parts["uncertainty"], rewards.std(1))
    careful = LearnedReward(models, uncertainty_penalty=2.0)(batch, [])
    assert torch.allclose(careful.total, rewards.mean(1) - 2 * rewards.std(1), atol=1e-6)
    ppo = PPO(response_length=4, num_ppo_epochs=1, num_mini_batches=1)
    done = train(ppo, model=start, data=PAIRS, reward=run, out=tmp_path / "ppo", **{**common, "max_steps": 1})
    assert done.status == "finished"


def test_bad_settings_are_refused():
    with pytest.raises(TastemakerError, match="at least 1"):
        RewardModel(ensemble=0)
    with pytest.raises(TastemakerError, match="reward_head=last"):
        RewardModel(ensemble=2, reward_head="token")
    models = roles_for(RewardModel())
    with pytest.raises(TastemakerError, match="ensemble"):
        LearnedReward(models, uncertainty_penalty=1.0)(batch_for(RewardModel()), [])
    with pytest.raises(TastemakerError, match="negative"):
        LearnedReward(models, uncertainty_penalty=-1.0)
