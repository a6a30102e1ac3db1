"""Records from wherever people keep them.

`read_records` takes a JSONL, JSON, CSV or Parquet file (each also with .gz), a folder saved by `datasets`,
a name on the hub, or a list in memory, in TRL's standard and conversational formats, ShareGPT turns, raw
hh-rlhf dialogues, rankings and several annotators' labels. A row that breaks its format is an error, and
all such rows are named in one message. A row that is well-formed and teaches nothing (an empty side, two
identical sides, dialogues without a shared prompt) is left out, counted and named in `Dataset.dropped`.

A raw hh-rlhf dialogue becomes a conversation (human is user), so that the model's own chat template applies.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

from tastemaker.data.convert import FOLLOWS, check, convert
from tastemaker.data.fields import Fields
from tastemaker.data.files import absent, is_known, read_file
from tastemaker.data.formats import (
    FORMATS,
    Format,
    detect,
    extra,
    formats_giving,
    misspelt,
    refuse_media,
    style_of,
    unknown_format,
)
from tastemaker.data.hub import is_hub_name, is_saved_folder, read_folder, read_hub, read_object, rows_sha256
from tastemaker.data.problems import BadRow, DroppedRow, RowError, Unusable, WrongKind, bad_rows_error, nearest
from tastemaker.data.rows import RawRow, RawTable
from tastemaker.types import Comparison, Demonstration, Judgement, Question, Record, StepLabels, TastemakerError

log = logging.getLogger(__name__)

KINDS: tuple[type, ...] = (Demonstration, Comparison, Judgement, StepLabels, Question)
Source = str | Path | RawTable | Iterable[Mapping[str, object] | Record]


@dataclass(frozen=True)
class Dataset:
    """Records of one kind, and what became of every row they were read from."""

    records: tuple[Record, ...]
    kind: type
    source: str
    sha256: str
    """Of the file's bytes; of the rows as JSON where there is no file."""
    format: str
    """In words, e.g. "JSONL, gzipped; preference; dialogue"."""
    rows: int = 0
    """Rows read, the dropped and skipped ones included."""
    dropped: tuple[DroppedRow, ...] = ()
    """Well-formed rows that teach nothing, with the reason."""
    skipped: tuple[BadRow, ...] = ()
    """Rows that break their format, where `max_bad` allowed some."""
    numbers: tuple[int, ...] = ()
    """The number (line, row or index) of the row that each record came from."""

    def __len__(self) -> int:
        return len(self.records)


def read_records(
    source: Source,
    kind: type | None = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_bad: float = 0.0,
) -> Dataset:
    """Reads records of one kind.

    `kind` is the record class wanted; None means the one the format gives. Where the format gives another
    kind and one follows from the other it is converted: comparisons give demonstrations (the best
    response), judgements (one per response) and questions (the prompt). `split` names a split of a data
    set, or a value of the column `split` of a file. `limit` reads the first rows only. `max_bad` is the
    share of rows that may break their format before that is an error.

    Raises TastemakerError: nothing at that path, unknown extension, empty, no known format, no way to
    `kind`, bad rows (file, line, field and reason of each), or no row left.
    """
    if kind is not None and kind not in KINDS:
        raise TastemakerError(
            f"kind: {kind!r} is not a record class. Known: {', '.join(k.__name__ for k in KINDS)}."
        )
    if not 0 <= max_bad <= 1:
        raise TastemakerError(f"max_bad={max_bad}: should be a share between 0 and 1.")
    if limit is not None and limit < 1:
        raise TastemakerError(f"limit={limit}: should be at least 1.")
    if isinstance(source, RawTable):
        raw = source
    elif not isinstance(source, str | Path) and not hasattr(source, "column_names"):
        items = list(source) if limit is None or split is not None else list(islice(source, limit))
        if items and not any(isinstance(item, Mapping) for item in items):
            return _from_objects(items, kind)
        raw = rows_in_memory(items)
    else:
        raw = open_rows(source, split, limit)
    if split is not None and raw.words not in ("hub", "folder saved by datasets", "datasets object"):
        raw = _only_split(raw, split, limit)
    return _read(raw, kind, max_bad)


def _numbered(items: Sequence[object]) -> tuple[RawRow, ...]:
    return tuple(
        RawRow(n, cast(Mapping[str, object], item))
        if isinstance(item, Mapping)
        else RawRow(n, reason=f"not a mapping but a {type(item).__name__}")
        for n, item in enumerate(items)
    )


def rows_in_memory(items: Sequence[object]) -> RawTable:
    """Rows of a list; what is no mapping is a row that breaks its format."""
    rows = [cast(Mapping[str, object], item) for item in items]
    return RawTable(_numbered(items), "rows", rows_sha256(rows), "list", "index")


def open_rows(source: Any, split: str | None = None, limit: int | None = None) -> RawTable:
    """The rows of a file, a folder, a hub name or a `datasets` object, before any format is known of them.

    Raises TastemakerError where nothing can be read there.
    """
    if not isinstance(source, str | Path):
        return read_object(source, split, limit)
    path = Path(source).expanduser()
    if path.is_file():
        return read_file(path, limit if split is None else None)
    if path.is_dir():
        if is_saved_folder(path):
            return read_folder(path, split, limit)
        files = [entry.name for entry in sorted(path.iterdir()) if is_known(entry)]
        held = f"It holds {', '.join(files[:10])}: give one of these" if files else "Give a file"
        raise TastemakerError(f"{path}: not a folder that `datasets.save_to_disk` wrote. {held}.")
    if is_hub_name(str(source)) and not is_known(path) and not path.parent.is_dir():
        return read_hub(str(source), split, limit)
    raise absent(path)


def _only_split(raw: RawTable, split: str, limit: int | None) -> RawTable:
    names = {str(row.values["split"]) for row in raw.rows if row.values is not None and "split" in row.values}
    if split not in names:
        has = f"its column 'split' has {', '.join(sorted(names))}" if names else "it has no column 'split'"
        raise TastemakerError(f"{raw.source}: no split {split!r}: {has}.")
    kept = [row for row in raw.rows if row.values is None or str(row.values.get("split")) == split]
    return replace(raw, rows=tuple(islice(kept, limit)))


# ------------------------------------------------------------------------------- rows to records


def _read(raw: RawTable, kind: type | None, max_bad: float) -> Dataset:
    if not raw.rows:
        raise TastemakerError(f"{raw.source}: holds no rows.")
    found, style = _layout(raw, kind)
    bad: list[BadRow] = []
    dropped: list[DroppedRow] = []
    records: list[Record] = []
    numbers: list[int] = []
    wanted = kind or found.kind
    for row in raw.rows:
        try:
            made = _parse(row, found, style, wanted)
            records += made
            numbers += [row.number] * len(made)
        except RowError as error:
            bad.append(BadRow(raw.where(row.number), error.field, error.reason, row.number))
        except Unusable as unusable:
            name = Fields(row.values or {}, row.number).row
            dropped.append(DroppedRow(name, unusable.reason, unusable.record, row.number))
    if len(bad) > max_bad * len(raw.rows):
        raise bad_rows_error(raw.source, bad, len(raw.rows))
    dataset = Dataset(
        records=tuple(records),
        kind=wanted,
        source=raw.source,
        sha256=raw.sha256,
        format=f"{raw.words}; {found.name}; {style}",
        rows=len(raw.rows),
        dropped=tuple(dropped),
        skipped=tuple(bad),
        numbers=tuple(numbers),
    )
    return _not_empty(dataset, found.kind)


def _not_empty(dataset: Dataset, given: type) -> Dataset:
    if not dataset.records:
        reasons = Counter(d.reason for d in dataset.dropped)
        told = ", ".join(f"{reason}: {n}" for reason, n in reasons.most_common())
        raise TastemakerError(f"{dataset.source}: none of its {dataset.rows} rows can be used ({told}).")
    if dataset.kind is Judgement and given is Comparison:
        good = sum(isinstance(r, Judgement) and r.desirable for r in dataset.records)
        log.info(
            "%s: its %d comparisons are taken apart into %d good and %d bad responses; what each was compared "
            "with is not used",
            dataset.source,
            dataset.rows - len(dataset.dropped) - len(dataset.skipped),
            good,
            len(dataset.records) - good,
        )
    return dataset


def _layout(raw: RawTable, kind: type | None) -> tuple[Format, str]:
    """The format and style most rows have."""
    formats: Counter[str] = Counter()
    styles: Counter[tuple[str, str]] = Counter()
    columns: dict[str, None] = {}
    for row in raw.rows:
        if row.values is None:
            continue
        fields = Fields(row.values, row.number)
        columns |= dict.fromkeys(fields.values)
        found = detect(fields.values)
        if found is not None:
            formats[found.name] += 1
            try:
                styles[found.name, style_of(fields, found)] += 1
            except RowError:
                continue  # told with its line when the row is parsed
    if not formats:
        unreadable = [BadRow(raw.where(r.number), r.field, r.reason) for r in raw.rows if r.values is None]
        if unreadable and not columns:
            raise bad_rows_error(raw.source, unreadable, len(raw.rows))
        raise TastemakerError(f"{raw.source}: {unknown_format(list(columns))}")
    name = formats.most_common(1)[0][0]
    found = next(f for f in FORMATS if f.name == name)
    _require_way(raw.source, found, kind, list(columns))
    own = [(count, style) for (at, style), count in styles.items() if at == name]
    return found, max(own)[1] if own else "plain"


def _require_way(source: str, found: Format, kind: type | None, columns: Sequence[str]) -> None:
    if kind is None or kind is found.kind or found.kind in FOLLOWS[kind]:
        return
    fitting = formats_giving({kind, *FOLLOWS[kind]})
    lines = [
        f"{source}: its columns {', '.join(columns)} are {found.name!r} and give {found.kind.__name__}, "
        f"but {kind.__name__} is wanted. Formats that give {kind.__name__}:"
    ]
    lines += [f"  {f}" for f in fitting]
    raise WrongKind("\n".join(lines), found.kind)


def _parse(row: RawRow, found: Format, style: str, kind: type) -> list[Record]:
    if row.values is None:
        raise RowError(row.field, row.reason)
    fields = Fields(row.values, row.number)
    own = detect(fields.values)
    if own is not found:
        raise _misfit(fields, own, found)
    typo = misspelt(fields.values, found)
    if typo is not None:
        raise RowError(typo[1], f"is missing; did you mean the column {typo[0]!r}?")
    refuse_media(fields)
    records = found.parse(fields)
    _check_style(style_of(fields, found), style, records)
    made: list[Record] = []
    columns = extra(fields, found.known) | ({"answer": fields.values["answer"]} if fields.has("answer") else {})
    if kind is Question:
        records = records[:1]  # several annotators' labels of one prompt ask it once
    for record in records:
        try:
            check(record)
            made += convert(record, kind, columns)
        except Unusable as unusable:
            raise Unusable(unusable.reason, record) from None
    return made


def _misfit(row: Fields, own: Format | None, found: Format) -> RowError:
    missing = found.missing(row.values)
    if own is not None and not (missing and own.lacks_of(found)):
        return RowError("", f"mixed formats: this row is {own.name!r}, most rows are {found.name!r}")
    like = nearest(missing[0], [c for c in row.values if c not in found.known])
    return RowError(missing[0], f"is missing{f'; did you mean the column {like!r}?' if like else ''}")


def _check_style(own: str, style: str, records: Sequence[Record]) -> None:
    if own == style:
        return
    if style == "dialogue" and own == "plain":
        for record in records:
            check(record)
        raise Unusable("not a dialogue", records[0] if records else None)
    raise RowError("", f"mixed formats: this row is {own}, most rows are {style}")


# ---------------------------------------------------------------------------------- records in memory


def _from_objects(items: Sequence[object], kind: type | None) -> Dataset:
    """A list that already holds records."""
    kinds = Counter(type(item) for item in items)
    first = kinds.most_common(1)[0][0]
    wanted = kind or first
    bad: list[BadRow] = []
    dropped: list[DroppedRow] = []
    records: list[Record] = []
    numbers: list[int] = []
    for n, item in enumerate(items):
        if type(item) is not first or first not in KINDS:
            bad.append(BadRow(f"records[{n}]", "", f"is a {type(item).__name__}, most are {first.__name__}"))
            continue
        record = cast(Record, item)
        if not isinstance(record, wanted) and first not in FOLLOWS[wanted]:
            gives = ", ".join(k.__name__ for k in (wanted, *FOLLOWS[wanted]))
            raise WrongKind(
                f"records: these are {first.__name__}; {wanted.__name__} needs one of {gives}.", first
            )
        try:
            check(record)
            columns = dict(record.columns) if isinstance(record, Question) else {}
            made = convert(record, wanted, columns)
            records += made
            numbers += [n] * len(made)
        except Unusable as unusable:
            dropped.append(DroppedRow(record.row or str(n), unusable.reason, record, n))
    if bad:
        raise bad_rows_error("records", bad, len(items))
    digest = rows_sha256([asdict(cast(Any, item)) for item in items])
    return _not_empty(
        Dataset(
            records=tuple(records),
            kind=wanted,
            source="records",
            sha256=digest,
            format="list; records",
            rows=len(items),
            dropped=tuple(dropped),
            numbers=tuple(numbers),
        ),
        first,
    )
