"""Chains: recipes whose stages train, and make what the next ones need in between.

    out: runs/rlaif
    stages:
      - {method: town, seed: 1}                        # a maker (studies/making.py): base model, texts, prompts
      - {method: sft, model: town/base, data: town/demonstrations.jsonl}
      - {name: drafts, method: respond, model: sft, data: town/prompts.jsonl}
      - {name: labels, method: judge, data: drafts, judge: "town:fair"}
      - {method: dpo, model: sft, data: labels}

An input names an earlier stage, or `stage/what` for one of several things that a stage gives. Training stages
are run by the pipeline, one at a time, so they resume and are reused as in any recipe; a maker's stage is
reused when its settings and the content of its inputs are unchanged, and goes on where it was interrupted
otherwise. How patiently a judge is asked (time limits, tries, connections, prices) is no such setting: a stage
that broke off is finished with the answers it has.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tastemaker.config import canonical, dump, load_config, nearest, settings_from
from tastemaker.config.check import complain, field_types
from tastemaker.methods.sample import Sample
from tastemaker.rewards import source_hash
from tastemaker.runs import (
    MADE_FILE,
    Meter,
    Run,
    RunLock,
    differences,
    plain,
    run_folder,
    sha256_file,
    sha256_folder,
)
from tastemaker.runs.files import write_atomic
from tastemaker.runs.lines import read_object
from tastemaker.studies.making import MAKERS, Maker
from tastemaker.studies.pipeline import Bar, Train, run_pipeline
from tastemaker.studies.recipe import KINDS, load_recipe, reward_texts, stage_types
from tastemaker.training import train
from tastemaker.training.judging import WITHOUT_EFFECT
from tastemaker.types import TastemakerError

log = logging.getLogger(__name__)

LEDGER = "makers.json"
DONE = MADE_FILE
LINKS = ("model", "data", "eval_data", "reward", "ref_model", "gold", "adapters")
"""What may name an earlier stage."""
DATA = ("data", "eval_data")
"""Of these what takes records; the others take models."""
ON_DISK = ("judge", "template", "principles", "labellers")
"""Settings of makers that may name files or models, whose content counts and not the name."""


@dataclass(frozen=True)
class Step:
    """A stage before it is run: everything the file and the command line say of it."""

    name: str
    method: str
    values: Mapping[str, Any]
    """Settings and inputs, links still by name."""


@dataclass(frozen=True)
class Chain:
    """Stages in order, and the folder for what they make."""

    out: Path
    steps: tuple[Step, ...]
    origin: str


@dataclass(frozen=True)
class Made:
    """What came of a stage."""

    step: Step
    folder: Path
    run: Run | None
    """Of a training stage."""
    reused: bool

    @property
    def result(self) -> Path:
        """What a later stage gets that names this one alone: a run, or the data of one that sampled."""
        if self.run is not None:
            return self.run.data_file or self.folder
        return self.folder / MAKERS[self.step.method].gives[0]


def is_chain(path: str | Path) -> bool:
    """Whether a recipe has stages that make things."""
    stages = load_config(path).values.get("stages")
    entries = cast("list[object]", stages) if isinstance(stages, list) else []
    return any(
        isinstance(e, Mapping) and cast("Mapping[str, object]", e).get("method") in MAKERS for e in entries
    )


def load_chain(
    source: str | Path | Mapping[str, object],
    shared: Mapping[str, object] | None = None,
    by_stage: Mapping[str, Mapping[str, object]] | None = None,
    *,
    origin: str = "recipe",
) -> Chain:
    """Reads a chain and checks all of it, links included; arguments as in `load_recipe`.

    Raises:
        TastemakerError: everything that is wrong, each with its stage.
    """
    if isinstance(source, Mapping):
        content, folder = source, "recipe"
    else:
        config = load_config(source)
        origin, content, folder = str(config.path), config.values, config.path.stem
    top: dict[str, Any] = {**content, **(shared or {})}
    overrides = dict(by_stage or {})
    for_all = overrides.pop("all", {})
    out = Path(str(top.pop("out", f"runs/{folder}")))
    entries: list[object] = list(top.pop("stages", ()))
    problems: list[str] = []
    steps: list[Step] = []
    for i, entry in enumerate(entries):
        own = dict(cast("Mapping[str, Any]", entry)) if isinstance(entry, Mapping) else {}
        method = str(own.pop("method", ""))
        name = str(own.pop("name", method))
        if method not in MAKERS and method not in KINDS:
            close = " or ".join(nearest(method, (*MAKERS, *KINDS)))
            hint = f"did you mean {close}?" if close else f"there are {', '.join((*MAKERS, *KINDS))}"
            problems.append(f"stages[{i}]: no such method {method!r}; {hint}")
            continue
        if any(step.name == name for step in steps):
            problems.append(f"stages[{i}]: there is a stage {name} already; give this one another name")
            continue
        layers = (_taken(method, top), own, _taken(method, for_all), overrides.pop(name, {}))
        values = {key.replace("-", "_"): value for layer in layers for key, value in layer.items()}
        step = Step(name, method, values)
        problems += _problems(step, steps, origin)
        steps.append(step)
    for name in overrides:
        close = nearest(name, [step.name for step in steps])
        problems.append(f"{name}: no such stage{f'; did you mean {close[0]}?' if close else ''}")
    for layer in (top, for_all):
        known = {key for step in steps for key in _taken(step.method, layer)}
        problems += [f"{key}: no stage has such a setting" for key in layer if key not in known and steps]
    problems += [] if entries else ["stages: should be a list of stages, each with a method"]
    complain(origin, problems)
    return Chain(out, tuple(steps), origin)


def run_chain(
    chain: Chain,
    *,
    progress: Bar | None = None,
    train: Train = train,
    before: Mapping[str, Made] | None = None,
) -> list[Made]:
    """Runs what is not done yet and returns what came of every stage, in order. `before`: what is known to be
    done, by name.

    Raises `TastemakerError` as training and makers do; stages that are finished by then stay finished.
    """
    done: dict[str, Made] = {}
    for step in chain.steps:
        if before is not None and step.name in before:
            done[step.name] = before[step.name]
            continue
        run_one = _make if step.method in MAKERS else _train
        done[step.name] = run_one(chain, step, done, progress, train)
    return list(done.values())


# -------------------------------------------------------------------------------------------- one stage


def _train(chain: Chain, step: Step, done: Mapping[str, Made], progress: Bar | None, train: Train) -> Made:
    recipe = load_recipe(_single(step, _resolved(step, done)), {"out": str(chain.out)}, origin=chain.origin)
    if progress is None:
        (result,) = run_pipeline(recipe, train=train)
    else:
        (result,) = run_pipeline(recipe, progress=progress, train=train)
    return Made(step, result.run.folder, result.run, result.reused)


def _make(chain: Chain, step: Step, done: Mapping[str, Made], progress: Bar | None, train: Train) -> Made:
    values = _resolved(step, done)
    maker = _maker(step, values, chain.origin)
    inputs = {key: values[key] for key in maker.needs}
    settings = {key: value for key, value in dump(maker).items() if key not in WITHOUT_EFFECT}
    named = {key: settings[key] for key in ON_DISK if settings.get(key)}
    fingerprint = {
        "stage": step.name,
        "method": step.method,
        "settings": settings,
        "inputs": {key: _contents(value) for key, value in {**named, **inputs}.items()},
    }
    with RunLock(chain.out):
        folder = _folder(chain.out, step.name, fingerprint)
        if (folder / DONE).exists():
            return Made(step, folder, None, reused=True)
        folder.mkdir(parents=True, exist_ok=True)
        log.info("%s: making %s in %s", step.name, ", ".join(maker.gives), folder)
        meter = Meter()
        with nullcontext() if progress is None else progress(step.name) as report:
            maker.make(folder, inputs, report or _silent)
        made = {
            "method": step.method,
            "gives": {what: _contents(str(folder / what)) for what in maker.gives},
            "made_from": {key: _behind(value, folder) for key, value in inputs.items()},
            "resources": meter.read().model_dump(),
        }
        write_atomic(folder / DONE, json.dumps(made, indent=1).encode() + b"\n")
    return Made(step, folder, None, reused=False)


def _behind(value: Any, folder: Path) -> list[list[str]]:
    """[[path from the folder, content], ...] of an input, as `tastemaker.runs.lineage` reads it."""
    places = [str(v) for v in cast("Sequence[object]", value if isinstance(value, list | tuple) else [value])]
    return [[os.path.relpath(p, folder) if Path(p).exists() else p, _contents(p)] for p in places]


def _folder(out: Path, stage: str, fingerprint: Mapping[str, Any]) -> Path:
    """The folder that belongs to these settings and inputs, noted down before anything is made in it."""
    ledger = dict(read_object(out / LEDGER)) if (out / LEDGER).exists() else {}
    known = [name for name, entry in ledger.items() if not differences(cast(Any, entry), fingerprint)]
    if known:
        return run_folder(out, known[0])
    numbered = (stage if n == 1 else f"{stage}-{n}" for n in itertools.count(1))
    name = next(n for n in numbered if n not in ledger)
    ledger[name] = plain(fingerprint)
    write_atomic(out / LEDGER, json.dumps(ledger, indent=1).encode() + b"\n")
    return run_folder(out, name)


def _silent(step: int, total: int, numbers: Mapping[str, float]) -> None:
    """Reports to nobody."""


def _maker(step: Step, values: Mapping[str, Any], origin: str) -> Maker:
    cls = MAKERS[step.method]
    settings = {k: v for k, v in values.items() if k not in cls.needs}
    if "town_seed" in field_types(cls):
        settings.setdefault("town_seed", values.get("seed", 0))
    return cast(Maker, settings_from(cls, settings, origin=f"{origin}: stage {step.name}"))


def _single(step: Step, values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe of this stage alone."""
    return {"stages": [{"name": step.name, "method": step.method, **values}]}


# ------------------------------------------------------------------------------------------------ links


def _problems(step: Step, earlier: Sequence[Step], origin: str) -> list[str]:
    """What is wrong with a stage, seen without running anything."""
    names = {e.name: e for e in earlier}
    links = [(key, str(value)) for key in LINKS for value in _listed(step.values.get(key), key)]
    problems = [
        f"stage {step.name}: {key}: {wrong}"
        for key, value in links
        if (wrong := _wrong_link(value, names, wants_data=key in DATA))
    ]
    stand_in = dict(step.values)
    try:
        if step.method in MAKERS:
            missing = [key for key in MAKERS[step.method].needs if key not in step.values]
            problems += [f"stage {step.name}: {key} is missing" for key in missing]
            _maker(step, stand_in, origin)
        else:
            rewards = [value for key, value in links if key == "reward" and value in names]
            stubs = [{"name": r, "method": "reward", "model": "none", "data": "none"} for r in rewards]
            recipe = {"stages": [*stubs, *_single(step, stand_in)["stages"]]}
            load_recipe(recipe, {"out": "unused"}, origin=origin)
    except TastemakerError as error:
        problems += [
            line.removeprefix(f"{origin}: ").strip() for line in str(error).splitlines() if line.strip()
        ]
    return problems


def _wrong_link(value: str, names: Mapping[str, Step], *, wants_data: bool) -> str:
    """What is wrong with the name of an earlier stage; "" where nothing is, or it is none."""
    name, _, what = value.partition("/")
    if name not in names:
        return ""
    method = names[name].method
    gives: tuple[str, ...] = MAKERS[method].gives if method in MAKERS else ()
    if what and what not in gives:
        told = f"it gives {', '.join(gives)}" if gives else "it is a run: name it alone"
        return f"{name} gives no {what!r}; {told}"
    given = what or (gives[0] if gives else "")
    is_data = given.endswith(".jsonl") or method == Sample.name
    if is_data == wants_data:
        return ""
    other = next((g for g in gives if g.endswith(".jsonl") == wants_data), "")
    hint = f"; {name}/{other} would do" if other else ""
    return f"{value} is a model, and data are wanted{hint}" if wants_data else f"{value} is no model{hint}"


def _taken(method: str, layer: Mapping[str, object]) -> dict[str, object]:
    """Of settings for all stages those that this one takes."""
    if method in MAKERS:
        types = {**field_types(MAKERS[method]), **dict.fromkeys(MAKERS[method].needs, str)}
    else:
        types = stage_types(method)
    return {k: v for k, v in layer.items() if canonical(k, v, types.keys()).name is not None}


def _resolved(step: Step, done: Mapping[str, Made]) -> dict[str, Any]:
    """The stage's values with places for the names of earlier stages."""
    values = dict(step.values)
    for key in LINKS:
        if values.get(key) and (key == "adapters" or (key in DATA and isinstance(values[key], list))):
            values[key] = [_place(str(v), done) for v in _listed(values[key], key)]
        elif key == "reward" and values.get(key):
            values[key] = _reward(values[key], done)
        elif isinstance(values.get(key), str):
            values[key] = _place(values[key], done)
    return values


def _reward(value: object, done: Mapping[str, Made]) -> object:
    """A reward, or one of several parts, with places for the names of earlier stages."""
    if isinstance(value, list):
        return [_reward(part, done) for part in cast("list[object]", value)]
    if isinstance(value, Mapping):
        part = cast("Mapping[str, object]", value)
        return {key: _reward(of, done) if key == "reward" else of for key, of in part.items()}
    return _place(value, done) if isinstance(value, str) else value


def _place(value: str, done: Mapping[str, Made]) -> str:
    name, _, what = value.partition("/")
    if name not in done:
        return value
    return str(done[name].folder / what if what else done[name].result)


def _listed(value: object, key: str) -> list[object]:
    """Everything that an input names."""
    if value is None:
        return []
    if key == "reward" and not isinstance(value, str):
        return list(reward_texts(value))
    return list(cast("Sequence[object]", value)) if isinstance(value, list | tuple) else [value]


def _contents(value: Any) -> Any:
    """What a place holds: weights of a run, bytes of files; a name that is no place stands for itself, and
    `NAME=WEIGHT` for what the name holds.
    """
    if isinstance(value, list | tuple):
        return [_contents(v) for v in cast("Sequence[object]", value)]
    path = Path(str(value))
    if not path.exists() and "=" in str(value):
        path = Path(str(value).rpartition("=")[0])
    if source_hash(str(path)):
        return f"{value} {source_hash(str(path))}"
    if Run.is_run(path):
        return f"weights {Run.open(path).weights_hash}"
    if path.is_dir():
        return f"folder {sha256_folder(path)}"
    return f"file {sha256_file(path)}" if path.is_file() else str(value)
