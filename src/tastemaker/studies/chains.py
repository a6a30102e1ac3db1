"""Chains on the town: RLHF with DPO on top, adapters and their merges, online after DPO, a judge in rounds and
online, ablations.

Every recipe in `recipes/chains` that the study knows is run for every seed in one folder, so that stages they
share are run once. All policies are read by the gold reward on the same test prompts: over all of them, and by
domain, so that what a domain's training gained there and cost elsewhere stands side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.runs import sha256_file
from tastemaker.studies.chain import load_chain, run_chain
from tastemaker.studies.critic import interval, reading
from tastemaker.studies.tasks import Event, Report, Task, run_tasks
from tastemaker.town import Town
from tastemaker.types import TastemakerError

DOMAINS: Mapping[str, tuple[str, ...]] = {
    "style": ("style",),
    "safety": ("unsafe", "sounds-unsafe"),
    "honesty": ("presupposition", "pushback"),
}
"""Kinds of prompts that make a domain; the others are told as `general`."""
GENERAL = ("fact", "follow-up", "unknown")
TEST_PROMPTS = 640


@dataclass(frozen=True)
class Policy:
    """A stage whose policy is read, the recipe it is made by, and what it is compared with."""

    stage: str
    recipe: str
    start: str
    words: str


POLICIES = (
    Policy("sft", "rlhf_then_dpo", "sft", "where all begin"),
    Policy("rlhf", "rlhf_then_dpo", "sft", "reward model and PPO on people's labels"),
    Policy("rlhf_style", "rlhf_then_dpo", "rlhf", "DPO on top, on style alone, all weights"),
    Policy("style_adapter", "adapters", "rlhf", "an adapter for style over RLHF"),
    Policy("safety_adapter", "adapters", "rlhf", "an adapter for safety over RLHF"),
    Policy("honesty_adapter", "adapters", "rlhf", "an adapter for honesty over RLHF"),
    Policy("stack", "adapters", "rlhf", "the three adapters' updates added"),
    Policy("linear", "adapters", "rlhf", "their mean"),
    Policy("ties", "adapters", "rlhf", "merged by TIES"),
    Policy("dpo", "dpo_then_online", "sft", "DPO on the same labels as RLHF"),
    Policy("dpo_ppo", "dpo_then_online", "dpo", "PPO after DPO"),
    Policy("dpo_online", "dpo_then_online", "dpo", "online DPO after DPO"),
    Policy("dpo_grpo", "dpo_then_online", "dpo", "GRPO after DPO"),
    Policy("round_1", "iterated", "sft", "a judge's labels on 512 prompts, DPO"),
    Policy("round_2", "iterated", "round_1", "the same again on its own answers"),
    Policy("round_3", "iterated", "round_2", "and again"),
    Policy("online_judge", "online_judge", "sft", "the same judge at every step, online DPO"),
    Policy("sft_only", "ablations", "sft", "SFT on the chosen answers, no preferences"),
    Policy("dpo_only", "ablations", "sft", "DPO from the base model, no SFT"),
)


def one_seed(
    *, folder: Path, report: Report, inputs: Mapping[str, Any], seed: int, recipes: str
) -> dict[str, Any]:
    """Runs every recipe and reads every policy of one seed: {stage: {figure: value}}."""
    town = Town(seed)
    names = list(dict.fromkeys(p.recipe for p in POLICIES))
    results: dict[str, Any] = {}
    for number, name in enumerate(names):
        chain = load_chain(Path(recipes) / f"{name}.yaml", {"out": str(folder / "runs"), "seed": seed})
        made = {m.step.name: m for m in run_chain(chain)}
        for policy in POLICIES:
            if policy.recipe == name:
                results[policy.stage] = by_domain(
                    reading(made[policy.stage].result, town, prompts=TEST_PROMPTS), town
                )
        report(number + 1, len(names), {})
    return results


def by_domain(read: Mapping[str, float], town: Town) -> dict[str, float]:
    """Gold over all prompts and by domain, and words an answer."""
    counts: dict[str, int] = {}
    for question in town.prompts(TEST_PROMPTS, "test"):
        kind = str(question.columns["kind"])
        counts[kind] = counts.get(kind, 0) + 1
    found = {"gold": read["gold"], "words": read["words"]}
    for domain, kinds in {**DOMAINS, "general": GENERAL}.items():
        number = sum(counts[k] for k in kinds)
        found[domain] = sum(counts[k] * read[f"gold/{k}"] for k in kinds) / number
    return found


def study(
    out: Path, *, recipes: Path = Path("recipes/chains"), seeds: Sequence[int] = (1, 2, 3), workers: int = 2
) -> dict[str, Any]:
    """Runs what is not done yet, in `out`/work; `chains_report.report` writes what it returns.

    Raises:
        TastemakerError: the recipes are not there.
    """
    missing = [p.recipe for p in POLICIES if not (recipes / f"{p.recipe}.yaml").exists()]
    if missing:
        raise TastemakerError(f"{recipes}: holds no {missing[0]}.yaml; name the folder of the chains' recipes")
    files = {name: sha256_file(recipes / f"{name}.yaml") for name in dict.fromkeys(p.recipe for p in POLICIES)}
    place = str(recipes.resolve())
    tasks = [
        Task(f"chains-{s}", one_seed, {"recipes": place, "seed": s}, out / "work" / f"seed-{s}", contents=files)
        for s in seeds
    ]

    def quiet(event: Event) -> None:
        """The study reports at its end."""

    found = run_tasks(tasks, workers=workers, on_event=quiet)
    return summarise({s: found[f"chains-{s}"] for s in seeds})


def summarise(by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Of every policy its figures, and their change from what it started from, paired by seed."""
    seeds = sorted(by_seed)
    columns = ("gold", *DOMAINS, "general", "words")
    figures = {
        p.stage: {c: interval([by_seed[s][p.stage][c] for s in seeds]) for c in columns} for p in POLICIES
    }
    change = {
        p.stage: {
            c: interval([by_seed[s][p.stage][c] - by_seed[s][p.start][c] for s in seeds]) for c in columns
        }
        for p in POLICIES
        if p.start != p.stage
    }
    by = {str(s): {p.stage: by_seed[s][p.stage] for p in POLICIES} for s in seeds}
    return {"seeds": seeds, "figures": figures, "change": change, "by_seed": by}
