"""Studies whose truth is known, through the comparison's own choice of settings and verdict.

200 studies each, with fixed seeds. `benchmarks/simulated_truth.py` prints the same with more studies.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from simulated_studies import Design, rate_of_winners
from tastemaker.functional import Spread
from tastemaker.studies.power import detectable, power

STUDIES = 200
NO_WINNER = 0.93


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("runs", [0.05, 0.3, (0.05, 0.3)])
def test_identical_arms_have_no_winner(seeds: int, runs: float | Sequence[float]) -> None:
    design = Design(seeds=seeds, runs=runs)
    assert 1 - rate_of_winners(design, STUDIES, seed=seeds) >= NO_WINNER


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_four_identical_arms_have_no_winner(seeds: int) -> None:
    design = Design(seeds=seeds, levels=(0.0,) * 4, settings=(2,) * 4)
    assert 1 - rate_of_winners(design, STUDIES, seed=10 + seeds) >= NO_WINNER


def test_two_alike_above_two_others_have_no_winner() -> None:
    """The worst case of four arms: the best two are alone among themselves."""
    seeds = 3
    design = Design(seeds=seeds, levels=(0.0, 0.0, -2.0, -2.0), settings=(2,) * 4)
    assert 1 - rate_of_winners(design, STUDIES, seed=10 + seeds) >= NO_WINNER


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_heavy_tailed_scores_make_no_winner(seeds: int) -> None:
    assert 1 - rate_of_winners(Design(seeds=seeds, heavy=True), STUDIES, seed=20 + seeds) >= NO_WINNER


@pytest.mark.parametrize("settings", [(1, 1), (2, 2)], ids=["no search", "search"])
@pytest.mark.parametrize("seeds, runs", [(2, 0.05), (3, 0.15), (5, 0.3)])
def test_a_true_difference_is_found_with_the_stated_power(
    seeds: int, runs: float, settings: Sequence[int]
) -> None:
    """Within three standard errors of 200 studies; choosing among equals costs next to nothing."""
    spread = Spread(seeds=2 * runs**2, prompts=0.0, within=4.0)
    effect = detectable(spread, seeds, 384)
    assert power(effect, spread, seeds, 384) == pytest.approx(0.8, abs=0.001)
    design = Design(seeds=seeds, levels=(0.0, effect), runs=runs, settings=settings)
    assert rate_of_winners(design, STUDIES, seed=30 + seeds, winner="arm1") == pytest.approx(0.8, abs=0.085)


@pytest.mark.parametrize("seeds", [3, 5])
def test_half_that_difference_is_mostly_missed(seeds: int) -> None:
    spread = Spread(seeds=2 * 0.15**2, prompts=0.0, within=4.0)
    effect = detectable(spread, seeds, 384) / 2
    stated = power(effect, spread, seeds, 384)
    assert stated < 0.4
    design = Design(seeds=seeds, levels=(effect, 0.0), settings=(1, 1))
    assert rate_of_winners(design, STUDIES, seed=40 + seeds, winner="arm0") == pytest.approx(stated, abs=0.1)
