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
    paired_spread,
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
    for found in (
        mean_interval(one),
        bootstrap_interval(one, seed=0),
        paired_interval([one], shared_prompts=False),
    ):
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


T2, T4 = 4.302652729749, 2.7764451051978
"""Student's 97.5% quantiles with 2 and 4 degrees of freedom."""


@pytest.mark.parametrize("shared", [False, True])
def test_paired_interval_of_few_seeds_is_students(shared: bool) -> None:
    """Seeds far apart, prompts alike: t with S - 1 degrees of freedom on the seed means, to all digits."""
    rows = [torch.full((20,), m, dtype=F64) for m in (0.1, 0.5, 0.9)]
    found = paired_interval(rows, shared_prompts=shared)
    half = T2 * 0.4 / math.sqrt(3)
    assert found.estimate == pytest.approx(0.5, abs=1e-14)
    assert found.low == pytest.approx(0.5 - half, abs=1e-9)
    assert found.high == pytest.approx(0.5 + half, abs=1e-9)


def test_own_prompts_are_in_the_scatter_of_the_seed_means() -> None:
    """They do not count a second time: the interval is Student's on the seed means alone."""
    rows = [[1.0, 2.0, 6.0, 0.5], [3.0, 3.0, 6.0], [-1.0, 4.0, 0.0]]
    estimate, scatter, _ = reference.own_prompts(rows)
    found = paired_interval([torch.tensor(row) for row in rows], shared_prompts=False)
    assert found.estimate == pytest.approx(estimate, abs=1e-12)
    assert found.high - found.estimate == pytest.approx(T2 * math.sqrt(scatter / 3), abs=1e-7)


def test_seed_means_closer_than_prompts_allow_are_luck() -> None:
    """Means that agree to the last digit: the floor is what drawing prompts alone would do."""
    rows = [[1.0, -1.0, 2.0], [2.0, 0.0, 0.0]]
    _, scatter, within = reference.own_prompts(rows)
    found = paired_interval([torch.tensor(row) for row in rows], shared_prompts=False)
    assert scatter == 0
    assert found.high - found.estimate == pytest.approx(T4 * math.sqrt(within * (2 / 3) / 4), abs=1e-8)


def test_shared_prompts_join_in_quadrature() -> None:
    rows = [[1.0, 2.0, 6.0], [3.0, 3.5, 6.5], [0.0, 4.0, 7.0]]
    estimate, scatter, rest, prompts = reference.shared_prompts(rows)
    assert rest > 0
    assert prompts > 0
    found = paired_interval([torch.tensor(row) for row in rows], shared_prompts=True)
    own = max(T2**2 * scatter / 3, T4**2 * rest / 9)
    assert found.estimate == pytest.approx(estimate, abs=1e-12)
    assert found.high - found.estimate == pytest.approx(math.sqrt(own + T2**2 * prompts / 3), abs=1e-7)
    apart = paired_interval([torch.tensor(row) for row in rows], shared_prompts=False)
    assert apart.high < found.high


def test_shared_prompts_that_cancel_keep_their_interaction() -> None:
    """Prompts' and seeds' means are all zero, and only the interaction shows spread."""
    table = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=F64).repeat(1, 10)
    found = paired_interval(list(table), shared_prompts=True)
    assert found.estimate == 0
    # 40 squares of 1 over 19 degrees of freedom; t[19] at 97.5%
    assert found.high == pytest.approx(2.0930240544 * math.sqrt(40 / 19 / 40), abs=1e-8)


def test_paired_spread_is_the_analysis_of_variance() -> None:
    rows = [[1.0, 2.0, 6.0], [3.0, 3.5, 6.5], [9.0, 14.0, 17.0]]
    tensors = [torch.tensor(row) for row in rows]
    _, scatter, within = reference.own_prompts(rows)
    assert paired_spread(tensors, shared_prompts=False) == pytest.approx((scatter - within / 3, 0.0, within))
    _, scatter, rest, prompts = reference.shared_prompts(rows)
    assert paired_spread(tensors, shared_prompts=True) == pytest.approx((scatter - rest / 3, prompts, rest))
    assert paired_spread([torch.tensor([1.0, -1.0])] * 2, shared_prompts=False).seeds == 0
    assert math.isnan(paired_spread(tensors[:1], shared_prompts=False).seeds)


def test_paired_spread_recovers_what_was_put_in() -> None:
    table = 0.3 * random(400, 1) + 0.5 * random(1, 400, seed=1) + random(400, 400, seed=2)
    found = paired_spread(list(table), shared_prompts=True)
    assert found == pytest.approx((0.09, 0.25, 1.0), rel=0.2)
    own = paired_spread(list(0.3 * random(400, 1) + random(400, 50, seed=2)), shared_prompts=False)
    assert own == pytest.approx((0.09, 0.0, 1.0), rel=0.2)


def test_each_seed_counts_the_same_however_many_prompts() -> None:
    found = paired_interval([torch.zeros(2), torch.full((200,), 1.0)], shared_prompts=False)
    assert found.estimate == 0.5


@pytest.mark.parametrize("shared", [False, True])
def test_paired_interval_is_antisymmetric_and_equivariant(shared: bool) -> None:
    rows = list(random(4, 30, seed=3) + 0.2)
    found = paired_interval(rows, shared_prompts=shared)
    swapped = paired_interval([-r for r in rows], shared_prompts=shared)
    assert swapped == pytest.approx((-found.estimate, -found.high, -found.low), abs=1e-12)
    moved = paired_interval([3 * r + 1 for r in rows], shared_prompts=shared)
    assert moved == pytest.approx([3 * v + 1 for v in found], abs=1e-12)
    narrower = paired_interval(rows, shared_prompts=shared, confidence=0.5)
    assert found.low < narrower.low < narrower.high < found.high


@pytest.mark.parametrize("bad", [[], [torch.zeros(0)], [torch.zeros(2, 2)]])
def test_paired_interval_needs_differences(bad: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="non-empty"):
        paired_interval(bad, shared_prompts=False)
    with pytest.raises(ValueError, match="as many in every seed"):
        paired_interval([torch.zeros(2), torch.zeros(3)], shared_prompts=True)


def test_one_shared_prompt_claims_nothing() -> None:
    found = paired_interval([torch.tensor([1.0]), torch.tensor([1.1])], shared_prompts=True)
    assert math.isnan(found.low)
    known = paired_interval([torch.tensor([1.0]), torch.tensor([1.1])], shared_prompts=False)
    assert known.high - known.estimate == pytest.approx(12.7062047362 * 0.05, abs=1e-6)


DESIGNS = {
    # standard deviation over: seeds, prompts (the same in every seed), seed x prompt
    "seeds differ most": (1.0, 0.0, 1.0),
    "seeds differ little": (0.2, 0.0, 1.0),
    "seeds do not differ": (0.0, 0.0, 1.0),
    "prompts differ most": (0.1, 1.0, 0.3),
    "as much from both": (0.15, 1.0, 0.1),
}


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS.keys())
def test_95_percent_intervals_cover_at_least_93(seeds: int, design: tuple[float, float, float]) -> None:
    between, prompt, within = design
    g = torch.Generator().manual_seed(seeds)
    prompts, rounds, covered = 40, 1000, 0
    for _ in range(rounds):
        table = (
            0.7
            + between * torch.randn(seeds, 1, generator=g, dtype=F64)
            + prompt * torch.randn(1, prompts, generator=g, dtype=F64)
            + within * torch.randn(seeds, prompts, generator=g, dtype=F64)
        )
        found = paired_interval(list(table), shared_prompts=prompt > 0)
        covered += found.low <= 0.7 <= found.high
    assert covered / rounds >= 0.93


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_own_prompts_need_no_more_than_their_95_percent(seeds: int) -> None:
    """Where the seeds' scatter is plain to see, the interval is exact: neither too narrow nor too wide."""
    g = torch.Generator().manual_seed(seeds)
    covered = 0
    for _ in range(2000):
        rows = [
            0.3 * torch.randn(1, generator=g, dtype=F64) + torch.randn(n, generator=g, dtype=F64)
            for n in range(40, 40 + seeds)
        ]
        found = paired_interval(rows, shared_prompts=False)
        covered += found.low <= 0 <= found.high
    assert covered / 2000 == pytest.approx(0.955, abs=0.02)


def test_shared_prompts_taken_for_own_ones_would_be_too_narrow() -> None:
    """Why it must be said: as many seeds as one likes do not make the same prompts into new ones."""
    g = torch.Generator().manual_seed(0)
    missed = {False: 0, True: 0}
    for _ in range(300):
        table = torch.randn(1, 40, generator=g, dtype=F64) + 0.3 * torch.randn(8, 40, generator=g, dtype=F64)
        for shared in missed:
            found = paired_interval(list(table), shared_prompts=shared)
            missed[shared] += not found.low <= 0 <= found.high
    assert missed[True] / 300 < 0.07
    assert missed[False] / 300 > 0.3


def test_one_seed_covers_its_own_prompts() -> None:
    g = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(500):
        found = paired_interval([torch.randn(15, generator=g, dtype=F64)], shared_prompts=False)
        covered += found.low <= 0 <= found.high
    assert covered / 500 >= 0.93


def test_the_interval_finds_a_large_difference() -> None:
    """Power, not only coverage: an interval that is always infinite would cover too."""
    rows = list(1.0 + 0.1 * random(3, 1) + 0.5 * random(3, 60, seed=1))
    found = paired_interval(rows, shared_prompts=False)
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
