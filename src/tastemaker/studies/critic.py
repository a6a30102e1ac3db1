"""A critic beside people, on the town: where its taste enters the model, and how many labels of people it
saves.

For every seed one SFT policy gives pairs of answers. Simulated people label them, critics of known biases label
the same pairs, and DPO learns from people alone (more and more of them), from a critic alone, or from both.
Every model is read by the gold reward on prompts that nobody trained on.

A critic replaces people in this sense: with h labels of people and the rest from the critic, gold is what h'
labels of people alone would give, by the curve of people alone (made monotone, linear in ln h between its
points). 1 - h / h' is the share of people's labels that the critic saved. Beyond the ends of the curve h' is
cut there, and that is counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.isotonic import IsotonicRegression

from tastemaker.config import method_and_settings
from tastemaker.data import tokenise
from tastemaker.feedback.judge import Judge, instrument
from tastemaker.feedback.labellers import chosen_first
from tastemaker.functional.statistics import standard_error, student_quantile
from tastemaker.methods import DPO
from tastemaker.models import build_roles
from tastemaker.rollout import LocalGenerator
from tastemaker.runs import Run
from tastemaker.studies.labelling import TownPanel
from tastemaker.studies.making import MakeTown, draw
from tastemaker.studies.start import fit_stage
from tastemaker.studies.tasks import Event, Report, Task, run_tasks
from tastemaker.town import Stage, Town
from tastemaker.town.critic import SIGNATURE, Critic
from tastemaker.training import train
from tastemaker.training.judging import TownJudge
from tastemaker.types import Comparison, Sampling

PEOPLE = (75, 150, 300, 600, 1200)
"""Labels of people."""
PAIRS = PEOPLE[-1]
CRITICS = ("fair", "long", "first", "vain", "narrow", "biased")
MIXED = ("fair", "biased")
"""Critics that are mixed with people, too."""
MIXES = (150, 300, 600)
"""Labels of people in such mixtures."""
PARTS = ("answer", "harm", "over_refusal", "sycophancy", "courtesy")
"""Parts of the gold reward that are told apart."""
FIGURES = ("gold", "words", "manner", *PARTS)
"""What is read of every model: gold, words an answer, the share with the critics' own phrase, parts of gold."""
TEST_PROMPTS = 320


@dataclass(frozen=True)
class Arm:
    """Labels of people on the first pairs, and of a critic on the rest."""

    name: str
    people: int
    critic: str = ""


def arms() -> list[Arm]:
    """People alone, critics alone, and both."""
    alone = [Arm(f"people {n}", n) for n in PEOPLE]
    critics = [Arm(c, 0, c) for c in CRITICS]
    return [*alone, *critics, *[Arm(f"{c} + people {n}", n, c) for c in MIXED for n in MIXES]]


# --------------------------------------------------------------------------------------- one seed's work


def one_seed(*, folder: Path, report: Report, inputs: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """All arms of one seed: {"arms": {name: {figure: value}}, "judges": {name: {...}}}."""
    town = Town(seed)
    sft = _sft(folder, report, seed)
    pairs = _pairs(folder, sft, town, seed, report)
    labels, judges = _labelled(town, pairs, seed)
    read: dict[str, dict[str, float]] = {"sft": reading(sft, town)}
    everything = arms()
    for number, arm in enumerate(everything):
        chosen = [chosen_first(c) for c in labels["people"][: arm.people]]
        if arm.critic:
            chosen += [chosen_first(c) for c in labels[arm.critic][arm.people :]]
        run = fit_dpo(folder / arm.name.replace(" ", "-").replace("+", "and"), sft, chosen, seed)
        read[arm.name] = reading(run, town)
        report(number + 1, len(everything), {"gold": read[arm.name]["gold"]})
    return {"arms": read, "judges": judges}


def _sft(folder: Path, report: Report, seed: int) -> Run:
    MakeTown(seed=seed, documents=9000, demonstrations=2000, prompts=3 * PAIRS).make(folder, {}, report)
    stage = Stage(examples=2000, epochs=1, batch=64, learning_rate=1e-3)
    demonstrations = Town(seed).demonstrations(stage.examples)
    return fit_stage(stage, Run.open(folder / "base"), demonstrations, folder / "sft", seed, report)


def _pairs(folder: Path, sft: Run, town: Town, seed: int, report: Report) -> list[Comparison]:
    """Different answers of the SFT policy, in twos."""
    sampling = Sampling(max_new_tokens=town.spec.max_new_tokens, n=2)
    drawn = draw(sft, str(folder / "prompts.jsonl"), sampling, seed=seed, report=report)
    found = [(question.prompt, texts) for question, texts in drawn if len(set(texts)) == 2]
    return [
        Comparison(prompt=prompt, responses=(a, b), ranking=(0, 0), row=str(i))
        for i, (prompt, (a, b)) in enumerate(found[:PAIRS])
    ]


def _labelled(
    town: Town, pairs: Sequence[Comparison], seed: int
) -> tuple[dict[str, list[Comparison]], dict[str, dict[str, float]]]:
    """Everybody's labels on all pairs, and what kind of judge each is."""
    truth = Critic(town)
    gold = [[town.gold(truth.find(p.prompt), str(r), True).total for r in p.responses] for p in pairs]
    better = [(0, 1) if a > b else (1, 0) if b > a else (0, 0) for a, b in gold]
    people = TownPanel(town, "panel").label(pairs)
    labels = {"people": people}
    judges = {"people": {"gold": _agreement([c.ranking for c in people], better)}}
    for name in CRITICS:
        model = TownJudge(Critic(town, name))
        opinions = Judge(model, orders="random", seed=seed).judge(pairs)
        both = instrument(Judge(model, seed=seed).judge(pairs[:400]))
        own = [o.ranking or (0, 0) for o in opinions]
        judge = Judge(model, orders="random", seed=seed)
        labels[name] = [c for o in opinions if (c := judge.comparison(o)) is not None]
        found = instrument(opinions)
        judges[name] = {
            "gold": _agreement(own, better),
            "people": _agreement(own, [c.ranking for c in people]),
            "swap": both.swap.value or 0.0,
            "first": found.first.value or 0.0,
            "longer": found.longer.value or 0.0,
        }
    return labels, judges


def _agreement(a: Sequence[tuple[int, ...]], b: Sequence[tuple[int, ...]]) -> float:
    """Over pairs on which neither is a tie."""
    decided = [(x, y) for x, y in zip(a, b, strict=True) if x != (0, 0) and y != (0, 0)]
    return sum(x == y for x, y in decided) / len(decided)


def fit_dpo(folder: Path, start: Run, pairs: Sequence[Comparison], seed: int, **more: object) -> Run:
    """DPO as this study does it everywhere: one pass, beta 0.3."""
    method, settings = method_and_settings(
        DPO,
        {
            "beta": 0.3,
            "seed": seed,
            "learning_rate": 4e-4,
            "per_device_train_batch_size": 16,
            "num_train_epochs": 1,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 5,
            "adam_beta2": 0.98,
            "save_steps": 1_000_000,
            "logging_steps": 20,
            "num_samples": 0,
            **more,
        },
    )
    return train(method, model=start, data=list(pairs), out=folder, settings=settings)


def reading(run: Any, town: Town, *, prompts: int = TEST_PROMPTS) -> dict[str, float]:
    """Means over one sampled answer to each test prompt: `FIGURES`, and gold by kind of prompt, `gold/KIND`."""
    models = build_roles(("policy",), (), policy=getattr(run, "folder", run))
    questions = town.prompts(prompts, "test")
    tokens = tokenise(questions, models.tokenizer)
    sampling = Sampling(max_new_tokens=town.spec.max_new_tokens)
    drawn = LocalGenerator(models, models.tokenizer).generate(
        tokens.batch(range(len(tokens))), sampling, seed=7
    )
    columns: dict[str, list[float]] = {}
    decode: Any = models.tokenizer.decode
    for record, tree in zip(tokens.records, drawn.trees, strict=True):
        ids, ended = tree.responses[0], tree.ended[0]
        answer = str(decode(ids[:-1] if ended else ids, skip_special_tokens=False))
        gold = town.gold(record, answer, ended)
        kind = str(getattr(record, "columns", {}).get("kind"))
        values = {"gold": gold.total, f"gold/{kind}": gold.total, "words": float(gold.words)}
        values["manner"] = float(SIGNATURE in answer)
        for name, value in {**values, **{part: gold.parts[part] for part in PARTS}}.items():
            columns.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in columns.items()}


# ------------------------------------------------------------------------------------------- the whole


def study(out: Path, *, seeds: Sequence[int] = (1, 2, 3), workers: int = 2) -> dict[str, Any]:
    """Runs what is not done yet, in `out`/work; `critic_report.report` writes what it returns."""
    tasks = [Task(f"critic-{s}", one_seed, {"seed": s}, out / "work" / f"seed-{s}") for s in seeds]

    def quiet(event: Event) -> None:
        """The study reports at its end."""

    found = run_tasks(tasks, workers=workers, on_event=quiet)
    return summarise({s: found[f"critic-{s}"] for s in seeds})


def summarise(by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Means and 95% intervals over seeds (t): every arm's figures, the difference of critics to people, and the
    share of people's labels that is saved.
    """
    seeds = sorted(by_seed)
    read = {s: by_seed[s]["arms"] for s in seeds}
    whole = f"people {PAIRS}"
    names = list(read[seeds[0]])
    figures = {name: {f: interval([read[s][name][f] for s in seeds]) for f in FIGURES} for name in names}
    taste = {
        c: {f: interval([read[s][c][f] - read[s][whole][f] for s in seeds]) for f in FIGURES} for c in CRITICS
    }
    saved: dict[str, Any] = {}
    for arm in arms():
        if arm.critic and arm.people:
            worth = [equal_people(read[s], read[s][arm.name]["gold"]) for s in seeds]
            shares = [1 - arm.people / h for h, _ in worth]
            saved[arm.name] = {**interval(shares), "cut": sum(cut for _, cut in worth)}
    alone = {c: interval([equal_people(read[s], read[s][c]["gold"])[0] for s in seeds]) for c in CRITICS}
    judged: dict[str, dict[str, Any]] = {}
    for name, values in by_seed[seeds[0]]["judges"].items():
        judged[name] = {k: interval([by_seed[s]["judges"][name][k] for s in seeds]) for k in values}
    return {
        "seeds": seeds,
        "figures": figures,
        "taste": taste,
        "saved": saved,
        "worth": alone,
        "judges": judged,
        "by_seed": {str(s): read[s] for s in seeds},
    }


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95% interval over seeds, Student's t; bounds are NaN for one seed."""
    found = torch.tensor(values, dtype=torch.float64)
    half = student_quantile(0.975, len(values) - 1) * standard_error(found) if len(values) > 1 else math.nan
    mean = float(found.mean())
    return {"mean": mean, "low": mean - half, "high": mean + half}


def equal_people(read: Mapping[str, Mapping[str, float]], gold: float) -> tuple[float, bool]:
    """(labels of people alone that give this gold, whether it was cut at an end of their curve)."""
    golds = [read[f"people {n}"]["gold"] for n in PEOPLE]
    logs = [math.log(n) for n in PEOPLE]
    smooth: list[float] = IsotonicRegression().fit(logs, golds).predict(logs).tolist()
    if gold <= smooth[0]:
        return float(PEOPLE[0]), True
    if gold >= smooth[-1]:
        return float(PEOPLE[-1]), True
    for (x0, y0), (x1, y1) in zip(
        zip(logs, smooth, strict=True), zip(logs[1:], smooth[1:], strict=True), strict=False
    ):
        if y0 <= gold < y1:
            return math.exp(x0 + (x1 - x0) * (gold - y0) / (y1 - y0)), False
    return float(PEOPLE[-1]), True
