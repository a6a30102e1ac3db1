"""The page of policies on prompts: scores, win rates, behaviour, and some answers to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tastemaker.evaluation.town_behaviours import BEHAVIOURS
from tastemaker.studies.pages import Page, Section
from tastemaker.studies.pages.drawings import forest
from tastemaker.studies.pages.judgements import (
    COLUMNS,
    battle_headline,
    battle_sections,
    battle_sentences,
    points,
    span,
    table_rows,
)
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.written import ABSENT, counted, number


def policies_page(results: Mapping[str, Any]) -> Page:
    policies, battles = results["policies"], results["battles"]
    sections = [score_section(policies)] if "score" in policies[0] else []
    if battles:
        sections += battle_sections(battles)
    sections.append(behaviour_section(results))
    sections.append(sample_section(results["samples"]))
    if results["notes"]:
        sections.append(Section("notes", "To know", list=list(results["notes"])))
    proxy = results["judge"]["kind"] != "gold"
    warning = (
        f"Judged by {results['judge']['name']}: a proxy for what people want. What it overlooks is "
        f"overlooked here."
        if proxy
        else ""
    )
    return Page(
        kind="evaluation",
        title=results["title"],
        headline=battle_headline(battles) if battles else alone_headline(policies[0]),
        sentences=battle_sentences(battles) if battles else [],
        facts=[
            ("Prompts", str(results["source"])),
            ("Answered", number(len_of(policies[0]), 0)),
            ("Judge", results["judge"]["name"]),
            ("Temperature", number(results["temperature"], 1)),
            ("Seed", str(results["seed"])),
        ],
        sections=sections,
        warning=warning,
        table=csv_table(results),
    )


def csv_table(results: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """Win rates where runs are compared, and the mean of everything counted for each policy."""
    names = [k for k, v in results["policies"][0].items() if isinstance(v, Mapping)]
    heads = ["model", *(f"{n}_{k}" for n in names for k in ("mean", "low", "high"))]
    rates = {str(r[0]): r[1:] for r in table_rows(results["battles"])} if results["battles"] else {}
    rows: list[list[object]] = []
    for policy in results["policies"]:
        row: list[object] = [policy["name"]]
        row += [policy[n][k] for n in names for k in ("mean", "low", "high")]
        rows.append(row + list(rates.get(policy["name"], [None] * (len(COLUMNS) - 1))))
    return [*heads, *COLUMNS[1:]], rows


def len_of(policy: Mapping[str, Any]) -> int:
    return policy["tokens"]["n"]


def alone_headline(policy: Mapping[str, Any]) -> str:
    if "score" not in policy:
        return f"{policy['name']} answered {counted(len_of(policy), 'prompt')}"
    score = policy["score"]
    return f"{policy['name']} scores {number(score['mean'])} {span(score['low'], score['high'], 2, 1)}"


def score_section(policies: Sequence[Mapping[str, Any]]) -> Section:
    words = "Mean score with 95% intervals over prompts"
    bars = [(p["name"], p["score"]["mean"], p["score"]["low"], p["score"]["high"]) for p in policies]
    heads = [
        "policy",
        "score",
        "95% interval",
        "tokens",
        "repetition, %",
        "diversity, %",
        "ended, %",
        "same answer, %",
    ]
    lines = [
        Line(
            [
                p["name"],
                number(p["score"]["mean"]),
                span(p["score"]["low"], p["score"]["high"], 2, 1),
                number(p["tokens"]["mean"], 1),
                points(p["repetition"]["mean"], 1),
                points(p["diversity"]["mean"], 1) if "diversity" in p else ABSENT,
                points(p["ended"]["mean"], 1),
                points(p["repeated_whole"], 1),
            ]
        )
        for p in policies
    ]
    how = (
        "Repetition: runs of three tokens that occurred before in the same answer. Diversity: how different "
        "two samples to a prompt are. Same answer: prompts that got the commonest answer, word for word."
    )
    middle = sum(b[1] for b in bars) / len(bars)
    figure = forest("scores", words, bars, middle=middle, percent=False)
    grid = Grid("scores-table", "Scores and form", heads, lines, how, ("policies",))
    return Section("scores", "Scores", pictures=[(figure, words + "; the line is their mean.")], grids=[grid])


def behaviour_section(results: Mapping[str, Any]) -> Section:
    found = results["behaviour"]
    names = [p["name"] for p in results["policies"]]
    if found["exact"]:
        lines = [
            Line([what, *(rate_cell(found["policies"][n][key]) for n in names)])
            for key, what in BEHAVIOURS.items()
            if any(found["policies"][n][key]["n"] for n in names)
        ]
        how = "Exact: the town's gold reward reads every answer. Per cent, Wilson's 95% interval, prompts."
        grid = Grid("behaviour-table", "Behaviour", ["share", *names], lines, how, ("behaviour",))
        more = [judge_grid(found["judged"], names)] if found["judged"] else []
        return Section("behaviour", "Behaviour", grids=[grid, detector_grid(found["detectors"]), *more])
    groups = [row["group"] for row in found["refusal"][names[0]]]
    lines = [
        Line([f"{what}: {group}", *(detected_cell(found[key][n][i]) for n in names)])
        for key, what in (("refusal", "refused"), ("does_not_know", "'I do not know'"))
        for i, group in enumerate(groups)
    ]
    how = (
        f"By phrases. The refusal detector {found['detector']}; in parentheses the rate that people would see "
        "by those errors."
    )
    grid = Grid("behaviour-table", "Refusals and ignorance", ["share", *names], lines, how, ("behaviour",))
    grids = [grid] if not any(found["tried"].values()) else [grid, tried_grid(found["tried"], names)]
    grids += [judge_grid(found["judged"], names)] if found["judged"] else []
    return Section("behaviour", "Behaviour", grids=grids)


def judge_grid(judged: Mapping[str, Any], names: Sequence[str]) -> Grid:
    """Refusals as an AI judge tells them."""
    rates = judged["rates"]
    lines = [
        Line([f"refused: {row['group']}", *(detected_cell(rates[n][i]) for n in names)])
        for i, row in enumerate(rates[names[0]])
    ]
    unread = sum(judged["unread"].values())
    error = (
        f"It {judged['errors']}; in parentheses the rate by those errors."
        if judged["errors"]
        else ("Its error was not measured: give --labelled FILE with answers that people labelled.")
    )
    how = f"By {judged['name']}. {error} Verdicts that could not be read: {unread}."
    return Grid("judge-table", "Refusals by a judge", ["share", *names], lines, how, ("behaviour", "judged"))


def detector_grid(detectors: Sequence[Mapping[str, Any]]) -> Grid:
    """Where the truth is exact, what the detectors that other prompts are left with would have said."""
    lines = [
        Line(
            [
                d["name"],
                number(d["doing"], 0),
                points(d["sensitivity"], 0),
                number(d["not_doing"], 0),
                points(d["specificity"], 0),
            ]
        )
        for d in detectors
    ]
    heads = ["the answer ...", "it does", "found, %", "it does not", "left alone, %"]
    how = (
        "Detectors by phrases, which other prompts are left with, against the exact reading of these answers "
        "of all policies. This is their error on the town; on real text it is another."
    )
    return Grid("detectors-table", "Detectors put to the test", heads, lines, how, ("behaviour", "detectors"))


def tried_grid(tried: Mapping[str, Sequence[Mapping[str, Any]]], names: Sequence[str]) -> Grid:
    """What the prompts' columns say that they try."""
    rows = {r["what"]: r for n in names for r in tried[n]}
    lines: list[Line] = []
    for what, row in rows.items():
        cells = [next((r for r in tried[n] if r["what"] == what), None) for n in names]
        lines.append(Line([what, *(tried_cell(c) for c in cells), str(row["detector"])]))
    how = (
        "Per cent, Wilson's 95% interval, prompts where it could be told (and where it could not). Detected by "
        "phrases whose errors stand beside each."
    )
    heads = ["share", *names, "detector"]
    return Grid("tried-table", "What the prompts try", heads, lines, how, ("behaviour", "tried"), prose=True)


def tried_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ABSENT
    unread = f", {row['unread']} unread" if row["unread"] else ""
    return f"{rate_cell(row)}{unread}"


def rate_cell(cell: Mapping[str, Any]) -> str:
    if not cell["n"]:
        return ABSENT
    return f"{points(cell['rate'], 0)} {span(cell['low'], cell['high'], 0)} ({cell['n']})"


def detected_cell(cell: Mapping[str, Any]) -> str:
    corrected = points(cell["corrected"], 0)
    said = f"{points(cell['rate'], 1)} ± {points(cell['se'], 1)}"
    return said if corrected == ABSENT else f"{said} ({corrected})"


def sample_section(samples: Sequence[Mapping[str, Any]]) -> Section:
    names = list(samples[0]["answers"])
    lines = [Line([s["prompt"], *(s["answers"][n] for n in names)]) for s in samples]
    grid = Grid(
        "samples-table",
        "Answers as they came",
        ["prompt", *names],
        lines,
        "Taken at equal distances, not chosen.",
        ("samples",),
        prose=True,
    )
    return Section("samples", "Some answers", grids=[grid])
