"""The verdict: a winner only where every interval says so, in words made in one place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from tastemaker.functional import paired_interval
from tastemaker.studies.paired import difference
from tastemaker.studies.power import power_of
from tastemaker.studies.report.numbers import strict
from tastemaker.studies.report.words import verdict_text
from tastemaker.studies.verdict import Point, best_of, choose, told_apart, verdict

F64 = torch.float64


def noisy(level: float, seeds: int, seed: int, between: float = 0.0, prompts: int = 200) -> list[Tensor]:
    """Readings on the same prompts of every seed, with noise of their own."""
    worth = torch.randn(seeds, prompts, generator=torch.Generator().manual_seed(5), dtype=F64)
    generator = torch.Generator().manual_seed(seed)
    shift = between * torch.randn(seeds, 1, generator=generator, dtype=F64)
    return list(level + worth + shift + 0.5 * torch.randn(seeds, prompts, generator=generator, dtype=F64))


def said(
    arms: Mapping[str, Sequence[Tensor]], tried: Mapping[str, int] | None = None, **options: Any
) -> dict[str, Any]:
    seeds = len(next(iter(arms.values())))
    points = {
        name: [[Point(1.0 + k, x) for k in range((tried or {}).get(name, 1))] for x in values]
        for name, values in arms.items()
    }
    base = {"sft_sampled": noisy(-1.0, seeds, 91), "sft_greedy": noisy(0.0, seeds, 92)}
    return verdict(arms, base, points, "gold reward", arms, **options)


def test_a_clear_difference_is_found_and_has_the_right_sign() -> None:
    high, low = noisy(1.0, 5, 1), noisy(0.2, 5, 2)
    for arms, sign in (({"a": high, "b": low}, 1), ({"b": low, "a": high}, -1)):
        found = said(arms)
        assert found["winner"] == "a"
        assert found["text"].startswith(
            "a comes out ahead of b. By the gold reward, each at its chosen setting,"
        )
        assert found["pairs"][0]["difference"]["mean"] == pytest.approx(sign * 0.8, abs=0.1)
        assert found["pairs"][0]["apart"]
        assert "To tell" not in found["text"]


def test_no_winner_comes_with_what_it_would_take() -> None:
    same, other = noisy(0.5, 3, 3), noisy(0.5, 3, 4)
    found = said({"dpo": same, "ppo": other})
    assert found["winner"] is None
    assert found["text"].startswith("No winner: DPO and PPO are not told apart.")
    wanted = power_of([x - y for x, y in zip(same, other, strict=True)])
    assert found["pairs"][0]["power"] == {**wanted, "text": found["pairs"][0]["power"]["text"]}
    assert f"To tell DPO from PPO: {found['pairs'][0]['power']['text']}" in found["text"]


def test_a_winner_must_beat_every_other_arm() -> None:
    top, level, bottom = noisy(1.0, 5, 1), noisy(1.0, 5, 2), noisy(0.0, 5, 3)
    found = said({"a": top, "b": bottom, "c": level})
    assert found["winner"] is None
    assert found["text"].startswith("No winner among a, b and c.")
    assert "these are told apart: a above b and c above b." in found["text"]
    assert "To tell a from c" in found["text"]
    found = said({"a": bottom, "b": top, "c": [x - 0.5 for x in level]})
    assert found["winner"] == "b"
    assert found["text"].startswith("b comes out ahead of a and c.")


def test_best_of_needs_all_pairs() -> None:
    def pair(a: str, b: str, low: float, high: float) -> dict[str, Any]:
        return {"a": a, "b": b, "difference": {"mean": (low + high) / 2, "low": low, "high": high}}

    pairs = [pair("a", "b", -2, -1), pair("a", "c", -1, 1), pair("b", "c", 0.5, 1)]
    assert best_of(["a", "b", "c"], pairs) == "b"
    pairs[2] = pair("b", "c", -0.1, 1)
    assert best_of(["a", "b", "c"], pairs) is None
    pairs[2] = pair("b", "c", math.nan, math.nan)
    assert best_of(["a", "b", "c"], pairs) is None
    assert best_of(["a"], []) is None


def test_told_apart_is_holm_on_students_p() -> None:
    """Against p-values sorted and multiplied in the textbook way; prompts without noise leave Student alone."""
    generator = torch.Generator().manual_seed(2)
    several = 0
    for _ in range(200):
        means = torch.randn(6, 4, generator=generator, dtype=F64) + torch.linspace(0, 3, 6)[:, None]
        p = stats.ttest_1samp(means.numpy(), 0, axis=1).pvalue
        order = p.argsort()
        expected = [False] * 6
        for rank, i in enumerate(order):
            if p[i] > 0.05 / (6 - rank):
                break
            expected[i] = True
        found = told_apart([[m.expand(3) for m in row] for row in means])
        assert found == expected
        several += 1 < sum(found) < 6
    assert several > 20
    assert told_apart([[torch.zeros(3)] * 2, [torch.ones(3)] * 2]) == [False, True]
    assert told_apart([[torch.ones(3)], [torch.ones(3)]]) == [False, False]


def test_one_seed_gives_numbers_without_intervals_or_winner() -> None:
    found = said({"a": noisy(3.0, 1, 1), "b": noisy(0.2, 1, 2)})
    assert found["winner"] is None
    assert found["pairs"][0]["difference"]["mean"] == pytest.approx(2.8, abs=0.1)
    assert math.isnan(found["pairs"][0]["difference"]["low"])
    assert "With 1 seed this is a first look, not a finding." in found["text"]
    assert "nan" not in found["text"]
    assert "first look" in said({"a": noisy(3.0, 2, 1), "b": noisy(0.2, 2, 2)})["text"]
    assert "first look" not in said({"a": noisy(3.0, 3, 1), "b": noisy(0.2, 3, 2)})["text"]


def test_differences_are_paired_by_prompt() -> None:
    a, b = noisy(0.5, 3, 1), noisy(0.3, 3, 2)
    found = difference(a, b)
    assert found == paired_interval([x - y for x, y in zip(a, b, strict=True)], shared_prompts=False)
    shared = said({"a": a, "b": b}, shared_prompts=True)["pairs"][0]["difference"]
    wanted = paired_interval([x - y for x, y in zip(a, b, strict=True)], shared_prompts=True)
    assert (shared["low"], shared["high"]) == (wanted.low, wanted.high)


def test_everything_is_there_and_plain() -> None:
    found = said({"dpo": noisy(1.0, 3, 1), "ppo": noisy(0.2, 3, 2)})
    json.dumps(strict(found), allow_nan=False)
    assert (found["arms"], found["seeds"], found["judge"]) == (["dpo", "ppo"], 3, "gold reward")
    assert found["pairs"][0]["wins"] in found["wins"]
    assert found["pairs"][0]["wins"]["rate"]["mean"] > 0.7
    greedy = difference(noisy(1.0, 3, 1), noisy(0.0, 3, 92))
    assert found["greedy_against_sft_greedy"]["dpo"]["mean"] == greedy.estimate
    assert found["against_baselines"]["dpo"]["sft_greedy"]["low"] == greedy.low
    assert found["text"] == verdict_text({"verdict": strict(found)})
    assert "Prompt by prompt DPO wins" in found["text"]
    assert "DPO, sampled, beats SFT sampled" in found["text"]


def test_what_weakens_a_verdict_is_said() -> None:
    arms = {"a": noisy(1.0, 3, 1), "b": noisy(0.2, 3, 2)}
    plain = said(arms)["text"]
    assert "proxy" not in plain and "search" not in plain
    assert "The judge is a proxy (gold reward), not the truth." in said(arms, proxy=True)["text"]
    text = said(arms, {"a": 4, "b": 1})["text"]
    assert "did not search alike (settings tried: a 4 and b 1), which favours who tried more" in text
    weak = said({"a": noisy(0.0, 3, 1), "b": noisy(-1.0, 3, 2)})["text"]
    assert weak.startswith("a comes out ahead of b, but not ahead of plain SFT decoded greedily.")


def test_small_scores_get_more_digits() -> None:
    small = {
        name: [0.1 * x for x in noisy(level, 3, i)] for i, (name, level) in enumerate((("a", 1), ("b", 0)))
    }
    base = {"sft_sampled": small["b"], "sft_greedy": small["b"]}
    points = {name: [[Point(1.0, x)] for x in values] for name, values in small.items()}
    assert verdict(small, base, points, "gold", small)["digits"] == 3
    assert said({"a": noisy(1, 3, 0), "b": noisy(0, 3, 1)})["digits"] == 2


def test_the_setting_is_chosen_by_its_mean_over_seeds() -> None:
    assert choose({"x": [1.0, 0.0], "y": [0.6, 0.6]}) == "y"
    assert choose({"x": [1.0], "y": [1.0]}) == "x"
