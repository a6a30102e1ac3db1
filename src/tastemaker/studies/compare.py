"""`tastemaker compare`: RLHF, DPO and any other method on the same preferences, and which way was better.

Every seed has one start (SFT policy, preferences, prompts) and, where a method needs it, one reward model.
Every arm tries the same number of settings from that start, each in its own process; the setting is chosen
on tuning prompts and read once on test prompts, sampled and greedy, at its last step. See `docs/compare.md`
for the protocol and for what `results.json` holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tastemaker.config import CompareSettings
from tastemaker.data import read_records
from tastemaker.methods import METHODS
from tastemaker.runs import RunLock, check_name
from tastemaker.studies.presets import Preset, label_of, preset_for
from tastemaker.studies.report import write_report
from tastemaker.studies.results import collect_results
from tastemaker.studies.stages import read_baselines, read_policy, train_arm, train_reward
from tastemaker.studies.start import start_on_data, start_on_town
from tastemaker.studies.tasks import Event, Task, run_tasks
from tastemaker.town import TownSpec
from tastemaker.types import Comparison, TastemakerError

JUDGE_SEED = 7919
LOADING = ("dtype", "device", "attention", "trust_remote_code")
"""Settings of the stage `sft` that also hold where policies and reward models are only read."""

Listener = Callable[[Event, "Plan"], None]


@dataclass(frozen=True)
class Study:
    """A finished comparison."""

    folder: Path
    results: Mapping[str, Any]

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def open(self) -> None:
        """Shows the report in the browser."""
        import webbrowser

        webbrowser.open(self.report.resolve().as_uri())


@dataclass(frozen=True)
class Plan:
    """What will be run, before anything is."""

    settings: CompareSettings
    preset: Preset
    spec: TownSpec | None
    """None: own data."""
    tasks: tuple[Task, ...]
    tried: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """arm -> label -> settings."""

    @property
    def seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)


def compare(
    settings: CompareSettings | None = None, *, listen: Listener | None = None, **options: Any
) -> Study:
    """Runs a comparison, or goes on with one that was interrupted, and writes its report.

    Give `settings`, or single options as keywords (`methods=("dpo", "ppo")`, `model=...`, `data=...`).
    `listen` is told what happens. Raises TastemakerError for wrong settings, and when a stage fails.
    """
    settings = settings or CompareSettings(**options)
    plan = make_plan(settings)
    folder = Path(settings.out)
    with RunLock(folder):
        results = run_tasks(
            plan.tasks,
            workers=settings.workers or default_workers(),
            on_event=lambda event: listen(event, plan) if listen is not None else None,
        )
        collected = collect_results(plan, results)
        write_report(folder, collected)
    return Study(folder, collected)


def default_workers() -> int:
    """One process per core; with a GPU one at a time, since each may fill its memory."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def make_plan(settings: CompareSettings) -> Plan:
    """Checks everything that can be checked beforehand and lays out the tasks."""
    if (settings.model is None) != (settings.data is None):
        given, lacking = ("model", "data") if settings.data is None else ("data", "model")
        raise TastemakerError(
            f"compare was given --{given} without --{lacking}: name both, or neither to use the town "
            "(`--model tiny` makes a small model on the spot)"
        )
    spec = TownSpec() if settings.data is None else None
    preset = preset_for(settings)
    tried = {
        method: {label_of(s, among): s for s in among}
        for method in settings.methods
        for among in [preset.tried(method)]
    }
    check_methods(settings)
    draft = Plan(settings, preset, spec, (), tried)
    tasks = [task for seed in draft.seeds for task in seed_tasks(draft, seed)]
    return Plan(settings, preset, spec, in_turn(tasks), tried)


def check_methods(settings: CompareSettings) -> None:
    for name in settings.methods:
        method = METHODS[name]
        if "policy" not in method.trains or method.name == "sft":
            raise TastemakerError(
                f"{name} trains no policy from preferences, so it cannot be an arm; arms can be: "
                + ", ".join(n for n, m in METHODS.items() if "policy" in m.trains and n != "sft")
            )


def seed_tasks(plan: Plan, seed: int) -> list[Task]:
    """All tasks of one seed, in the order of their needs."""
    settings, preset = plan.settings, plan.preset
    folder = Path(settings.out) / f"seed-{seed}"
    start, reward, judge = f"start-{seed}", f"reward-{seed}", f"judge-{seed}"
    tasks = [start_task(plan, seed, folder)]
    loading = {k: v for k, v in dict(settings.stages.get("sft", {})).items() if k in LOADING}
    # Best-of-n is always shown, so a reward model is always trained, also when no arm needs it.
    own = {
        "seed": seed,
        "draw": seed,
        "loading": loading,
        "settings": {**preset.reward, **dict(settings.stages.get("reward", {}))},
        "pairs": "pairs",
    }
    tasks.append(Task(reward, train_reward, own, folder / "reward", (start,), f"seed {seed}: reward model"))
    proxy = settings.judge
    judging: tuple[str, ...] = ()
    if plan.spec is None and proxy is None:
        # Another seed, so that its head does not start as the arms' reward model's did.
        other = {**own, "pairs": "judge_pairs", "draw": seed + JUDGE_SEED}
        tasks.append(Task(judge, train_reward, other, folder / "judge", (start,), f"seed {seed}: judge"))
        judging = (judge,)
    common = {"seed": seed, "spec": plan.spec, "judge": proxy, "loading": loading}
    common["response_length"] = preset.response_length
    prompts = {"tuning": preset.tuning_prompts, "test": preset.test_prompts}
    tasks.append(
        Task(
            f"read-sft-{seed}",
            read_policy,
            {**common, "arm": None, "prompts": prompts},
            folder / "read-sft",
            (start, *judging),
            f"seed {seed}: reading SFT",
        )
    )
    for method, labels in plan.tried.items():
        needs = (start, reward) if "reward" in METHODS[method].roles else (start,)
        for label, own_settings in labels.items():
            name = f"{method}:{label}-{seed}"
            place = folder / check_name(
                f"{method}-{label}".replace("=", "_").replace(",", "-").replace("/", "_")
            )
            arguments = {"seed": seed, "method": method, "settings": dict(own_settings)}
            tasks.append(Task(name, train_arm, arguments, place, needs, f"seed {seed}: {method} {label}"))
            reading = {**common, "arm": name, "prompts": prompts}
            title = f"seed {seed}: reading {method} {label}"
            tasks.append(
                Task(f"read-{name}", read_policy, reading, place / "read", (start, name, *judging), title)
            )
    tasks.append(
        Task(
            f"baselines-{seed}",
            read_baselines,
            {**common, "prompts": preset.baseline_prompts, "samples": preset.baseline_samples},
            folder / "baselines",
            (start, reward, *judging),
            f"seed {seed}: best-of-n",
        )
    )
    return tasks


def start_task(plan: Plan, seed: int, folder: Path) -> Task:
    settings, preset = plan.settings, plan.preset
    if plan.spec is not None:
        arguments: dict[str, Any] = {"seed": seed, "spec": plan.spec}
        return Task(
            f"start-{seed}", start_on_town, arguments, folder / "start", (), f"seed {seed}: town and SFT"
        )
    assert settings.data is not None
    arguments = {
        "seed": seed,
        "model": settings.model,
        "data": settings.data,
        "data_sha256": read_records(settings.data, Comparison).sha256,
        "sft": {**preset.sft, **dict(settings.stages.get("sft", {}))},
        "limit": preset.limit,
    }
    return Task(f"start-{seed}", start_on_data, arguments, folder / "start", (), f"seed {seed}: split and SFT")


def in_turn(tasks: list[Task]) -> tuple[Task, ...]:
    """All seeds' starts first, then the rest seed by seed: long arms before short readings."""
    order = {start_on_town: 0, start_on_data: 0, train_reward: 1, train_arm: 2}
    return tuple(sorted(tasks, key=lambda t: order.get(t.work, 3)))
