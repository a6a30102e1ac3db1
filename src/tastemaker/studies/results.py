"""From the results of all tasks to `results.json`: arms, baselines, frontier, verdict, samples, costs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tastemaker.config import dump
from tastemaker.methods import METHODS
from tastemaker.runs import plain
from tastemaker.runs.environment import versions
from tastemaker.studies.judges import RATES
from tastemaker.studies.verdict import Point, choose, verdict

if TYPE_CHECKING:
    from tastemaker.studies.compare import Plan

SCHEMA = 1
Results = Mapping[str, Mapping[str, Any]]
SHOWN_SAMPLES = 24


def collect_results(plan: Plan, results: Results) -> dict[str, Any]:
    """Everything the report says, as plain JSON data."""
    seeds = list(plan.seeds)
    chosen = {arm: choose_setting(arm, labels, results, seeds) for arm, labels in plan.tried.items()}
    readings = {arm: [results[f"read-{arm}:{label}-{s}"] for s in seeds] for arm, label in chosen.items()}
    sft = [results[f"read-sft-{s}"] for s in seeds]
    judge = judge_words(plan)
    points = {
        arm: [[point(results[f"read-{arm}:{label}-{s}"]["sampled"]) for label in labels] for s in seeds]
        for arm, labels in plan.tried.items()
    }
    said = verdict(
        {arm: [column(r["sampled"]) for r in reads] for arm, reads in readings.items()},
        {
            "sft_sampled": [column(r["sampled"]) for r in sft],
            "sft_greedy": [column(r["greedy"]) for r in sft],
        },
        points,
        judge["name"],
        {arm: [column(r["greedy"]) for r in reads] for arm, reads in readings.items()},
        proxy=judge["kind"] == "proxy",
    )
    arms = {
        arm: {
            "method": arm,
            "chosen": chosen[arm],
            "tried": {label: plain(dict(s)) for label, s in plan.tried[arm].items()},
            **policy_entry(readings[arm]),
            "difference": said["against_baselines"][arm],
            "greedy_difference": said["greedy_against_sft_greedy"][arm],
            "cost": arm_cost(arm, chosen[arm], plan, results, seeds),
            "runs": [near(results[f"{arm}:{chosen[arm]}-{s}"]["run"], plan) for s in seeds],
            "curves": [results[f"{arm}:{chosen[arm]}-{s}"]["curve"] for s in seeds],
            "stopped": [results[f"{arm}:{chosen[arm]}-{s}"]["stopped"] for s in seeds],
        }
        for arm in plan.tried
    }
    return {
        "schema": SCHEMA,
        "world": "town" if plan.spec is not None else "data",
        "judge": judge,
        "arms": arms,
        "baselines": baselines(sft, results, seeds),
        "start": {"stages": start_costs(results, seeds)},
        "reward_model": reward_models(plan, results, seeds),
        "frontier": frontier(plan, results, seeds, chosen),
        "verdict": said,
        "search": {
            arm: {"settings": len(labels), "runs": len(labels) * len(seeds)}
            for arm, labels in plan.tried.items()
        },
        "samples": samples(readings, sft),
        "settings": {
            "compare": plain(dump(plan.settings)),
            "preset": plain(plan.preset),
            "town": plain(plan.spec) if plan.spec is not None else None,
            "versions": versions(),
            "protocol": protocol(plan),
        },
    }


# ------------------------------------------------------------------------------------------- arms


def choose_setting(arm: str, labels: Mapping[str, Any], results: Results, seeds: Sequence[int]) -> str:
    """The setting the judge likes best on tuning prompts, over all seeds."""
    candidates = {
        label: [results[f"read-{arm}:{label}-{s}"]["tuning"]["summary"]["score"]["mean"] for s in seeds]
        for label in labels
    }
    return choose(candidates)


def column(reading: Mapping[str, Any], name: str = "score") -> Tensor:
    """[P] one value per prompt, NaN where it does not apply."""
    values = [float("nan") if v is None else v for v in reading["columns"][name]]
    return torch.tensor(values, dtype=torch.float64)


def point(reading: Mapping[str, Any]) -> Point:
    kl = reading["summary"]["kl"]
    return Point(kl=kl["mean"], kl_se=kl["se"], scores=column(reading))


def policy_entry(readings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A policy's columns over seeds, sampled and greedy."""
    return {
        how: {name: over_seeds([r[how] for r in readings], name) for name in readings[0][how]["columns"]}
        for how in ("sampled", "greedy")
    }


def over_seeds(readings: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Mean over seeds of the mean over prompts, its spread, and every seed's own."""
    means = [r["summary"][name]["mean"] for r in readings]
    values = torch.tensor(means, dtype=torch.float64)
    known = values[~values.isnan()]
    if len(known) == 0:
        return {"mean": None, "sd": None, "se": None, "by_seed": means}
    errors = [r["summary"][name]["se"] for r in readings]
    return {
        "mean": float(known.mean()),
        "sd": float(known.std(correction=1)) if len(known) > 1 else None,
        "se": pooled_error(errors),
        "by_seed": means,
    }


def near(path: str, plan: Plan) -> str:
    """A path inside the comparison's folder, so that results can be moved and shared."""
    return Path(os.path.relpath(path, plan.settings.out)).as_posix()


def pooled_error(errors: Sequence[float]) -> float | None:
    """Standard error of a mean over seeds from each seed's own: what drawing other prompts would change."""
    known = [e for e in errors if e == e]
    return math.sqrt(sum(e * e for e in known)) / len(known) if known else None


def arm_cost(arm: str, chosen: str, plan: Plan, results: Results, seeds: Sequence[int]) -> dict[str, Any]:
    """What one run of the arm at its chosen setting costs beyond the shared start, over seeds; and what all
    its runs cost together, the reward models among them.
    """
    needs_reward = "reward" in METHODS[arm].roles
    labels = list(plan.tried[arm])
    runs = [results[f"{arm}:{label}-{s}"]["cost"] for label in labels for s in seeds]
    stages = {arm: averaged([results[f"{arm}:{chosen}-{s}"]["cost"] for s in seeds])}
    if needs_reward:
        rewards = [results[f"reward-{s}"]["cost"] for s in seeds]
        stages = {"reward": averaged(rewards), **stages}
        runs += rewards
    return {
        "phases": 1 + len(stages),
        "stages": stages,
        "wall_seconds": sum(s["wall_seconds"] for s in stages.values()),
        "cpu_seconds": sum(s["cpu_seconds"] for s in stages.values()),
        "peak_rss_bytes": max(s["peak_rss_bytes"] for s in stages.values()),
        "model_copies": max(s["model_copies"] for s in stages.values()),
        "search_cpu_seconds": sum(r["cpu_seconds"] for r in runs),
        "needs_reward_model": needs_reward,
        "online": METHODS[arm].online,
    }


def start_costs(results: Results, seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """What every arm shares: pretraining (on the town) and SFT."""
    stages = [results[f"start-{s}"]["stages"] for s in seeds]
    return {name: averaged([s[name] for s in stages]) for name in stages[0]}


def averaged(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(c[name] for c in costs) / len(costs) for name in costs[0]}


# ------------------------------------------------------------------------------------------- the rest


def baselines(sft: Sequence[Mapping[str, Any]], results: Results, seeds: Sequence[int]) -> dict[str, Any]:
    each = [results[f"baselines-{s}"] for s in seeds]
    return {
        "sft": policy_entry(sft),
        "best_of_n": merged_points([e["best_of_n"] for e in each], "n"),
        "tilted": merged_points([e["tilted"] for e in each], "beta"),
    }


def merged_points(by_seed: Sequence[Sequence[Mapping[str, float]]], key: str) -> list[dict[str, float]]:
    """Points of all seeds by `key`, averaged; only where every seed has one."""
    keys = [p[key] for p in by_seed[0] if all(any(q[key] == p[key] for q in other) for other in by_seed)]
    found: list[dict[str, float]] = []
    for value in keys:
        same = [next(p for p in points if p[key] == value) for points in by_seed]
        point = {name: sum(p[name] for p in same) / len(same) for name in same[0]}
        found.append(point | {"se": pooled_error([p["se"] for p in same]) or 0.0})
    return found


def reward_models(plan: Plan, results: Results, seeds: Sequence[int]) -> dict[str, Any]:
    """How well the reward models order held-out pairs."""
    roles = ["reward"] + (["judge"] if f"judge-{seeds[0]}" in results else [])
    return {
        role: {
            name: over_values([results[f"{role}-{s}"]["held_out"][name] for s in seeds])
            for name in results[f"{role}-{seeds[0]}"]["held_out"]
        }
        for role in roles
    }


def over_values(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": sum(values) / len(values), "by_seed": list(values)}


def frontier(
    plan: Plan, results: Results, seeds: Sequence[int], chosen: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Every setting of every arm on every seed, read on the test prompts."""
    found: list[dict[str, Any]] = []
    for arm, labels in plan.tried.items():
        for label in labels:
            for seed in seeds:
                reading = results[f"read-{arm}:{label}-{seed}"]["sampled"]["summary"]
                found.append(
                    {
                        "arm": arm,
                        "label": label,
                        "seed": seed,
                        "chosen": chosen[arm] == label,
                        "kl": reading["kl"]["mean"],
                        "kl_se": reading["kl"]["se"],
                        "score": reading["score"]["mean"],
                        "score_se": reading["score"]["se"],
                        "length": reading["length"]["mean"],
                    }
                )
    return found


def samples(
    readings: Mapping[str, Sequence[Mapping[str, Any]]], sft: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Responses side by side for the first seed: of each kind the first prompts as they come."""
    base = sft[0]["sampled"]
    found: list[dict[str, Any]] = []
    for i in first_of_each_kind(base["kinds"]):
        policies = {"sft": base, **{arm: reads[0]["sampled"] for arm, reads in readings.items()}}
        found.append(
            {
                "prompt": base["prompts"][i],
                "kind": base["kinds"][i],
                "responses": {name: r["texts"][i] for name, r in policies.items()},
                "scores": {name: r["columns"]["score"][i] for name, r in policies.items()},
            }
        )
    return found


def first_of_each_kind(kinds: Sequence[str]) -> list[int]:
    """Positions of the first few prompts of every kind, the same number of each, in order."""
    each = max(1, SHOWN_SAMPLES // max(1, len(set(kinds))))
    seen: dict[str, int] = {}
    chosen: list[int] = []
    for i, kind in enumerate(kinds):
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= each:
            chosen.append(i)
    return chosen


def judge_words(plan: Plan) -> dict[str, Any]:
    if plan.spec is not None:
        return {
            "name": "gold reward",
            "kind": "gold",
            "note": "The town's gold reward is exact: it parses every answer and knows the facts.",
            "rates": dict(RATES),
        }
    named = plan.settings.judge
    return {
        "name": f"judge {named}" if named else "independent reward model (proxy)",
        "kind": "proxy",
        "note": (
            "The judge is a proxy: a reward model"
            + ("" if named else " trained on a disjoint part of the preferences")
            + ", never optimised against; it starts from the same SFT policy. It shares the biases of the "
            "labels; read the samples too."
        ),
        "rates": {},
    }


def protocol(plan: Plan) -> list[str]:
    """The rules of this comparison, in words."""
    counts = ", ".join(f"{arm}: {len(labels)}" for arm, labels in plan.tried.items())
    return [
        "Every arm starts from its seed's SFT policy and learns from the same preferences and prompts.",
        f"Settings tried by each arm on every seed: {counts}. The setting is chosen on at most "
        f"{plan.preset.tuning_prompts} tuning prompts and read on {plan.preset.test_prompts} test prompts; "
        "no prompt is in both.",
        "Policies are read at their last step, sampled at temperature 1 and greedily.",
        "Differences are paired by seed and prompt; intervals are Student's, at 95%, with seeds as the outer "
        "unit. A winner must beat every other arm; there may be none.",
        "KL is of whole responses to the SFT policy, in nats, estimated from the policy's own samples "
        "(mean log-ratio, k1).",
        "Every arm runs in a process of its own: peak memory is that process's.",
        "Time and memory are of this machine while it ran this study; compare them with each other only.",
    ]
