"""The page of an audit: what is wrong in plain sentences, then the rows, then what the data are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tastemaker.data.writing import plain_cell
from tastemaker.studies.pages import Page, Section
from tastemaker.studies.pages.drawings import forest
from tastemaker.studies.pages.judgements import points, span
from tastemaker.studies.pages.labellers import (
    CHANCE,
    agreement_sentence,
    group_sentences,
    people_section,
    people_sentences,
)
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.written import ABSENT, counted, finite, number

ROWS = 10
"""Rows of a finding on the page; results.csv and results.json hold all."""
COLUMNS = ("finding", "file", "line", "id", "other_file", "other_line", "other_id", "detail")
CLEAR = 20
"""Pairs from which on a habit of the chosen side is worth a sentence."""
MANY = 10


def audit_page(results: Mapping[str, Any]) -> Page:
    """The page of `studies.audit` results."""
    made = [f for f in results["findings"] if f["count"]]
    wrong = [f for f in made if f["weight"] == "wrong"]
    doubtful = [f for f in made if f["weight"] == "doubtful"]
    habits = habit_sentences(results["bias"])
    taste = [*people_sentences(results), *group_sentences(results)]
    broken = [name for name, h in results["limits"].items() if h["broken"]]
    return Page(
        kind="audit",
        title=results["title"],
        headline=headline(results, len(wrong), len(doubtful)),
        sentences=[
            *(f["sentence"] for f in [*wrong, *doubtful][:5]),
            *habits[:1],
            *taste[:1],
            *(agreement_sentence(g) for g in results["groups"] if finite(g["p"]) and g["p"] < CHANCE),
        ],
        facts=facts(results),
        warning=f"Broken limits: {', '.join(broken)}." if broken else "",
        sections=[
            wrong_section(results, [*wrong, *doubtful]),
            *([rows_section(made)] if made else []),
            *([habits_section(results, habits)] if results["bias"] else []),
            *([people_section(results, taste)] if results["people"] else []),
            coverage_section(results),
            writing_section(results),
        ],
        footer="Every number on this page is in results.json beside it, every row that something was found in "
        "also in results.csv.",
        table=(COLUMNS, table_rows(results["findings"])),
    )


def unit(results: Mapping[str, Any]) -> str:
    return "comparisons" if results["kind"] == "Comparison" else "records"


def headline(results: Mapping[str, Any], wrong: int, doubtful: int) -> str:
    """How much is wrong, in one line."""
    these = f"these {number(results['records'], 0)} {unit(results)}"
    more = f"; {counted(doubtful, 'thing')} to look at" if doubtful else ""
    if not wrong:
        return f"Nothing is wrong with {these} that counting can find{more}"
    are = "is" if wrong == 1 else "are"
    return f"{counted(wrong, 'thing')} {are} wrong with {these}{more}"


def facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [
        ("Data", ", ".join(short(s["source"]) for s in results["sources"][:3])),
        ("Rows read", number(results["rows"], 0)),
        (unit(results).capitalize(), number(results["records"], 0)),
        ("Different prompts", number(results["coverage"]["prompts"], 0)),
    ]
    if results["held_out"]:
        found.append(("Held out", ", ".join(short(s["source"]) for s in results["held_out"][:3])))
    people = results["people"]
    if people and people["people"]:
        found.append(("Annotators", number(people["people"], 0)))
    return found


def short(source: str) -> str:
    """A file by its name alone: folders are nobody else's business."""
    return Path(source).name or source


# ------------------------------------------------------------------------------------------- findings


def wrong_section(results: Mapping[str, Any], made: Sequence[Mapping[str, Any]]) -> Section:
    absent = [f["title"].lower() for f in results["findings"] if not f["count"] and f["weight"] != "told"]
    text = [f"Looked for and not found: {'; '.join(absent)}."] if absent else []
    grids: list[Grid] = []
    limits = [(name, h) for name, h in results["limits"].items() if h["limit"] is not None]
    if limits:
        lines = [
            Line([name, points(h["limit"], 2), points(share(h), 2), "broken" if h["broken"] else "holds"])
            for name, h in limits
        ]
        heads = ["limit", "at most, %", "found, %", ""]
        how = "Shares of rows, records, responses or prompts, as the sentences say."
        grids.append(Grid("limits", "Limits", heads, lines, how, ("limits",)))
    said = [f["sentence"] for f in made] or ["Nothing was found."]
    return Section("wrong", "What is wrong", text, grids=grids, list=said)


def share(held: Mapping[str, Any]) -> float:
    return held["count"] / held["of"] if held["of"] else 0.0


def rows_section(made: Sequence[Mapping[str, Any]]) -> Section:
    text = [f"The first {ROWS} rows of each finding; results.csv beside this page lists them all."]
    return Section("rows", "Which rows", text, grids=[finding_grid(f) for f in made])


def finding_grid(finding: Mapping[str, Any]) -> Grid:
    rows = finding["rows"]
    shown = rows[:ROWS]
    more = f", the first {ROWS} of {number(len(rows), 0)}" if len(rows) > ROWS else ""
    others = any("other" in row for row in shown)
    details = any(row.get("detail") for row in shown)
    heads = ["row", *(["earlier row"] if others else []), *(["what"] if details else []), "the prompt begins"]
    lines = [
        Line(
            [
                where(row),
                *([where(row["other"]) if "other" in row else ""] if others else []),
                *([row.get("detail", "")] if details else []),
                row.get("excerpt", ""),
            ],
            note=row["id"],
        )
        for row in shown
    ]
    name = f"rows-{finding['name']}"
    return Grid(
        name, f"{finding['title']}{more}", heads, lines, finding["how"], ("findings[].rows",), prose=True
    )


def where(row: Mapping[str, Any]) -> str:
    """A file's name and the line."""
    return f"{short(row['file'])}:{row['line']}"


def table_rows(findings: Sequence[Mapping[str, Any]]) -> list[list[object]]:
    """Every row of every finding; texts so that no spreadsheet takes them for formulas."""
    made: list[list[object]] = []
    for finding in findings:
        for row in finding["rows"]:
            other = row.get("other", {})
            cells = [finding["name"], row["file"], row["line"], row["id"]]
            cells += [other.get("file", ""), other.get("line", ""), other.get("id", ""), row.get("detail", "")]
            made.append([plain_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    return made


# --------------------------------------------------------------------------------------------- habits


def habit_sentences(bias: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the chosen side tends to be, where the interval says so; length first, then the strongest."""
    clear = [b for b in bias if b["more"] + b["less"] >= CLEAR and (b["low"] > 0.5 or b["high"] < 0.5)]
    return [
        habit_sentence(b) for b in sorted(clear, key=lambda b: (b["name"] != "longer", -abs(b["share"] - 0.5)))
    ]


def habit_sentence(b: Mapping[str, Any]) -> str:
    of = f"{points(b['share'], 0)} % {span(b['low'], b['high'], 0)} of {number(b['more'] + b['less'], 0)} pairs"
    if b["name"] == "longer":
        rule = "longer" if b["share"] > 0.5 else "shorter"
        right = points(max(b["share"], 1 - b["share"]), 0)
        return (
            f"The chosen response is the longer one in {of} of unequal length: always to choose the {rule} one "
            f"would be right in {right} %."
        )
    if b["name"] == "shown first":
        return f"The chosen response was shown first in {of}."
    return f"Where one response {b['words']} and the other not, it is the chosen one in {of}."


def habits_section(results: Mapping[str, Any], said: Sequence[str]) -> Section:
    bias = sorted(results["bias"], key=lambda b: -(b["more"] + b["less"]))
    bars = [(b["words"], b["share"], b["low"], b["high"]) for b in bias if b["more"] + b["less"] >= CLEAR]
    words = "Of pairs where one side has it, how often the chosen one has, with 95% intervals"
    lines = [
        Line(
            [
                b["words"],
                points(b["share"], 1),
                span(b["low"], b["high"]),
                number(b["more"], 0),
                number(b["less"], 0),
                number(b["responses"], 0) if finite(b["responses"]) else ABSENT,
            ]
        )
        for b in bias
    ]
    lengths = [
        Line([side, *(number(t[k], 0) for k in ("mean", "p50", "p95", "max"))])
        for side, t in results["lengths"].items()
    ]
    how = (
        "Pairs where both sides or neither have it are left out. Intervals take prompts as their unit "
        "(Wilson's with the effective number of pairs). 50 % would be no habit. A habit may be taste: it is "
        "what a reward model learns without reading."
    )
    heads = ["the chosen response", "share, %", "95% interval", "chosen", "rejected", "responses that have it"]
    return Section(
        "habits",
        "What chosen responses have in common",
        list=said or ["No habit of the chosen side stands out of the noise."],
        pictures=[(forest("habits", words, bars, middle=0.5), words + ".")] if bars else [],
        grids=[
            Grid("habits-table", "Habits", heads, lines, how, ("bias",)),
            Grid(
                "lengths",
                "Lengths in characters",
                ["text", "mean", "median", "95th percentile", "longest"],
                lengths,
                "White space at the ends aside; of conversations what the assistant says.",
                ("lengths",),
            ),
        ],
    )


# ----------------------------------------------------------------------------------- prompts, writing


def coverage_section(results: Mapping[str, Any]) -> Section:
    c = results["coverage"]
    spread = (
        "each is in one record."
        if c["per_prompt"]["max"] == 1
        else f"{number(c['per_prompt']['mean'], 1)} records each on average, "
        f"{number(c['per_prompt']['max'], 0)} at most; spread as over "
        f"{number(c['effective_prompts'], 0)} prompts with equally many records."
    )
    said = [
        f"{number(c['prompts'], 0)} different prompts, {spread}",
        f"{number(c['near_prompts'], 0)} of them are nearly another one; "
        f"{number(c['several_turns'], 0)} records have several user turns.",
        f"They begin in {number(c['different_openings'], 0)} different ways, counting two words.",
    ]
    openings = [
        Line([o["words"], number(o["prompts"], 0), points(o["share"], 1)]) for o in c["openings"][:MANY]
    ]
    grids = [
        Grid(
            "openings",
            "How prompts begin",
            ["first two words", "prompts", "share, %"],
            openings,
            "Of the user's last turn, the most frequent ones.",
            ("coverage.openings",),
        )
    ]
    if c["most"]:
        most = [Line([m["excerpt"], number(m["records"], 0)]) for m in c["most"][:MANY]]
        how = "The prompts that most records have."
        grids.append(
            Grid("most", "Prompts that come again", ["prompt", "records"], most, how, ("coverage.most",))
        )
    return Section("prompts", "What is asked", list=said, grids=grids)


def writing_section(results: Mapping[str, Any]) -> Section:
    grids = [
        mix_grid(name, results[name], how)
        for name, how in (
            (
                "languages",
                "Guessed by frequent small words and by script; not clear: too few, or of several languages.",
            ),
            ("scripts", "Of the most letters of a text; Kana stands for Japanese with its Han."),
        )
    ]
    return Section("writing", "Languages and scripts", grids=grids)


def mix_grid(name: str, found: Mapping[str, Mapping[str, int]], how: str) -> Grid:
    totals = {what: sum(n.values()) for what, n in found.items()}
    names = sorted(
        {n for counts in found.values() for n in counts},
        key=lambda n: (-sum(counts.get(n, 0) for counts in found.values()), n),
    )
    lines = [
        Line(
            [
                n,
                *(
                    f"{number(found[what].get(n, 0), 0)} ({points(found[what].get(n, 0) / totals[what], 1)} %)"
                    for what in found
                ),
            ]
        )
        for n in names[:MANY]
    ]
    return Grid(name, name.capitalize(), [name[:-1], *(f"{what}s" for what in found)], lines, how, (name,))
