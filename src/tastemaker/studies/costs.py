"""What the arms of a comparison cost: by stage, as a search, and for what they gained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tastemaker.studies.arms import Arm
from tastemaker.studies.written import counted, number, title

if TYPE_CHECKING:
    from tastemaker.studies.compare import Plan

Results = Mapping[str, Mapping[str, Any]]
Costs = Mapping[str, float]

KINDS: Mapping[str, str] = {
    "rollouts": "sampling responses",
    "scoring": "passes without gradient: references, reward models, old policies",
    "updates": "passes with gradient",
}


def stage_costs(arm: Arm, label: str, seed: int, results: Results) -> dict[str, Costs]:
    """What making the arm's policy took on one seed, stage by stage, beyond the shared start."""
    own: dict[str, Costs] = dict(results[f"{arm.name}:{label}-{seed}"]["costs"])
    if arm.needs_reward and arm.kind == "method":
        own = {"reward": results[f"reward-{seed}"]["cost"], **own}
    return own


def arm_cost(
    arm: Arm, chosen: str, results: Results, seeds: Sequence[int], gain: Mapping[str, float] | None
) -> dict[str, Any]:
    """What one run of the arm at its chosen setting costs beyond the shared start, over seeds.

    `gain`: the arm's sampled score less that of SFT sampled, with its interval; where it is clearly above
    zero, what was spent is also given per unit gained.
    """
    by_seed = [stage_costs(arm, chosen, s, results) for s in seeds]
    stages = {name: averaged([costs[name] for costs in by_seed]) for name in by_seed[0]}
    total = {
        name: sum(stage.get(name, 0.0) for stage in stages.values())
        for name in ("wall_seconds", "cpu_seconds", "flops", *(f"flops_{k}" for k in KINDS), "tokens_rollouts")
    }
    gained = gain["mean"] if gain is not None and gain["low"] > 0 else None
    return {
        **total,
        "phases": 1 + len(stages),
        "stages": stages,
        "peak_rss_bytes": max(s["peak_rss_bytes"] for s in stages.values()),
        "cuda_peak_bytes": max(s["cuda_peak_bytes"] for s in stages.values()),
        "model_copies": max(s["model_copies"] for s in stages.values()),
        "needs_reward_model": "reward" in stages,
        "online": arm.online,
        "per_gain": None
        if gained is None
        else {
            "tokens_generated": total["tokens_rollouts"] / gained,
            "flops": total["flops"] / gained,
            "cpu_seconds": total["cpu_seconds"] / gained,
        },
    }


def search_cost(arm: Arm, results: Results, seeds: Sequence[int]) -> dict[str, Any]:
    """All that was run to find the arm's setting: every setting on every seed, the reward models once."""
    spent = [results[f"{arm.name}:{label}-{s}"]["costs"] for label in arm.tried for s in seeds]
    each = [cost for stages in spent for _, cost in stages]
    if arm.needs_reward and arm.kind == "method":
        each += [results[f"reward-{s}"]["cost"] for s in seeds]
    return {
        "settings": len(arm.tried),
        "runs": len(arm.tried) * len(seeds),
        "flops": sum(c.get("flops", 0.0) for c in each),
        "cpu_seconds": sum(c["cpu_seconds"] for c in each),
        "tokens_generated": sum(c.get("tokens_rollouts", 0.0) for c in each),
    }


def budget_words(search: Mapping[str, Mapping[str, Any]]) -> str:
    """How equal the search was, in one sentence."""
    runs = {arm: s["runs"] for arm, s in search.items()}
    told = "; ".join(
        f"{title(arm)}: {counted(s['runs'], 'run')}, {operations(s['flops'])}, "
        f"{s['cpu_seconds']:.0f} s of CPU time"
        for arm, s in search.items()
    )
    if len(search) < 2:
        return f"Search: {told}."
    flops = [s["flops"] for s in search.values()]
    even = "the same number of runs" if len(set(runs.values())) == 1 else "different numbers of runs"
    ratio = max(flops) / min(flops) if min(flops) > 0 else float("inf")
    close = (
        f"FLOPs within a factor of {ratio:.2f}" if ratio == ratio and ratio != float("inf") else "FLOPs unknown"
    )
    return f"Search: {even}, {close} ({told})."


def operations(flops: float) -> str:
    """A number of floating-point operations as people write it: 1.2·10¹² FLOPs."""
    if flops <= 0:
        return "no FLOPs counted"
    power = math.floor(math.log10(flops))
    raised = str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{flops / 10**power:.1f}·10{raised} FLOPs"


def start_costs(results: Results, seeds: Sequence[int]) -> dict[str, Costs]:
    """What every arm shares: on the town pretraining, SFT and the sampling of the pairs."""
    stages = [results[f"start-{s}"]["stages"] for s in seeds]
    return {name: averaged([s[name] for s in stages]) for name in stages[0]}


def averaged(costs: Sequence[Costs]) -> dict[str, float]:
    return {name: sum(c.get(name, 0.0) for c in costs) / len(costs) for name in costs[0]}


def article_table(plan: Plan, arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is commonly said of RLHF and DPO, beside what this study measured of `ppo` and `dpo`.

    Empty unless both are among the arms.
    """
    if not {"ppo", "dpo"} <= set(arms):
        return []
    measured = {name: arms[name] for name in ("ppo", "dpo")}
    cost = {name: arm["cost"] for name, arm in measured.items()}

    def both(say: Any) -> dict[str, str]:
        return {name: say(name) for name in ("ppo", "dpo")}

    ratio = cost["ppo"]["flops"] / cost["dpo"]["flops"] if cost["dpo"]["flops"] else float("nan")
    spread = both(
        lambda n: (
            "one seed: not measured"
            if measured[n]["sampled"]["score"]["sd"] is None
            else f"{measured[n]['sampled']['score']['sd']:.2f} (sd of the score over {len(plan.seeds)} seeds)"
        )
    )
    memory = both(
        lambda n: f"{cost[n]['model_copies']:.0f} copies, peak {cost[n]['peak_rss_bytes'] / 1e6:.0f} MB"
    )
    rows: list[tuple[str, str, str, Mapping[str, str]]] = [
        ("training phases", "3: SFT, reward model, PPO", "2: SFT, DPO", both(lambda n: f"{cost[n]['phases']}")),
        (
            "separate reward model",
            "yes",
            "no",
            both(lambda n: "yes" if cost[n]["needs_reward_model"] else "no"),
        ),
        ("memory", "4 model copies", "2 model copies", memory),
        ("stability", "low", "high", spread),
        (
            "preference data",
            "rankings or pairs",
            "pairs (chosen, rejected)",
            {"ppo": "pairs for the reward model, prompts for PPO", "dpo": "the same pairs"},
        ),
        (
            "online or offline",
            "online: rollouts",
            "offline: a fixed data set",
            both(lambda n: f"{number(cost[n]['tokens_rollouts'], 0)} tokens generated"),
        ),
        (
            "cost",
            "5 to 10 million dollars at 70B",
            "0.5 to 1 million dollars at 70B",
            {
                "ppo": f"{operations(cost['ppo']['flops'])}: {ratio:.1f} times DPO's"
                + f" ({cost['ppo']['cpu_seconds']:.0f} s of CPU time)",
                "dpo": f"{operations(cost['dpo']['flops'])} ({cost['dpo']['cpu_seconds']:.0f} s of CPU time)",
            },
        ),
        (
            "used by open-source teams",
            "rarely",
            "as the standard",
            {"ppo": "not measured", "dpo": "not measured"},
        ),
    ]
    return [
        {"aspect": aspect, "said": {"ppo": rlhf, "dpo": dpo}, "measured": dict(found)}
        for aspect, rlhf, dpo, found in rows
    ]
