"""The page of a run that kept the policy of a gold's peak: both curves, the peak marked, what it is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tastemaker.runs import Run
from tastemaker.studies.overoptimisation import read_curve
from tastemaker.studies.pages import Page, Section, write_page
from tastemaker.studies.pages.drawings import course
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.written import finite, number, title
from tastemaker.training.gold_peak import read_gold

TRAINING = ("reward", "rewards/margins")
"""What a run maximises, as its own log has it, where no reward was read on the held-out prompts."""


def write_peak_page(run: Run) -> Path:
    """Writes report.html, results.json and figures into the run's folder `gold`; the page's path.

    Raises TastemakerError for a run without readings of a gold.
    """
    found = read_gold(run)
    results = peak_results(run, found)
    return write_page(run.folder / "gold", peak_page(results), results)


def peak_results(run: Run, found: Mapping[str, Any]) -> dict[str, Any]:
    """The readings as plain numbers, each with its paired difference from the start and from the peak."""
    readings: list[dict[str, Any]] = [dict(r) for r in found["readings"]]
    by_step = {r["step"]: r for r in readings}
    peak = by_step[found["peak"]]
    proxy = "its reward on the same answers"
    if all(r.get("proxy") is None for r in readings):
        proxy = from_log(run, readings)
    for r in readings:
        for name, other in (("start", readings[0]), ("peak", peak)):
            r[f"since_{name}"], r[f"since_{name}_se"] = paired(r["values"], other["values"])
    points = [{**r, "score": r["gold"], "score_se": r["gold_se"]} for r in readings]
    said = read_curve(points, judge="the gold") if all(finite(r.get("kl")) for r in readings) else None
    return {
        "run": run.name,
        "method": run.method,
        "gold": found["gold"],
        "prompts": found["prompts"],
        "number": len(peak["values"]),
        "kept": peak["step"],
        "last": readings[-1]["step"],
        "reason": run.record.reason,
        "proxy": proxy,
        "course": None if said is None else said["text"],
        "readings": [{k: v for k, v in r.items() if k != "values"} for r in readings],
    }


def from_log(run: Run, readings: Sequence[dict[str, Any]]) -> str:
    """Puts what the run maximised into the readings: the mean of its log since the reading before."""
    logged = [m for m in run.metrics() if isinstance(m.get("step"), int)]
    name = next((n for n in TRAINING if any(n in m for m in logged)), None)
    if name is None:
        return ""
    for before, r in zip([None, *readings], readings, strict=False):
        if before is None:
            continue
        own = [m.get(name) for m in logged if before["step"] < int(str(m["step"])) <= r["step"]]
        known = [float(v) for v in own if finite(v)]
        r["proxy"] = sum(known) / len(known) if known else None
    return f"{name} of the training data, as logged between readings"


def paired(a: Sequence[float | None], b: Sequence[float | None]) -> tuple[float, float]:
    """(mean difference on the same prompts, its standard error)."""
    gaps = [x - y for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    n = len(gaps)
    if n < 2:
        return (gaps[0] if gaps else math.nan), math.nan
    mean = sum(gaps) / n
    return mean, math.sqrt(sum((g - mean) ** 2 for g in gaps) / (n - 1) / n)


def peak_page(results: Mapping[str, Any]) -> Page:
    kept, last, method = results["kept"], results["last"], title(results["method"])
    where = f"step {kept}" if kept else "the start"
    sentences = [f"{results['run']}: {results['reason']}."] if results["reason"] else []
    if results["course"]:
        sentences.append(f"Its end against its peak: {results['course']}.")
    return Page(
        kind="gold peak",
        title=f"{results['run']}: the gold's peak",
        headline=f"{method} kept the policy of {where}, of {last} steps taken",
        sentences=sentences,
        facts=[
            ("Gold", str(results["gold"])),
            ("Read on", str(results["prompts"])),
            ("Prompts", str(results["number"])),
            ("Readings", str(len(results["readings"]))),
        ],
        sections=[curves_section(results), table_section(results)],
        warning=(
            "The peak was chosen by these very readings, so its own is too high on average, and so are its "
            "differences from the others. Before quoting it, read the kept policy on other prompts (tastemaker "
            "evaluate)."
        ),
        table=(("step", *COLUMNS), [[r["step"], *(r.get(c) for c in COLUMNS)] for r in results["readings"]]),
    )


COLUMNS = ("gold", "gold_se", "proxy", "proxy_se", "kl", "length", "since_start", "since_start_se")


def curves_section(results: Mapping[str, Any]) -> Section:
    readings, kept = results["readings"], results["kept"]
    pictures = [
        (
            course("gold", "The gold", points(readings, "gold"), mark=kept, x="step", y="gold"),
            "The gold, which nobody maximises: means with 95% intervals; the dashed line is the kept policy.",
        )
    ]
    if any(finite(r.get("proxy")) for r in readings):
        pictures.append(
            (
                course("proxy", "The proxy", points(readings, "proxy"), mark=kept, x="step", y="proxy"),
                f"The proxy, which the run maximises: {results['proxy']}.",
            )
        )
    return Section("curves", "Gold and proxy", pictures=pictures, beside=True)


def points(readings: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float, float]]:
    """(step, mean, half of its 95% interval, NaN where not known)."""
    return [
        (r["step"], r[name], 1.96 * r[f"{name}_se"] if finite(r.get(f"{name}_se")) else math.nan)
        for r in readings
        if finite(r.get(name))
    ]


def table_section(results: Mapping[str, Any]) -> Section:
    heads = ["step", "gold", "since the start", "since the peak", "proxy", "KL, nats", "tokens"]
    lines = [
        Line(
            [
                f"{r['step']} (kept)" if r["step"] == results["kept"] else str(r["step"]),
                with_error(r, "gold"),
                with_error(r, "since_start"),
                with_error(r, "since_peak"),
                with_error(r, "proxy"),
                number(r.get("kl"), 2),
                number(r.get("length"), 1),
            ]
        )
        for r in results["readings"]
    ]
    how = (
        "Means with standard errors over prompts. Differences are of the same prompts, answered with the same "
        "random numbers; those since the peak are biased downward by the choice."
    )
    return Section(
        "readings", "Readings", grids=[Grid("readings-table", "Readings", heads, lines, how, ("readings",))]
    )


def with_error(r: Mapping[str, Any], name: str) -> str:
    error = r.get(f"{name}_se")
    return f"{number(r.get(name), 3)} ± {number(error, 3)}" if finite(error) else number(r.get(name), 3)
