"""The spread over seeds: its parts, its intervals, and what may be said of two arms."""

from __future__ import annotations

import json
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from tastemaker.studies.stability import spread, stability, variance_ratio


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(means: list[float], sd: float, prompts: int = 100, seed: int = 0) -> list[Tensor]:
    """Readings whose means and standard deviations are exactly these."""
    noise = normal(len(means), prompts, seed=seed)
    noise = (noise - noise.mean(1, keepdim=True)) / noise.std(1, correction=1, keepdim=True)
    return [m + sd * row for m, row in zip(means, noise, strict=True)]


def test_the_prompts_part_is_taken_out() -> None:
    found = spread(exact([1.0, 1.3, 0.4, 0.7], sd=2.0))
    means = torch.tensor([1.0, 1.3, 0.4, 0.7], dtype=torch.float64)
    assert found["mean"] == pytest.approx(0.85)
    assert found["sd"] == pytest.approx(float(means.std(correction=1)))
    assert found["sd_prompts"] == pytest.approx(0.2)
    assert found["sd_seeds"] == pytest.approx(math.sqrt(float(means.var(correction=1)) - 0.04))
    low, high = (found["sd"] * math.sqrt(3 / stats.chi2.ppf(p, 3)) for p in (0.975, 0.025))
    assert (found["low"], found["high"]) == pytest.approx((low, high))


def test_what_prompts_explain_is_no_spread_of_seeds() -> None:
    assert spread(exact([1.0, 1.1], sd=5.0))["sd_seeds"] == 0


def test_what_is_not_known_is_none() -> None:
    one = spread([torch.tensor([1.0, 2.0])])
    assert (one["sd"], one["low"], one["sd_seeds"]) == (None, None, None)
    assert one["sd_prompts"] == pytest.approx(0.5)
    assert spread([torch.tensor([1.0]), torch.tensor([2.0])])["sd_prompts"] is None
    assert spread([torch.tensor([1.0]), torch.tensor([2.0])])["sd_seeds"] is None


def test_the_ratio_has_its_f_interval() -> None:
    a, b = spread(exact([0.0, 2.0, 4.0], 1.0)), spread(exact([0.0, 1.0, 2.0], 1.0, seed=1))
    found = variance_ratio(a, b)
    assert found["ratio"] == pytest.approx(4)
    assert found["low"] == pytest.approx(4 / 39.0)  # F at 97.5% with 2 and 2 degrees of freedom
    assert found["high"] == pytest.approx(4 * 39.0)
    back = variance_ratio(b, a)
    assert (back["low"], back["high"]) == pytest.approx((1 / found["high"], 1 / found["low"]))
    assert not found["apart"]


def test_a_clear_difference_is_said_with_the_right_sign() -> None:
    wild, calm = exact([0.0, 3.0, -3.0, 2.0, -2.0], 0.1), exact([0.0, 0.03, -0.03, 0.02, -0.02], 0.1, seed=1)
    for scores, order in (({"dpo": calm, "ppo": wild}, "<"), ({"ppo": wild, "dpo": calm}, ">")):
        found = stability(scores, scores)
        assert "DPO varies less than PPO over seeds in score" in found["text"]
        assert "DPO varies less than PPO over seeds in KL" in found["text"]
        ratio = found["pairs"][0]["score"]
        assert ratio["apart"] and (ratio["high"] < 1 if order == "<" else ratio["low"] > 1)
    json.dumps(stability({"dpo": calm, "ppo": wild}, {}), allow_nan=False)


def test_few_seeds_tell_little() -> None:
    a, b = exact([0.0, 1.0, 2.0], 0.1), exact([0.0, 0.3, 0.6], 0.1, seed=1)
    text = stability({"dpo": b, "ppo": a}, {"dpo": b, "ppo": a})["text"]
    assert text.startswith("With 3 seeds DPO and PPO are not told apart in how much they vary, in score")
    assert "varies less" not in text
    one = stability({"dpo": a[:1], "ppo": b[:1]}, {})
    assert "One seed cannot show" in one["text"]


def test_prompts_that_differ_in_noise_do_not_make_an_arm_unstable() -> None:
    """The same policies read more noisily: their means scatter more, which the seeds are not to blame for."""
    a, b = exact([0.0, 1.0, -1.0, 1.0, -1.0, 0.5] * 4, 5.0), exact([0.0, 0.4, -0.4, 0.4, -0.4, 0.2] * 4, 2.0)
    ratio = variance_ratio(spread(a), spread(b))
    assert ratio["low"] > 1
    assert not ratio["apart"]


def test_runs_that_stopped_are_counted() -> None:
    a = exact([0.0, 1.0], 0.1)
    found = stability(
        {"dpo": a, "ppo": a}, {"dpo": a, "ppo": a}, {"dpo": [None, None], "ppo": ["loss is not finite", None]}
    )
    assert found["arms"]["ppo"]["stopped"] == 1
    assert found["arms"]["dpo"]["runs"] == 2
    assert "1 of 2 runs of PPO ended early: loss is not finite." in found["text"]
    fine = stability({"dpo": a, "ppo": a}, {}, {"dpo": [None], "ppo": [None]})
    assert fine["text"].endswith("No run ended early.")
    assert "ended early" not in stability({"dpo": a, "ppo": a}, {})["text"]


@pytest.mark.parametrize("arms, common", [(2, 0.0), (2, 2.0), (4, 0.0)])
def test_arms_alike_are_rarely_told_apart(arms: int, common: float) -> None:
    """Also where seeds move all arms together, and for all pairs of four arms at once."""
    g = torch.Generator().manual_seed(arms)
    wrong = 0
    for _ in range(400):
        means = common * torch.randn(1, 5, generator=g) + torch.randn(arms, 5, generator=g)
        readings = means[..., None] + 0.5 * torch.randn(arms, 5, 40, generator=g)
        found = stability({f"arm{i}": list(r) for i, r in enumerate(readings)}, {})
        wrong += any(pair["score"]["apart"] for pair in found["pairs"])
    assert wrong / 400 <= 0.07


def test_a_spread_of_kl_is_told_with_the_kl_it_belongs_to() -> None:
    """Ten times as far with ten times the scatter: the same luck, farther from the start."""
    near = [2.0, 2.02, 1.98, 2.01, 1.99]
    kls = {"dpo": exact(near, 0.01), "ppo": exact([10 * kl for kl in near], 0.01)}
    scores = {"dpo": exact([1.0, 1.1, 0.9, 1.0, 1.0], 0.01), "ppo": exact([0.5, 0.6, 0.4, 0.5, 0.5], 0.01)}
    text = stability(scores, kls)["text"]
    assert "DPO varies less than PPO over seeds in KL" in text
    assert "led to 2.00 and 20.00 nats, relative to which it is 1% against 1%" in text
