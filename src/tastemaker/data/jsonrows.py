"""JSON Lines and JSON arrays, read strictly: no NaN, no duplicate keys, UTF-8 only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import cast

from tastemaker.data.problems import shorten
from tastemaker.data.rows import RawRow
from tastemaker.errors import TastemakerError

_BOM = b"\xef\xbb\xbf"


class _Refused(ValueError):
    """JSON that Python would take and the standard does not."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"the key {shorten(twice)} appears twice")
    for name in values:
        if not name.isprintable():
            raise _Refused(f"the key {shorten(name)} holds a character that cannot be printed")
    return values


def _constant(literal: str) -> object:
    raise _Refused(f"{literal} is not JSON: write a number or null")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def decode_text(data: bytes, source: str) -> bytes:
    """The bytes without a UTF-8 byte order mark; UTF-16 and UTF-32 are refused by name."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TastemakerError(f"{source}: this is UTF-16 or UTF-32 text. Save the file as UTF-8.")
    return data.removeprefix(_BOM)


def parse_lines(data: bytes, source: str) -> Iterator[RawRow]:
    """One JSON object a line; blank lines are passed over.

    Lines end with a newline and with nothing else: text may hold U+2028 and the like.
    """
    for number, line in enumerate(decode_text(data, source).split(b"\n"), start=1):
        if line.strip():
            yield _parse(line, number)


def _parse(line: bytes, number: int) -> RawRow:
    if b"\0" in line:
        return RawRow(number, reason=f"a NUL byte at column {line.index(0) + 1}")
    try:
        value = _DECODER.decode(line.decode("utf-8").strip())
    except UnicodeDecodeError as error:
        return RawRow(number, reason=not_utf8(error))
    except RecursionError:
        return RawRow(number, reason="broken JSON: nested too deeply")
    except json.JSONDecodeError as error:
        return RawRow(number, reason=f"broken JSON: {error.msg} at column {error.colno}")
    except ValueError as error:
        return RawRow(number, reason=f"broken JSON: {error}")
    return _checked(value, number)


def _checked(value: object, number: int) -> RawRow:
    if isinstance(value, dict):
        return RawRow(number, cast(dict[str, object], value))
    hint = ". A file that is one JSON array is named .json" if isinstance(value, list) else ""
    return RawRow(number, reason=f"not an object but {shorten(value)}{hint}")


def not_utf8(error: UnicodeDecodeError) -> str:
    """What `error` says, for a report of bad rows."""
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at column {error.start + 1}"


def parse_json(data: bytes, source: str) -> Iterator[RawRow]:
    """A JSON array of objects, or one object that holds such an array (`{"data": [...]}`).

    Many files named .json are JSON Lines; those are read as what they are. After a syntax error an array
    cannot be followed further, so that error is the last one reported.
    """
    data = decode_text(data, source)
    start = data.lstrip()[:1]
    if start == b"[":
        yield from _parse_array(data)
        return
    lines = list(parse_lines(data, source))
    if all(row.values is not None for row in lines) and len(lines) > 1:
        yield from lines
        return
    whole = _parse(data.replace(b"\r", b" ").replace(b"\n", b" "), 1)
    if whole.values is None:
        yield from lines
        return
    # A lone conversation is one row too, although it is an object that holds one array.
    arrays = [
        v for k, v in whole.values.items() if isinstance(v, list) and k not in ("messages", "conversations")
    ]
    if len(whole.values) == 1 and arrays:
        for number, value in enumerate(cast(list[object], arrays[0]), start=1):
            yield _checked(value, number)
    else:
        yield whole


def _parse_array(data: bytes) -> Iterator[RawRow]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        yield RawRow(data.count(b"\n", 0, error.start) + 1, reason=f"not UTF-8: byte 0x{data[error.start]:02x}")
        return
    at, line, counted = _skip(text, text.index("[") + 1), 1, 0
    if text[at : at + 1] == "]":
        return
    while True:
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = _DECODER.raw_decode(text, at)
        except RecursionError:
            yield RawRow(line, reason="broken JSON: nested too deeply; the rest was not read")
            return
        except json.JSONDecodeError as error:
            yield RawRow(error.lineno, reason=f"broken JSON: {error.msg}; the rest was not read")
            return
        except ValueError as error:
            yield RawRow(line, reason=f"broken JSON: {error}; the rest was not read")
            return
        yield _checked(value, line)
        at = _skip(text, at)
        mark = text[at : at + 1]
        if mark == "]":
            return
        if mark != ",":
            line += text.count("\n", counted, at)
            yield RawRow(line, reason="broken JSON: ',' or ']' is missing; the rest was not read")
            return
        at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at
