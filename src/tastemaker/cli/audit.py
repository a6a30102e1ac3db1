"""`tastemaker audit`: what is wrong with a preference set, in words, with every row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from tastemaker.cli.catalogue import Option
from tastemaker.cli.command import Command
from tastemaker.cli.help import console
from tastemaker.cli.layers import Request, UsageError

if TYPE_CHECKING:
    from tastemaker.data.rows import RawTable

FILES = 64


def _limit(name: str, text: str) -> Option:
    return Option(name, float | None, "none", text, "limits")


OPTIONS = (
    Option("test", list[str], "none", "Held-out data, which should share no prompt with these.", "audit"),
    Option("labels", str | None, "none", "Audit a project of this store of labels in place of files.", "audit"),
    Option("project", str | None, "none", "The project of --labels.", "audit"),
    Option("names", bool, "false", "With --labels: annotators by name; pseudonyms otherwise.", "audit"),
    Option("group", list[str], "none", "Columns that say which group a label's annotator belongs to.", "audit"),
    Option("groups", str | None, "none", "File with a row for each annotator: annotator, age, ...", "audit"),
    Option(
        "near", float, "0.8", "Share of word triples in common from which on texts are near copies.", "audit"
    ),
    Option("max_bad", float, "0", "Share of rows that may break their format; they are counted.", "audit"),
    Option("out", str, "audit", "Folder for report.html, results.json and results.csv.", "audit"),
    Option("json", bool, "false", "Print the results as JSON.", "audit"),
    Option("strict", bool, "false", "The limits marked * are 0 unless given.", "limits"),
    _limit("max_dropped", "* Share of rows that training cannot use."),
    _limit("max_duplicates", "* Share of records that repeat an earlier one."),
    _limit("max_contradictory", "* Share of records that say the opposite of an earlier one."),
    _limit("max_cycles", "* Share of prompts whose responses are preferred in a ring."),
    _limit("max_leaked", "* Share of held-out records whose prompt is in the data."),
    _limit("max_near_leaked", "* Share of held-out records whose prompt is nearly one of the data."),
    _limit("max_near_duplicates", "Share of records that are nearly an earlier one."),
    _limit("max_alike", "Share of pairs whose two sides are nearly the same."),
    _limit("max_cut_off", "Share of responses that look cut off."),
)


def _audit(request: Request) -> None:
    values = request.values
    _check(request)
    from tastemaker.data.audit import LIMITS, SIMILARITY
    from tastemaker.studies.audit import audit

    sources: list[Any] = list(request.words)
    title = ""
    if values.get("labels"):
        title = values["project"]
        sources = [_stored(values)]
    with console(errors=True).status("reading"):
        results, page = audit(
            sources,
            Path(values.get("out", "audit")),
            tests=values.get("test") or (),
            similarity=values.get("near", SIMILARITY),
            group=values.get("group") or (),
            groups=values.get("groups"),
            max_bad=values.get("max_bad", 0.0),
            limits={name: values.get(name) for name in LIMITS},
            strict=values.get("strict", False),
            title=title,
        )
    out = console()
    if values.get("json"):
        out.print(Text(json.dumps(results, indent=2)), soft_wrap=True)
    else:
        _show(results, page)
    _enforce(results, values)


def _check(request: Request) -> None:
    values = request.values
    stored = values.get("labels")
    if bool(request.words) == bool(stored):
        raise UsageError(
            "give files to audit, or --labels and --project" if not stored else "files or --labels?"
        )
    if bool(stored) != bool(values.get("project")):
        raise UsageError("--labels and --project go together")
    if values.get("names") and not stored:
        raise UsageError("--names: files hold the names they hold; it is for --labels")
    shares = {name: v for name, v in values.items() if name.startswith("max_") and v is not None}
    wrong = [
        f"--{n.replace('_', '-')} {v:g}: should be between 0 and 1"
        for n, v in shares.items()
        if not 0 <= v <= 1
    ]
    near = values.get("near", 0.8)
    if not 0 < near <= 1:
        wrong.append(f"--near {near:g}: should be above 0 and at most 1")
    if wrong:
        raise UsageError("\n".join(wrong))


def _stored(values: Mapping[str, Any]) -> RawTable:
    """A project's labels as rows, as `labels export` would write them."""
    from tastemaker.data.sources import rows_in_memory

    try:
        from tastemaker.feedback.exporting import ExportOptions, project_rows
        from tastemaker.feedback.store import Store
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: pip install 'tastemaker[studio]'") from error
    where = str(values["labels"])
    if "://" not in where and not Path(where).is_file():
        raise UsageError(f"--labels {where}: there is no such store")
    store = Store.open(where)
    try:
        rows = project_rows(store, values["project"], ExportOptions(names=values.get("names", False)))
    finally:
        store.close()
    return replace(rows_in_memory(rows), source=str(values["project"]))


def _said(text: str) -> Text:
    """Fit to print: spaces between thousands are plain ones, whatever is in names and ids stays visible."""
    from tastemaker.data import visible

    return Text(visible(text.replace("\u202f", " ")))


def _show(results: Mapping[str, Any], page: Path) -> None:
    """What the page says first, and where it is."""
    from tastemaker.studies.pages.audit import audit_page, habit_sentences, where
    from tastemaker.studies.pages.labellers import group_sentences, people_sentences

    out = console()
    out.print(_said(audit_page(results).headline), style="bold", soft_wrap=True)
    for finding in results["findings"]:
        if finding["count"]:
            first = ", ".join(where(row) for row in finding["rows"][:3])
            more = ", ..." if len(finding["rows"]) > 3 else ""
            out.print(_said(f"- {finding['sentence']}"), soft_wrap=True)
            out.print(_said(f"  {first}{more}"), style="dim", soft_wrap=True)
    for sentence in [*habit_sentences(results["bias"]), *people_sentences(results), *group_sentences(results)]:
        out.print(_said(f"- {sentence}"), soft_wrap=True)
    out.print(Text(f"report   {page}"), soft_wrap=True)
    out.print(Text(f"rows     {page.parent / 'results.csv'}"), soft_wrap=True)
    out.print(Text(f"numbers  {page.parent / 'results.json'}"), soft_wrap=True)


def _enforce(results: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raises TastemakerError where a limit is broken, so that the command ends with exit code 1."""
    from tastemaker.data import visible
    from tastemaker.data.audit import LIMITS
    from tastemaker.errors import TastemakerError

    idle = [name for name in LIMITS if values.get(name) is not None and name not in results["limits"]]
    if idle:
        raise UsageError(f"{', '.join(idle)}: nothing to hold it against (held-out data come with --test)")
    name = visible(results["title"])
    broken = [
        f"{name}: {h['count']:,} of {h['of']:,} is more than {limit}={h['limit']:.4g} allows."
        for limit, h in results["limits"].items()
        if h["broken"]
    ]
    if broken:
        raise TastemakerError(
            "\n".join([*broken, "Mend or remove the rows in results.csv, or raise the limits."])
        )


AUDIT = Command(
    name="audit",
    summary="Says what is wrong with a preference set: repeats, contradictions, leakage, habits, whose taste.",
    usage="DATA... [--test OTHER] [--group COLUMN] [--strict]  |  --labels labels.db --project P",
    examples=(
        "tastemaker audit pairs.jsonl --test test.jsonl",
        "tastemaker audit pairs.jsonl --strict --max-cut-off 0.05",
        "tastemaker audit --labels labels.db --project taste --names --groups people.csv",
    ),
    options=lambda: OPTIONS,
    act=_audit,
    words=FILES,
    notes=(
        "A limit that is broken ends the command with exit code 1, after the page is written.",
        "What a run would be trained on, in tokens, is told by `tastemaker receipt`.",
    ),
)
