"""What the study of online rounds found: a page, the same as Markdown, and every number as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tastemaker.runs.files import write_atomic
from tastemaker.studies.pages import Page, Section, write_page
from tastemaker.studies.pages.drawings import forest
from tastemaker.studies.pages.written_out import markdown
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.written import ABSENT, above, below, finite, interval, number

NAMES: Mapping[str, str] = {
    "dpo 1": "one round, DPO",
    "dpo 3": "three rounds, DPO",
    "dpo 3 going on": "three rounds, DPO going on",
    "ppo 1": "one round, PPO",
    "ppo 3": "three rounds, PPO",
}


def report(folder: Path, results: Mapping[str, Any]) -> Path:
    """Writes results.json, results.csv, report.html with its figure, and results.md; the page's path."""
    page = study_page(results)
    path = write_page(folder, page, results)
    write_atomic(folder / "results.md", markdown(page).encode())
    return path


def study_page(results: Mapping[str, Any]) -> Page:
    """`results` as `study.summarise` gives them, or as they come back from results.json."""
    compared = results["compared"]
    words = "Gold of three rounds less gold of one, with 95% intervals over seeds"
    bars = [(NAMES[k], *_bounds(found["gold"])) for k, found in compared.items()]
    figure = forest("three-less-one", words, bars, middle=0.0, percent=False)
    return Page(
        kind="online rounds",
        title="Online rounds on the town",
        headline=headline(compared),
        sentences=[
            *(sentence(name, found) for name, found in compared.items()),
            "Prompts, people, first policy and settings are the same; with one round all responses are the "
            "first policy's. Gold that was bought with distance shows in KL. Nothing was tuned; intervals are "
            f"not corrected for being {len(compared)}.",
        ],
        facts=[
            ("Seeds", str(len(results["seeds"]))),
            ("Labels", f"{results['labels']} in every arm"),
            ("Labelled by", "the town's simulated people"),
            ("Test prompts", f"at least {results['test']} different ones a seed, one sampled answer to each"),
            ("Made by", "make results-rounds"),
        ],
        sections=[
            Section(
                "compared",
                "Three rounds against one",
                pictures=[(figure, words + ", paired by seed and prompt.")],
                grids=[compared_grid(compared)],
            ),
            Section("rounds", "Round by round", grids=[rounds_grid(results)]),
        ],
        table=table(results),
    )


def headline(compared: Mapping[str, Any]) -> str:
    """Whether three rounds beat one, in a sentence."""
    won = [k for k, found in compared.items() if above(found["gold"])]
    lost = [k for k, found in compared.items() if below(found["gold"])]
    if won and not lost and len(won) == len(compared):
        return "Three rounds beat one round with the same number of labels"
    if not won and not lost:
        return "Three rounds are not told apart from one round with the same number of labels"
    parts = [
        f"{verb} in {len(which)} of {len(compared)} ways"
        for verb, which in (("beat it", won), ("fall behind it", lost))
        if which
    ]
    return f"Three rounds against one with the same number of labels: they {' and '.join(parts)}"


def sentence(name: str, found: Mapping[str, Any]) -> str:
    """What three rounds gained or lost, and at which distance."""
    gold, kl, wins = found["gold"], found["kl"], found["wins"]
    verdict = "beat" if above(gold) else "fall behind" if below(gold) else "are not told apart from"
    three, one = NAMES[name], NAMES[found["against"]]
    return (
        f"{three[0].upper()}{three[1:]}: they {verdict} {one} ({interval(gold)} in gold, {_percent(wins)} of "
        f"the prompts won); their KL from the first policy differs by {interval(kl)} nats."
    )


def compared_grid(compared: Mapping[str, Any]) -> Grid:
    heads = ["three rounds", "less", "gold", "by seed", "KL, nats", "win rate"]
    lines = [
        Line(
            [
                NAMES[name],
                NAMES[found["against"]],
                interval(found["gold"]),
                ", ".join(number(v, sign=True) for v in found["by_seed"]),
                interval(found["kl"]),
                _percent(found["wins"]),
            ]
        )
        for name, found in compared.items()
    ]
    how = "Differences with 95% intervals, paired by seed and prompt, seeds the outer unit (Student's t)."
    return Grid("compared-table", "The same number of labels", heads, lines, how, ("compared",))


def rounds_grid(results: Mapping[str, Any]) -> Grid:
    """Gold, distance and length after every round of every arm."""
    heads = ["after", "labels so far", "gold", "KL, nats", "tokens", "labels agree with gold, %", "CPU, s"]
    lines = [Line(["the first policy", "0", _value(results["start"]), ABSENT, ABSENT, ABSENT, ABSENT])]
    for name, arm in results["arms"].items():
        total = len(arm["rounds"])
        for n, found in enumerate(arm["rounds"], start=1):
            cells = [
                f"{NAMES[name]}: round {n}" if total > 1 else NAMES[name],
                number(results["labels"] * n / total, 0),
                *(_value(found[k]) for k in ("score", "kl", "tokens")),
                number(100 * found["agree"]["mean"], 0),
                number(arm["cpu_seconds"], 0) if n == total else ABSENT,
            ]
            lines.append(Line(cells, note=arm["words"] if n == 1 else ""))
    how = "Means over seeds with 95% intervals. CPU: of all rounds of the arm, a seed."
    return Grid("rounds-table", "After every round", heads, lines, how, ("arms", "start"))


def table(results: Mapping[str, Any]) -> tuple[list[str], list[list[object]]]:
    """A row for every round of every arm."""
    rows: list[list[object]] = []
    for name, arm in results["arms"].items():
        for n, found in enumerate(arm["rounds"], start=1):
            rows.append([name, n, *(found[k][b] for k in ("score", "kl") for b in ("mean", "low", "high"))])
    return ["arm", "round", "gold", "gold_low", "gold_high", "kl", "kl_low", "kl_high"], rows


def _bounds(found: Mapping[str, Any]) -> tuple[float, float, float]:
    mean, low, high = (found[k] if finite(found[k]) else float("nan") for k in ("mean", "low", "high"))
    return mean, low, high


def _value(found: Mapping[str, Any]) -> str:
    if not finite(found.get("low")):
        return number(found["mean"])
    return f"{number(found['mean'])} [{number(found['low'])}, {number(found['high'])}]"


def _percent(found: Mapping[str, Any]) -> str:
    known = [f"{100 * found[k]:.0f}" for k in ("mean", "low", "high") if finite(found[k])]
    return f"{known[0]}% [{known[1]}, {known[2]}]" if len(known) == 3 else f"{known[0]}%"
