"""Where the rows of an audit come from, and where each of them stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from tastemaker.data.files import read_file
from tastemaker.data.hub import is_saved_folder, saved_splits
from tastemaker.data.rows import RawTable
from tastemaker.data.sources import Dataset, open_rows, read_records
from tastemaker.errors import TastemakerError
from tastemaker.types import Record

SPLIT = "split"
"""The column that says which part of a data set a row belongs to."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands."""

    file: str
    line: int
    """Its line in a text file, its number in a table."""
    id: str
    """Its own name; "" where it has none."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f" ({self.id})" if self.id else "")


@dataclass(frozen=True)
class Part:
    """One source: its records, and the columns that say something about who labelled them."""

    dataset: Dataset
    columns: Mapping[int, Sequence[Mapping[str, str]]] = field(
        default_factory=dict[int, Sequence[Mapping[str, str]]]
    )
    """Row number -> the columns asked for, once for each annotator of the row."""

    def rows(self) -> Iterator[tuple[int, list[Record]]]:
        """(number of a row, its records)."""
        records = self.dataset.records
        numbers = self.dataset.numbers or range(len(records))
        for number, group in groupby(zip(numbers, records, strict=True), key=lambda pair: pair[0]):
            yield number, [record for _, record in group]

    def of(self, number: int, k: int) -> Mapping[str, str]:
        """The columns of one record."""
        found = self.columns.get(number, ())
        return found[k] if k < len(found) else found[0] if found else {}

    def place(self, number: int, record: Record) -> Place:
        return Place(self.dataset.source, number, "" if record.row == str(number) else record.row)


def read_part(
    source: Any, *, columns: Sequence[str] = (), split: str | None = None, max_bad: float = 0.0
) -> Part:
    """Reads one source as training would, and beside it the columns named and `split`.

    Raises TastemakerError as `read_records` does.
    """
    raw = source if isinstance(source, RawTable) else open_rows(source, split)
    dataset = read_records(raw, max_bad=max_bad)
    wanted = (*columns, SPLIT)
    found = {row.number: _columns(row.values, wanted) for row in raw.rows if row.values is not None}
    return Part(dataset, {number: values for number, values in found.items() if any(values)})


def _columns(values: Mapping[str, object], wanted: Sequence[str]) -> list[Mapping[str, str]]:
    own = {name: str(values[name]) for name in wanted if values.get(name) is not None}
    annotations = values.get("annotations")
    if not isinstance(annotations, list):
        return [own]
    each = [a for a in cast(list[object], annotations) if isinstance(a, Mapping)]
    return [
        {**own, **{n: str(v) for n in wanted if (v := cast(Mapping[str, object], a).get(n)) is not None}}
        for a in each
    ]


def other_splits(source: Any) -> list[str]:
    """The splits beside "train" of a folder saved by `datasets`; they are held out from it."""
    if not isinstance(source, str | Path) or not is_saved_folder(Path(source)):
        return []
    names = saved_splits(Path(source))
    return [name for name in names if name != "train"] if "train" in names else []


def read_groups(path: str | Path) -> dict[str, dict[str, str]]:
    """Annotator -> what the file's other columns say of them (age, country, ...).

    Raises TastemakerError for a row without the column `annotator`, an annotator who stands in two rows, or no
    other column.
    """
    table = read_file(Path(path))
    found: dict[str, dict[str, str]] = {}
    for row in table.rows:
        where = table.where(row.number)
        if row.values is None:
            raise TastemakerError(f"{where}: {row.reason}")
        who = str(row.values.get("annotator") or "")
        if not who:
            raise TastemakerError(f"{where}: no annotator. The column `annotator` says who a row is about.")
        if who in found:
            raise TastemakerError(
                f"{where}, field annotator: {who} stands in an earlier row. Give one row each."
            )
        found[who] = {
            k: str(v) for k, v in row.values.items() if k not in ("annotator", "id") and v not in (None, "")
        }
    if not any(found.values()):
        raise TastemakerError(f"{path}: says nothing of its annotators: give it a column for each grouping.")
    return found


def home_split(parts: Sequence[Part]) -> str:
    """The split that the others are held out from: train, or the one with the most rows; "" for one at most."""
    counts: dict[str, int] = {}
    for part in parts:
        for values in part.columns.values():
            name = values[0].get(SPLIT, "") if values else ""
            if name:
                counts[name] = counts.get(name, 0) + 1
    if len(counts) < 2:
        return ""
    return "train" if "train" in counts else max(counts, key=lambda name: counts[name])
