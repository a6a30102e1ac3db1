"""Records to disk, in the column names that `read_records` and TRL take."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

from tastemaker.data.dialogue import turns
from tastemaker.types import Comparison, Demonstration, Judgement, Question, Record, TastemakerError, Text

RISKY = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a cell for a formula."""
PAIRS = ((0, 1), (0, 0))
"""Rankings that are written as chosen and rejected."""


def to_row(record: Record, *, ranked: bool = False) -> dict[str, object]:
    """A record as one JSON object; `read_records` gives the same record back. Pairs are chosen and
    rejected, and a `tie` where neither is better; with `ranked`, or in another order, responses and ranking.
    """
    row = _columns(record, ranked)
    if record.row:
        row["id"] = record.row
    return row


def _columns(record: Record, ranked: bool) -> dict[str, object]:
    chat = not isinstance(record.prompt, str)
    if isinstance(record, Demonstration):
        if record.prompt == "" and isinstance(record.response, str):
            return {"text": record.response}
        return {"prompt": _text(record.prompt), "completion": _text(record.response, chat)}
    if isinstance(record, Comparison):
        return _comparison(record, chat, ranked)
    if isinstance(record, Judgement):
        response = _text(record.response, chat)
        row = {"prompt": _text(record.prompt), "completion": response, "label": record.desirable}
        return row if record.weight == 1 else {**row, "weight": record.weight}
    if isinstance(record, Question):
        answer = {} if record.answer is None else {"answer": record.answer}
        return {"prompt": _text(record.prompt), **answer, **record.columns}
    return {"prompt": _text(record.prompt), "completions": list(record.steps), "labels": list(record.labels)}


def _comparison(record: Comparison, chat: bool, ranked: bool) -> dict[str, object]:
    row: dict[str, object] = {"prompt": _text(record.prompt)}
    responses = [_text(r, chat) for r in record.responses]
    if record.ranking in PAIRS and not ranked:
        row |= {"chosen": responses[0], "rejected": responses[1]}
        row |= {} if record.ranking == (0, 1) else {"tie": True}
    else:
        row |= {"responses": responses, "ranking": list(record.ranking)}
    if record.strength is not None:
        row["margin"] = record.strength
    row |= {k: v for k in ("objective", "source", "annotator", "when") if (v := getattr(record, k))}
    if record.shown_order is not None:
        row["shown_order"] = list(record.shown_order)
    if record.weight != 1:
        row["weight"] = record.weight
    return row


def _text(text: Text, chat: bool = False) -> object:
    if isinstance(text, str) and not chat:
        return text
    return [{"role": m.role, "content": m.content} for m in turns(text, "assistant")]


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Writes JSON Lines (gzipped where the name ends in .gz), the same bytes for the same records."""
    path, records = Path(path), list(records)
    # One file keeps to one format: a pair in another order makes rankings of all.
    ranked = any(isinstance(r, Comparison) and r.ranking not in PAIRS for r in records)
    rows = (to_row(r, ranked=ranked) for r in records)
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    data = text.encode()
    if path.name.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise TastemakerError(f"{path}: cannot be written: {error.strerror or error}.") from error


def plain_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: those get a leading apostrophe."""
    return f"'{text}" if text.lstrip(" ").startswith(RISKY) else text
