"""Curves of runs: when the alarm rings, when it must not, and what it says moved."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tastemaker.studies.behaviour import movements
from tastemaker.studies.overoptimisation import over_seeds, read_curve

Curve = list[dict[str, float]]
STEPS = list(range(0, 61, 4))


def curve(
    score: list[float] | None = None,
    proxy: list[float] | None = None,
    *,
    noise: float = 0.0,
    seed: int = 0,
    se: float = 0.09,
    **behaviours: list[float],
) -> Curve:
    """A run of 16 readings whose KL grows to 9 nats. Readings share their prompts: half of the variance of a
    score is the prompts', the same at every step, as it is where the same prompts are answered again.
    """
    generator = torch.Generator().manual_seed(seed)
    kl = [0.15 * s for s in STEPS]
    d = [math.sqrt(k) for k in kl]
    score = score if score is not None else [x * (1.0 - 0.5 * math.log(max(x, 1e-9))) if x else 0.0 for x in d]
    proxy = proxy if proxy is not None else [0.9 * x for x in d]
    shared = torch.randn(2, generator=generator, dtype=torch.float64) * math.sqrt(0.5)
    points: Curve = []
    for i, step in enumerate(STEPS):
        own = torch.randn(2, generator=generator, dtype=torch.float64) * math.sqrt(0.5)
        jitter = (noise * se * (shared + own)).tolist()
        point = {"step": step, "kl": kl[i], "kl_se": 0.1, "proxy": proxy[i] + jitter[0], "proxy_se": se}
        point |= {"score": score[i] + jitter[1], "score_se": se}
        points.append(point | {name.replace("__", "/"): v[i] for name, v in behaviours.items()})
    return points


def ramp(before: float, after: float, start: int = 4) -> list[float]:
    """Flat until reading `start`, then straight to the end."""
    n = len(STEPS)
    return [
        before if i <= start else before + (after - before) * (i - start) / (n - 1 - start) for i in range(n)
    ]


HUMP = [0.0, 0.5, 0.9, 1.1, 1.2, 1.2, 1.1, 0.9, 0.7, 0.4, 0.1, -0.2, -0.5, -0.8, -1.1, -1.4]


def test_a_turning_judge_under_a_rising_proxy_rings_and_names_what_moved():
    points = curve(
        HUMP,
        noise=1.0,
        length=ramp(13, 41),
        ended=ramp(1.0, 0.62),
        entropy=ramp(0.5, 0.45),
        repetition=[0.01] * 16,
        parts__harm=ramp(0.2, 0.28),
        parts__sycophancy=ramp(0.6, 0.1),
        parts__correct=ramp(0.9, 0.5),
    )
    found = read_curve(points, judge="gold")
    assert found["alarm"]
    assert found["since"] == "peak"
    assert 8 <= found["peak"]["smoothed"]["step"] <= 24
    assert found["peak"]["passed"]
    names = [b["name"] for b in found["behaviours"]]
    assert names == ["ended", "length", "parts/correct"], (
        "largest first; what is small or good news is left out"
    )
    grown = found["behaviours"][1]
    assert grown["before"] < 18
    assert grown["after"] == pytest.approx(41 - 28 / 11, abs=0.1), "the mean of the last three readings"
    assert f"answers grew from {grown['before']:.0f} to 38 tokens" in found["text"]
    assert "35% of answers no longer end" in found["text"]
    assert "while gold fell from +1." in found["text"]
    assert "correct answers fell from 86%" in found["text"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_rising_together_or_turning_within_noise_does_not_ring():
    together = read_curve(curve([0.4 * math.sqrt(s) for s in STEPS], length=ramp(13, 41)))
    assert not together["alarm"]
    assert not together["peak"]["passed"]
    assert together["behaviours"] == [], "longer answers that the judge likes are nobody's exploit"
    assert "no sign of over-optimisation up to 9.0 nats" in together["text"]
    plateau = [0.0, 0.6, 1.0, *[1.1] * 9, 1.08, 1.06, 1.05, 1.04]
    assert not read_curve(curve(plateau, noise=1.0))["alarm"]
    certain = read_curve(curve(plateau, se=1e-4))
    assert not certain["alarm"], "a fall of a twentieth of the gain is no over-optimisation, however certain"


def test_the_alarm_rarely_rings_where_nothing_fell():
    """300 runs whose judge rises and then stays, read with noise: the highest reading looks like a peak."""
    level = [min(1.0, 0.25 * i) for i in range(16)]
    rung = sum(read_curve(curve(level, noise=1.0, seed=s))["alarm"] for s in range(300))
    assert rung <= 3


def test_the_alarm_finds_a_moderate_fall():
    """Down by 0.6 with errors of .09 a reading: nearly always seen."""
    fall = [min(1.0, 0.25 * i) for i in range(8)] + [1.0 - 0.075 * i for i in range(1, 9)]
    rung = sum(read_curve(curve(fall, noise=1.0, seed=s))["alarm"] for s in range(100))
    assert rung >= 95


def test_falling_from_the_first_step_is_told_from_the_start():
    found = read_curve(curve([-0.2 * i for i in range(16)], length=ramp(13, 41, start=0)))
    assert found["alarm"]
    assert found["peak"]["smoothed"]["step"] == 0
    assert "since the start the" not in found["text"]
    assert "since the start its reward rose" in found["text"]


def test_a_proxy_that_rose_early_and_stays_still_makes_an_alarm_when_the_judge_ends_below_its_start():
    proxy = [0.0, 1.5, 2.5, 2.9] + [3.0] * 12
    found = read_curve(curve(HUMP, proxy), optimised=False)
    assert found["alarm"]
    assert found["since"] == "start"
    assert "the reward model rose from +0.00 to +3.00" in found["text"]


def test_worse_by_both_is_told_but_is_no_alarm():
    found = read_curve(curve(HUMP, HUMP, entropy=ramp(0.5, 0.05)))
    assert not found["alarm"]
    assert found["peak"]["passed"]
    assert "worse by both" in found["text"]
    assert "entropy fell from 0.49 to 0.09" in found["text"]


def test_fits_and_peak_are_the_laws():
    found = read_curve(curve())
    fit = found["fits"]["score"]
    assert (fit["a"], fit["b"]) == (pytest.approx(1.0), pytest.approx(0.5))
    assert found["peak"]["fitted"]["kl"] == pytest.approx(math.exp(1.0) ** 2)
    assert found["peak"]["fitted"]["inside"]
    assert found["fits"]["proxy"]["b"] == pytest.approx(0, abs=1e-9)
    # scores are gains over step 0: a constant on top changes nothing
    lifted = [{**p, "score": p["score"] + 5.0} for p in curve()]
    assert read_curve(lifted)["fits"]["score"]["a"] == pytest.approx(1.0)


def test_order_gaps_and_missing_numbers():
    points = curve(HUMP, length=ramp(13, 41))
    whole = read_curve(points)
    assert read_curve(points[::-1]) == whole
    holes = [*points, {"step": 64, "kl": math.nan, "score": math.nan}]
    assert read_curve(holes) == whole  # pyright: ignore[reportArgumentType]
    without = [{k: v for k, v in p.items() if not k.startswith("proxy")} for p in points]
    found = read_curve(without)
    assert not found["alarm"]
    assert found["fits"]["proxy"] is None
    assert found["peak"]["passed"]
    assert json.dumps(found, allow_nan=False)
    for few in ([], points[:2]):
        assert read_curve(few)["text"] == "too few readings to tell"
    assert read_curve([{**p, "kl": 0.0} for p in points])["fits"] == {"proxy": None, "score": None}


def test_a_jump_counts_and_jitter_does_not():
    jump = curve(HUMP, length=[13.0] * 8 + [40.0] * 8)
    assert [m["name"] for m in movements(jump, jump[:4], jump[-4:])] == ["length"]
    jitter = [13 + 8 * (-1) ** i + 0.1 * i for i in range(16)]
    shaky = curve(HUMP, length=jitter)
    assert movements(shaky, shaky[:1], shaky[-1:]) == [], "neighbours differ as much as the ends"
    raw = curve(HUMP, parts__raw=ramp(0.3, 4.0))
    assert movements(raw, raw[:4], raw[-4:]) == [], "a part that is no rate is not told as one"


def test_seeds_are_summed_up():
    bad = [read_curve(curve(HUMP, noise=1.0, seed=s, length=ramp(13, 41 + s))) for s in range(3)]
    ended = read_curve(curve(HUMP, noise=1.0, seed=7, length=ramp(13, 41), ended=ramp(1.0, 0.5)))
    good = read_curve(curve([0.4 * math.sqrt(s) for s in STEPS]))
    found = over_seeds([*bad, ended, good])
    assert (found["seeds"], found["alarms"], found["passed"]) == (5, 4, 4)
    assert len(found["peak_kl"]) == 5
    assert [(b["name"], b["seeds"]) for b in found["behaviours"]] == [("length", 4), ("ended", 1)]
    assert found["text"].startswith(
        "over-optimised in 4 of 5 seeds: the proxy rose while the judge fell; answers"
    )
    assert "(1 of 5 seeds)" in found["text"]
    assert over_seeds([good, good])["text"] == "no over-optimisation in any of 2 seeds"
    assert over_seeds([read_curve([])])["text"] == "too few readings to tell"
    assert json.dumps(found, allow_nan=False)
