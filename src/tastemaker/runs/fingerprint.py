"""Hashes that say whether two things are the same, and what differs between two settings."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from numbers import Integral, Real
from pathlib import Path, PurePath

import numpy as np
import torch

from tastemaker.errors import TastemakerError


def plain(value: object, where: str = "value") -> object:
    """`value` as what strict JSON can hold: dict, list, str, int, float, bool, None.

    Dataclasses become dicts, tuples lists, sets sorted lists, paths and dtypes text, one-element tensors
    numbers, and numbers that are not finite the text "NaN", "Infinity" or "-Infinity". Anything else
    raises `TypeError` naming the place.
    """
    match value:
        case None | bool() | str():
            return value
        case Enum():
            return plain(value.value, where)
        case np.generic():
            return plain(value.item(), where)
        case Integral():
            return int(value)
        case Real():
            return _number(float(value))
        case torch.Tensor() if value.numel() == 1:
            return plain(value.item(), where)
        case PurePath() | torch.dtype() | torch.device():
            return str(value)
        case Mapping():
            return {_key(k, where): plain(v, f"{where}.{k}") for k, v in value.items()}
        case AbstractSet():
            return sorted((plain(v, where) for v in value), key=canonical_json)
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)}
        case _:
            raise TypeError(f"{where}: {type(value).__name__} cannot be written as JSON")


def canonical_json(value: object) -> str:
    """The one JSON text for `value`: keys sorted, no spaces, ASCII. Equal values give equal text."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_bytes(data: bytes) -> str:
    """SHA-256 in 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: object) -> str:
    """SHA-256 of the canonical JSON."""
    return sha256_bytes(canonical_json(value).encode())


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's content; a symbolic link counts as what it points to."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TastemakerError(f"{path}: cannot be read: {error.strerror or error}.") from error


def sha256_folder(folder: str | Path) -> str:
    """SHA-256 over the relative names and contents of all files below `folder`, in sorted order.

    Links to files count as their content (a hub cache is full of them). Links to folders are refused:
    they may lead outside or round in circles.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TastemakerError(f"{folder}: is not a folder.")
    entries: list[list[str]] = []
    for parent, names, files in os.walk(folder):
        for name in names:
            if (Path(parent) / name).is_symlink():
                raise TastemakerError(
                    f"{Path(parent) / name}: is a link to a folder and cannot be hashed. Put the folder itself "
                    "there."
                )
        for name in files:
            path = Path(parent) / name
            entries.append([path.relative_to(folder).as_posix(), sha256_file(path)])
    return sha256_json(sorted(entries))


class Absent(Enum):
    """Marks a key that one side does not have."""

    ABSENT = "(absent)"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that is not the same on both sides."""

    key: str
    """Dotted path, e.g. `lora.r` or `data[0].sha256`."""
    old: object
    new: object

    def __str__(self) -> str:
        return f"{self.key}: {_show(self.old)} -> {_show(self.new)}"


def differences(
    old: Mapping[str, object], new: Mapping[str, object], *, ignore: Collection[str] = ()
) -> list[Difference]:
    """What changed from `old` to `new`, sorted by key.

    Both are compared as they would be written (`plain`), so a tuple equals its list and 1 equals 1.0, but
    True does not equal 1. `ignore` holds dotted keys; what lies below one of them is ignored too.
    """
    found: list[Difference] = []
    _compare("", plain(old), plain(new), found)
    return [d for d in sorted(found, key=lambda d: d.key) if not _ignored(d.key, ignore)]


def _compare(key: str, old: object, new: object, found: list[Difference]) -> None:
    match old, new:
        case dict(), dict():
            for name in [*old, *(k for k in new if k not in old)]:
                below = f"{key}.{name}" if key else str(name)
                _compare(below, old.get(name, Absent.ABSENT), new.get(name, Absent.ABSENT), found)
        case list(), list() if len(old) == len(new):
            for i, (a, b) in enumerate(zip(old, new, strict=True)):
                _compare(f"{key}[{i}]", a, b, found)
        case _:
            if old != new or isinstance(old, bool) != isinstance(new, bool):
                found.append(Difference(key, old, new))


def _ignored(key: str, ignore: Collection[str]) -> bool:
    return any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in ignore)


def _show(value: object) -> str:
    return str(value) if isinstance(value, Absent) else json.dumps(value, ensure_ascii=False)


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where}: key {key!r} is not text")
    return key
