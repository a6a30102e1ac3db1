"""What the study of chains found: a page, the same as Markdown, and every number as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tastemaker.runs.files import write_atomic
from tastemaker.studies.chains import DOMAINS, GENERAL, POLICIES, TEST_PROMPTS, Policy
from tastemaker.studies.pages import Page, Section, write_page
from tastemaker.studies.pages.drawings import forest, heatmap
from tastemaker.studies.pages.written_out import markdown
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.written import above, below, counted, finite, interval, listed, number

COLUMNS = ("gold", *DOMAINS, "general")
STEPS = tuple(p for p in POLICIES if p.start != p.stage)
PARTS: Sequence[tuple[str, str, Sequence[str]]] = (
    ("domain", "RLHF first, a domain's DPO on top", ("rlhf", "rlhf_style")),
    (
        "adapters",
        "Domains as adapters over one RLHF policy",
        ("style_adapter", "safety_adapter", "honesty_adapter", "stack", "linear", "ties"),
    ),
    ("online", "DPO first, online afterwards", ("dpo", "dpo_ppo", "dpo_online", "dpo_grpo")),
    ("judge", "A judge in rounds, and at every step", ("round_1", "round_2", "round_3", "online_judge")),
    ("ablations", "Without a part", ("sft_only", "dpo_only")),
)
"""(anchor, title, stages) of the page's sections."""


def report(folder: Path, results: Mapping[str, Any]) -> Path:
    """Writes results.json, results.csv, report.html with its figures, and results.md; the page's path."""
    page = chains_page(results)
    path = write_page(folder, page, results)
    write_atomic(folder / "results.md", markdown(page).encode())
    return path


def chains_page(results: Mapping[str, Any]) -> Page:
    """`results` as `chains.summarise` gives them, or as they come back from results.json."""
    change = results["change"]
    kinds = "; ".join(f"{domain}: {', '.join(of)}" for domain, of in {**DOMAINS, "general": GENERAL}.items())
    return Page(
        kind="chains",
        title="Chains on the town",
        headline=headline(change),
        sentences=[
            f"{len(STEPS)} steps of {counted(len({p.recipe for p in POLICIES}), 'recipe')}, each set against "
            "the policy it started from, paired by seed. One setting of every method, none tuned.",
            f"Of {len(STEPS) * len(COLUMNS)} intervals, which are not corrected for their number, some "
            f"{round(0.05 * len(STEPS) * len(COLUMNS))} would leave zero out by luck; with few seeds only "
            "large effects are told.",
        ],
        facts=[
            ("Seeds", str(len(results["seeds"]))),
            ("Test prompts", number(TEST_PROMPTS, 0)),
            ("Answers", "one sampled to each prompt"),
            ("Domains", kinds),
            ("Made by", "make results-chains"),
        ],
        sections=[
            *(part(name, title, stages, results) for name, title, stages in PARTS),
            gold_section(results["figures"]),
            change_section(change),
        ],
        table=table(results),
    )


def headline(change: Mapping[str, Any]) -> str:
    gained = [p.stage for p in STEPS if above(change[p.stage]["gold"])]
    lost = [p.stage for p in STEPS if below(change[p.stage]["gold"])]
    said = f"{len(gained)} of {len(STEPS)} steps raised gold beyond the noise of the seeds"
    return f"{said}, {len(lost)} lowered it" if lost else f"{said}, none lowered it"


def sentence(policy: Policy, found: Mapping[str, Any]) -> str:
    """What a step gained, and what it cost elsewhere."""
    said = f"{policy.stage} ({policy.words}), from {policy.start}: gold {interval(found['gold'])}"
    more = [f"{c} {interval(found[c])}" for c in COLUMNS[1:] if above(found[c])]
    less = [f"{c} {interval(found[c])}" for c in COLUMNS[1:] if below(found[c])]
    said += f"; gained in {listed(more)}" if more else "; no domain gained beyond noise"
    said += f"; forgot in {listed(less)}" if less else "; none forgot beyond noise"
    return said + "."


def part(name: str, title: str, stages: Sequence[str], results: Mapping[str, Any]) -> Section:
    policies = [p for p in POLICIES if p.stage in stages]
    lines = [
        Line([p.stage, p.start, *(interval(results["change"][p.stage][c]) for c in COLUMNS)], note=p.words)
        for p in policies
    ]
    how = "Change in gold from the policy it started from: over all prompts, in each domain, and elsewhere."
    grid = Grid(f"{name}-table", title, ["policy", "from", *COLUMNS], lines, how, ("change",))
    return Section(name, title, list=[sentence(p, results["change"][p.stage]) for p in policies], grids=[grid])


def gold_section(figures: Mapping[str, Any]) -> Section:
    words = "Gold of every policy over all test prompts, 95% intervals over seeds"
    bars = [bar(p.stage, figures[p.stage]["gold"]) for p in POLICIES]
    lines = [
        Line(
            [
                p.stage,
                interval(figures[p.stage]["gold"]),
                *(number(figures[p.stage][c]["mean"], sign=True) for c in COLUMNS[1:]),
                number(figures[p.stage]["words"]["mean"], 1),
            ],
            note=p.words,
        )
        for p in POLICIES
    ]
    start = value(figures["sft"]["gold"], "mean")
    grid = Grid(
        "gold-table",
        "Every policy",
        ["policy", *COLUMNS, "words"],
        lines,
        "Means; domains without intervals, which are wide. Words: an answer's.",
        ("figures",),
    )
    return Section(
        "gold",
        "Gold",
        pictures=[(forest("gold", words, bars, middle=start, percent=False), words + "; the line is SFT.")],
        grids=[grid],
    )


def change_section(change: Mapping[str, Any]) -> Section:
    words = "Change in gold from the policy a step started from, by domain"
    rows = [[value(change[p.stage][c], "mean") for c in COLUMNS] for p in STEPS]
    picture = heatmap("change", words, [p.stage for p in STEPS], list(COLUMNS), rows, centre=0.0)
    return Section(
        "change",
        "Gained and forgotten, side by side",
        pictures=[(picture, words + ": means over seeds; what lies beyond noise stands above.")],
    )


def value(found: Mapping[str, Any], key: str) -> float:
    return float(found[key]) if finite(found[key]) else float("nan")


def bar(label: str, found: Mapping[str, Any]) -> tuple[str, float, float, float]:
    """What `forest` draws."""
    return label, value(found, "mean"), value(found, "low"), value(found, "high")


def table(results: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """Every policy's figures and its change, a row each."""
    ends = ("mean", "low", "high")
    head = ["policy", "start", *(f"{c}_{k}" for c in COLUMNS for k in ends)]
    head += [f"change_{c}_{k}" for c in COLUMNS for k in ends]
    rows = [
        [
            p.stage,
            p.start,
            *(results["figures"][p.stage][c][k] for c in COLUMNS for k in ends),
            *(results["change"].get(p.stage, {}).get(c, {}).get(k) for c in COLUMNS for k in ends),
        ]
        for p in POLICIES
    ]
    return head, rows
