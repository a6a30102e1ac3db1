"""What the study of active selection makes of its readings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tastemaker.runs.lines import read_object
from tastemaker.studies import selection
from tastemaker.studies.selection_report import headline, report


def seed(gain: float, shift: float) -> dict:
    """Random learns two points with every doubling; the others are `gain` ahead once they choose."""
    arms = {
        arm: [
            {
                "labels": float(size),
                "gold": 0.6 + 0.02 * i + shift + (gain if i and arm != "random" else 0),
                "people": 0.58,
            }
            for i, size in enumerate(selection.SIZES)
        ]
        for arm in selection.ARMS
    }
    return {"arms": arms, "ceiling": 0.81, "held_out": 1400, "pairs": 6000}


def test_labels_needed_are_read_off_randoms_curve() -> None:
    sizes, curve = selection.SIZES, [0.60, 0.62, 0.64, 0.66]
    assert selection.labels_needed(curve, 0.63) == (pytest.approx(math.sqrt(sizes[1] * sizes[2])), False)
    assert selection.labels_needed(curve, 0.5) == (sizes[0], True)
    assert selection.labels_needed(curve, 0.7) == (sizes[-1], True)


def test_a_gain_is_told_with_its_interval(tmp_path: Path) -> None:
    found = selection.summarise({s: seed(0.01, 0.02 * s) for s in (1, 2, 3)})
    gain = found["against_random"]["uncertainty"]["gain"]
    assert gain["mean"] == pytest.approx(0.01)
    assert gain["low"] > 0.009, "paired: what seeds have in common is not in it"
    needs = found["against_random"]["uncertainty"]["random_needs"]["600"]
    assert needs["mean"] == pytest.approx(math.sqrt(600 * 1200))
    assert found["against_random"]["disagreement"]["random_needs"]["2000"]["cut"] == 3
    assert report(tmp_path, found).name == "report.html"
    text = (tmp_path / "results.md").read_text()
    assert "learns more from as many labels" in text
    assert "+1.0 [+1.0, +1.0] points" in text
    again = read_object(tmp_path / "results.json")
    assert report(tmp_path / "again", again).read_text() == (tmp_path / "report.html").read_text()


def test_no_gain_and_a_loss_are_told_as_such() -> None:
    mixed = {1: seed(0.02, 0), 2: seed(-0.02, 0), 3: seed(0.005, 0)}
    assert "No way" in headline(selection.summarise(mixed)["against_random"])
    assert "learns less" in headline(selection.summarise({s: seed(-0.01, 0) for s in (1, 2)})["against_random"])
