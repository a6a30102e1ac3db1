"""What is wrong with rows: collected over a whole source, told in one message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tastemaker.errors import TastemakerError
from tastemaker.types import Record

SHOWN = 50


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that breaks its format.

    Example: BadRow(where="pairs.jsonl:7", field="chosen", reason="is a number, should be text")
    """

    where: str
    field: str
    reason: str
    number: int = 0
    """Its line, row or index."""

    def __str__(self) -> str:
        return f"{self.where}: {self.field}: {self.reason}" if self.field else f"{self.where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class DroppedRow:
    """A well-formed row that teaches nothing (an empty side, say): left out, and said so."""

    row: str
    reason: str
    record: Record | None = None
    """What it says, as far as it could be read."""
    number: int = 0
    """Its line, row or index."""


class RowError(Exception):
    """One row breaks its format; collected into the report of the whole source."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Unusable(Exception):
    """One row is well-formed and of no use; it is dropped and counted."""

    def __init__(self, reason: str, record: Record | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.record = record


class WrongKind(TastemakerError):
    """The data give records of another kind than was wanted, and none follow from them."""

    def __init__(self, message: str, given: type) -> None:
        super().__init__(message)
        self.given = given


def bad_rows_error(source: str, bad: Sequence[BadRow], total: int) -> TastemakerError:
    """One error for every bad row: the first 50 in full, the others as a number."""
    lines = [f"{source}: {len(bad)} of {total} rows cannot be read:"]
    lines += [f"  {row}" for row in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"  ... and {len(bad) - SHOWN} more")
    lines.append(
        "Correct these rows, or let a share of bad rows be skipped with max_bad (0.01: one in a hundred)."
    )
    return TastemakerError("\n".join(lines))


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name most like `name`, if any is like it."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return found[0] if found else None


def shorten(value: object, limit: int = 60) -> str:
    """A value for an error message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
