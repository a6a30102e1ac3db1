"""Active selection on the town: does a reward model learn from fewer labels if it says which pairs it wants?

For every seed the town's SFT policy has written pairs and its panel has labelled them. A random quarter is held
out for reading alone. Every arm begins with the same random pairs; then, in rounds, it trains an ensemble of
heads from the SFT policy on what it has, asks for more pairs of the pool and gets their labels. Only then are
labels looked at. Accuracy is against the gold reward on the held-out pairs, which are a random sample where
selected ones are not.

The question was fixed beforehand: mean accuracy over the sizes after the first, less that of random selection,
paired by seed. One seed had been read at these sizes before the others were run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from sklearn.isotonic import IsotonicRegression

from tastemaker.data import read_records, write_records
from tastemaker.evaluation.reward_model import pair_accuracy
from tastemaker.feedback.selection import Rule, read_pairs, select_pairs
from tastemaker.models import build_roles
from tastemaker.studies.critic import interval
from tastemaker.studies.stages import arm_inputs, fit_arm
from tastemaker.studies.start import start_on_town
from tastemaker.studies.tasks import Event, Report, Task, run_tasks
from tastemaker.town import Town, TownSpec
from tastemaker.town.critic import Critic
from tastemaker.types import Comparison

SIZES = (300, 600, 1200, 2000)
"""Labels before each reading; the differences are what a round asks for."""
ARMS: Mapping[str, Rule | None] = {"random": None, "uncertainty": "uncertainty", "disagreement": "disagreement"}
HELD_OUT = 1500
HEADS = 4
TRAINING = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "adam_beta2": 0.98,
    "logging_steps": 50,
    "learning_rate": 5e-4,
    "per_device_train_batch_size": 16,
    "num_train_epochs": 3,
    "ensemble": HEADS,
}
"""The town's own settings of a reward model, with more passes because pairs are few."""


def one_seed(*, folder: Path, report: Report, inputs: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """All arms of one seed: {"arms": {name: [{"labels", "gold", "people"}, ...]}, "ceiling": ...}."""
    start = arm_inputs(inputs, seed)
    pairs = [r for r in read_records(start["pairs"], Comparison).records if isinstance(r, Comparison)]
    order: list[int] = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed + 77)).tolist()
    held_out = [pairs[i] for i in order[:HELD_OUT]]
    pool = [pairs[i] for i in order[HELD_OUT:]]
    gold = _gold(Town(seed), held_out)
    read: dict[str, list[dict[str, float]]] = {}
    done, total = 0, len(ARMS) * len(SIZES)
    for arm, rule in ARMS.items():
        has = list(range(SIZES[0]))  # the pool is in random order: these are the same for every arm
        read[arm] = []
        for number, size in enumerate(SIZES):
            # what all arms share is trained once
            if number == 0 and arm != "random":
                read[arm].append(read["random"][0])
                models = _roles(start["sft"], folder / f"random-{size}")
            else:
                models = _learn(start["sft"], [pool[i] for i in has], folder / f"{arm}-{size}", seed)
                read[arm].append({"labels": float(size), **_reading(models, held_out, gold)})
            done += 1
            report(done, total, {"gold": read[arm][-1]["gold"]})
            if size != SIZES[-1]:
                has += _next(models, rule, pool, has, SIZES[number + 1] - size)
    differ = gold != 0
    return {
        "arms": read,
        "ceiling": float((gold[differ] > 0).double().mean()),
        "held_out": int(differ.sum()),
        "pairs": len(pairs),
    }


def _gold(town: Town, pairs: Sequence[Comparison]) -> torch.Tensor:
    """[Q]: gold of the response that people preferred, less the other's."""
    prompts = Critic(town)
    worth = [[town.gold(prompts.find(p.prompt), str(r), True).total for r in p.responses] for p in pairs]
    return torch.tensor(
        [a - b if p.ranking == (0, 1) else b - a for p, (a, b) in zip(pairs, worth, strict=True)]
    )


def _learn(sft: str, pairs: Sequence[Comparison], out: Path, seed: int) -> Any:
    data = out.with_suffix(".jsonl")
    write_records(data, pairs)
    fit_arm("reward", out, _quiet, {**TRAINING, "seed": seed}, sft, str(data))
    return _roles(sft, out)


def _roles(sft: str, run: Path) -> Any:
    return build_roles(("reward",), (), policy=sft, reward=run)


def _quiet(step: int, total: int, numbers: Mapping[str, float]) -> None:
    """A seed reports its readings, not the steps of each training."""


def _next(
    models: Any, rule: Rule | None, pool: Sequence[Comparison], has: Sequence[int], count: int
) -> list[int]:
    """Places in the pool of the next pairs; the pool's own order is random."""
    taken = set(has)
    left = [i for i in range(len(pool)) if i not in taken]
    if rule is None:
        return left[:count]
    labelled = [pool[i] for i in has]
    return [left[i] for i in select_pairs(models, [pool[i] for i in left], count, labelled=labelled, rule=rule)]


def _reading(models: Any, held_out: Sequence[Comparison], gold: torch.Tensor) -> dict[str, float]:
    """How often the mean of the heads orders held-out pairs as gold does (pairs of equal gold aside), and as
    people did.
    """
    found = read_pairs(models, held_out, features=False)
    rows = torch.tensor(found.rows)
    lead = found.leads.mean(-1)
    wanted = torch.tensor([1.0 if held_out[i].ranking == (0, 1) else -1.0 for i in found.rows])
    nothing = torch.zeros_like(lead)
    places = torch.arange(len(lead))
    scores = torch.cat([lead * wanted, nothing])  # of the preferred side; the other's is 0
    people = pair_accuracy(scores, (places, places + len(lead)))
    truth = gold[rows]
    differ = truth != 0
    as_gold = pair_accuracy(torch.cat([lead * wanted * truth.sign(), nothing]), (places, places + len(lead)))
    return {"gold": float(as_gold[differ].mean()), "people": float(people.mean())}


# ------------------------------------------------------------------------------------------- the whole


def study(out: Path, *, seeds: Sequence[int] = (1, 2, 3), workers: int = 1) -> dict[str, Any]:
    """Runs what is not done yet, into `out`/work; gives what `selection_report.report` writes."""
    tasks: list[Task] = []
    for s in seeds:
        arguments: dict[str, Any] = {"seed": s, "spec": TownSpec()}
        tasks.append(Task(f"start-{s}", start_on_town, arguments, out / "work" / f"start-{s}"))
        place = out / "work" / f"seed-{s}"
        tasks.append(Task(f"selection-{s}", one_seed, {"seed": s}, place, (f"start-{s}",)))

    def quiet(event: Event) -> None:
        """The study reports at its end."""

    found = run_tasks(tasks, workers=workers, on_event=quiet)
    return summarise({s: found[f"selection-{s}"] for s in seeds})


def summarise(by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracies by arm and size, differences to random paired by seed, and labels that random needs for the
    same accuracy, with 95 % intervals over seeds (Student's t).
    """
    seeds = sorted(by_seed)
    curves = {arm: {s: [row["gold"] for row in by_seed[s]["arms"][arm]] for s in seeds} for arm in ARMS}
    accuracy = {
        arm: {
            figure: [interval([by_seed[s]["arms"][arm][i][figure] for s in seeds]) for i in range(len(SIZES))]
            for figure in ("gold", "people")
        }
        for arm in ARMS
    }
    verdicts: dict[str, Any] = {}
    for arm in (name for name, rule in ARMS.items() if rule is not None):
        gains = [
            sum(curves[arm][s][1:]) / (len(SIZES) - 1) - sum(curves["random"][s][1:]) / (len(SIZES) - 1)
            for s in seeds
        ]
        needed = {
            str(size): [labels_needed(curves["random"][s], curves[arm][s][i]) for s in seeds]
            for i, size in enumerate(SIZES)
            if i > 0
        }
        verdicts[arm] = {
            "gain": interval(gains),
            "by_size": [
                interval([curves[arm][s][i] - curves["random"][s][i] for s in seeds]) for i in range(len(SIZES))
            ],
            "random_needs": {
                size: {**interval([n for n, _ in worth]), "cut": sum(cut for _, cut in worth)}
                for size, worth in needed.items()
            },
        }
    return {
        "sizes": list(SIZES),
        "seeds": seeds,
        "accuracy": accuracy,
        "against_random": verdicts,
        "labels_agree_with_gold": interval([by_seed[s]["ceiling"] for s in seeds]),
        "pairs": by_seed[seeds[0]]["pairs"],
        "held_out": [by_seed[s]["held_out"] for s in seeds],
        "settings": {"heads": HEADS, "training": TRAINING, "held_out": HELD_OUT},
        "by_seed": {str(s): {arm: by_seed[s]["arms"][arm][: len(SIZES)] for arm in ARMS} for s in seeds},
    }


def labels_needed(curve: Sequence[float], reached: float) -> tuple[float, bool]:
    """(labels at which a curve over `SIZES`, made monotone and linear in ln n, reaches an accuracy; whether
    that was cut at one of its ends).
    """
    logs = [math.log(n) for n in SIZES]
    smooth: list[float] = IsotonicRegression().fit(logs, curve).predict(logs).tolist()
    for i, (y0, y1) in enumerate(pairwise(smooth)):
        if y0 <= reached < y1:
            return math.exp(logs[i] + (logs[i + 1] - logs[i]) * (reached - y0) / (y1 - y0)), False
    return float(SIZES[0] if reached < smooth[0] else SIZES[-1]), True
