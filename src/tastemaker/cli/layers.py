"""Lays a config file and a command line over each other: one flat mapping, and one per stage."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tastemaker.cli.argv import read
from tastemaker.config import canonical, check_settings, load_config, nearest

Types = Mapping[str, Any]


class UsageError(Exception):
    """The command line or a settings file is wrong. Carries every problem, ready to show."""


@dataclass
class Request:
    """What the user asks for, checked."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    stages: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    words: list[str] = field(default_factory=list[str])
    help: bool = False


def gather(
    argv: Sequence[str],
    types: Types,
    *,
    stages: Mapping[str, Types] | None = None,
    any_stage: Types | None = None,
    words: int = 0,
) -> Request:
    """Reads the command line and the file that `--config` names; the command line overrules the file.

    `stages`: stage name -> the settings it takes, as `--stage.name` or, in a file, a mapping under the
    stage's name. `any_stage`: settings that stages of any name take, unchecked here (a recipe knows better).
    `words`: how many words other than options may come. Raises `UsageError` with everything that is wrong.
    """
    staged = {name: kind for of_stage in (stages or {}).values() for name, kind in of_stage.items()}
    given = read(argv, types, {**staged, **(any_stage or {})})
    request = Request(words=given.words, help=given.help)
    if given.help:
        return request
    problems = given.problems
    if len(given.words) > words:
        problems.append(f"unexpected: {' '.join(given.words[words:])}")
    config = given.values.pop("--config", None)
    if config is not None:
        with as_usage():
            file = load_config(str(config))
        where = {key: f"{file.path} {place}" for key, place in file.where.items()}
        problems += _lay(request, file.values, where, types, stages, any_stage)
    problems += _lay(request, given.values, {}, types, stages, any_stage)
    if problems:
        raise UsageError("\n".join(problems))
    return request


def _lay(
    request: Request,
    layer: Mapping[str, object],
    where: Mapping[str, str],
    types: Types,
    stages: Mapping[str, Types] | None,
    any_stage: Types | None,
) -> list[str]:
    """Lays one source over what is there already. Returns what is wrong with it."""
    flat: dict[str, object] = {}
    of_stages: dict[str, dict[str, object]] = {}
    for key, value in layer.items():
        stage, dot, _ = key.lstrip("-").rpartition(".")
        if dot and (stages is not None or any_stage is not None):
            of_stages.setdefault(stage, {})[key] = value
        elif stages and isinstance(value, Mapping) and key in stages:
            of_stages.setdefault(key, {}).update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    problems = _misplaced(flat, types, stages)
    checked = check_settings(types, flat, where=where)
    request.values.update(checked.values)
    for stage, settings in of_stages.items():
        problems += _lay_stage(request, stage, settings, where, stages, any_stage)
    return problems + checked.problems


def _misplaced(flat: dict[str, object], types: Types, stages: Mapping[str, Types] | None) -> list[str]:
    """Takes settings out of `flat` that belong to a stage, and says so."""
    problems: list[str] = []
    for key in list(flat):
        if not stages or canonical(key, "true", types.keys()).problem is None:
            continue
        name = key.lstrip("-")
        homes = [s for s, known in stages.items() if canonical(name, "true", known.keys()).name]
        if homes:
            del flat[key]
            name = name.replace("_", "-")
            rest = [f"--{s}.{name}" for s in homes if s != "all"]
            places = [f"--all.{name} (every stage)", "one of " * (len(rest) > 1) + ", ".join(rest)]
            problems.append(f"{key}: belongs to a stage: {' or '.join(places['all' not in homes :])}")
    return problems


def _lay_stage(
    request: Request,
    stage: str,
    settings: Mapping[str, object],
    where: Mapping[str, str],
    stages: Mapping[str, Types] | None,
    any_stage: Types | None,
) -> list[str]:
    if stages is not None and stage not in stages:
        close = nearest(stage, stages) or list(stages)
        return [f"{key}: no such stage; did you mean {' or '.join(close)}?" for key in settings]
    known = stages[stage] if stages is not None else any_stage or {}
    problems: list[str] = []
    for key, value in settings.items():
        name = key.lstrip("-").rpartition(".")[2]
        checked = check_settings(known, {name: value})
        place = where.get(key) or where.get(stage)
        prefix = f"{place}: {stage}." if place else f"--{stage}."
        problems += [prefix + problem for problem in checked.problems]
        request.stages.setdefault(stage, {}).update(checked.values)
    return problems


def tastemaker_error() -> type[Exception]:
    """`TastemakerError`, for `except` clauses: torch comes with it, so only what was raised imports it."""
    from tastemaker.types import TastemakerError

    return TastemakerError


@contextmanager
def as_usage() -> Generator[None]:
    """Errors in here are errors of the command line or of a settings file."""
    try:
        yield
    except tastemaker_error() as error:
        raise UsageError(str(error)) from error
