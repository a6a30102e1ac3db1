"""From a flat mapping (flags, a YAML file, keywords) to typed settings, and back.

Every name and value that is wrong is reported in one message, each with where it was given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tastemaker.config.check import coerce, complain, fail, field_types
from tastemaker.config.names import canonical
from tastemaker.config.settings import TrainSettings

if TYPE_CHECKING:
    from tastemaker.types import Method

T = TypeVar("T")
M = TypeVar("M", bound="Method")

Types = Mapping[str, Any]
"""Name -> type of each setting."""


@dataclass(frozen=True)
class Checked:
    """Values under their own names and of their own types, and what was wrong with the rest."""

    values: dict[str, Any]
    problems: list[str]


def check_settings(
    types: Types, mapping: Mapping[str, object], *, where: Mapping[str, str] | None = None
) -> Checked:
    """Translates names, checks values. `where[key]` says where a key was given (a line, a flag)."""
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    problems: list[str] = []
    for key, raw in mapping.items():
        place = f"{where[key]}: " if where and key in where else ""
        named = canonical(key, raw, types.keys())
        if named.problem is not None:
            problems.append(place + named.problem)
        if named.name is None:
            continue
        value, problem = coerce(named.name, named.value, types[named.name])
        if problem is not None:
            problems.append(place + problem)
        elif named.name in values and values[named.name] != value:
            problems.append(f"{place}{key}: {named.name} is already given as {given[named.name]}")
        else:
            values[named.name] = value
            given[named.name] = f"{key} = {raw}"
    return Checked(values, problems)


def settings_from(
    cls: type[T],
    mapping: Mapping[str, object],
    *,
    origin: str = "settings",
    where: Mapping[str, str] | None = None,
) -> T:
    """An instance of the dataclass `cls` from a mapping of TRL's or our names.

    `origin` (a file, a command) begins the message; `where` may say more about single keys. Raises
    `TastemakerError` with everything that is wrong: unknown names with the nearest known ones, wrong
    types, values out of range, the same setting twice.
    """
    checked = check_settings(field_types(cls), mapping, where=where)
    complain(origin, checked.problems)
    return cls(**checked.values)


def check_method(
    method_types: Types,
    mapping: Mapping[str, object],
    *,
    where: Mapping[str, str] | None = None,
    also: Types | None = None,
) -> Checked:
    """As `check_settings`, for a method's settings, the run's, and `also` others, all in one mapping."""
    return check_settings({**field_types(TrainSettings), **(also or {}), **method_types}, mapping, where=where)


def method_and_settings(
    method_cls: type[M],
    mapping: Mapping[str, object] | None = None,
    *,
    origin: str | None = None,
    where: Mapping[str, str] | None = None,
) -> tuple[M, TrainSettings]:
    """A method and the settings of its run from one flat mapping.

    What the mapping leaves open comes from the method's `defaults`, then from `TrainSettings`. Raises
    `TastemakerError` as `settings_from` does.
    """
    from tastemaker.errors import TastemakerError

    of_method = field_types(method_cls)
    checked = check_method(of_method, mapping or {}, where=where)
    complain(origin or method_cls.name, checked.problems)
    given = checked.values
    run_names = field_types(TrainSettings).keys() - of_method.keys()
    try:
        method = method_cls(**{k: v for k, v in given.items() if k in of_method})
    except TastemakerError as error:  # the method's own checks, which name the field
        fail(f"{origin or method_cls.name}: {error}")
    of_run: dict[str, Any] = {k: v for k, v in method_cls.defaults.items() if k in run_names}
    of_run.update((k, v) for k, v in given.items() if k in run_names)
    return method, TrainSettings(**of_run)


def dump(settings: object) -> dict[str, Any]:
    """The fields of a settings dataclass as plain values for JSON or YAML; `settings_from` reads them back."""
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"dump takes an instance of a dataclass, not {settings!r}")
    return {f.name: _plain(getattr(settings, f.name)) for f in dataclasses.fields(settings) if f.init}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(v) for v in value]
    return value
