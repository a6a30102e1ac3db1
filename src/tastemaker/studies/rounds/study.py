"""Do rounds pay? Three rounds against one with the same number of labels, on the town with simulated people.

One round labels pairs of the first policy's responses alone. Three rounds label a third of them each time, and
from the second on the responses are those of the policy that has learned so far. Everything else is the same:
the first policy, the people, the prompts that are drawn from, the number of labels, the settings of the methods
(the recipes in `recipes/rounds`, none tuned), and the prompts on which the gold reward reads the last policy.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tastemaker.config import load_config
from tastemaker.data import write_records
from tastemaker.runs.files import write_atomic
from tastemaker.studies.making import town_prompts
from tastemaker.studies.paired import Scores, as_dict, over_seeds, subtracted
from tastemaker.studies.rounds.recipe import load_rounds
from tastemaker.studies.rounds.run import run_rounds
from tastemaker.studies.rounds.stages import different_prompts
from tastemaker.studies.start import start_on_town
from tastemaker.studies.tasks import Event, Report, Task, run_tasks
from tastemaker.studies.wins import win_rate
from tastemaker.town import Town, TownSpec
from tastemaker.types import TastemakerError


@dataclass(frozen=True)
class Arm:
    """One way to spend the labels."""

    name: str
    recipe: str
    rounds: int
    words: str
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    against: str | None = None
    """The arm with one round that it is compared with."""


ARMS = (
    Arm("dpo 1", "dpo", 1, "DPO, all labels on the first policy's responses"),
    Arm("dpo 3", "dpo", 3, "three rounds, each from the first policy on all labels so far", against="dpo 1"),
    Arm(
        "dpo 3 going on",
        "dpo",
        3,
        "three rounds, each from the policy before it, on the new labels, held to that policy",
        {"learn_from": "new", "reference": "previous"},
        "dpo 1",
    ),
    Arm("ppo 1", "ppo", 1, "reward model and PPO, all labels on the first policy's responses"),
    Arm(
        "ppo 3",
        "ppo",
        3,
        "three rounds, both from the first policy again on all labels so far",
        against="ppo 1",
    ),
)


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    labels: int = 600
    """Of every arm."""
    prompts: int = 1350
    """Different prompts to draw pairs from. A policy that has learned often gives the same answer twice."""
    test: int = 640
    spec: TownSpec = field(default_factory=TownSpec)
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings of stages, by name, over the recipes': for trials."""


def arms_of_seed(
    *, folder: Path, report: Report, inputs: Mapping[str, Any], seed: int, recipes: str, size: Size
) -> dict[str, Any]:
    """All arms of one seed: arm -> rounds with figures by prompt, labels, cpu_seconds; and the start's."""
    start = inputs[f"start-{seed}"]
    prompts = folder / "prompts.jsonl"
    write_records(prompts, _prompts(Town(seed, size.spec), size.prompts, folder))
    found: dict[str, Any] = {}
    for number, arm in enumerate(ARMS):
        recipe = dict(load_config(Path(recipes) / f"{arm.recipe}.yaml").values)
        recipe |= {"start": [], "model": start["sft"], "data": str(prompts), **arm.settings}
        recipe |= {"out": str(folder / arm.name.replace(" ", "-")), "seed": seed, "rounds": arm.rounds}
        recipe |= {"prompts_per_round": size.prompts // arm.rounds}
        recipe["report"] = {"test": f"town:{seed}", "prompts": size.test}
        names = {stage.get("name", stage["method"]) for stage in recipe["round"]}
        overrides = {name: dict(values) for name, values in size.overrides.items() if name in names}
        overrides["respond"] = {**overrides.get("respond", {}), "most": size.labels // arm.rounds}
        overrides["judge"] = {"town_seed": seed}
        results = run_rounds(load_rounds(recipe, None, overrides))
        found[arm.name] = _kept(results)
        found["start"] = {"score": results["start"]["score"]}
        report(number + 1, len(ARMS), {"gold": _mean(found[arm.name]["rounds"][-1]["score"])})
    return {"arms": found}


def _prompts(town: Town, number: int, folder: Path) -> list[Any]:
    """So many different prompts in random order: rare ones come late where each is drawn by its weight."""
    drawn = folder / "drawn-prompts.jsonl"
    write_records(drawn, town_prompts(town, 4 * number, seed=5000))
    found = different_prompts(str(drawn))
    if len(found) < number:
        raise TastemakerError(f"the town gives {len(found)} different prompts of {number}; ask for fewer")
    random.Random(town.seed).shuffle(found)
    return [replace(q, row=str(i)) for i, q in enumerate(found[:number])]


def _kept(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the study needs of an arm."""
    rounds = results["rounds"]
    spent = [c for r in rounds for c in r["costs"]]
    return {
        "rounds": [{**r["columns"], "agree": r["labels"]["gold"]} for r in rounds],
        "labels": sum(r["labels"]["labels"] for r in rounds),
        "cpu_seconds": sum(c.get("cpu_seconds") or 0.0 for c in spent),
    }


def study(
    out: Path,
    *,
    recipes: Path = Path("recipes/rounds"),
    seeds: Sequence[int] = (1, 2, 3),
    workers: int = 2,
    size: Size | None = None,
) -> dict[str, Any]:
    """Runs what is not done yet, in `out`/work, and writes `results.json` into `out`.

    Raises:
        TastemakerError: the recipes are not there; arms that did not get the same number of labels.
    """
    size = size or Size()
    missing = [arm.recipe for arm in ARMS if not (recipes / f"{arm.recipe}.yaml").exists()]
    if missing:
        raise TastemakerError(f"{recipes}: holds no {missing[0]}.yaml; name the folder of the rounds' recipes")
    contents = {name: (recipes / f"{name}.yaml").read_text("utf-8") for name in ("dpo", "ppo")}
    tasks: list[Task] = []
    for s in seeds:
        work = out / "work" / f"seed-{s}"
        tasks.append(Task(f"start-{s}", start_on_town, {"seed": s, "spec": size.spec}, work / "start"))
        arguments = {"seed": s, "recipes": str(recipes.resolve()), "size": size}
        needs = (f"start-{s}",)
        tasks.append(Task(f"rounds-{s}", arms_of_seed, arguments, work / "arms", needs, contents=contents))

    def quiet(event: Event) -> None:
        """The study reports at its end."""

    found = run_tasks(tasks, workers=workers, on_event=quiet)
    results = summarise({s: found[f"rounds-{s}"]["arms"] for s in seeds}, size)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "results.json", json.dumps(results, indent=1).encode() + b"\n")
    return results


def summarise(by_seed: Mapping[int, Mapping[str, Any]], size: Size) -> dict[str, Any]:
    """Figures of every arm and round, over seeds with 95% intervals (Student's t, seeds the outer unit), and
    three rounds against one, paired by seed and prompt. A bound that one seed cannot give is null.

    Raises TastemakerError where arms did not get the same number of labels.
    """
    seeds = sorted(by_seed)
    short = [(s, a.name) for s in seeds for a in ARMS if by_seed[s][a.name]["labels"] != size.labels]
    if short:
        s, name = short[0]
        raise TastemakerError(
            f"seed {s}: {name} got {by_seed[s][name]['labels']} labels and not {size.labels}: too few prompts "
            "gave two different whole responses. Give it more prompts"
        )

    def scores(arm: str, key: str, number: int = -1) -> Scores:
        return [_column(by_seed[s][arm]["rounds"][number][key]) for s in seeds]

    arms: dict[str, Any] = {}
    for arm in ARMS:
        rounds = [
            {key: _over(scores(arm.name, key, n)) for key in ("score", "kl", "tokens")}
            for n in range(arm.rounds)
        ]
        cpu = [by_seed[s][arm.name]["cpu_seconds"] for s in seeds]
        agree = [[by_seed[s][arm.name]["rounds"][n]["agree"]["mean"] for s in seeds] for n in range(arm.rounds)]
        for n, values in enumerate(agree):
            rounds[n]["agree"] = _over([torch.tensor([v], dtype=torch.float64) for v in values])
        arms[arm.name] = {"words": arm.words, "rounds": rounds, "cpu_seconds": sum(cpu) / len(cpu)}
    compared: dict[str, Any] = {}
    for arm in ARMS:
        if arm.against is not None:
            three, one = scores(arm.name, "score"), scores(arm.against, "score")
            further = subtracted(scores(arm.name, "kl"), scores(arm.against, "kl"))
            compared[arm.name] = {
                "against": arm.against,
                "gold": _over(subtracted(three, one)),
                "by_seed": [float(d.mean()) for d in subtracted(three, one)],
                "kl": _over(further),
                "wins": _finite(win_rate(three, one)["rate"]),
            }
    start = _over([_column(by_seed[s]["start"]["score"]) for s in seeds])
    test = min(len(by_seed[s]["start"]["score"]) for s in seeds)  # different ones of those that were drawn
    counts = {"labels": size.labels, "prompts": size.prompts, "test": test}
    return {"seeds": seeds, **counts, "start": start, "arms": arms, "compared": compared}


def _column(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _over(values: Scores) -> dict[str, float | None]:
    return _finite(as_dict(over_seeds(values)))


def _finite(found: Mapping[str, float]) -> dict[str, float | None]:
    return {k: v if v == v else None for k, v in found.items()}
