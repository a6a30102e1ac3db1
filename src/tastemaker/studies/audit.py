"""The audit of a preference set and what it leaves behind: a page, a table of every row found, the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tastemaker.data.audit import (
    SIMILARITY,
    audit_preferences,
    held_against,
    other_splits,
    read_groups,
    read_part,
)
from tastemaker.studies.pages import write_page
from tastemaker.studies.pages.audit import audit_page

GROUP = "group"
"""The column that says so in exports of the store."""


def audit(
    sources: Sequence[Any],
    out: str | Path,
    *,
    tests: Sequence[Any] = (),
    similarity: float = SIMILARITY,
    group: Sequence[str] = (),
    groups: str | Path | None = None,
    max_bad: float = 0.0,
    limits: Mapping[str, float | None] | None = None,
    strict: bool = False,
    title: str = "",
) -> tuple[dict[str, Any], Path]:
    """Audits `sources` (anything that `read_records` reads) as one preference set: (results, page).

    `tests` are held-out data, which should share no prompt with them; of a folder that `datasets` saved the
    splits beside "train" are held out too. `similarity` is the share of word triples in common from which on
    texts count as near copies. `group` names columns that say which group a label's annotator belongs to (the
    column `group` is one without asking), `groups` a file with a row for each annotator. `limits` are shares by
    name (see `data.audit.LIMITS`), with `strict` 0 for those that nobody doubts; whether they hold stands in
    the results, for the caller to act on.

    Writes report.html, results.json and results.csv (every row of every finding) into `out`. Raises
    TastemakerError for data that cannot be read, groups that nobody belongs to, or a folder that cannot be
    written.
    """
    parts = [read_part(source, columns=(*group, GROUP), max_bad=max_bad) for source in sources]
    own = any(GROUP in values for part in parts for rows in part.columns.values() for values in rows)
    columns = tuple(dict.fromkeys((*group, *((GROUP,) if own else ()))))
    held_out = [read_part(source, max_bad=max_bad) for source in tests]
    for source in sources:
        held_out += [read_part(source, split=name, max_bad=max_bad) for name in other_splits(source)]
    found = audit_preferences(
        parts,
        held_out,
        similarity=similarity,
        columns=columns,
        groups=read_groups(groups) if groups is not None else None,
    )
    held = held_against(found.findings, limits or {}, strict)
    results: dict[str, Any] = {
        "title": title or named(parts[0].dataset.source, len(parts)),
        **found.to_json(),
        "limits": {name: h.to_json() for name, h in held.items()},
    }
    return results, write_page(Path(out), audit_page(results), results)


def named(source: str, count: int) -> str:
    """A set of files by the first one's name."""
    return Path(source).name + (f" and {count - 1} more" if count > 1 else "")
