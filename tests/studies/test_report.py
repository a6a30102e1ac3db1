"""The report of a comparison, made from what `collect_results` really returns for invented readings."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tastemaker.config import CompareSettings
from tastemaker.evaluation import mean_and_error
from tastemaker.studies.compare import Plan, make_plan
from tastemaker.studies.judges import RATES
from tastemaker.studies.report import summary_table, tables, verdict_text, write_report
from tastemaker.studies.report.numbers import number, seconds, strict
from tastemaker.studies.report.page import render_page
from tastemaker.studies.report.words import headline
from tastemaker.studies.results import collect_results

HOSTILE = '<script>alert("x")</script><img src="http://evil.example/x.png" onerror=alert(1)>&amp;{{ 7*7 }}'
VOID = {"meta", "link", "br", "hr", "img", "input", "path", "use", "col", "wbr"}


class Page(HTMLParser):
    """Text, tags, links and tables of a page; complains about tags that do not close."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.cells: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in {"td", "th"}:
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"style", "script"}:
            return
        self.words.append(data)
        if self.open and self.open[-1] in {"td", "th"}:
            self.cells[-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split()).replace("\u00a0", " ")


def reading(level: float, kl: float, *, greedy: bool, rates: bool, prompts: int = 12) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(round(10 * kl))
    noise = torch.rand(prompts, generator=generator, dtype=torch.float64) - 0.5
    columns = {"score": level + noise, "length": 10 + noise, "ended": noise * 0 + 1, "entropy": noise + 1}
    if not greedy:
        columns |= {"kl": kl + noise, "kl_k3": (kl + noise).clamp_min(0)}
    if rates:
        columns |= {f"parts/{name}": (noise > 0.2 * i - 0.4).double() for i, name in enumerate(RATES)}
    return {
        "summary": {name: mean_and_error(values) for name, values in columns.items()},
        "columns": {name: values.tolist() for name, values in columns.items()},
        "prompts": [f"prompt {i} ?" for i in range(prompts)],
        "kinds": [["fact", "style"][i % 2] if rates else "" for i in range(prompts)],
        "texts": [f"answer {i} at {level}" for i in range(prompts)],
    }


def read(level: float, kl: float, *, rates: bool) -> dict[str, Any]:
    return {
        "tuning": reading(level, kl, greedy=False, rates=rates),
        "sampled": reading(level, kl, greedy=False, rates=rates),
        "greedy": reading(level + 0.3, kl, greedy=True, rates=rates),
    }


def cost(cpu: float) -> dict[str, float]:
    names = ("cuda_peak_bytes", "episodes", "tokens", "steps")
    made = {"wall_seconds": 2 * cpu, "cpu_seconds": cpu, "peak_rss_bytes": 4.1e8 + cpu, "model_copies": 2.0}
    return made | {name: float(i) for i, name in enumerate(names)}


def made(methods: tuple[str, ...] = ("dpo", "ppo"), *, town: bool = True, seeds: int = 2) -> dict[str, Any]:
    """Results of a plan with invented readings; DPO far ahead of PPO."""
    plan = make_plan(CompareSettings(methods=methods, seeds=seeds, out="somewhere"))
    if not town:
        own = replace(plan.settings, model=HOSTILE, data=HOSTILE + ".jsonl")
        plan = Plan(own, plan.preset, None, (), plan.tried)
    done: dict[str, Any] = {}
    for seed in plan.seeds:
        held_out = {"accuracy": 0.71, "low": 0.66, "high": 0.76, "pairs": 500.0}
        done[f"reward-{seed}"] = {"cost": cost(7), "held_out": held_out}
        if not town:
            done[f"judge-{seed}"] = {"cost": cost(7), "held_out": {**held_out, "accuracy": 0.64}}
        done[f"start-{seed}"] = {"stages": {"base": cost(20), "sft": cost(4)}}
        done[f"read-sft-{seed}"] = read(0.01 * seed, 0.0, rates=town)
        done[f"baselines-{seed}"] = {
            "best_of_n": [{"n": 2**i, "kl": 0.3 * i, "score": 0.4 * i, "se": 0.02} for i in range(4)],
            "tilted": [{"beta": 2.0, "kl": 0.2, "score": 0.9, "se": 0.03}],
        }
        for place, (arm, labels) in enumerate(plan.tried.items()):
            for i, label in enumerate(labels):
                level, name = 3.0 - 1.5 * place + 0.1 * i + 0.01 * seed, f"{arm}:{label}-{seed}"
                curve = [
                    {"step": float(s), "rewards/margins": 0.1 * s, "objective/kl": 0.2 * s} for s in range(9)
                ]
                done[name] = {"run": f"somewhere/{name}/run", "cost": cost(31 + place), "stopped": None}
                done[name]["curve"] = curve
                done[f"read-{name}"] = read(level, 1.0 + i + 0.3 * place, rates=town)
    return collect_results(plan, done)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return made()


@pytest.fixture(scope="module")
def folder(results: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_report(out, results)
    return out


def page_of(results: dict[str, Any]) -> Page:
    return Page(render_page(strict(results), [], Path("somewhere")))


def test_every_file_is_there(folder: Path) -> None:
    names = {p.name for p in folder.iterdir()}
    assert names == {"report.html", "results.json", "results.csv", "results.md", "figures"}
    pictures = {p.name for p in (folder / "figures").iterdir()}
    assert {"frontier.svg", "frontier.png", "differences.svg", "curve-dpo-rewards-margins.png"} <= pictures
    assert all(
        (folder / "figures" / n).read_bytes().startswith(b"\x89PNG") for n in pictures if n[-3:] == "png"
    )


def test_page_holds_every_number_of_the_table(results: dict[str, Any], folder: Path) -> None:
    page = Page((folder / "report.html").read_text("utf-8"))
    for row in tables.filled(results):
        at = page.cells.index(row[0])
        assert page.cells[at : at + len(row)] == row
    score = results["arms"]["dpo"]["sampled"]["score"]["mean"]
    assert any(cell.startswith(f"{score:.2f} ± ") for cell in page.cells)
    assert results["settings"]["versions"]["torch"] in page.text
    for rule in results["settings"]["protocol"]:
        assert rule in page.text


def test_page_begins_with_the_verdict(results: dict[str, Any], folder: Path) -> None:
    page = Page((folder / "report.html").read_text("utf-8"))
    said = verdict_text(results)
    assert said.startswith("DPO comes out ahead of PPO.")
    assert headline(results) in page.text
    for sentence in said.split(". "):
        assert sentence.rstrip(".") in page.text


def test_page_asks_for_nothing_outside(folder: Path) -> None:
    html = (folder / "report.html").read_text("utf-8")
    page = Page(html)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "@import" not in html
    assert all(inside.startswith(("#", "data:")) for inside in re.findall(r"url\(([^)]*)\)", html))


def test_figures_follow_the_theme_and_keep_their_ids_apart(folder: Path) -> None:
    html = (folder / "report.html").read_text("utf-8")
    page = Page(html)
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        target = attributes.get("xlink:href") or ""
        assert target == "" or target[1:] in ids
    for target in re.findall(r"url\(#([^)]+)\)", html):
        assert target in ids
    pictures = html[html.index("<main>") :]
    assert "var(--arm0)" in pictures and "#0072b2" not in pictures
    assert "var(--" not in (folder / "figures" / "frontier.svg").read_text("utf-8")


def test_json_csv_and_markdown_agree(results: dict[str, Any], folder: Path) -> None:
    kept = json.loads((folder / "results.json").read_text("utf-8"))
    assert kept == strict(results)
    lines = list(csv.DictReader(io.StringIO((folder / "results.csv").read_text("utf-8"))))
    assert len(lines) == len(kept["frontier"])
    for line, point in zip(lines, kept["frontier"], strict=True):
        assert (line["arm"], line["label"], int(line["seed"])) == (point["arm"], point["label"], point["seed"])
        assert float(line["score"]) == point["score"] and float(line["kl"]) == point["kl"]
        assert line["chosen"] == str(point["chosen"])
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (folder / "results.md").read_text("utf-8").splitlines()
        if line.startswith("|")
    ]
    assert table[2:] == tables.filled(kept)


def test_terminal_shows_the_same_table(results: dict[str, Any]) -> None:
    console = Console(width=400, file=io.StringIO(), force_terminal=False)
    console.print(summary_table(results))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    for row in tables.filled(results):
        for cell in row:
            assert cell in printed


def test_hostile_text_stays_text() -> None:
    results = made(town=False)
    for sample in results["samples"]:
        sample["prompt"] = HOSTILE
        sample["kind"] = HOSTILE
        sample["responses"] = dict.fromkeys(sample["responses"], HOSTILE)
    results["judge"]["name"] = HOSTILE
    results["arms"]["dpo"]["chosen"] = HOSTILE
    page = page_of(results)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert HOSTILE in page.text
    assert "<script" not in tables.markdown(strict(results))


def test_hostile_text_stays_text_in_figures(tmp_path: Path) -> None:
    results = made(("dpo",))
    results["judge"]["name"] = HOSTILE + " $\\frac{"
    for point in results["frontier"]:
        point["label"] = HOSTILE
    write_report(tmp_path, results)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<script" not in (tmp_path / "figures" / "frontier.svg").read_text("utf-8")


def test_what_is_not_known_is_null_and_a_dash(results: dict[str, Any]) -> None:
    broken = copy.deepcopy(results)
    for point in broken["frontier"]:
        point["kl"] = math.nan
    broken["arms"]["dpo"]["difference"]["sft_greedy"] = {"mean": 1.0, "low": math.nan, "high": math.nan}
    broken["arms"]["ppo"]["sampled"]["kl"] = {"mean": None, "sd": None, "se": None, "by_seed": [math.nan]}
    broken["baselines"] |= {"best_of_n": [], "tilted": []}
    clean = strict(broken)
    json.dumps(clean, allow_nan=False)
    page = page_of(broken)
    assert "nan" not in page.text.lower().replace("finance", "")
    assert "+1.00 [–, –]" in page.text
    assert "best of" not in tables.markdown(clean)
    assert ",,," in tables.frontier_csv(clean) or ",," in tables.frontier_csv(clean)


def test_one_arm_is_no_contest() -> None:
    results = made(("dpo",), seeds=1)
    page = page_of(results)
    assert "DPO ran alone" in page.text and "PPO" not in page.text
    assert "With 1 seed this is a first look, not a finding." in page.text


def test_own_data_is_judged_by_a_proxy_and_has_no_rates() -> None:
    results = made(town=False)
    page = page_of(results)
    assert "Proxy judge." in page.text and "proxy score, sampled" in page.cells
    assert "judge (proxy)" in page.cells
    assert "harm" not in page.cells
    assert "The judge is a proxy" in verdict_text(results)


def test_no_winner_is_said_plainly(results: dict[str, Any]) -> None:
    tie = copy.deepcopy(results)
    tie["verdict"]["winner"] = None
    tie["verdict"]["pairs"][0]["difference"] = {"mean": 0.1, "low": -0.3, "high": 0.5}
    tie["verdict"]["pairs"][0]["matched_kl"] = {"comparable": False, "text": "not comparable"}
    said = verdict_text(tie)
    assert said.startswith("No winner: DPO and PPO are not told apart.")
    assert "+0.10 [−0.30, +0.50], which includes zero; at equal KL they are not comparable" in said


def test_a_winner_that_greedy_sft_equals_is_told_so(results: dict[str, Any]) -> None:
    weak = copy.deepcopy(results)
    weak["arms"]["dpo"]["difference"]["sft_greedy"] = {"mean": 0.1, "low": -0.3, "high": 0.5}
    assert headline(weak) == "DPO comes out ahead of PPO, but not ahead of plain SFT decoded greedily."


@pytest.mark.parametrize(
    "value,text", [(1234.5, "1\u202f234.50"), (-0.001, "0.00"), (-1.5, "−1.50"), (None, "–"), (math.inf, "–")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("value,text", [(42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (None, "–")])
def test_durations(value: float | None, text: str) -> None:
    assert seconds(value) == text
