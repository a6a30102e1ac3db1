"""The page of best-of-n by a reward model: what it makes by its own word, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tastemaker.studies.pages import Page, Section
from tastemaker.studies.pages.drawings import curves
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.written import number

COLUMNS = ("n", "kl", "value", "se", "best", "random", "proxy", "proxy_se")


def best_of_n_page(results: Mapping[str, Any]) -> Page:
    curve = results["curve"]
    first, last, top = curve[0], curve[-1], max(curve, key=lambda e: e["value"])
    gained, error, most = results["gain"], results["gain_se"], last["best"] - first["value"]
    sentences = [
        f"Choosing among {last['n']:.0f} adds {number(gained, 3)} ± {number(error, 3)} on the same prompts; a "
        f"choice that knew the gold would have reached {number(last['best'], 3)}"
        + (f", so {number(100 * gained / most, 0)} % of what was there is found." if most > 0 else ".")
    ]
    if top is not last:
        sentences.append(
            f"The highest value is at n = {top['n']:.0f}. Whether it truly falls beyond, the standard errors "
            "say; a proxy chosen by hard enough is over-optimised (Gao et al. 2022)."
        )
    return Page(
        kind="evaluation",
        title=f"best of n by {results['reward']}",
        headline=f"Best of {last['n']:.0f} by {results['reward']}: {number(gained, 2, sign=True)} in gold",
        sentences=sentences,
        facts=[
            ("Answers of", results["policy"]),
            ("Gold", results["gold"]),
            ("Prompts", f"{number(results['prompts'], 0)} of {results['source']}"),
            ("Answers to each", str(results["samples"])),
            ("Correlation", number(results["correlation"], 3)),
        ],
        sections=[curve_section(curve, results), *notes(results)],
        warning=""
        if results["gold"].startswith("the town")
        else f"The gold is {results['gold']}: a proxy too. What both overlook is overlooked here.",
        table=(COLUMNS, [[entry[c] for c in COLUMNS] for entry in curve]),
    )


def notes(results: Mapping[str, Any]) -> list[Section]:
    return [Section("notes", "To know", list=list(results["notes"]))] if results["notes"] else []


def with_error(entry: Mapping[str, float]) -> str:
    return f"{number(entry['value'], 3)} ± {number(entry['se'], 3)}"


def curve_section(curve: Sequence[Mapping[str, float]], results: Mapping[str, Any]) -> Section:
    n = [entry["n"] for entry in curve]
    gold = curves(
        "gold",
        "What the choice is worth",
        [
            (name, n, [entry[key] for entry in curve])
            for name, key in (("chosen by it", "value"), ("the best", "best"))
        ],
        x="n",
        y="gold",
    )
    proxy = curves(
        "proxy", "What it says of its choice", [("", n, [e["proxy"] for e in curve])], x="n", y="its score"
    )
    lines = [
        Line(
            [
                number(e["n"], 0),
                number(e["kl"], 2),
                with_error(e),
                number(e["best"], 3),
                f"{number(e['proxy'], 3)} ± {number(e['proxy_se'], 3)}",
            ]
        )
        for e in curve
    ]
    how = (
        "Averaged over all subsets of n of the answers drawn, so without bias; standard errors over prompts. "
        "KL of the closed form, ln n - (n - 1)/n. The correlation above is of scores and gold within prompts."
    )
    heads = ["n", "KL, nats", "gold", "the best there was", "its own score"]
    return Section(
        "curve",
        "Choosing the best of n",
        pictures=[(gold, f"By {results['gold']}."), (proxy, "By the reward model itself.")],
        grids=[Grid("curve-table", "Best of n", heads, lines, how, ("curve",))],
        beside=True,
    )
