"""One KL: only where both arms have been, surely."""

from __future__ import annotations

import pytest
import torch

from tastemaker.studies.matching import Point, at_kl, matched_kl, overlap, reach


def line(*kls: float, slope: float = 1.0, se: float = 0.0, prompts: int = 4) -> list[Point]:
    """Settings on a straight frontier: the score is the slope times the KL, on every prompt."""
    return [Point(kl, torch.full((prompts,), slope * kl, dtype=torch.float64), se) for kl in kls]


def test_scores_are_interpolated_between_neighbours_in_kl() -> None:
    points = [
        Point(3.0, torch.tensor([3.0, 0.0])),
        Point(1.0, torch.tensor([1.0, 2.0])),
        Point(9.0, torch.tensor([0.0, 0.0])),
    ]
    assert at_kl(points, 1.5).tolist() == pytest.approx([1.5, 1.5])
    assert at_kl(points, 3.0).tolist() == [3.0, 0.0]
    assert at_kl(points, 6.0).tolist() == [1.5, 0.0]
    with pytest.raises(ValueError, match="no two settings"):
        at_kl(points, 9.5)


def test_a_kl_common_to_all_seeds_comes_first() -> None:
    found = matched_kl([line(1, 3), line(1.2, 3.4)], [line(2, 5, slope=2), line(1.8, 4, slope=2)])
    assert found["comparable"]
    assert found["how"] == "common"
    assert found["range"] == [2, 3]
    assert found["kl"] == 2.5
    assert found["kls"] == [2.5, 2.5]
    assert found["difference"]["mean"] == pytest.approx(2.5 - 5)
    assert found["text"].startswith("at equal KL (2.50 nats) it is −2.50")


def test_else_every_seed_is_matched_at_its_own() -> None:
    found = matched_kl([line(1, 2), line(3, 4)], [line(1.5, 2.5, slope=3), line(2, 3.5, slope=3)])
    assert found["how"] == "by seed"
    assert found["range"] is None
    assert found["ranges"] == [[1.5, 2], [3, 3.5]]
    assert found["kls"] == [1.75, 3.25]
    assert found["kl"] == 2.5
    assert found["difference"]["mean"] == pytest.approx(-2 * 2.5)
    assert "matched seed by seed for lack of one KL reached on all (1.75, 3.25 nats)" in found["text"]


def test_else_they_are_not_comparable() -> None:
    found = matched_kl([line(1, 2), line(3, 4)], [line(1.5, 2.5), line(5, 6)])
    assert found["comparable"] is False
    assert "difference" not in found
    assert found["text"] == (
        "at equal KL they are not comparable: the settings reach no KL in common on 1 of 2 seeds"
    )


def test_an_overlap_within_the_error_of_the_kl_is_none() -> None:
    """Ranges that overlap by 0.4: enough at an error of 0.1 (0.28 of the difference), not at 0.2 (0.55)."""
    a, b = [line(1, 2, se=0.1)] * 2, [line(1.6, 3, se=0.1)] * 2
    assert matched_kl(a, b)["how"] == "common"
    a, b = [line(1, 2, se=0.2)] * 2, [line(1.6, 3, se=0.2)] * 2
    found = matched_kl(a, b)
    assert not found["comparable"]
    assert "narrower than the error of the KL on 2 of 2 seeds" in found["text"]


def test_an_unsure_common_range_gives_way_to_the_seeds_own() -> None:
    a, b = [line(1, 2.3, se=0.1), line(2, 4, se=0.1)], [line(1.2, 2.4, se=0.1), line(2.1, 4, se=0.1)]
    found = matched_kl(a, b)
    assert found["how"] == "by seed"
    assert found["ranges"] == [[1.2, 2.3], [2.1, 4]]


def test_a_single_setting_well_inside_the_other_range_is_comparable() -> None:
    found = matched_kl([line(2, se=0.1), line(2.4, se=0.1)], [line(1, 4, se=0.1), line(1, 4, se=0.1)])
    assert found["how"] == "by seed"
    assert found["kls"] == [2, 2.4]
    assert not matched_kl([line(1.1, se=0.1)] * 2, [line(1, 4, se=0.1)] * 2)["comparable"]


def test_a_kl_that_is_not_known_matches_nothing() -> None:
    assert "not known" in matched_kl([line(1, float("nan"))], [line(1, 2)])["text"]
    assert isinstance(overlap([reach(line(1, 2, se=float("nan"))), reach(line(1, 2))]), str)


def test_one_seed_gives_a_number_without_an_interval() -> None:
    found = matched_kl([line(1, 3)], [line(2, 4, slope=2)])
    assert found["difference"]["mean"] == pytest.approx(-2.5)
    assert found["difference"]["low"] != found["difference"]["low"]
