"""Rows into what `read_records` takes: JSONL, JSON, CSV, Parquet, and folders as `datasets` saves them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tastemaker.data.files import suffix
from tastemaker.data.hub import is_saved_folder, read_folder
from tastemaker.data.writing import RISKY, plain_cell
from tastemaker.errors import TastemakerError
from tastemaker.runs import sha256_file
from tastemaker.runs.files import TEMPORARY, sync_folder, unwritable, write_atomic

Rows = Sequence[Mapping[str, Any]]
_SIDES = ("chosen", "rejected", "completion")


def endings() -> str:
    """What a path may end in, in words."""
    return (
        f"{', '.join(_ENCODERS)} (.gz too, but for .parquet), or in nothing for a folder that `datasets` reads"
    )


def is_writable_name(path: Path) -> bool:
    """Whether rows can be written under that name."""
    own = suffix(path)
    return path.suffix == "" or (own in _ENCODERS and not path.name.endswith(".parquet.gz"))


def write_rows(path: Path, rows: Rows) -> str:
    """Writes rows whole or not at all and returns the SHA-256 by which `read_records` knows what it read.

    The ending says the format; a path without one becomes a folder for `datasets.load_from_disk`. Columns that
    a row lacks are null in tables and in folders. Raises TastemakerError: another ending, a folder that is
    something else, values of a column that do not go together, a place that cannot be written.
    """
    if not is_writable_name(path):
        raise TastemakerError(f"{path}: labels are written as {endings()}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    if path.suffix == "":
        _write_folder(path, rows)
        return read_folder(path, None, None).sha256
    data = _ENCODERS[suffix(path)](rows)
    write_atomic(path, gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)
    return sha256_file(path)


def remove_rows(path: Path) -> None:
    """Removes what `write_rows` wrote; nothing where nothing is."""
    if path.is_dir():
        if not is_saved_folder(path):
            raise TastemakerError(f"{path}: is not a folder of labels any more. Remove it yourself.")
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def alike(rows: Rows) -> list[dict[str, Any]]:
    """The rows in one format and one style, as one file must be: where some rank several responses all do, and
    where some are conversations all are.
    """
    made = [dict(row) for row in rows]
    if any("responses" in row for row in made):
        made = [_ranked(row) if "chosen" in row else row for row in made]
    chats = any(isinstance(text, list) for row in made for text in _texts(row))
    return [_as_chat(row) for row in made] if chats else made


def _texts(row: Mapping[str, Any]) -> list[Any]:
    return [*(row[k] for k in ("prompt", *_SIDES) if k in row), *row.get("responses", ())]


def _ranked(row: dict[str, Any]) -> dict[str, Any]:
    """A pair as a ranking of two."""
    rest = {k: v for k, v in row.items() if k not in ("prompt", "chosen", "rejected", "tie")}
    both = {"responses": [row["chosen"], row["rejected"]], "ranking": [0, 0 if row.get("tie") else 1]}
    return {"prompt": row["prompt"], **both, **rest}


def _as_chat(row: dict[str, Any]) -> dict[str, Any]:
    def chat(text: Any, role: str) -> Any:
        return [{"role": role, "content": text}] if isinstance(text, str) else text

    made = {k: chat(v, "assistant") if k in _SIDES else v for k, v in row.items()}
    made["prompt"] = chat(row["prompt"], "user")
    if "responses" in row:
        made["responses"] = [chat(r, "assistant") for r in row["responses"]]
    return made


# --------------------------------------------------------------------------------------------- formats


def _to_jsonl(rows: Rows) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()


def _to_json(rows: Rows) -> bytes:
    """One array, a row a line."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    return ("[" + ",\n".join(lines) + "]\n").encode()


def _to_csv(rows: Rows) -> bytes:
    """A table whose cells no spreadsheet takes for formulas: those get a leading apostrophe."""
    columns = _columns(rows)
    out = io.StringIO(newline="")
    table = csv.writer(out)
    table.writerow(columns)
    for row in rows:
        table.writerow([_cell(row.get(name)) for name in columns])
    return out.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return plain_cell(value)
    # A number is a number, whatever sign it begins with.
    text = json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(RISKY[4:]) else text


def _to_parquet(rows: Rows) -> bytes:
    import pyarrow.parquet as pq  # takes long to import

    out = io.BytesIO()
    pq.write_table(_table(rows), out)
    return out.getvalue()


_ENCODERS: Mapping[str, Callable[[Rows], bytes]] = {
    ".jsonl": _to_jsonl,
    ".json": _to_json,
    ".csv": _to_csv,
    ".parquet": _to_parquet,
}


def _columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _table(rows: Rows) -> Any:
    """An Arrow table; raises TastemakerError where the values of a column are of different types."""
    import pyarrow as pa

    arrays: dict[str, Any] = {}
    for name in _columns(rows):
        try:
            arrays[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise TastemakerError(
                f"column {name}: its values do not go together in a table: {error}. Write .jsonl."
            ) from error
    return pa.table(arrays)


def _write_folder(path: Path, rows: Rows) -> None:
    """A folder in place of the one that was there, never half of one."""
    import datasets  # half a second, and rarely needed

    if path.exists() and not is_saved_folder(path) and not (path.is_dir() and not any(path.iterdir())):
        raise TastemakerError(
            f"{path}: is there already and no folder that `datasets` saved. Give another name."
        )
    made, old = (path.with_name(f"{TEMPORARY}{path.name}{end}") for end in ("", "-old"))
    table = _table(rows)
    shown = datasets.is_progress_bar_enabled()
    try:
        for left in (made, old):
            shutil.rmtree(left, ignore_errors=True)
        datasets.disable_progress_bars()
        datasets.Dataset(table).save_to_disk(str(made))
        if path.exists():
            path.rename(old)
        made.rename(path)
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if shown:
            datasets.enable_progress_bars()
