"""From a path to raw rows: which file, which format, which bytes."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from tastemaker.data.jsonrows import parse_json, parse_lines
from tastemaker.data.problems import nearest
from tastemaker.data.rows import RawRow, RawTable
from tastemaker.data.tables import parse_csv, parse_parquet
from tastemaker.errors import TastemakerError

Parser = Callable[[bytes, str], Iterator[RawRow]]

_PARSERS: dict[str, tuple[str, Parser, str]] = {
    ".jsonl": ("JSONL", parse_lines, "line"),
    ".ndjson": ("JSONL", parse_lines, "line"),
    ".json": ("JSON", parse_json, "line"),
    ".csv": ("CSV", parse_csv, "line"),
    ".parquet": ("Parquet", parse_parquet, "row"),
}


def suffix(path: Path) -> str:
    """The file's format: its extension, `.gz` left aside."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def is_known(path: Path) -> bool:
    """Whether the extension is one that can be read."""
    return suffix(path) in _PARSERS


def read_file(path: Path, limit: int | None = None) -> RawTable:
    """Raw rows of a JSONL, JSON, CSV or Parquet file, gzipped or not; the first `limit` of them."""
    if suffix(path) not in _PARSERS:
        known = ", ".join(_PARSERS)
        raise TastemakerError(
            f"{path}: the extension {suffix(path) or 'of this file'!r} is not known. Known: {known}, each also "
            "with .gz. Rename the file after what it holds."
        )
    words, parser, numbering = _PARSERS[suffix(path)]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TastemakerError(f"{path}: cannot be read: {error.strerror or error}.") from error
    digest = hashlib.sha256(data).hexdigest()
    if path.name.lower().endswith(".gz"):
        data, words = _gunzip(data, path), f"{words}, gzipped"
    rows = tuple(islice(parser(data, str(path)), limit))
    return RawTable(rows, str(path), digest, words, numbering)


def _gunzip(data: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise TastemakerError(
            f"{path}: not a whole gzip file: {error}. Fetch it again, or drop .gz from its name if it is plain."
        ) from error


def absent(path: Path) -> TastemakerError:
    """The error for a path where nothing lies, with the nearest name in its folder."""
    folder = path.parent
    if not folder.is_dir():
        return TastemakerError(f"{path}: there is no folder {folder}. Correct the path.")
    like = nearest(path.name, sorted(entry.name for entry in folder.iterdir()))
    hint = f" Nearest in its folder: {folder / like}." if like else ""
    return TastemakerError(
        f"{path}: no such file or folder.{hint} A data set on the hub is written owner/name."
    )
