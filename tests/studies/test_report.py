"""The report of a comparison, made from what `collect_results` really returns for invented readings."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from studies.invented import HOSTILE, made
from tastemaker.studies.report import summary_table, tables, verdict_text, write_report
from tastemaker.studies.report.markdown import markdown
from tastemaker.studies.report.numbers import count, flops, number, seconds, strict
from tastemaker.studies.report.page import render_page
from tastemaker.studies.report.words import headline

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
    width = 1 + sum(column not in tables.COSTS for column in tables.columns(results))
    for row in tables.filled(results):
        at = page.cells.index(row[0])
        assert page.cells[at : at + width] == row[:width]
    for row in tables.rows(results):
        assert row.arm is None or set(row.cells.values()) <= set(page.cells)
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
    assert table[2 : 2 + len(tables.filled(kept))] == tables.filled(kept)


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
    assert "<script" not in markdown(strict(results))


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
    assert "best of" not in markdown(clean)
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


@pytest.mark.parametrize(
    "value,text",
    [
        *(
            (0, "0"),
            (1.0, "1"),
            (999.6, "1.00 k"),
            (3.9139e10, "39.1 G"),
            (9.995e11, "1.00 T"),
            (1.2e12, "1.20 T"),
        ),
        *((123456789, "123 M"), (2.5e27, "2\u202f500 Y"), (None, "–"), (math.nan, "–")),
    ],
)
def test_operations(value: float | None, text: str) -> None:
    assert flops(value) == text


@pytest.mark.parametrize(
    "value,text", [(0, "0"), (99999, "99\u202f999"), (100_000, "100 k"), (2_700_000, "2.70 M")]
)
def test_counts(value: float, text: str) -> None:
    assert count(value) == text
