"""Whose taste a preference set is: its annotators and groups of them, in sentences and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tastemaker.studies.pages import Section
from tastemaker.studies.pages.judgements import points, span
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.written import ABSENT, counted, listed, number

CHANCE = 0.05
"""p-value below which groups are said to differ."""
MANY = 10
"""Annotators and groups that are shown."""


def people_sentences(results: Mapping[str, Any]) -> list[str]:
    """Whose labels these are, and how far they agree."""
    people = results["people"]
    if not people:
        return []
    said: list[str] = []
    if people["people"]:
        top = people["annotators"][0]
        said.append(
            f"{counted(people['people'], 'annotator')} gave these labels; {top['name']} gave "
            f"{points(top['share'], 0)} % of them."
        )
    agreement = people["agreement"]
    if agreement and agreement["raw"]:
        alpha, several = agreement["alpha"], people["units_with_several"]
        beyond = (
            f" (Krippendorff's alpha {number(alpha['value'], 2)} {span(alpha['low'], alpha['high'], 2, 1)})"
            if alpha
            else ""
        )
        said.append(
            f"Of {number(several, 0)} pairs that several people labelled they are of one mind on "
            f"{points(people['unanimous'] / several, 0)} %; two labels of a pair agree in "
            f"{points(agreement['raw']['value'], 0)} %{beyond}."
        )
    return said


def group_sentences(results: Mapping[str, Any]) -> list[str]:
    """Of each grouping, whose labels they are and how far the groups agree."""
    said: list[str] = []
    for found in results["groups"]:
        names = [f"{g['name']} {points(g['share'], 0)} %" for g in found["groups"][:6]]
        said.append(f"By {found['name']} the labels are from {listed(names)}.")
        said.append(agreement_sentence(found))
    return said


def agreement_sentence(found: Mapping[str, Any]) -> str:
    """How far the groups of one grouping agree."""
    if found["p"] is None:
        return f"No pair tells how far groups of {found['name']} agree: none was labelled by two of them."
    apart = found["within"] - found["across"]
    verdict = (
        f"agree less with each other than among themselves by more than chance would (p = {found['p']:.3f})"
        if found["p"] < CHANCE
        else f"differ by no more than chance would (p = {found['p']:.2f})"
    )
    return (
        f"Two labels of one pair agree in {points(found['within'], 0)} % within a group of {found['name']} "
        f"and in {points(found['across'], 0)} % across ({number(100 * apart, 1, sign=True)} points): the "
        f"groups {verdict}."
    )


def people_section(results: Mapping[str, Any], said: Sequence[str]) -> Section:
    people = results["people"]
    grids: list[Grid] = []
    if people["annotators"]:
        lines = [
            Line(
                [
                    a["name"],
                    number(a["votes"], 0),
                    points(a["share"], 1),
                    *(rate(a[key]) for key in ("with_others", "longer", "first")),
                ]
            )
            for a in people["annotators"][:MANY]
        ]
        heads = ["annotator", "labels", "share, %", "with the others, %", "chose the longer, %"]
        heads += ["chose the first shown, %"]
        how = (
            "With the others: of pairs where the others have a majority. Brackets are 95% intervals (Wilson). "
            f"{number(max(0, people['people'] - MANY), 0)} more annotators are not shown."
        )
        grids.append(Grid("annotators", "Annotators", heads, lines, how, ("people.annotators",), prose=False))
    for found in results["groups"]:
        grids += group_grids(found)
    return Section("people", "Whose taste it is", list=said, grids=grids)


def rate(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ABSENT
    return f"{points(found['value'], 0)} {span(found['low'], found['high'], 0)}"


def group_grids(found: Mapping[str, Any]) -> list[Grid]:
    name = found["name"]
    lines = [
        Line(
            [
                g["name"],
                number(g["votes"], 0),
                points(g["share"], 1),
                number(g["people"], 0),
                points(g["within"]["value"], 1),
                number(g["within"]["label_pairs"], 0),
            ]
        )
        for g in found["groups"][:MANY]
    ]
    heads = [name, "labels", "share, %", "annotators", "agree within, %", "pairs of labels"]
    how = "Agreement of two labels of one pair, by two annotators of the group."
    grids = [Grid(f"group-{name}", f"By {name}", heads, lines, how, ("groups[].groups",))]
    between = sorted(found["between"], key=lambda b: -b["label_pairs"])
    if between:
        rows = [
            Line(
                [
                    " and ".join(b["groups"]),
                    points(b["agreement"], 1),
                    number(b["label_pairs"], 0),
                    number(b["opposed"], 0),
                    number(b["pairs"], 0),
                ]
            )
            for b in between[:MANY]
        ]
        heads = ["groups", "agree across, %", "pairs of labels", "majorities differ on", "of pairs with both"]
        how = (
            f"Of {len(between)} pairs of groups those with the most labels. The p-value above is of a "
            f"permutation test over annotators ({found['shuffles']} shuffles)."
        )
        grids.append(Grid(f"between-{name}", f"Between {name}", heads, rows, how, ("groups[].between",)))
    return grids
