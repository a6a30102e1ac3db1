"""Intervals: exact values, coverage by simulation, and the estimators of the frontier."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from references import statistics as reference
from tastemaker.functional import (
    Interval,
    best_of_n_expectation,
    best_of_n_kl,
    bootstrap_interval,
    mean_interval,
    paired_interval,
    standard_error,
    student_quantile,
    tilted_mean,
)

F64 = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# ------------------------------------------------------------------------------------ one sample


def test_standard_error_and_normal_interval() -> None:
    values = random(40)
    mean, error = reference.mean_and_standard_error(values.tolist())
    assert standard_error(values) == pytest.approx(error, abs=1e-14)
    found = mean_interval(values)
    assert found.estimate == pytest.approx(mean, abs=1e-14)
    assert found.high - mean == pytest.approx(1.959963984540054 * error, abs=1e-12)
    assert mean - found.low == pytest.approx(1.959963984540054 * error, abs=1e-12)
    narrower = mean_interval(values, confidence=0.5)
    assert narrower.high - narrower.low == pytest.approx(2 * 0.6744897501960817 * error, abs=1e-12)


def test_one_value_claims_nothing() -> None:
    one = torch.tensor([3.0])
    for found in (mean_interval(one), bootstrap_interval(one, seed=0), paired_interval([one], seed=0)):
        assert found.estimate == 3
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert not found.low > 0
    assert math.isnan(standard_error(one))


def test_bootstrap_interval_is_that_of_the_mean() -> None:
    values = random(400) + 5
    found = bootstrap_interval(values, resamples=4000, seed=1)
    normal = mean_interval(values)
    width = normal.high - normal.low
    assert found.estimate == pytest.approx(float(values.mean()), abs=1e-14)
    assert found.low == pytest.approx(normal.low, abs=0.05 * width)
    assert found.high == pytest.approx(normal.high, abs=0.05 * width)
    assert found == bootstrap_interval(values, resamples=4000, seed=1)
    assert found != bootstrap_interval(values, resamples=4000, seed=2)


def test_bootstrap_of_two_values_has_three_outcomes() -> None:
    """Means -1, 0, 1 with probability 1/4, 1/2, 1/4: every quantile is known."""
    values = torch.tensor([-1.0, 1.0])
    assert bootstrap_interval(values, confidence=0.8, seed=0) == Interval(0.0, -1.0, 1.0)
    assert bootstrap_interval(values, confidence=0.3, seed=0) == Interval(0.0, 0.0, 0.0)


def test_large_resampling_is_cut_without_changing_its_law() -> None:
    values = random(5000)
    found = bootstrap_interval(values, resamples=1200, seed=0)  # more than one block of draws
    normal = mean_interval(values)
    assert found.high - found.low == pytest.approx(normal.high - normal.low, rel=0.1)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        mean_interval(random(4), confidence=confidence)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval(random(4), confidence=confidence, seed=0)


T_TABLE = {  # two-sided 95% and one-sided 99.5%, from printed tables
    (0.975, 1): 12.7062,
    (0.975, 2): 4.30265,
    (0.975, 3): 3.18245,
    (0.975, 4): 2.77645,
    (0.975, 9): 2.26216,
    (0.975, 29): 2.04523,
    (0.975, 120): 1.97993,
    (0.995, 5): 4.03214,
    (0.95, 10): 1.81246,
}


@pytest.mark.parametrize("key, expected", T_TABLE.items())
def test_student_quantiles(key: tuple[float, int], expected: float) -> None:
    probability, df = key
    assert student_quantile(probability, df) == pytest.approx(expected, rel=1e-5)
    assert student_quantile(1 - probability, df) == pytest.approx(-student_quantile(probability, df), rel=1e-9)


def test_student_quantile_limits() -> None:
    assert student_quantile(0.5, 3) == pytest.approx(0, abs=1e-12)
    assert student_quantile(0.75, 1) == pytest.approx(1, abs=1e-12)  # Cauchy: tan(pi/4)
    assert student_quantile(0.975, 10_000) == pytest.approx(student_quantile(0.975, 10_001), rel=2e-4)
    for bad in ((0.0, 3), (1.0, 3), (0.9, 0)):
        with pytest.raises(ValueError, match="student_quantile"):
            student_quantile(*bad)


# ------------------------------------------------------------------------------------ seeds and prompts


def test_paired_interval_of_few_seeds_is_students() -> None:
    """Seeds far apart, prompts alike: t with S - 1 degrees of freedom on the seed means, to all digits."""
    means = [0.1, 0.5, 0.9]
    found = paired_interval([torch.full((20,), m, dtype=F64) for m in means], seed=0)
    half = 4.302652729749 * 0.4 / math.sqrt(3)
    assert found.estimate == pytest.approx(0.5, abs=1e-14)
    assert found.low == pytest.approx(0.5 - half, abs=1e-9)
    assert found.high == pytest.approx(0.5 + half, abs=1e-9)


def test_paired_interval_joins_seeds_and_prompts_in_quadrature() -> None:
    table = torch.tensor([[1.0, 2.0, 6.0], [3.0, 3.0, 6.0]], dtype=F64)
    found = paired_interval(list(table), seed=0)
    _, by_seed = reference.mean_and_standard_error([3.0, 4.0])
    _, by_prompt = reference.mean_and_standard_error([2.0, 2.5, 6.0])
    half = math.hypot(12.7062047362 * by_seed, 4.302652729749 * by_prompt)
    assert found.high - found.estimate == pytest.approx(half, abs=1e-8)


def test_paired_interval_returns_the_wider() -> None:
    """Rows that cancel: prompts' means and seed means are constant, so only the bootstrap sees spread."""
    table = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=F64).repeat(1, 10)
    found = paired_interval(list(table), seed=0)
    assert found.estimate == 0
    assert found.low < -0.1
    assert found.high > 0.1


def test_each_seed_counts_the_same_however_many_prompts() -> None:
    found = paired_interval([torch.zeros(2), torch.full((200,), 1.0)], seed=0)
    assert found.estimate == 0.5


def test_paired_interval_is_seeded_and_antisymmetric() -> None:
    rows = list(random(4, 30, seed=3) + 0.2)
    found = paired_interval(rows, seed=5)
    assert found == paired_interval(rows, seed=5)
    swapped = paired_interval([-r for r in rows], seed=5)
    assert swapped.estimate == -found.estimate
    assert swapped.low == pytest.approx(-found.high, abs=1e-12)


@pytest.mark.parametrize("bad", [[], [torch.zeros(0)], [torch.zeros(2, 2)]])
def test_paired_interval_needs_differences(bad: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="paired_interval"):
        paired_interval(bad, seed=0)


DESIGNS = {
    # spread of: seeds, prompts (the same in every seed), seed x prompt; unequal numbers of prompts
    "seeds differ most": (1.0, 0.0, 1.0, False),
    "seeds differ little": (0.2, 0.0, 1.0, False),
    "prompts differ most": (0.1, 1.0, 0.3, False),
    "as much from both": (0.15, 1.0, 0.1, False),
    "own prompts": (0.3, 0.0, 1.0, True),
}


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS.keys())
def test_95_percent_intervals_cover_at_least_93(seeds: int, design: tuple[float, float, float, bool]) -> None:
    between, prompt, within, ragged = design
    g = torch.Generator().manual_seed(seeds)
    prompts, rounds, covered = 40, 500, 0
    for i in range(rounds):
        table = (
            0.7
            + between * torch.randn(seeds, 1, generator=g, dtype=F64)
            + prompt * torch.randn(1, prompts, generator=g, dtype=F64)
            + within * torch.randn(seeds, prompts, generator=g, dtype=F64)
        )
        rows = [row[: prompts - s] for s, row in enumerate(table)] if ragged else list(table)
        found = paired_interval(rows, resamples=200, seed=i)
        covered += found.low <= 0.7 <= found.high
    assert covered / rounds >= 0.93


def test_one_seed_covers_its_own_prompts() -> None:
    g = torch.Generator().manual_seed(0)
    covered = 0
    for i in range(500):
        found = paired_interval([torch.randn(15, generator=g, dtype=F64)], resamples=200, seed=i)
        covered += found.low <= 0 <= found.high
    assert covered / 500 >= 0.93


def test_the_interval_finds_a_large_difference() -> None:
    """Power, not only coverage: an interval that is always infinite would cover too."""
    found = paired_interval(list(1.0 + 0.1 * random(3, 1) + 0.5 * random(3, 60, seed=1)), seed=0)
    assert found.low > 0
    assert found.high - found.low < 1.2


# ------------------------------------------------------------------------------------ frontier


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), min_size=1, max_size=7), st.data())
@settings(deadline=None, max_examples=60)
def test_best_of_n_equals_brute_force(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(pairs)))
    values, scores = ([float(p[i]) for p in pairs] for i in (0, 1))
    found = best_of_n_expectation(torch.tensor(values, dtype=F64), torch.tensor(scores, dtype=F64), n)
    assert float(found) == pytest.approx(reference.best_of_n(values, scores, n), abs=1e-12)


def test_best_of_n_ends_and_batches() -> None:
    values, scores = random(3, 8), random(3, 8, seed=1)
    torch.testing.assert_close(best_of_n_expectation(values, scores, 1), values.mean(-1))
    best = values.gather(-1, scores.argmax(-1, keepdim=True)).squeeze(-1)
    torch.testing.assert_close(best_of_n_expectation(values, scores, 8), best)
    rows = [best_of_n_expectation(values[i], scores[i], 3) for i in range(3)]
    torch.testing.assert_close(best_of_n_expectation(values, scores, 3), torch.stack(rows))
    for n in (0, 9):
        with pytest.raises(ValueError, match="best_of_n"):
            best_of_n_expectation(values, scores, n)


def test_best_of_n_of_many_samples_does_not_overflow() -> None:
    scores = torch.arange(1, 2001, dtype=F64)
    # the expected largest of n drawn without replacement from 1..N is n (N + 1) / (n + 1)
    assert float(best_of_n_expectation(scores, scores, 500)) == pytest.approx(500 * 2001 / 501, rel=1e-12)


def test_best_of_n_kl() -> None:
    assert best_of_n_kl(1) == 0
    for n in (2, 4, 64):
        # KL of the density n u^(n-1) on [0, 1] from the uniform one, by the midpoint rule
        steps = 200_000
        middles = ((k + 0.5) / steps for k in range(steps))
        integral = math.fsum(n * u ** (n - 1) * (math.log(n) + (n - 1) * math.log(u)) for u in middles)
        assert best_of_n_kl(n) == pytest.approx(integral / steps, abs=1e-6)
    with pytest.raises(ValueError, match="best_of_n_kl"):
        best_of_n_kl(0)


@pytest.mark.parametrize("beta", [0.3, 1.0, 5.0])
def test_tilted_mean_equals_the_reference(beta: float) -> None:
    values, scores = random(4, 9), random(4, 9, seed=1)
    found = tilted_mean(values, scores, beta)
    for p in range(4):
        mean, kl, effective = reference.tilted(values[p].tolist(), scores[p].tolist(), beta)
        assert float(found.mean[p]) == pytest.approx(mean, abs=1e-12)
        assert float(found.kl[p]) == pytest.approx(kl, abs=1e-12)
        assert float(found.effective_samples[p]) == pytest.approx(effective, abs=1e-12)


def test_tilted_mean_limits() -> None:
    values, scores = random(2, 6), random(2, 6, seed=1)
    flat = tilted_mean(values, torch.ones(2, 6), 0.1)
    torch.testing.assert_close(flat.mean, values.mean(-1))
    assert flat.kl.tolist() == pytest.approx([0, 0], abs=1e-12)
    torch.testing.assert_close(flat.effective_samples, torch.full((2,), 6.0, dtype=F64))
    greedy = tilted_mean(values, scores, 1e-6)
    best = values.gather(-1, scores.argmax(-1, keepdim=True)).squeeze(-1)
    torch.testing.assert_close(greedy.mean, best)
    torch.testing.assert_close(greedy.kl, torch.full((2,), math.log(6), dtype=F64))  # where it saturates
    torch.testing.assert_close(greedy.effective_samples, torch.ones(2, dtype=F64))
    with pytest.raises(ValueError, match="beta"):
        tilted_mean(values, scores, 0.0)


def test_tilted_mean_recovers_the_closed_form() -> None:
    """Samples of a known policy over 4 responses: the tilted policy's reward and KL are then known."""
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
    rewards = torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=F64)
    beta = 1.5
    target = (probabilities.log() + rewards / beta).softmax(0)
    draws = torch.multinomial(probabilities, 40_000, True, generator=torch.Generator().manual_seed(0))
    found = tilted_mean(rewards[draws][None], rewards[draws][None], beta)
    assert float(found.mean[0]) == pytest.approx(float((target * rewards).sum()), abs=0.02)
    assert float(found.kl[0]) == pytest.approx(float((target * (target / probabilities).log()).sum()), abs=0.01)
