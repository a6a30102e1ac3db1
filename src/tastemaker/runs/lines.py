"""JSON files of a run, read and written: strict UTF-8 JSON, one object a file or one a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from tastemaker.errors import TastemakerError


def to_line(fields: Mapping[str, object]) -> bytes:
    """One line of JSON. A lone surrogate, which UTF-8 cannot hold, becomes its JSON escape."""
    text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_object(path: Path) -> dict[str, object]:
    """The JSON object that `path` holds."""
    return _parse(_read(path), f"{path}")


def read_lines(path: Path) -> list[dict[str, object]]:
    """The JSON object of each line; none where there is no file.

    A last line without its line end was cut off by a kill and does not count.
    """
    return [_parse(line, f"{path}:{number}") for number, line in enumerate(_whole_lines(path), 1)]


def until_step(path: Path, step: int) -> bytes:
    """The lines of `path` whose `step` is at most `step`, as they stand."""
    kept: list[bytes] = []
    for number, line in enumerate(_whole_lines(path), 1):
        at = _parse(line, f"{path}:{number}").get("step")
        if not isinstance(at, int):
            raise TastemakerError(
                f"{path}:{number}: field step: {at!r} is not a whole number. Remove the line."
            )
        if at <= step:
            kept.append(line + b"\n")
    return b"".join(kept)


def _whole_lines(path: Path) -> list[bytes]:
    return _read(path).split(b"\n")[:-1] if path.exists() else []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TastemakerError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _parse(data: bytes, where: str) -> dict[str, object]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise TastemakerError(f"{where}: is not JSON: {error}. Restore the file.") from error
    if not isinstance(value, dict):
        raise TastemakerError(f"{where}: holds no JSON object. Restore the file.")
    return cast(dict[str, object], value)
