"""What the study of active selection found: a page, the same as Markdown, and every number as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tastemaker.runs.files import write_atomic
from tastemaker.studies.pages import Page, Section, write_page
from tastemaker.studies.pages.drawings import curves, forest
from tastemaker.studies.pages.written_out import markdown
from tastemaker.studies.report.drawing import HALF
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.written import above, below, counted, interval, listed, number

WORTH: Mapping[str, str] = {
    "random": "drawn at random",
    "uncertainty": "p (1 - p) of the mean of the heads",
    "disagreement": "what the heads disagree about (BALD)",
}
"""What each arm takes a pair to be worth."""


def report(folder: Path, results: Mapping[str, Any]) -> Path:
    """Writes results.json, results.csv, report.html with its figures, and results.md; the page's path."""
    page = selection_page(results)
    path = write_page(folder, page, results)
    write_atomic(folder / "results.md", markdown(page).encode())
    return path


def selection_page(results: Mapping[str, Any]) -> Page:
    """`results` as `selection.summarise` gives them, or as they come back from results.json."""
    against, sizes, settings = results["against_random"], results["sizes"], results["settings"]
    return Page(
        kind="active selection",
        title="Which pairs to label next, on the town",
        headline=headline(against),
        sentences=[
            *(said(arm, found["gain"], sizes) for arm, found in against.items()),
            "Selection sees pairs, never labels: a pair's worth times how unlike its features are to those of "
            "pairs labelled or chosen already. Accuracy is on held-out pairs drawn at random, since selected "
            "pairs are a biased sample.",
        ],
        facts=[
            ("Seeds", str(len(results["seeds"]))),
            ("Pairs of the SFT policy", number(results["pairs"], 0)),
            ("Held out", number(settings["held_out"], 0)),
            ("First labels, of random pairs", number(sizes[0], 0)),
            ("Rounds", listed([f"to {number(n, 0)}" for n in sizes[1:]])),
            ("Reward model", f"{settings['heads']} heads, {settings['training']['num_train_epochs']} passes"),
            ("Made by", "make results-selection"),
        ],
        sections=[accuracy_section(results), needs_section(results)],
        table=(
            ["seed", "arm", "labels", "gold", "people"],
            [
                [seed, arm, row["labels"], row["gold"], row["people"]]
                for seed, arms in results["by_seed"].items()
                for arm, rows in arms.items()
                for row in rows
            ],
        ),
    )


def headline(against: Mapping[str, Mapping[str, Any]]) -> str:
    better = [arm for arm, found in against.items() if above(found["gain"])]
    worse = [arm for arm, found in against.items() if below(found["gain"])]
    if better:
        return f"Selecting pairs by {listed(better)} learns more from as many labels than drawing them"
    if worse:
        return f"Selecting pairs by {listed(worse)} learns less from as many labels than drawing them"
    return "No way of selecting pairs is told apart from drawing them at random here"


def said(arm: str, gain: Mapping[str, Any], sizes: Sequence[int]) -> str:
    """One arm against random, in points of accuracy over the sizes after the first."""
    over = listed([number(n, 0) for n in sizes[1:]])
    told = "more accurate" if above(gain) else "less accurate" if below(gain) else "not told apart"
    return (
        f"Selection by {arm} against random: {told}; mean accuracy over {over} labels, paired by seed, "
        f"{points(gain)} points."
    )


def points(found: Mapping[str, Any]) -> str:
    """A share and its interval in points of per cent."""
    return interval({k: None if found[k] is None else 100 * found[k] for k in ("mean", "low", "high")}, 1)


def share(found: Mapping[str, Any]) -> str:
    """A share and its interval, per cent."""
    return points(found).replace("+", "")


def accuracy_section(results: Mapping[str, Any]) -> Section:
    sizes, accuracy, against = results["sizes"], results["accuracy"], results["against_random"]
    series = [(arm, sizes, [100 * f["mean"] for f in found["gold"]]) for arm, found in accuracy.items()]
    words = "Accuracy against gold by number of labels, means over seeds"
    bars = [
        (f"{arm}, {number(size, 0)}", cell["mean"], cell["low"], cell["high"])
        for arm, found in against.items()
        for size, cell in list(zip(sizes, found["by_size"], strict=True))[1:]
    ]
    less = "Accuracy less that of random selection with as many labels, 95% intervals over seeds"
    head = ["arm", *(f"{number(n, 0)} labels" for n in sizes)]
    return Section(
        "accuracy",
        "Accuracy by number of labels",
        text=[
            f"People's own labels agree with gold on {share(results['labels_agree_with_gold'])} per cent of "
            "the held-out pairs; pairs of equal gold are left aside."
        ],
        pictures=[
            (curves("accuracy", words, series, x="labels", y="per cent", width=HALF), words + "."),
            (forest("less-random", less, bars, middle=0.0), less + "."),
        ],
        grids=[
            Grid(
                "accuracy-table",
                "Accuracy against gold, per cent",
                head,
                [Line([arm, *map(share, found["gold"])], note=WORTH[arm]) for arm, found in accuracy.items()],
                "Means and 95% intervals over seeds (Student's t: three seeds show only large effects).",
                ("accuracy",),
            ),
            Grid(
                "less-table",
                "Less random's, points",
                head,
                [Line([arm, *map(points, found["by_size"])]) for arm, found in against.items()],
                "Paired by seed; the first labels are the same for every arm.",
                ("against_random",),
            ),
        ],
    )


def needs_section(results: Mapping[str, Any]) -> Section:
    seeds = len(results["seeds"])
    lines = [
        Line([arm, number(int(size), 0), interval(needs, 0).replace("+", ""), f"{needs['cut']} of {seeds}"])
        for arm, found in results["against_random"].items()
        for size, needs in found["random_needs"].items()
    ]
    return Section(
        "needs",
        "Labels that random selection needs for the same accuracy",
        grids=[
            Grid(
                "needs-table",
                "Equal accuracy",
                ["arm", "its labels", "random's", "cut"],
                lines,
                "By random's curve of the same seed, made monotone and linear in ln n. Cut: in how many of "
                f"{counted(seeds, 'seed')} the accuracy lay beyond an end of that curve, which is a bound.",
                ("against_random",),
            )
        ],
    )
