"""Recipes: a pipeline of stages as a YAML file.

    out: runs/rlhf            # folder for the stages' runs
    model: tiny               # shared: for every stage that does not say otherwise
    data: pairs.jsonl
    stages:
      - method: sft           # named after its method unless it has a name
      - method: reward
        model: sft            # an earlier stage
      - method: ppo
        model: sft
        reward: reward
        kl_coef: 0.05

A file without `stages` that names a `method` is a recipe of one stage. A stage of the method `sample` trains
nothing: it writes data from a policy's own samples, which a later stage takes by naming it as its `data`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

from tastemaker.config import TrainSettings, check_settings, load_config, method_and_settings, nearest
from tastemaker.config.check import complain, field_types
from tastemaker.config.settings import SAMPLE_FIELDS
from tastemaker.methods import METHODS
from tastemaker.methods.sample import Sample
from tastemaker.rewards import read_rewards
from tastemaker.runs import check_name
from tastemaker.training.judging import check_judge
from tastemaker.types import Method, TastemakerError

INPUTS: Mapping[str, Any] = {"model": str, "data": str, "eval_data": str | None, "reward": object}
STAGE_KEYS = ("name", "method")
LINKS = ("model", "reward", "ref_model", "gold", "data")
"""What may name an earlier stage; as `data` one that samples."""
KINDS: Mapping[str, type[Method]] = {**METHODS, Sample.name: cast(Any, Sample)}
"""What a stage may do."""


@dataclass(frozen=True)
class Stage:
    """One run of a pipeline."""

    name: str
    method: Method
    settings: TrainSettings
    inputs: Mapping[str, Any]
    """model, data, and eval_data, reward where given. All are text but a reward in several parts."""
    parents: Mapping[str, str]
    """Which of the inputs (ref_model and gold too) are earlier stages, and which."""


@dataclass(frozen=True)
class Recipe:
    """Stages in their order, and the folder for their runs."""

    out: Path
    stages: tuple[Stage, ...]


def load_recipe(
    source: str | PathLike[str] | Mapping[str, object],
    shared: Mapping[str, object] | None = None,
    by_stage: Mapping[str, Mapping[str, object]] | None = None,
    *,
    origin: str = "recipe",
) -> Recipe:
    """Reads a recipe from a file or a mapping (whose problems are reported under the name `origin`) and checks
    all of it.

    `shared` overrules the recipe's top, which is for stages that do not say otherwise. `by_stage` overrules
    stages, by name or "all". Raises `TastemakerError` with everything that is wrong, each with its stage.
    """
    if isinstance(source, Mapping):
        content, folder = dict(source), "recipe"
    else:
        config = load_config(source)
        origin, content, folder = str(config.path), dict(config.values), config.path.stem
    shared, by_stage = dict(shared or {}), dict(by_stage or {})
    for_all = by_stage.pop("all", {})
    out = shared.pop("out", content.pop("out", content.pop("output_dir", f"runs/{folder}")))
    problems: list[str] = []
    entries = _entries(content, problems)
    for name in by_stage.keys() - {entry["name"] for entry in entries}:
        close = nearest(name, [entry["name"] for entry in entries])
        problems.append(f"{name}: no such stage{f'; did you mean {close[0]}?' if close else ''}")
    for layer in (content, shared, for_all):
        problems += _unused(layer, entries)
    stages: list[Stage] = []
    for entry in entries:
        layers = (content, shared, entry, for_all, by_stage.get(entry["name"], {}))
        stage = _stage(entry, layers, entries, len(stages), problems)
        if stage is not None:
            stages.append(stage)
    complain(origin, problems)
    return Recipe(Path(str(out)), tuple(stages))


def _entries(content: dict[str, Any], problems: list[str]) -> list[dict[str, Any]]:
    """Takes the stages out of the recipe, each with a name and a known method."""
    stages = content.pop("stages", None)
    if stages is None and "method" in content:
        stages = [{key: content.pop(key) for key in STAGE_KEYS if key in content}]
    if not isinstance(stages, Sequence) or isinstance(stages, str) or not stages:
        problems.append("stages: should be a list of stages, each with a method")
        return []
    entries: list[dict[str, Any]] = []
    for i, stage in enumerate(cast("Sequence[object]", stages)):
        entry = {str(k): v for k, v in stage.items()} if isinstance(stage, Mapping) else {}
        method = str(entry.get("method"))
        place = f"stages[{i}]"
        if method not in KINDS:
            close = nearest(method, KINDS) or list(KINDS)
            said = f"no such method {method!r}" if "method" in entry else "names no method"
            problems.append(f"{place}: {said}; did you mean {' or '.join(close)}?")
            continue
        name = str(entry.setdefault("name", method))
        try:
            check_name(name)
        except TastemakerError as error:
            problems.append(f"{place}: {error}")
            continue
        if any(name == other["name"] for other in entries):
            problems.append(f"{place}: there is a stage {name} already; give this one another name")
            continue
        entries.append({**entry, "name": name})
    return entries


def _input(value: object) -> Any:
    return value if isinstance(value, list | Mapping) else str(value)


def reward_texts(reward: object) -> list[str]:
    """What each part of a composed reward names; empty for a single one."""
    if isinstance(reward, Mapping):
        reward = [cast("Mapping[str, object]", reward)]
    if not isinstance(reward, list):
        return []
    parts = [part if isinstance(part, Mapping) else {"reward": part} for part in cast("list[Any]", reward)]
    return [str(cast("Mapping[str, object]", part).get("reward")) for part in parts]


def stage_types(method: str) -> dict[str, Any]:
    """Everything that a stage of this method may be told, with its type."""
    of_run = field_types(TrainSettings)
    if method == Sample.name:
        of_run = {name: kind for name, kind in of_run.items() if name in SAMPLE_FIELDS}
    return {**INPUTS, **of_run, **field_types(KINDS[method])}


def _unused(content: Mapping[str, object], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Shared settings that no stage takes."""
    known = {name: kind for entry in entries for name, kind in stage_types(entry["method"]).items()}
    return check_settings(known, content).problems if entries else []


def _stage(
    entry: Mapping[str, Any],
    layers: Sequence[Mapping[str, object]],
    entries: Sequence[Mapping[str, Any]],
    position: int,
    problems: list[str],
) -> Stage | None:
    """A stage from its layers, later ones overruling earlier ones; None where something is wrong."""
    name, method = str(entry["name"]), str(entry["method"])
    names = [str(other["name"]) for other in entries]
    samples = [str(other["name"]) for other in entries if other["method"] == Sample.name]
    types = stage_types(method)
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for layer in layers:
        own = layer is entry or layer is layers[-1]
        checked = check_settings(types, {k: v for k, v in layer.items() if k not in STAGE_KEYS})
        values.update(checked.values)
        wrong += checked.problems if own else []
    inputs = {key: _input(values.pop(key)) for key in INPUTS if values.get(key) is not None}
    values = {k: v for k, v in values.items() if k not in INPUTS}
    roles = KINDS[method]
    needs_reward = "reward" in roles.roles and "reward" not in roles.trains
    wrong += [f"{k} is missing" for k in ("model", "data", *["reward"] * needs_reward) if k not in inputs]
    if not needs_reward:
        inputs.pop("reward", None)
    if method == Sample.name:
        inputs.pop("eval_data", None)
    links = {**inputs, **{key: str(values.get(key)) for key in ("ref_model", "gold")}}
    parents = {key: links[key] for key in LINKS if isinstance(links.get(key), str) and links[key] in names}
    if parents.get("data") not in samples:  # a file may be called like a stage
        parents.pop("data", None)
    parents |= {
        f"reward.{i}": text for i, text in enumerate(reward_texts(inputs.get("reward"))) if text in names
    }
    earlier = names[:position]
    wrong += [
        f"{key}: {parent} is not an earlier stage" for key, parent in parents.items() if parent not in earlier
    ]
    if needs_reward and "reward" in inputs and not any(key.startswith("reward") for key in parents):
        try:
            for part in read_rewards(inputs["reward"]):
                if part.kind == "judge":
                    check_judge(str(part.reward), part.options)
        except TastemakerError as error:
            wrong.append(str(error))
    problems += [f"stage {name}: {problem}" for problem in wrong]
    try:
        built, settings = method_and_settings(KINDS[method], values, origin=f"stage {name}")
    except TastemakerError as error:
        if not wrong:
            problems.append(str(error))
        return None
    return Stage(name, built, settings, inputs, parents)
