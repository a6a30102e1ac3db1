"""Readings that nobody took, put through what really makes results of them.

Every number is invented but of the kind, the names and the size that a study on the town gives; DPO is far
ahead of PPO, and the arm without its brake is over-optimised.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tastemaker.config import CompareSettings
from tastemaker.evaluation import mean_and_error
from tastemaker.runs import Run
from tastemaker.studies.compare import Plan, make_plan
from tastemaker.studies.judges import RATES
from tastemaker.studies.results import collect_results

HOSTILE = '<script>alert("x")</script><img src="http://evil.example/x.png" onerror=alert(1)>&amp;{{ 7*7 }}'
KINDS = ("fact", "style", "follow-up", "pushback", "unknown", "unsafe")
PARTS = ("answer", "extras", "harm", "length", "style", "sycophancy")
METRICS = {
    "rewards/margins": 0.1,
    "rewards/accuracies": 0.01,
    "logps/chosen": -0.05,
    "objective/kl": 0.2,
    "objective/scores": 0.03,
    "val/explained_variance": 0.01,
    "completions/mean_length": 0.1,
}


def reading(level: float, kl: float, *, greedy: bool, town: bool, prompts: int = 24) -> dict[str, Any]:
    """One policy on the test prompts."""
    generator = torch.Generator().manual_seed(round(10 * kl))
    noise = torch.rand(prompts, generator=generator, dtype=torch.float64) - 0.5
    columns = {
        "score": level + noise,
        "length": 10 + noise,
        "ended": noise * 0 + 1,
        "entropy": noise + 1,
        "repetition": (noise / 10).clamp_min(0),
        "reference_logps": -0.6 + noise / 10,
        "parts/proxy": 0.4 * level + noise / 3,
    }
    if not greedy:
        columns |= {"kl": kl + noise, "kl_k3": (kl + noise).clamp_min(0), "diversity": 0.6 + noise / 5}
    if town:
        columns |= {f"parts/{name}": (noise > 0.2 * i - 0.4).double() for i, name in enumerate(RATES)}
        shares = [0.5, 0.1, 0.1, -0.2, 0.3, 0.2]
        columns |= {f"parts/gold/{n}": s * columns["score"] for n, s in zip(PARTS, shares, strict=True)}
    return {
        "summary": {name: mean_and_error(values) for name, values in columns.items()},
        "columns": {name: values.tolist() for name, values in columns.items()},
        "prompts": [f"prompt {i} ?" for i in range(prompts)],
        "kinds": [KINDS[i % len(KINDS)] if town else "" for i in range(prompts)],
        "texts": [f"answer {i} at {level:.2f}, {'greedy' if greedy else 'sampled'}" for i in range(prompts)],
    }


def read(level: float, kl: float, *, town: bool) -> dict[str, Any]:
    """What `read_policy` returns."""
    return {
        "tuning": reading(level, kl, greedy=False, town=town),
        "sampled": reading(level, kl, greedy=False, town=town),
        "greedy": reading(level + 0.3, kl, greedy=True, town=town),
        "pairs": {"train": pairs(0.8), "held_out": pairs(0.75)},
    }


def pairs(accuracy: float) -> dict[str, float]:
    """What `read_pairs` returns."""
    found = {
        "accuracy": accuracy,
        "margin": 0.5,
        "chosen_logratio": 0.2,
        "chosen_logratio_per_token": 0.02,
        "rejected_logratio": -0.3,
        "rejected_logratio_per_token": -0.03,
        "chosen_logp_per_token": -0.48,
        "rejected_logp_per_token": -0.6,
        "reference_chosen_logp_per_token": -0.5,
        "reference_rejected_logp_per_token": -0.57,
        "chosen_length": 13.0,
        "rejected_length": 14.0,
    }
    return found | {f"{name}_se": 0.02 for name in found} | {"pairs": 256.0, "trees": 256.0}


def course(rise: float, bend: float, far: float, seed: int, readings: int = 12) -> dict[str, Any]:
    """What `read_curve` returns: gains by Gao's law up to KL `far`; the proxy goes on rising."""
    generator = torch.Generator().manual_seed(seed)
    points: list[dict[str, Any]] = []
    for i in range(readings + 1):
        d = math.sqrt(far) * i / readings
        luck = 0.06 * float(torch.randn((), generator=generator, dtype=torch.float64))
        gain = d * (rise - bend * math.log(d)) if d > 0 else 0.0
        points.append(
            {
                "step": 4 * i,
                "kl": d * d,
                "kl_se": 0.05,
                "proxy": 0.5 * d + luck / 2,
                "proxy_se": 0.04,
                "score": 0.1 + gain + luck,
                "score_se": 0.06,
                "length": 10 + 2 * d,
                "ended": 1.0,
                "repetition": 0.01 * d,
                "entropy": 1.0 - 0.05 * d,
                "diversity": 0.6,
                "parts/sycophancy": min(1.0, 0.2 + 0.15 * d),
                "flops": 1e9 * i,
            }
        )
    return {"points": points}


def cost(cpu: float, *, sampled: float = 0.0) -> dict[str, float]:
    """What `cost_of` returns."""
    work = {"flops_rollouts": sampled * 4e7, "flops_scoring": cpu * 4e8, "flops_updates": cpu * 3e9}
    return {
        "wall_seconds": 2 * cpu,
        "cpu_seconds": cpu,
        "peak_rss_bytes": 4.1e8 + cpu,
        "cuda_peak_bytes": 0.0,
        "model_copies": 2.0,
        "steps": 40.0,
        "episodes": sampled / 10,
        "tokens": 5e4,
        "tokens_rollouts": sampled,
        "tokens_updates": 5e4,
        "flops": sum(work.values()),
        **work,
    }


def made(
    methods: tuple[str, ...] = ("dpo", "ppo"), *, town: bool = True, seeds: int = 2, size: str = "demo"
) -> dict[str, Any]:
    """Results of a plan with invented readings."""
    plan = make_plan(CompareSettings(methods=methods, seeds=seeds, out="somewhere", preset=size))  # pyright: ignore[reportArgumentType]
    if not town:
        own = replace(plan.settings, model=HOSTILE, data=HOSTILE + ".jsonl")
        plan = Plan(own, plan.preset, None, (), plan.arms, plan.seeds, {})
    with tempfile.TemporaryDirectory() as folder:
        done: dict[str, Any] = {}
        for seed in plan.seeds:
            done |= shared_of(seed, town=town, stress=plan.preset.stress is not None)
        for place, (name, arm) in enumerate(plan.arms.items()):
            run = Run.create(Path(folder) / name, method=arm.method, settings={}, seed=0, command="invented")
            lines = [{k: s * v for k, v in METRICS.items()} for s in range(60)]
            for step, line in enumerate(lines):
                run.log_metrics(step, line)
            for i, label in enumerate(arm.tried):
                for seed in plan.seeds:
                    level, key = (
                        3.0 - 1.5 * place + 0.1 * i + (0.05 + 0.2 * place) * seed,
                        f"{name}:{label}-{seed}",
                    )
                    done[key] = {
                        "run": str(run.folder),
                        "costs": [[arm.method, cost(31 + 20 * place, sampled=3e5 * place)]],
                        "stopped": None,
                        "curve": [{"step": float(step), **line} for step, line in enumerate(lines)],
                    }
                    done[f"read-{key}"] = read(level, 1.0 + i + 0.3 * place, town=town)
                    done[f"curve-{key}"] = course(2.0 - 0.5 * place, 0.5, 3.0 + i, 10 * seed + place)
        results = collect_results(plan, done)
    for name, arm in results["arms"].items():
        arm["runs"] = [f"seed-{seed}/{name}/run" for seed in plan.seeds]
    return results


def shared_of(seed: int, *, town: bool, stress: bool) -> dict[str, Any]:
    """What the arms of one seed share: reward models, the start, baselines."""
    held_out = {"accuracy": 0.71, "low": 0.66, "high": 0.76, "pairs": 500.0}
    done: dict[str, Any] = {
        f"reward-{seed}": {"cost": cost(7), "held_out": held_out},
        f"start-{seed}": {"stages": {"base": cost(20), "sft": cost(4), "data": cost(3, sampled=1e5)}},
        f"read-sft-{seed}": read(0.01 * seed, 0.0, town=town),
        f"baselines-{seed}": {
            "best_of_n": [
                {"n": 2.0**i, "kl": 0.3 * i, "score": 0.4 * i, "proxy": 0.3 * i, "se": 0.02} for i in range(4)
            ],
            "tilted": [{"beta": 2.0, "kl": 0.2, "score": 0.9, "se": 0.03}],
        },
    }
    if not town:
        done[f"judge-{seed}"] = {"cost": cost(7), "held_out": {**held_out, "accuracy": 0.64}}
    if stress:
        done[f"curve-stress-{seed}"] = course(2.6, 1.7, 36.0, seed)
    return done
