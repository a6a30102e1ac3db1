"""Power: the closed form of Student's test, its inverses, and what it says in words."""

from __future__ import annotations

import json
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from tastemaker.functional import Spread, paired_interval
from tastemaker.studies.power import detectable, power, power_of, prompts_needed, seeds_needed

SEEDS_ONLY = Spread(seeds=0.09, prompts=0.0, within=0.0)
BOTH = Spread(seeds=0.02, prompts=0.0, within=4.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
@pytest.mark.parametrize("effect", [0.2, 0.5, 1.0])
def test_where_prompts_do_not_matter_it_is_students_power(seeds: int, effect: float) -> None:
    """The one-sided tail of the noncentral t distribution."""
    critical, shift = stats.t.ppf(0.975, seeds - 1), effect / (0.3 / math.sqrt(seeds))
    expected = stats.nct.sf(critical, seeds - 1, shift)
    assert power(effect, SEEDS_ONLY, seeds, 10) == pytest.approx(expected, abs=2e-3)
    assert power(-effect, SEEDS_ONLY, seeds, 10) == power(effect, SEEDS_ONLY, seeds, 10)


@pytest.mark.parametrize("shared", [False, True])
def test_it_is_the_rate_at_which_the_interval_excludes_zero(shared: bool) -> None:
    """Few prompts and little scatter over seeds, so that the floor counts and shared prompts too."""
    spread = Spread(seeds=0.01, prompts=0.3 if shared else 0.0, within=1.0)
    seeds, prompts, effect, found = 4, 30, 0.35, 0
    g = torch.Generator().manual_seed(1)
    for _ in range(2000):
        table = (
            effect
            + spread.seeds**0.5 * torch.randn(seeds, 1, generator=g, dtype=torch.float64)
            + spread.prompts**0.5 * torch.randn(1, prompts, generator=g, dtype=torch.float64)
            + torch.randn(seeds, prompts, generator=g, dtype=torch.float64)
        )
        found += paired_interval(list(table), shared_prompts=shared).low > 0
    assert found / 2000 == pytest.approx(power(effect, spread, seeds, prompts), abs=0.04)


def test_without_a_difference_it_is_half_the_level() -> None:
    assert power(0.0, SEEDS_ONLY, 5, 10) == pytest.approx(0.025, abs=1e-3)


def test_more_of_anything_finds_more() -> None:
    assert power(0.4, BOTH, 5, 384) > power(0.4, BOTH, 4, 384) > power(0.4, BOTH, 4, 100)
    assert power(0.5, BOTH, 4, 100) > power(0.4, BOTH, 4, 100)
    assert power(0.4, BOTH._replace(seeds=0.03), 4, 100) < power(0.4, BOTH, 4, 100)
    assert power(0.4, BOTH._replace(prompts=0.5), 4, 100) < power(0.4, BOTH, 4, 100)


def test_the_inverses_invert() -> None:
    least = detectable(BOTH, 4, 384)
    assert power(least, BOTH, 4, 384) == pytest.approx(0.8, abs=1e-6)
    seeds = seeds_needed(0.25, BOTH, 384)
    assert seeds is not None
    assert power(0.25, BOTH, seeds, 384) >= 0.8 > power(0.25, BOTH, seeds - 1, 384)
    prompts = prompts_needed(0.4, BOTH, 5)
    assert prompts is not None
    assert power(0.4, BOTH, 5, prompts) >= 0.8 > power(0.4, BOTH, 5, prompts - 1)


def test_what_cannot_be_reached_is_said() -> None:
    assert seeds_needed(0.001, BOTH, 384) is None
    assert prompts_needed(0.2, BOTH, 3) == math.inf  # seeds alone are too much
    assert prompts_needed(0.005, BOTH._replace(seeds=0.0), 3) is None  # reachable, but not by anyone
    assert math.isnan(power(1.0, BOTH, 1, 384))
    assert math.isnan(detectable(BOTH, 1, 384))


def test_arms_that_are_the_same_to_the_digit() -> None:
    nothing = Spread(0.0, 0.0, 0.0)
    assert power(0.0, nothing, 3, 10) == 0
    assert power(0.1, nothing, 3, 10) == 1
    assert detectable(nothing, 3, 10) == 0
    found = power_of([torch.zeros(5)] * 3)
    assert found["detectable"] == 0
    assert found["seeds_needed"] is None


def test_a_study_says_what_it_would_take() -> None:
    rows = [m + 2 * normal(400, seed=i) for i, m in enumerate((-0.1, 0.3, 0.65, 0.2))]
    found = power_of(rows)
    json.dumps(found, allow_nan=False)
    means = torch.stack([r.mean() for r in rows])
    within = torch.stack([r.var(correction=1) for r in rows]).mean()
    assert found["sd_prompts"] == pytest.approx(float(within.sqrt()))
    assert found["sd_seeds"] == pytest.approx(math.sqrt(float(means.var(correction=1) - within / 400)))
    spread = Spread(found["sd_seeds"] ** 2, 0.0, found["sd_prompts"] ** 2)
    assert power(found["detectable"], spread, 4, 400) == pytest.approx(0.8, abs=1e-6)
    assert found["seeds_needed"] == seeds_needed(float(means.mean()), spread, 400)
    assert found["prompts_needed"] is None
    text = found["text"]
    assert text.startswith(f"4 seeds of 400 prompts find a difference of {found['detectable']:.2f} with 80%")
    assert f"about {found['seeds_needed']} seeds ({found['seeds_needed'] - 4} more)" in text
    assert "no number of prompts will do: seeds differ too much" in text
    assert "rough figures" in text


def test_prompts_are_named_where_they_would_help() -> None:
    """Seed means exactly alike: only prompts are lacking."""
    noise = normal(5, 30)
    rows = list(0.2 + 2 * (noise - noise.mean(1, keepdim=True)))
    found = power_of(rows)
    assert found["sd_seeds"] == 0
    assert found["prompts_needed"] > 30
    assert f"or {found['prompts_needed']} prompts for each of the 5" in found["text"]
    assert "rough" not in found["text"]


def test_a_decided_study_only_says_what_it_could_have_found() -> None:
    found = power_of([2.0 + normal(50, seed=i) for i in range(5)])
    assert found["text"].endswith("with 80% probability.")


def test_one_seed_knows_nothing_of_seeds() -> None:
    found = power_of([0.3 + normal(100)])
    assert (found["detectable"], found["seeds_needed"], found["sd_seeds"]) == (None, None, None)
    assert "One seed cannot show how much seeds differ; even if they did not," in found["text"]
    json.dumps(found, allow_nan=False)
