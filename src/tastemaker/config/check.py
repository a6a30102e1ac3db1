"""Checks values against the types of a dataclass's fields, and says what is wrong in a user's words.

Nothing here imports torch: help and the errors of the command line come from this module in a fraction of
a second. `tastemaker.types`, where `TastemakerError` lives, does import it, hence the one late import.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping
from functools import cache
from os import PathLike, fspath
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NoReturn,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

NOTHING = ("none", "null", "~", "")
"""Spellings of None for a field that may be None."""

SPELLINGS: Mapping[str, Mapping[str, object]] = {
    "dtype": {
        "bf16": "bfloat16",
        "torch.bfloat16": "bfloat16",
        "fp32": "float32",
        "float": "float32",
        "torch.float32": "float32",
    },
    "frozen_dtype": {
        "bf16": "bfloat16",
        "torch.bfloat16": "bfloat16",
        "fp32": "float32",
        "float": "float32",
        "torch.float32": "float32",
    },
    "optim": {
        "adamw": "adamw_torch_fused",
        "adamw_hf": "adamw_torch_fused",
        "adamw_bnb_8bit": "adamw_8bit",
    },
    "resume": {"auto": True},
}
"""Other spellings of a field's values that users bring along."""


def fail(message: str) -> NoReturn:
    """Raises `TastemakerError`."""
    from tastemaker.errors import TastemakerError

    raise TastemakerError(message)


def complain(origin: str, problems: Iterable[str]) -> None:
    """Raises one `TastemakerError` that lists all problems; does nothing where there are none."""
    lines = list(problems)
    if len(lines) == 1:
        fail(f"{origin}: {lines[0]}")
    if lines:
        fail(f"{origin}: {len(lines)} settings are wrong\n" + "\n".join(f"  {line}" for line in lines))


def field_types(cls: type) -> Mapping[str, Any]:
    """Name -> type of each settable field of a dataclass, in the order of declaration."""
    hints = _hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone; what `Annotated` adds is set aside."""
    if get_origin(kind) in (Annotated, ClassVar):
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(a for member in get_args(kind) for a in alternatives(member))
    return (kind,)


def is_sequence(kind: Any) -> bool:
    """Whether a field takes several values (tuple, list, Sequence)."""
    return any(
        isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping)
        for origin in map(get_origin, alternatives(kind))
    )


def is_switch(kind: Any) -> bool:
    """Whether a field is on or off."""
    return bool in alternatives(kind)


def describe(kind: Any) -> str:
    """A type as help and messages show it: `number`, `linear|cosine`, `text,...`, `number or none`."""
    names = {int: "whole number", float: "number", str: "text", bool: "true|false", type(None): "none"}
    out: list[str] = []
    for part in alternatives(kind):
        if get_origin(part) is Literal:
            text = "|".join(str(a) for a in get_args(part))
        elif is_sequence(part):
            inner = [a for a in get_args(part) if a is not Ellipsis]
            text = f"{describe(inner[0])},..." if inner else "list"
        else:
            text = names.get(part, getattr(part, "__name__", str(part)))
        if text not in out:
            out.append(text)
    if "whole number" in out and "number" in out:
        out.remove("whole number")
    return " or ".join(out)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter  # where something is checked: help needs none of it

    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True))


def coerce(name: str, value: object, kind: Any) -> tuple[Any, str | None]:
    """(value of the field's type, None), or (None, what is wrong).

    Accepts what flags and YAML deliver: numbers as text (YAML reads 1e-6 as text), `none`, lists as
    `a,b`, paths, runs, and the spellings above. True and false are no numbers.
    """
    parts = alternatives(kind)
    value = getattr(value, "folder", value)  # a run stands for its folder
    if isinstance(value, PathLike):
        value = fspath(value)
    if isinstance(value, str):
        value = SPELLINGS.get(name, {}).get(value.strip().lower(), value)
    if type(None) in parts and isinstance(value, str) and value.strip().lower() in NOTHING:
        value = None
    if isinstance(value, str) and is_sequence(kind) and str not in parts:
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, bool) and not any(p is bool or True in get_args(p) for p in parts):
        return None, f"{name} = {str(value).lower()}: should be {describe(kind)}"
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(value), None
    except ValidationError as error:
        return None, f"{name} = {value!r}: {_reason(error, kind)}"


def _reason(error: ValidationError, kind: Any) -> str:
    """A range error in pydantic's words; a wrong type as the type that is wanted."""
    for detail in error.errors(include_url=False):
        if detail["type"].startswith(("greater_than", "less_than", "finite", "too_short", "too_long")):
            return detail["msg"].replace("Input should", "should")
    return f"should be {describe(kind)}"


def coerce_fields(instance: Any) -> list[str]:
    """Checks every field of a (frozen) dataclass instance against its type, in place.

    A list given for a tuple, or an int for a float, becomes what the field says. Returns what is wrong.
    """
    problems: list[str] = []
    for name, kind in field_types(type(instance)).items():
        value, problem = coerce(name, getattr(instance, name), kind)
        if problem is None:
            object.__setattr__(instance, name, value)
        else:
            problems.append(problem)
    return problems
