"""Data sets of the `datasets` library: folders saved by `save_to_disk`, and names on the hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tastemaker.data.problems import nearest
from tastemaker.data.rows import RawRow, RawTable
from tastemaker.errors import TastemakerError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?::[\w.-]+)?")


def is_saved_folder(path: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def saved_splits(path: Path) -> list[str]:
    """The splits of a folder that `datasets.save_to_disk` wrote; none where it holds a single table."""
    told = path / "dataset_dict.json"
    if not told.is_file():
        return []
    try:
        return [str(name) for name in json.loads(told.read_text("utf-8"))["splits"]]
    except (ValueError, KeyError, TypeError) as error:
        raise TastemakerError(f"{told}: not what `datasets` writes: {error}") from error


def is_hub_name(source: str) -> bool:
    """Whether `source` reads as owner/name or owner/name:configuration."""
    return _HUB_NAME.fullmatch(source) is not None


def rows_sha256(rows: list[Mapping[str, object]]) -> str:
    """SHA-256 of rows as JSON with sorted keys, one a line."""
    digest = hashlib.sha256()
    for row in rows:
        text = json.dumps(row, sort_keys=True, default=str)
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def read_folder(path: Path, split: str | None, limit: int | None) -> RawTable:
    """Rows of a folder saved by `datasets`. Of several splits, `split` or else "train" is read."""
    import datasets  # half a second, and rarely needed
    from datasets.exceptions import DatasetsError

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        raise TastemakerError(f"{path}: `datasets` cannot read this folder: {error}") from error
    return _table(loaded, str(path), split, limit, "folder saved by datasets")


def read_hub(name: str, split: str | None, limit: int | None) -> RawTable:
    """Rows of a data set on the hub, by `owner/name` or `owner/name:configuration`."""
    import datasets
    from datasets.exceptions import DatasetsError

    path, _, configuration = name.partition(":")
    try:
        loaded = datasets.load_dataset(path, configuration or None)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise TastemakerError(
            f"{name}: there is no such local path, and the data set could not be had from the hub: {reason} "
            "Check the spelling and the connection, or give the path of a local file. A data set with several "
            "configurations is written owner/name:configuration."
        ) from error
    return _table(loaded, name, split, limit, "hub")


def read_object(loaded: Any, split: str | None, limit: int | None) -> RawTable:
    """Rows of a `datasets.Dataset` or `DatasetDict` that is already in memory."""
    return _table(loaded, "dataset", split, limit, "datasets object")


def _table(loaded: Any, source: str, split: str | None, limit: int | None, words: str) -> RawTable:
    if isinstance(loaded, Mapping):
        loaded = cast(Any, loaded)[_choose(source, [str(k) for k in cast(Any, loaded)], split)]
    elif split is not None and split != str(getattr(loaded, "split", None) or split):
        raise TastemakerError(f"{source}: this is the split {loaded.split}, not {split!r}.")
    if limit is not None:
        loaded = loaded.select(range(min(limit, len(loaded))))
    rows = [cast(dict[str, object], row) for row in loaded]
    numbered = tuple(RawRow(n, row) for n, row in enumerate(rows, start=1))
    return RawTable(numbered, source, rows_sha256(cast(list[Mapping[str, object]], rows)), words, "row")


def _choose(source: str, names: list[str], split: str | None) -> str:
    if split is not None and split in names:
        return split
    if split is None and len(names) == 1:
        return names[0]
    if split is None and "train" in names:
        return "train"
    like = nearest(split or "", names)
    hint = f" Did you mean {like!r}?" if like else ""
    asked = f"no split {split!r}" if split else "several splits and none called 'train'"
    raise TastemakerError(f"{source}: {asked}; it has {', '.join(names)}.{hint} Give one as split.")
