"""Runs a recipe's stages in order. A stage whose inputs are unchanged is reused.

A stage's inputs are its method and settings, the weights it starts from, and its data: by content, not by
name. `pipeline.json` in the recipe's folder says which run belongs to which inputs. A stage whose inputs
have changed gets a new folder (`dpo`, then `dpo-2`, ...), so that no result is ever overwritten, and
going back to earlier settings finds the earlier result.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tastemaker.config import dump
from tastemaker.methods.sample import Sample
from tastemaker.rewards import JUDGE, source_hash
from tastemaker.runs import (
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
from tastemaker.studies.recipe import Recipe, Stage, reward_texts
from tastemaker.training import Progress, train
from tastemaker.training.judging import WITHOUT_EFFECT as PATIENCE
from tastemaker.training.keeping import WITHOUT_EFFECT
from tastemaker.training.rehearsal import starting_model
from tastemaker.training.sampling import sample

log = logging.getLogger(__name__)

LEDGER = "pipeline.json"

Train = Callable[..., Run]
Bar = Callable[[str], AbstractContextManager[Progress | None]]
"""Stage -> a context that gives what `train` calls after every step."""


@dataclass(frozen=True)
class StageResult:
    """What came of a stage."""

    stage: Stage
    run: Run
    reused: bool


def _silent(stage: str) -> AbstractContextManager[None]:
    return nullcontext()


def run_pipeline(
    recipe: Recipe, *, progress: Bar = _silent, train: Train = train, sample: Train = sample
) -> list[StageResult]:
    """Runs what is not done yet and returns every stage's run, in order.

    An interrupted pipeline goes on where it stopped, inside a stage from that stage's checkpoint. Raises
    `TastemakerError` as `train` does; stages that are finished by then stay finished.
    """
    done: dict[str, StageResult] = {}
    with RunLock(recipe.out):
        for stage in recipe.stages:
            act = sample if stage.method.name == Sample.name else train
            done[stage.name] = _run_stage(recipe.out, stage, done, progress, act)
    return list(done.values())


def _run_stage(
    out: Path, stage: Stage, done: Mapping[str, StageResult], progress: Bar, act: Train
) -> StageResult:
    inputs = _fingerprint(stage, done)
    ledger = _read(out)
    name = _folder_for(inputs, ledger)
    folder = run_folder(out, name)
    finished = _finished(folder) if name in ledger else None
    if finished is not None:
        log.info("%s: reused %s, its inputs are unchanged", stage.name, folder)
        return StageResult(stage, finished, reused=True)
    for change in _changes(inputs, ledger):
        log.info("%s: changed: %s", stage.name, change)
    others = {other: entry for other, entry in ledger.items() if other != name}
    _write(out, {**others, name: inputs})
    log.info("%s: %s in %s", stage.name, "training" if stage.method.trains else "sampling", folder)
    arguments: dict[str, Any] = dict(stage.inputs)
    settings = stage.settings
    for key, parent in stage.parents.items():
        if key in ("ref_model", "gold"):
            settings = dataclasses.replace(settings, **{key: str(done[parent].run.folder)})
        elif key.startswith("reward."):
            place = int(key.removeprefix("reward."))
            arguments["reward"] = with_reward(arguments["reward"], place, done[parent].run)
        elif key == "data":
            arguments["data"] = str(done[parent].run.data_file)
        else:
            arguments[key] = done[parent].run
    if "model" not in stage.parents:
        arguments["model"] = starting_model(
            stage.inputs["model"], arguments["data"], stage.method.consumes, settings.seed
        )
    with progress(stage.name) as report:
        run = act(stage.method, **arguments, out=folder, settings=settings, progress=report)
    return StageResult(stage, run, reused=False)


def _fingerprint(stage: Stage, done: Mapping[str, StageResult]) -> dict[str, Any]:
    """Everything the result depends on, as plain values."""
    settings = {k: v for k, v in dump(stage.settings).items() if k not in WITHOUT_EFFECT}
    links = {**stage.inputs, "ref_model": settings.pop("ref_model"), "gold": settings.pop("gold")}
    contents: dict[str, str] = {}
    for key, value in links.items():
        if key == "data" and key in stage.parents:
            contents[key] = f"data {done[stage.parents[key]].run.record.hashes['data']}"
        elif key in stage.parents:
            contents[key] = f"weights {done[stage.parents[key]].run.weights_hash}"
        elif key == "reward" and value is not None:
            parts = {i: stage.parents.get(f"reward.{i}") for i in range(len(reward_texts(value)))}
            runs = {i: done[parent].run for i, parent in parts.items() if parent is not None}
            contents[key] = _reward_content(value, runs)
        elif value is not None:
            contents[key] = _content(value)
    return {
        "stage": stage.name,
        "method": stage.method.name,
        "settings": dump(stage.method) | settings,
        "inputs": contents,
    }


def _reward_content(reward: object, runs: Mapping[int, Run]) -> str:
    """A reward by its settings and by the content of everything it names."""
    texts = reward_texts(reward)
    if not texts:
        return _content(str(reward))
    contents = [f"weights {runs[i].weights_hash}" if i in runs else _content(t) for i, t in enumerate(texts)]
    reward = [
        _verdicts(part) for part in cast("list[object]", reward if isinstance(reward, list) else [reward])
    ]
    return json.dumps([plain({"reward": reward}), contents], sort_keys=True, default=str)


def _verdicts(part: object) -> object:
    """Of a judge among the parts of a reward what decides its verdicts: files by content, no time limits."""
    if not (
        isinstance(part, Mapping) and str(cast("Mapping[str, object]", part).get("reward")).startswith(JUDGE)
    ):
        return part
    return {
        key: _content(str(value)) if key in ("template", "principles") else value
        for key, value in cast("Mapping[str, object]", part).items()
        if key not in PATIENCE
    }


def with_reward(reward: Any, place: int, run: Run) -> Any:
    """A composed reward whose part at `place` is a run."""
    if isinstance(reward, Mapping):
        return {**cast("Mapping[str, object]", reward), "reward": run}
    return [
        part if i != place else {**part, "reward": run} if isinstance(part, Mapping) else run
        for i, part in enumerate(cast("list[Any]", reward))
    ]


def _content(value: str) -> str:
    """What a name stands for: a run by its weights, files by their content, a name on the hub by itself."""
    if value.startswith(JUDGE):
        return f"{JUDGE}{_content(value.removeprefix(JUDGE))}"
    path = Path(value)
    if Run.is_run(path):
        return f"weights {Run.open(path).weights_hash}"
    if path.is_dir():
        return f"folder {sha256_folder(path)}"
    if source_hash(value):
        return f"{value} {source_hash(value)}"
    return f"file {sha256_file(path)}" if path.is_file() else value


def _folder_for(inputs: Mapping[str, Any], ledger: Mapping[str, Any]) -> str:
    """The folder that belongs to these inputs, or the next free name."""
    for name, entry in ledger.items():
        if not differences(entry, inputs):
            return name
    stage = str(inputs["stage"])
    numbered = (stage if number == 1 else f"{stage}-{number}" for number in itertools.count(1))
    return next(name for name in numbered if name not in ledger)


def _finished(folder: Path) -> Run | None:
    """The run in `folder` where it came to a result."""
    if not Run.is_run(folder):
        return None
    run = Run.open(folder)
    made = run.model_dir.is_dir() or (run.data_file is not None and run.data_file.is_file())
    return run if run.status in ("finished", "stopped") and made else None


def _changes(inputs: Mapping[str, Any], ledger: Mapping[str, Any]) -> list[str]:
    """What is different from the stage's latest run."""
    before = [entry for entry in ledger.values() if entry["stage"] == inputs["stage"]]
    return [str(change) for change in differences(before[-1], inputs)] if before else []


def _read(out: Path) -> dict[str, Any]:
    path = out / LEDGER
    return dict(read_object(path)) if path.exists() else {}


def _write(out: Path, ledger: Mapping[str, Any]) -> None:
    write_atomic(out / LEDGER, json.dumps(plain(ledger), indent=1).encode() + b"\n")
