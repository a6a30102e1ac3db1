"""The page of a reward model: what is wrong with it first, then the figures behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tastemaker.functional import wilson_interval
from tastemaker.studies.pages import Page, Section
from tastemaker.studies.pages.drawings import curves, forest
from tastemaker.studies.pages.judgements import points, span
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.written import finite, number

SLICES = ("slice", "name", "n", "accuracy", "low", "high")


def reward_page(results: Mapping[str, Any]) -> Page:
    report = results["report"]
    accuracy = report["accuracy"]
    sections = [
        Section("wrong", "What is wrong with it", list=[*report["findings"], *results["notes"]]),
        accuracy_section(report),
        calibration_section(report["calibration"]),
        length_section(results),
    ]
    if results["best_of_n"]:
        sections.append(best_section(results["best_of_n"]))
    if report["ensemble"]:
        sections.append(Section("ensemble", "Its heads", grids=[ensemble_grid(report["ensemble"])]))
    return Page(
        kind="evaluation",
        title=f"reward model {results['reward']}",
        headline=f"{results['reward']} orders {points(accuracy['estimate'], 1)} % of pairs as people did",
        sentences=[report["findings"][0]],
        facts=[
            ("Pairs", number(report["pairs"], 0)),
            ("Data", str(results["source"])),
            ("Accuracy", f"{points(accuracy['estimate'], 1)} % {span(accuracy['low'], accuracy['high'])}"),
            ("Equal scores", str(report["score_ties"])),
            ("Seed", str(results["seed"])),
        ],
        sections=sections,
        table=(SLICES, slice_rows(report)),
    )


def slices(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    whole = {
        "name": "all",
        "n": report["pairs"],
        **report["accuracy"],
        "accuracy": report["accuracy"]["estimate"],
    }
    found: list[tuple[str, Mapping[str, Any]]] = [("all", whole)]
    for kind in ("subsets", "annotators"):
        found += [(kind[:-1], s) for s in report[kind]]
    return found + [("length", s) for s in report["lengths"]["slices"]]


def slice_rows(report: Mapping[str, Any]) -> list[list[object]]:
    return [[kind, s["name"], s["n"], s["accuracy"], s["low"], s["high"]] for kind, s in slices(report)]


def accuracy_section(report: Mapping[str, Any]) -> Section:
    found = slices(report)
    bars = [(f"{kind}: {s['name']}" if kind != "all" else "all", *triple(s)) for kind, s in found]
    words = "Accuracy by slice with 95% intervals"
    lines = [
        Line([name, points(a, 1), span(low, high), number(s["n"], 0)])
        for (name, a, low, high), (_, s) in zip(bars, found, strict=True)
    ]
    how = "The share of pairs whose preferred answer scores higher, equal scores counting half."
    grid = Grid("slices", "Accuracy", ["slice", "right, %", "95% interval", "pairs"], lines, how, ("report",))
    ties = report["label_ties"]
    text: list[str] = []
    if ties["n"]:
        text.append(
            f"{number(ties['n'], 0)} pairs were ties to people: there its scores differ by "
            f"{number(ties['mean_margin'])} on average, elsewhere by {number(ties['mean_margin_ordered'])}."
        )
    gold = report.get("gold")
    if gold:
        text.append(
            f"Against the truth it is right in {points(gold['accuracy'], 1)} %, the labels are in "
            f"{points(gold['labels'], 1)} %; its margin and the true one correlate "
            f"{number(gold['correlation'])}."
        )
    picture = forest("accuracy", words, bars[:24], middle=0.5)
    return Section("accuracy", "How often right", text, [(picture, words + ".")], [grid])


def triple(s: Mapping[str, Any]) -> tuple[float, float, float]:
    return s["accuracy"], s["low"], s["high"]


def calibration_section(calibration: Mapping[str, Any]) -> Section:
    filled = [b for b in calibration["reliability"] if b["n"] > 0]
    x, y = [b["predicted"] for b in filled], [b["observed"] for b in filled]
    words = "Predicted against observed share, bins of equal width with Wilson's 95% intervals"
    intervals = [wilson_interval(b["observed"], int(b["n"])) for b in filled]
    bounds = [(i.low, i.high) for i in intervals]
    series = [("", x, y)]
    figure = curves("reliability", words, series, x="predicted", y="observed", diagonal=True, bounds=bounds)
    rows = [
        ("expected calibration error, equal width", number(calibration["ece"], 4)),
        ("expected calibration error, equal mass", number(calibration["ece_mass"], 4)),
        ("Brier score", with_span(calibration["brier"])),
        ("log loss, nats", with_span(calibration["log_loss"])),
        ("temperature that fits", number(calibration["temperature"], 3)),
        ("log loss on the other half, before", number(calibration["log_loss_before"], 4)),
        ("log loss on the other half, after", number(calibration["log_loss_after"], 4)),
        ("calibration error on the other half, after", number(calibration["ece_after"], 4)),
    ]
    how = (
        f"p = sigmoid(score difference), each pair turned round at random (seed {calibration['seed']}), "
        f"{calibration['bins']} bins. The temperature is fitted on one half of the pairs and read on the "
        "other. A coin has Brier score 0.25 and log loss 0.693."
    )
    grid = Grid(
        "calibration-table",
        "Calibration",
        ["figure", "value"],
        [Line(list(r)) for r in rows],
        how,
        ("report.calibration",),
    )
    return Section(
        "calibration", "How sure it should be", pictures=[(figure, words + ".")], grids=[grid], beside=True
    )


def with_span(found: Mapping[str, float]) -> str:
    return f"{number(found['estimate'], 4)} {span(found['low'], found['high'], 4, 1)}"


def length_section(results: Mapping[str, Any]) -> Section:
    lengths, cloud = results["report"]["lengths"], results["scatter"]
    words = "Score against length, one point a response"
    figure = curves(
        "score_length",
        words,
        [("", cloud["length"], cloud["score"])],
        x="characters",
        y="score",
        marks=True,
    )
    rows = [
        ("correlation of score and length", number(lengths["score_length_correlation"], 3, sign=True)),
        ("the same of ranks", number(lengths["score_length_rank_correlation"], 3, sign=True)),
        ("of margin and difference in length", number(lengths["margin_length_correlation"], 3, sign=True)),
        ("it prefers the longer answer, %", points(lengths["model_prefers_longer"], 1)),
        ("people prefer the longer answer, %", points(lengths["labels_prefer_longer"], 1)),
    ]
    how = "Matched lengths differ by a tenth of their mean at most; the slices are in the table of accuracies."
    grid = Grid(
        "length-table", "Length", ["figure", "value"], [Line(list(r)) for r in rows], how, ("report.lengths",)
    )
    return Section("length", "Score and length", pictures=[(figure, words + ".")], grids=[grid], beside=True)


def best_section(curve: Sequence[Mapping[str, float]]) -> Section:
    n = [entry["n"] for entry in curve]
    series = [
        (name, n, [entry[key] for entry in curve]) for name, key in (("by it", "value"), ("the best", "best"))
    ]
    words = "What the best of n by the reward model is worth to people"
    figure = curves("best_of_n", words, series, x="n", y="value")
    lines = [
        Line(
            [
                number(e["n"], 0),
                number(e["value"], 3),
                number(e["se"], 3),
                number(e["best"], 3),
                number(e["kl"]),
            ]
        )
        for e in curve
    ]
    how = "1 is the best of a prompt's answers and 0 the worst; averaged over all subsets of n (no bias)."
    head = ["n", "value", "standard error", "the best there was", "KL, nats"]
    grid = Grid("best-table", "Best of n", head, lines, how, ("best_of_n",))
    return Section(
        "best", "Choosing the best of n", pictures=[(figure, words + ".")], grids=[grid], beside=True
    )


def ensemble_grid(ensemble: Mapping[str, Any]) -> Grid:
    rows = [
        ("heads", str(ensemble["heads"])),
        ("mean spread of margins", number(ensemble["mean_spread"], 3)),
        ("right where they agree most, %", points(ensemble["sure"]["accuracy"], 1)),
        ("right where they agree least, %", points(ensemble["unsure"]["accuracy"], 1)),
        ("each head alone, %", ", ".join(points(a, 1) for a in ensemble["head_accuracy"] if finite(a))),
    ]
    how = "Spread: standard deviation of the margin over heads. Most and least: thirds of the pairs."
    return Grid(
        "heads", "Spread", ["figure", "value"], [Line(list(r)) for r in rows], how, ("report.ensemble",)
    )
