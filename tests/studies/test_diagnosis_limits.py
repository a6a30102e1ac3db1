"""A finding must be certain and large, is graded by the judge, and is not made of what was never read."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from tastemaker.studies.diagnosis import ArmEvidence, checked, diagnose, summary

Summary = dict[str, dict[str, float | None]]

SFT = {
    "score": -0.4,
    "kl": 0.0,
    "length": 13.0,
    "ended": 1.0,
    "entropy": 0.54,
    "repetition": 0.01,
    "diversity": 0.7,
    "reference_logps": -0.54,
}
GOOD = SFT | {"score": 1.4, "kl": 2.0, "entropy": 0.42, "diversity": 0.5, "reference_logps": -0.55}
ERRORS = {
    "score": 0.08,
    "kl": 0.15,
    "length": 0.3,
    "ended": 0.004,
    "entropy": 0.007,
    "repetition": 0.004,
    "diversity": 0.01,
    "reference_logps": 0.02,
}
PAIRS = {
    "accuracy": 0.76,
    "margin": 2.5,
    "chosen_logratio": -1.4,
    "rejected_logratio": -3.9,
    "reference_chosen_logp_per_token": -0.5,
    "reference_rejected_logp_per_token": -0.58,
    "chosen_length": 13.3,
    "rejected_length": 13.5,
}


def read(columns: dict[str, float], **errors: float) -> Summary:
    known = ERRORS | errors
    return {name: {"mean": value, "se": known[name], "n": 256} for name, value in columns.items()}


def pairs(**changes: float) -> dict[str, float]:
    values = PAIRS | changes
    errors = {"accuracy": 0.02, "margin": 0.15, "chosen_logratio": 0.12, "rejected_logratio": 0.13}
    return values | {f"{name}_se": errors.get(name, 0.012) for name in PAIRS}


def arm(method: str = "dpo", **columns: float) -> ArmEvidence:
    """A healthy arm of the town, as the committed study read it, with some columns changed."""
    return ArmEvidence(
        method=method,
        settings={"beta": 0.3} if method == "dpo" else {"kl_coef": 0.3},
        sft=read(SFT),
        reading=read(GOOD | columns),
        pairs={"train": pairs(), "held_out": pairs(accuracy=0.73), "own_logp_per_token": -0.53},
    )


def codes(evidence: ArmEvidence) -> dict[str, str]:
    return {f.code: f.severity for f in diagnose(evidence)}


def test_the_towns_arm_is_healthy():
    assert codes(arm()) == {}
    assert codes(arm("ppo")) == {}


@pytest.mark.parametrize(
    ("column", "small", "large", "code"),
    [
        ("ended", 0.97, 0.9, "no_eos"),
        ("repetition", 0.08, 0.2, "repetition"),
        ("entropy", 0.25, 0.1, "entropy_collapse"),
        ("diversity", 0.3, 0.1, "entropy_collapse"),
        ("length", 16.0, 25.0, "length_growth"),
        ("length", 9.0, 5.0, "length_collapse"),
        ("reference_logps", -0.68, -0.9, "kl_runaway"),
    ],
)
def test_changes_count_when_they_are_large_and_certain(column: str, small: float, large: float, code: str):
    assert codes(arm(**{column: small})) == {}
    assert list(codes(arm(**{column: large}))) == [code]
    unsure = replace(arm(), reading=read(GOOD | {column: large}, **{column: 10.0}))
    assert codes(unsure) == {}
    unknown = arm(**{column: large})
    unread = {n: v for n, v in unknown.reading.items() if n != column}
    assert codes(replace(unknown, reading=unread)) == {}, "what was not read is not judged"


@pytest.mark.parametrize(("score", "severity"), [(1.4, "note"), (-0.35, "warning"), (-1.5, "problem")])
def test_the_judge_says_how_bad_it_is(score: float, severity: str):
    assert codes(arm(score=score, length=25.0))["length_growth"] == severity
    alone = replace(arm(length=25.0), sft={"length": SFT_LENGTH}, reading={"length": LONG})
    assert codes(alone) == {"length_growth": "warning"}, "without a judge it is a warning"


SFT_LENGTH: dict[str, float | None] = {"mean": 13.0, "se": 0.3, "n": 256}
LONG: dict[str, float | None] = {"mean": 25.0, "se": 0.3, "n": 256}


def test_displacement_that_does_no_harm_is_no_finding_unless_it_is_out_of_proportion():
    fallen = replace(arm(), pairs={"train": pairs(), "held_out": pairs(chosen_logratio=-3.0)})
    assert codes(fallen) == {}, "1.5 times the KL, and the judge is pleased"
    assert codes(replace(fallen, pairs={"held_out": pairs(chosen_logratio=-9.0)})) == {"displacement": "note"}
    stuck = replace(fallen, reading=read(GOOD | {"score": -0.3}))
    assert codes(stuck) == {"displacement": "warning"}
    assert codes(replace(stuck, reading=read(GOOD | {"score": -1.3})))["displacement"] == "problem"
    # a fall of 1.4 nats is nothing where responses have 200
    long = pairs(chosen_logratio=-3.0, reference_chosen_logp_per_token=-4.5, chosen_length=47)
    assert codes(replace(stuck, pairs={"held_out": long})) == {}
    # nor one that may be chance
    unsure = pairs(chosen_logratio=-3.0) | {"chosen_logratio_se": 1.2}
    assert codes(replace(stuck, pairs={"held_out": unsure})) == {}
    unknown: dict[str, Any] = pairs(chosen_logratio=-3.0) | {"chosen_logratio_se": None}
    assert codes(replace(stuck, pairs={"held_out": unknown})) == {}


def test_without_readings_of_pairs_displacement_is_seen_in_the_metrics():
    """Logged rewards are beta times log-ratios; here chosen ones fall by 6 nats at beta 0.3."""

    def line(step: int, chosen: float) -> dict[str, float]:
        return {
            "step": step,
            "rewards/chosen": 0.3 * chosen,
            "rewards/rejected": 0.3 * (chosen - 1),
            "logps/chosen": -7.0 + chosen,
        }

    fallen = [line(s, -6.0 * s / 40 + 0.3 * (-1) ** s) for s in range(1, 41)]
    stuck = replace(arm(score=-0.3), pairs=None, metrics=fallen)
    found = diagnose(stuck)
    assert [f.code for f in found] == ["displacement"]
    assert found[0].numbers["chosen_logratio"] == pytest.approx(-5.3, abs=0.3)
    assert found[0].numbers["chosen_start"] == pytest.approx(-7.0)
    assert codes(replace(stuck, metrics=[line(s, 0.3 * (-1) ** s) for s in range(1, 41)])) == {}
    # an arm that learns from its own samples has no pairs that could be displaced
    assert codes(replace(stuck, method="ppo")) == {}


def test_a_weight_too_small_needs_distance_and_harm():
    assert codes(arm(kl=5.0)) == {}, "far, and better for it"
    harmed = codes(replace(arm(kl=5.0, score=-1.5), pairs=None))
    assert harmed == {"beta_too_small": "problem"}
    assert codes(replace(arm(kl=2.0, score=-1.5), pairs=None)) == {"worse_than_start": "problem"}
    assert codes(replace(arm(kl=5.0, score=-0.6), pairs=None)) == {}, "not clearly worse"
    turned = [
        {"step": 10 * i, "kl": 0.8 * i, "score": s, "score_se": 0.05, "proxy": s, "proxy_se": 0.05}
        for i, s in enumerate([-0.4, 0.5, 1.2, 1.6, 1.6, 1.4, 1.1, 0.8, 0.6, 0.4, 0.3])
    ]
    passed = diagnose(replace(arm(kl=5.0, score=0.5), pairs=None, watch=turned))
    assert [(f.code, f.severity) for f in passed] == [("beta_too_small", "warning")]
    assert passed[0].numbers["peak_step"] in (30, 40)
    assert "aiming at" in passed[0].remedy


def test_a_kl_that_grows_as_fast_as_before_is_a_runaway():
    def growing(power: float, reach: float) -> list[dict[str, float]]:
        return [{"step": s, "objective/kl": reach * (s / 60) ** power + 0.02 * (-1) ** s} for s in range(1, 61)]

    # answers of 60 tokens, for which 14 nats are less than half of the entropy that the start has
    far = replace(arm("ppo", kl=14.0, length=60.0), pairs=None, sft=read(SFT | {"length": 60.0}))
    assert codes(replace(far, metrics=growing(1.0, 14.0))) == {"kl_runaway": "warning"}
    assert codes(replace(far, metrics=growing(2.0, 14.0))) == {"kl_runaway": "warning"}
    assert codes(replace(far, metrics=growing(0.3, 14.0))) == {}, "it slows down"
    near = replace(arm("ppo"), pairs=None, metrics=growing(1.0, 2.0))
    assert codes(near) == {}, "on its way, but not far"


def test_a_weight_that_adapts_is_told_by_its_target():
    steered = replace(
        arm("ppo", kl=5.0, score=-1.5),
        pairs=None,
        settings={"kl_coef": 0.05, "kl_target": 6.0},
        metrics=[{"step": s, "objective/kl_coef": 0.05 + 0.01 * s} for s in range(1, 11)],
    )
    found = diagnose(steered)
    assert [f.code for f in found] == ["beta_too_small"]
    assert found[0].numbers["kl_coef"] == pytest.approx(0.15)
    assert found[0].remedy.startswith("lower kl_target (it is 6 nats)")


def lines(**series: list[float | None]) -> list[dict[str, Any]]:
    number = len(next(iter(series.values())))
    names = {name: name.replace("__", "/") for name in series}
    return [{"step": i + 1} | {names[n]: values[i] for n, values in series.items()} for i in range(number)]


def test_training_metrics():
    online = replace(arm("ppo"), pairs=None)
    nan_loss = lines(loss=[0.7, 0.6, math.nan, None])
    assert codes(replace(online, metrics=nan_loss)) == {"diverged": "problem"}
    worse = lines(objective__rlhf_reward=[1.0 + 0.05 * (-1) ** i - 0.05 * i for i in range(40)])
    assert codes(replace(online, metrics=worse)) == {"diverged": "problem"}
    noisy = lines(objective__rlhf_reward=[2.0 * math.sin(7.0 * i) - 0.01 * i for i in range(40)])
    assert codes(replace(online, metrics=noisy)) == {}
    rising = lines(loss=[0.693 + 0.02 * i for i in range(20)])
    assert codes(replace(arm(), metrics=rising)) == {"diverged": "problem"}
    falling = lines(loss=[0.693 - 0.01 * i for i in range(20)])
    assert codes(replace(arm(), metrics=falling)) == {}
    groups = lines(loss=[0.0] * 8, frac_reward_zero_std=[0.95] * 8)
    assert codes(replace(online, metrics=groups)) == {"no_signal": "problem"}
    poor = lines(val__explained_variance=[-2.0] * 4 + [0.03, -0.05, 0.02, 0.01])
    assert codes(replace(online, metrics=poor)) == {"value_not_explaining": "note"}
    late = lines(val__explained_variance=[-2.0] * 4 + [0.3, 0.4, None, 0.5, 0.4])
    assert codes(replace(online, metrics=late)) == {}, "only the second half counts"
    flat = lines(loss=[0.1] * 8, val__explained_variance=[0.0] * 8, objective__scores=[0.5] * 8)
    assert codes(replace(online, metrics=flat)) == {"no_signal": "problem"}, "nothing to foresee"


def test_reward_spread_is_taken_from_the_run_where_it_was_not_read():
    """Batch means of 64 rewards that vary by 0.8 scatter by 0.1."""
    jitter = [0.1 * math.sqrt(2) * 0.6745 * (-1) ** i / 2 for i in range(20)]
    metrics = [
        {"step": i + 1, "objective/scores": 0.3 + j, "episode": 64 * (i + 1)} for i, j in enumerate(jitter)
    ]
    still = replace(arm("ppo", kl=0.01, score=-0.41), pairs=None, metrics=metrics, settings={"kl_coef": 5.0})
    found = diagnose(still)
    assert [f.code for f in found] == ["beta_too_large"]
    assert found[0].numbers["reward_sd"] == pytest.approx(0.8, rel=0.01)
    assert found[0].numbers["reachable_kl"] == pytest.approx(0.8**2 / 2 / 25, rel=0.02)
    assert "try 0.57" in found[0].remedy, "sd / sqrt(2) reaches one nat"
    light = diagnose(replace(still, settings={"kl_coef": 0.1, "learning_rate": 1e-7}))
    assert [f.code for f in light] == ["barely_moved"]


def test_what_could_not_be_looked_at_is_said():
    bare = ArmEvidence(method="dpo")
    assert diagnose(bare) == []
    looked, not_read = checked(bare)
    assert looked == ["early stops"]
    assert "displacement" in not_read
    assert "the value model" not in not_read
    said = summary([], bare)
    assert said.startswith("healthy: nothing was found (looked at early stops); not looked at, for want of")
    assert summary([]) == "healthy: nothing was found"
    assert summary(diagnose(replace(bare, stopped="the disk was full"))) == "1 warning: stopped early"


def test_the_worst_comes_first_and_the_summary_counts():
    bad = arm(score=-1.5, ended=0.4, length=25.0, repetition=0.2)
    found = diagnose(replace(bad, pairs=None, stopped="kl_stop"))
    order = [("problem", "warning", "note").index(f.severity) for f in found]
    assert order == sorted(order)
    assert summary(found) == "4 problems: stopped early, no eos, repetition, length growth"
    mixed = diagnose(replace(arm(ended=0.4, length=25.0), pairs=None, stopped="kl_stop"))
    assert summary(mixed) == "1 problem, 1 warning and 1 note: no eos, stopped early, length growth"
