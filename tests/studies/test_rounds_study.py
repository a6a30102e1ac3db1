"""The study of online rounds: what it says of numbers whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tastemaker.errors import TastemakerError
from tastemaker.studies.rounds.study import ARMS, Size, study, summarise
from tastemaker.studies.rounds.study_report import report

SIZE = Size(labels=6, prompts=12, test=4)


def arm(rounds: int, gold: float, kl: float = 1.0, labels: int = 6) -> dict[str, Any]:
    """An arm whose last policy has this gold on four prompts."""
    ends = [gold * (n + 1) / rounds for n in range(rounds)]
    figures = [
        {"score": [g - 1, g, g, g + 1], "kl": [kl] * 4, "tokens": [9.0] * 4, "agree": {"mean": 0.75}}
        for g in ends
    ]
    return {"rounds": figures, "labels": labels, "cpu_seconds": 10.0}


def world(gains: dict[str, float]) -> dict[int, dict[str, Any]]:
    """Three seeds, each a little different, where arms with three rounds gain so much."""
    return {
        s: {
            "start": {"score": [-1.0, -1.0, -2.0, 0.0]},
            **{a.name: arm(a.rounds, 0.1 * s + gains.get(a.name, 0.0) * (1 + 0.1 * s)) for a in ARMS},
        }
        for s in (1, 2, 3)
    }


@pytest.mark.parametrize(
    ("gains", "headline"),
    [
        (
            {"dpo 3": 1, "dpo 3 going on": 2, "ppo 3": 1},
            "Three rounds beat one round with the same number of labels",
        ),
        ({}, "Three rounds are not told apart from one round with the same number of labels"),
        ({"dpo 3": 1, "ppo 3": -1}, "they beat it in 1 of 3 ways and fall behind it in 1 of 3 ways"),
    ],
)
def test_the_headline_says_what_the_numbers_say(gains: dict[str, float], headline: str, tmp_path: Path):
    results = summarise(world(gains), SIZE)
    text = report(tmp_path, results).read_text()
    assert headline in text
    assert f"**{headline}" in (tmp_path / "results.md").read_text() or "Three rounds against one" in text


def test_differences_are_paired_by_seed(tmp_path: Path):
    results = summarise(world({"dpo 3": 1.0}), SIZE)
    found = results["compared"]["dpo 3"]
    assert found["gold"]["mean"] == pytest.approx(1.2)  # gains of 1.1, 1.2 and 1.3
    assert found["by_seed"] == pytest.approx([1.1, 1.2, 1.3])
    half = 4.302653 * 0.1 / 3**0.5  # Student's t with two degrees of freedom
    assert found["gold"]["high"] - found["gold"]["mean"] == pytest.approx(half, rel=1e-5)
    assert found["kl"]["mean"] == 0
    assert found["wins"]["mean"] == 1
    assert results["compared"]["ppo 3"]["wins"]["mean"] == 0.5
    report(tmp_path, results)
    assert json.loads((tmp_path / "results.json").read_text())["compared"]["dpo 3"]["against"] == "dpo 1"
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + sum(a.rounds for a in ARMS)


def test_one_seed_has_no_bounds(tmp_path: Path):
    results = summarise({1: world({"dpo 3": 1.0})[1]}, SIZE)
    assert results["compared"]["dpo 3"]["gold"]["low"] is None
    assert "are not told apart" in report(tmp_path, results).read_text()


def test_arms_with_other_numbers_of_labels_are_not_compared(tmp_path: Path):
    wrong = world({})
    wrong[2]["ppo 3"] = arm(3, 0.0, labels=5)
    with pytest.raises(TastemakerError, match="seed 2: ppo 3 got 5 labels and not 6"):
        summarise(wrong, SIZE)
    with pytest.raises(TastemakerError, match=r"holds no dpo\.yaml"):
        study(tmp_path / "out", recipes=tmp_path)
