"""Every finding provoked on purpose by training, and none in a healthy run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from studies import diagnosis_tables as tables
from studies import diagnosis_world as world
from tastemaker.studies.diagnosis import CHECKS, ArmEvidence, Finding, diagnose, summary
from tastemaker.types import Bundles, Tree


def foreign_pairs(number: int, seed: int) -> Bundles:
    """Responses that SFT would never write: names of topics, at random."""
    generator = torch.Generator().manual_seed(seed)
    trees: list[Tree] = []
    for tree in world.prompts(number, seed).trees:
        responses: list[Tensor] = []
        for _ in range(2):
            length = int(torch.randint(4, 9, (1,), generator=generator))
            words = torch.randint(world.TOPIC, world.GOOD, (length,), generator=generator)
            responses.append(torch.cat([words, torch.tensor([world.END])]))
        trees.append(replace(tree, responses=tuple(responses), ended=(True, True)))
    return paired(trees)


def paired(trees: list[Tree]) -> Bundles:
    return Bundles(
        trees=tuple(trees),
        response_columns={"rank": torch.tensor([0, 1] * len(trees))},
        tree_columns={"position": torch.arange(len(trees))},
    )


def equal_pairs() -> Bundles:
    trees = world.pairs("train").take(range(64)).trees
    return paired([replace(t, responses=(t.responses[0],) * 2, ended=(t.ended[0],) * 2) for t in trees])


def against_gold(tree: Tree, response: Tensor, ended: bool) -> float:
    return -world.gold_of(tree, response, ended)


def brevity(tree: Tree, response: Tensor, ended: bool) -> float:
    return -0.5 * len(response)


@dataclass(frozen=True)
class Case:
    """An arm that goes wrong, what must be found, and what its findings must say. Each is trained once, in the
    one test that looks at it, so that no worker trains what another has trained.
    """

    arm: Callable[[], ArmEvidence]
    codes: set[str]
    says: Callable[[dict[str, Finding]], None] = lambda found: None


def says_displaced(found: dict[str, Finding]) -> None:
    displaced = found["displacement"]
    assert displaced.severity == "problem"
    assert "responses outside of both; it matters here" in displaced.text
    assert displaced.numbers["chosen_logratio"] < -10
    assert displaced.numbers["rejected_logratio"] < displaced.numbers["chosen_logratio"]
    assert found["beta_too_small"].numbers["beta"] == 0.001
    assert found["beta_too_small"].remedy.startswith("raise beta (try 0.003)")


def says_held(found: dict[str, Finding]) -> None:
    assert found["beta_too_large"].numbers["margin"] > 0.05
    assert found["beta_too_large"].remedy == "lower beta (try 10)"


def says_slow(found: dict[str, Finding]) -> None:
    assert "beta_too_large" not in found
    assert "raise the learning rate" in found["barely_moved"].remedy


def says_by_heart(found: dict[str, Finding]) -> None:
    heart = found["pairs_overfitted"].numbers
    assert heart["train_accuracy"] == 1
    assert heart["held_out_accuracy"] < 0.75
    assert heart["train_margin"] > 5 * heart["held_out_margin"]


def says_elsewhere(found: dict[str, Finding]) -> None:
    apart = found["pairs_off_policy"].numbers
    assert apart["pairs_logp_per_token"] < apart["own_logp_per_token"] - 2
    assert "beta_too_large" not in found
    if "barely_moved" in found:
        assert "pairs sampled from this policy" in found["barely_moved"].remedy


def says_hacked(found: dict[str, Finding]) -> None:
    hacked = found["reward_hacking"]
    assert hacked.severity == "problem"
    assert "its reward rose from" in hacked.text
    assert "of answers no longer end" in hacked.text
    assert "answers grew from" in hacked.text
    assert hacked.numbers["score_after"] < hacked.numbers["score_before"] - 1
    assert hacked.numbers["length"] > 18
    small = found["beta_too_small"]
    assert small.numbers["kl_coef"] == 0
    assert "kl_coef = 0" in small.text
    assert small.numbers["kl"] > 10
    assert "worse_than_start" not in found, "the last resort stays silent where something explains it"


def says_unexplained(found: dict[str, Finding]) -> None:
    assert [c for c, f in found.items() if f.severity == "problem"] == ["worse_than_start"]


def says_penalty(found: dict[str, Finding]) -> None:
    penalty = found["beta_too_large"]
    assert penalty.numbers["reachable_kl"] < 0.01
    assert penalty.numbers["reward_sd"] == pytest.approx(1.0, abs=0.3)
    assert penalty.remedy == f"lower kl_coef (try {penalty.numbers['reward_sd'] / 2**0.5:.2g})"


def says_stiff(found: dict[str, Finding]) -> None:
    assert found["diverged"].remedy.startswith("lower beta")


CASES = {
    "dpo, beta .001, fast": Case(
        lambda: world.dpo_arm(beta=0.001, learning_rate=2e-2, steps=60),
        {"beta_too_small", "kl_runaway", "displacement", "no_eos"},
        says_displaced,
    ),
    "dpo, beta 100": Case(lambda: world.dpo_arm(beta=100.0, learning_rate=1e-4), {"beta_too_large"}, says_held),
    "dpo, beta 100, fast": Case(
        lambda: world.dpo_arm(beta=100.0, learning_rate=1e-3), {"diverged"}, says_stiff
    ),
    "dpo, learning rate 1e-6": Case(
        lambda: world.dpo_arm(beta=0.3, learning_rate=1e-6), {"barely_moved"}, says_slow
    ),
    "dpo, 8 pairs": Case(
        lambda: world.dpo_arm(beta=0.1, data=world.pairs("train").take(range(8)), steps=60),
        {"pairs_overfitted"},
        says_by_heart,
    ),
    "dpo, foreign pairs": Case(
        lambda: world.dpo_arm(beta=0.3, data=foreign_pairs(200, 1), held_out=foreign_pairs(100, 9999)),
        {"pairs_off_policy"},
        says_elsewhere,
    ),
    "dpo, equal pairs": Case(lambda: world.dpo_arm(beta=0.3, data=equal_pairs(), steps=6), {"no_signal"}),
    "ppo, paid by the word": Case(
        lambda: world.ppo_arm(
            world.length_of, kl_coef=0.0, missing_eos_penalty=None, every=2, steps=20, num_ppo_epochs=3
        ),
        {"reward_hacking", "beta_too_small", "no_eos", "length_growth"},
        says_hacked,
    ),
    "ppo, on the way there": Case(
        lambda: world.ppo_arm(world.length_of, kl_coef=0.0, missing_eos_penalty=None, steps=9, seed=2),
        {"length_growth"},
    ),
    "ppo, paid for chanting": Case(
        lambda: world.ppo_arm(world.chant_of, kl_coef=0.0, learning_rate=6e-3, num_ppo_epochs=3),
        {"repetition", "entropy_collapse", "kl_runaway"},
    ),
    "ppo, paid for brevity": Case(lambda: world.ppo_arm(brevity, kl_coef=0.1, steps=12), {"length_collapse"}),
    "ppo, against gold": Case(
        lambda: world.ppo_arm(against_gold, kl_coef=0.5, steps=12), {"worse_than_start"}, says_unexplained
    ),
    "ppo, random reward": Case(
        lambda: world.ppo_arm(world.Noise(), kl_coef=0.3, vf_coef=0.0, num_ppo_epochs=2),
        {"value_not_explaining"},
    ),
    "ppo, one reward": Case(lambda: world.ppo_arm(world.constant_of, kl_coef=0.3, steps=8), {"no_signal"}),
    "ppo, large steps": Case(
        lambda: world.ppo_arm(
            world.gold_of, kl_coef=0.3, learning_rate=1e-2, num_ppo_epochs=12, cliprange=0.05, steps=10
        ),
        {"clip_fraction_high"},
    ),
    "ppo, kl_coef 30": Case(
        lambda: world.ppo_arm(world.gold_of, kl_coef=30.0, learning_rate=3e-4, num_ppo_epochs=2),
        {"beta_too_large"},
        says_penalty,
    ),
    "online dpo, all learned": Case(tables.all_learned, {"converged"}),
    "grpo, another engine": Case(tables.engines_apart, {"engine_mismatch"}),
    "raft, rewards for few": Case(tables.few_rewarded, {"reward_missing"}),
    "ppo, stopped": Case(lambda: world.ppo_arm(world.gold_of, kl_coef=0.0, kl_stop=2.0), {"stopped_early"}),
}


@pytest.mark.parametrize("name", list(CASES))
def test_what_goes_wrong_on_purpose_is_named(name: str):
    case = CASES[name]
    found = diagnose(case.arm())
    assert case.codes <= {f.code for f in found}, [f.text for f in found]
    case.says({f.code: f for f in found})
    for finding in found:
        data = finding.as_dict()
        assert json.loads(json.dumps(data, allow_nan=False)) == data
        assert data["numbers"]
        assert len(data["text"]) < 700
        assert data["remedy"]


def test_every_code_is_provoked_by_some_arm():
    known = {code for check in CHECKS for code in check.codes}
    assert known == set().union(*(case.codes for case in CASES.values()))


@pytest.mark.parametrize(("method", "seed"), [("dpo", 1), ("dpo", 3), ("dpo", 4), ("ppo", 1), ("ppo", 3)])
def test_a_healthy_run_provokes_none(method: str, seed: int):
    if method == "dpo":
        evidence = world.dpo_arm(beta=0.3, every=4, seed=seed)
    else:
        evidence = world.ppo_arm(world.gold_of, kl_coef=0.5, every=4, seed=seed, num_ppo_epochs=3)
    assert evidence.outcome == "better"
    found = diagnose(evidence)
    assert found == [], [f.text for f in found]
    said = summary(found, evidence)
    assert said.startswith("healthy: nothing was found (looked at over-optimisation, ")
    assert "not looked at" not in said
    assert ("the value model" in said) == (method == "ppo")
    assert ("displacement" in said) == (method == "dpo")
