"""The laws of over-optimisation: recovered exactly, peaks as brute force finds them, errors as simulated."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tastemaker.functional.overoptimisation import Form, fit_gao, gao_gain

KL = torch.tensor([0.2, 0.9, 2.0, 3.5, 6.0, 9.0, 14.0, 20.0, 31.0], dtype=torch.float64)
TRUTHS: list[tuple[Form, float, float]] = [("rl", 1.1, 0.8), ("best_of_n", 1.1, 0.17)]


def law(kl: float, a: float, b: float, form: Form) -> float:
    """Gao et al., section 3.1, in plain Python."""
    d = math.sqrt(kl)
    return d * (a - b * d) if form == "best_of_n" else d * (a - b * math.log(d))


def gains(a: float, b: float, form: Form, kl: Tensor = KL) -> Tensor:
    return torch.tensor([law(k, a, b, form) for k in kl.tolist()], dtype=torch.float64)


@pytest.mark.parametrize(("form", "a", "b"), TRUTHS)
def test_points_on_the_curve_give_its_coefficients(form: Form, a: float, b: float):
    uneven = torch.linspace(0.1, 2.0, len(KL), dtype=torch.float64)
    for errors, shared in ((None, 0.0), (uneven, 0.0), (uneven, 0.3)):
        fit = fit_gao(KL, gains(a, b, form), form=form, errors=errors, shared_error=shared)
        assert fit is not None
        assert fit.a == pytest.approx(a, abs=1e-10)
        assert fit.b == pytest.approx(b, abs=1e-10)
        assert fit.r_squared == pytest.approx(1)
        assert fit.residual_sd == pytest.approx(0, abs=1e-10)
        assert fit.points == len(KL)


@pytest.mark.parametrize(("form", "a", "b"), TRUTHS)
def test_the_peak_is_where_brute_force_finds_it(form: Form, a: float, b: float):
    grid = torch.linspace(1e-6, 40, 400_001, dtype=torch.float64)
    values = gao_gain(grid, a, b, form=form)
    assert values[::40_000].tolist() == pytest.approx([law(k, a, b, form) for k in grid[::40_000].tolist()])
    fit = fit_gao(KL, gains(a, b, form), form=form)
    assert fit is not None
    assert fit.peak_kl == pytest.approx(float(grid[values.argmax()]), abs=2e-3)
    assert fit.peak_distance == pytest.approx(math.sqrt(fit.peak_kl or 0))
    assert fit.peak_gain == pytest.approx(float(values.max()), abs=1e-6)
    assert fit.inside
    before = fit_gao(KL[:3], gains(a, b, form)[:3], form=form)
    assert before is not None
    assert before.peak_kl == pytest.approx(fit.peak_kl)
    assert not before.inside, "a peak beyond the points is a guess, and must be told as one"


@pytest.mark.parametrize(("form", "a", "b"), TRUTHS)
@pytest.mark.parametrize("known", [True, False], ids=["errors given", "errors from scatter"])
def test_stated_errors_are_the_spread_over_repeated_experiments(form: Form, a: float, b: float, known: bool):
    generator = torch.Generator().manual_seed(3)
    errors = torch.full((len(KL),), 0.06, dtype=torch.float64)
    if known:
        errors = torch.linspace(0.02, 0.1, len(KL), dtype=torch.float64)
    shared = 0.05 if known else 0.0
    truth = gains(a, b, form)
    rows: list[tuple[float, ...]] = []
    for _ in range(600):
        noise = torch.randn(len(KL), generator=generator, dtype=torch.float64) * errors
        start = shared * float(torch.randn((), generator=generator))
        fit = fit_gao(
            KL, truth + noise - start, form=form, errors=errors if known else None, shared_error=shared
        )
        assert fit is not None
        assert fit.peak_distance is not None
        assert fit.peak_distance_error is not None
        rows.append((fit.a, fit.b, fit.peak_distance, fit.a_error, fit.b_error, fit.peak_distance_error))
    table = torch.tensor(rows, dtype=torch.float64)
    spread, stated = table[:, :3].std(0), table[:, 3:].square().mean(0).sqrt()
    # errors given are never made smaller by chance scatter, only larger: 1.00 to 1.15 of the spread here
    assert ((stated / spread) > 0.92).all(), stated / spread
    assert ((stated / spread) < 1.2).all(), stated / spread
    bias = (table[:, :2].mean(0) - torch.tensor([a, b])).abs()
    assert (bias < 4 * spread[:2] / 600**0.5).all()


def test_a_law_that_does_not_hold_gives_larger_errors_than_the_points_alone():
    errors = torch.full((len(KL),), 0.01, dtype=torch.float64)
    wiggle = torch.tensor([0.3, -0.3] * 5)[: len(KL)].double()
    straight = fit_gao(KL, gains(1.1, 0.8, "rl"), errors=errors)
    bent = fit_gao(KL, gains(1.1, 0.8, "rl") + wiggle, errors=errors)
    assert straight is not None
    assert bent is not None
    assert bent.a_error > 20 * straight.a_error
    assert bent.r_squared is not None
    assert bent.r_squared < 0.95
    assert bent.residual_sd == pytest.approx(0.3, rel=0.2)


def test_weights_count():
    """One wild point with a wild error moves a weighted fit little and an unweighted one much."""
    gain = gains(1.1, 0.8, "rl").clone()
    gain[4] += 5
    errors = torch.full((len(KL),), 0.05, dtype=torch.float64)
    errors[4] = 50.0
    weighted, plain = fit_gao(KL, gain, errors=errors), fit_gao(KL, gain)
    assert weighted is not None
    assert plain is not None
    assert abs(weighted.b - 0.8) < 0.01 < abs(plain.b - 0.8)


def test_a_curve_that_never_turns_has_no_peak():
    for form, b in (("rl", -0.3), ("best_of_n", -0.02)):
        fit = fit_gao(KL, gains(0.5, b, form), form=form)  # pyright: ignore[reportArgumentType]
        assert fit is not None
        assert fit.b < 0
        assert (fit.peak_distance, fit.peak_kl, fit.peak_gain, fit.inside) == (None, None, None, False)
    falling = fit_gao(KL, gains(-0.5, 0.02, "best_of_n"), form="best_of_n")
    assert falling is not None
    assert falling.peak_distance is None
    endless = fit_gao(KL, gains(1.0, 1e-6, "rl"))
    assert endless is not None
    assert endless.peak_distance is None, "exp(a/b) is beyond any curve"


def test_what_says_nothing_is_left_out_and_too_little_gives_none():
    truth = gains(1.1, 0.8, "rl")
    zero = torch.zeros(1, dtype=torch.float64)
    padded = fit_gao(
        torch.cat([zero, zero - 0.01, KL, torch.tensor([math.nan, 3.0])]),
        torch.cat([zero + 7, zero + 7, truth, torch.tensor([1.0, math.nan])]),
    )
    assert padded is not None
    assert padded.points == len(KL)
    assert padded.b == pytest.approx(0.8)
    assert fit_gao(KL[:2], truth[:2]) is None
    assert fit_gao(torch.zeros(9), truth) is None
    assert fit_gao(torch.full((9,), 2.0), truth) is None
    assert fit_gao(KL, truth * math.nan) is None
    assert fit_gao(torch.zeros(0), torch.zeros(0)) is None
    with pytest.raises(ValueError, match="one length"):
        fit_gao(KL, truth[:3])
    flat = fit_gao(KL, torch.zeros(len(KL)))
    assert flat is not None
    assert flat.r_squared is None
