"""Rows as they come from any source, before anyone knows what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row: its number in the source, and its columns or what is wrong with it."""

    number: int
    values: Mapping[str, object] | None = None
    field: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RawTable:
    """All rows of a source."""

    rows: tuple[RawRow, ...]
    source: str
    sha256: str
    """Of the file's bytes; of the rows as JSON where there is no file."""
    words: str
    """The container in words, e.g. "JSONL, gzipped"."""
    numbering: str = "line"
    """What a row's number counts: "line" of a text file, "row" of a table, "index" of a list."""

    def where(self, number: int) -> str:
        """A row's place, as error messages give it."""
        if self.numbering == "line":
            return f"{self.source}:{number}"
        return f"{self.source}, row {number}" if self.numbering == "row" else f"{self.source}[{number}]"
