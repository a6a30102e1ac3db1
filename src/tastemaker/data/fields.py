"""Typed access to one row's columns; what is missing or of a wrong type is a RowError."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

from tastemaker.data.dialogue import check_text, parse_messages
from tastemaker.data.problems import RowError, shorten
from tastemaker.types import Message, Text

_TRUE = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Fields:
    """The columns of one row. A column that is null counts as absent."""

    def __init__(self, values: Mapping[str, object], number: int) -> None:
        self.values = {k: v for k, v in values.items() if v is not None}
        self.number = number

    def has(self, *names: str) -> bool:
        """Whether every column is there."""
        return all(name in self.values for name in names)

    def first(self, *names: str) -> str:
        """The first of `names` that is there; the first name of all where none is."""
        return next((name for name in names if name in self.values), names[0])

    def raw(self, name: str) -> object:
        if name not in self.values:
            raise RowError(name, "is missing")
        return self.values[name]

    def string(self, name: str) -> str:
        value = self.raw(name)
        if not isinstance(value, str):
            raise RowError(name, f"should be text, is {shorten(value)}")
        return check_text(value, name)

    def text(self, name: str) -> Text:
        """Plain text, or messages."""
        value = self.raw(name)
        if isinstance(value, str):
            return check_text(value, name)
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            return parse_messages(cast(object, value), name)
        raise RowError(name, f"should be text or a list of messages, is {shorten(value)}")

    def messages(self, name: str) -> tuple[Message, ...]:
        return parse_messages(self.raw(name), name)

    def items(self, name: str) -> list[object]:
        value = self.raw(name)
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise RowError(name, f"should be a list, is {shorten(value)}")
        return list(cast(Sequence[object], value))

    def boolean(self, name: str) -> bool:
        return as_boolean(self.raw(name), name)

    def number_or_none(self, name: str) -> float | None:
        return as_number(self.values[name], name) if name in self.values else None

    def word(self, name: str) -> str:
        """Text or a number as text; "" where the column is absent."""
        value = self.values.get(name, "")
        if isinstance(value, list | dict | bytes):
            raise RowError(name, f"should be text, is {shorten(value)}")
        return check_text(str(value), name)

    @property
    def row(self) -> str:
        """The row's own id where it has one, else its number."""
        identity = self.values.get("id")
        return str(identity) if isinstance(identity, str | int) else str(self.number)


def as_boolean(value: object, name: str) -> bool:
    """True, False, 0, 1 or these as words."""
    known = _TRUE.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None
    if known is None:
        raise RowError(name, f"should be true or false, is {shorten(value)}")
    return known


def as_number(value: object, name: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(name, f"should be a number, is {shorten(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RowError(name, f"should be a finite number, is {shorten(value)}")
    return number


def as_index(value: object, name: str) -> int:
    """A whole number."""
    number = as_number(value, name)
    if number != int(number):
        raise RowError(name, f"should be a whole number, is {shorten(value)}")
    return int(number)
