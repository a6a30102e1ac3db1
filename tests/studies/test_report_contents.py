"""What the page and its tables say is what results.json holds: wins, costs, courses, diagnoses, samples."""

from __future__ import annotations

import copy
import math
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from studies.invented import HOSTILE, made
from studies.test_report import Page, page_of
from tastemaker.studies.report import write_report
from tastemaker.studies.report.bars import shown_stages
from tastemaker.studies.report.courses import courses, courses_grid, gao
from tastemaker.studies.report.grid import Grid
from tastemaker.studies.report.markdown import markdown
from tastemaker.studies.report.numbers import count, flops, seconds, strict
from tastemaker.studies.report.page import render_page
from tastemaker.studies.report.quality import parts_grid, power_grid, wins_grid
from tastemaker.studies.report.samples import sample_list
from tastemaker.studies.report.spending import search_grid, stage_grid
from tastemaker.studies.report.words import first_and_further, sentences


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return made()


def cells(grid: Grid | None, name: str) -> list[str]:
    assert grid is not None
    return next(list(line.cells[1:]) for line in grid.lines if line.cells[0] == name)


def test_win_rates_and_ties_are_those_of_the_verdict(results: dict[str, Any]) -> None:
    tied = copy.deepcopy(results)
    for match in tied["verdict"]["wins"]:
        match |= {"wins": 9, "ties": 33, "losses": 6, "rate": {"mean": 0.53125, "low": 0.25, "high": 0.75}}
    grid = wins_grid(tied)
    assert cells(grid, "DPO against SFT greedy") == ["9", "33", "6", "53% [25%, 75%]"]
    assert cells(grid, "PPO against SFT, both greedy") == ["9", "33", "6", "53% [25%, 75%]"]
    assert grid is not None and len(grid.lines) == len(tied["verdict"]["wins"]) == 8
    page = page_of(tied)
    bars = [a for tag, a in page.tags if tag == "i"]
    assert [a["style"] for a in bars[:3]] == ["flex-grow:18.750", "flex-grow:68.750", "flex-grow:12.500"]
    assert [a["class"] for a in bars[:3]] == ["won arm0", "tied", "lost arm1"]
    assert "9 wins, 33 ties, 6 losses" in [a.get("aria-label") for _, a in page.tags]


def test_power_is_said(results: dict[str, Any]) -> None:
    said = results["verdict"]["pairs"][0]["power"]["text"]
    assert "with 80% probability" in said
    assert f"DPO and PPO: {said}" in page_of(results).text
    assert said in markdown(strict(results))


def test_cost_is_shown_by_stage_and_kind(results: dict[str, Any]) -> None:
    shown = strict(results)
    stage = shown["arms"]["ppo"]["cost"]["stages"]["ppo"]
    row = cells(stage_grid(shown), "PPO")
    parts = [stage[f"flops_{kind}"] for kind in ("rollouts", "scoring", "updates")]
    assert row[3:7] == [*map(flops, parts), flops(sum(parts))]
    assert row[1] == count(stage["tokens_rollouts"]) == "300 k"
    bars = {bar.name: bar for bar in shown_stages(shown)}
    assert bars["PPO"].total == pytest.approx(stage["flops"])
    shared = ["shared: pretraining", "shared: SFT", "shared: sampling the pairs"]
    assert list(bars) == [*shared, "DPO", "PPO: reward model", "PPO"]
    gain = shown["arms"]["ppo"]["difference"]["sft_sampled"]
    shown["arms"]["dpo"]["cost"]["per_gain"] = None
    assert gain["low"] > 0 and cells(search_grid(shown), "PPO")[5:] == [
        count(3e5 / gain["mean"]),
        flops(shown["arms"]["ppo"]["cost"]["flops"] / gain["mean"]),
        seconds(shown["arms"]["ppo"]["cost"]["cpu_seconds"] / gain["mean"]),
    ]
    assert cells(search_grid(shown), "DPO")[5:] == ["–", "–", "–"]


def test_parts_of_gold_add_up(results: dict[str, Any]) -> None:
    grid = parts_grid(strict(results))
    assert grid is not None
    columns = [[float(c.replace("−", "-")) for c in line.cells[1:]] for line in grid.lines]
    for total, *parts in zip(columns[-1], *columns[:-1], strict=True):
        assert total == pytest.approx(sum(parts), abs=0.04)
    assert grid.groups[1] == ("DPO, beta=0.3", 2, 0)
    greedy = results["arms"]["dpo"]["greedy"]["score"]["mean"]
    assert grid.lines[-1].cells[4] == f"+{greedy:.2f}"


def test_every_grid_names_keys_that_results_hold(results: dict[str, Any]) -> None:
    shown = strict(made(size="full"))
    page = render_page(shown, [], Path("somewhere"))
    sources = re.findall(r'<span class="source">(.*?)</span>', page, flags=re.S)
    keys = {key for source in sources for key in re.findall(r"<code>(.*?)</code>", source)}
    assert len(keys) > 20
    for key in keys:
        assert held(shown, key.split(".")), key


def held(found: Any, path: list[str]) -> bool:
    """Whether the path leads to something in any branch; an asterisk stands for any key or part of one."""
    if not path:
        return found is not None
    inside = found if isinstance(found, dict) else dict(enumerate(found)) if isinstance(found, list) else {}
    return any(held(value, path[1:]) for key, value in inside.items() if fnmatch(str(key), path[0]))


def test_courses_show_readings_fits_and_peaks() -> None:
    results = strict(made(size="full"))
    shown = courses(results)
    assert [c.name for c in shown] == ["course-dpo", "course-ppo", "course-stress"]
    reading = shown[-1].seeds[0]["reading"]
    fit = reading["fits"]["score"]
    assert reading["alarm"] and fit["a"] == pytest.approx(2.6, abs=0.2)
    law = gao(fit)
    peak = math.sqrt(reading["peak"]["fitted"]["kl"])
    assert law(peak) == pytest.approx(reading["peak"]["fitted"]["gain"])
    assert law(peak) > max(law(0.8 * peak), law(1.2 * peak))
    assert gao({"form": "best_of_n", "a": 2.0, "b": 0.5})(2.0) == pytest.approx(2 * (2 - 0.5 * 2))
    page = page_of(results)
    assert "Provoked on purpose" in page.text and "PPO without its brake alarm" in page.text
    assert shown[-1].summary["text"][1:] in page.text
    row = cells(courses_grid(results), "on purpose")
    assert row[:2] == ["2 of 2", "2 of 2"] and row[3].startswith(f"{reading['peak']['fitted']['kl']:.2f}, ")
    assert "Provoked" not in page_of(made()).text


def test_a_diagnosis_is_shown_gravest_first_and_left_out_where_there_is_none(results: dict[str, Any]) -> None:
    sick = copy.deepcopy(results)
    for arm in sick["arms"].values():
        arm.pop("diagnosis", None)
    assert "Diagnosis" not in page_of(sick).text and "Diagnosis" not in markdown(strict(sick))
    finding = {"code": "displacement", "severity": "note", "text": HOSTILE, "numbers": {"margin": 5.125}}
    grave = {**finding, "code": "entropy_collapse", "severity": "problem", "numbers": {"entropy": 0.0123}}
    sick["arms"]["dpo"]["diagnosis"] = [
        {**finding, "remedy": "a larger beta", "seeds": [0]},
        {**grave, "remedy": "", "seeds": [0, 1]},
    ]
    sick["arms"]["dpo"]["diagnosis_summary"] = "Two things."
    page = page_of(sick)
    assert page.text.index("entropy collapse seeds 0, 1") < page.text.index("displacement seed 0")
    assert (
        "What helps: a larger beta" in page.text
        and "margin 5.12" in page.text
        and "entropy 0.0123" in page.text
    )
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "**entropy collapse** (problem)" in markdown(strict(sick))


def test_what_is_said_stands_beside_what_was_measured(results: dict[str, Any]) -> None:
    page = page_of(results)
    row = next(r for r in results["articles"] if r["aspect"] == "separate reward model")
    at = page.cells.index(row["aspect"])
    assert page.cells[at : at + 5] == ["separate reward model", "yes", "yes", "no", "no"]
    assert row["measured"] == {"ppo": "yes", "dpo": "no"}
    assert "What is said" not in page_of(made(("dpo",))).text


def test_samples_are_sampled_and_greedy_and_a_few_of_each_kind_are_printed(results: dict[str, Any]) -> None:
    shown = sample_list(strict(results))
    assert len(shown) == len(results["samples"]) == 24
    assert {s["prompt"] for s in shown} == {s["prompt"] for s in results["samples"]}
    kept = [s["kind"] for s in shown if s["few"]]
    assert len(kept) == len(set(kept)) == 6
    first = next(s for s in shown if s["prompt"] == results["samples"][0]["prompt"])
    answers = {way["how"]: [a["text"] for a in way["answers"]] for way in first["ways"]}
    assert answers["sampled"] == list(results["samples"][0]["responses"].values())
    assert answers["greedy"] == list(results["samples"][0]["greedy"]["responses"].values())
    page = page_of(results)
    for texts in answers.values():
        assert all(text in page.text for text in texts)
    assert [a for tag, a in page.tags if tag == "option"] == []  # the filter is made by the script


def test_results_of_older_studies_can_be_shown_again(results: dict[str, Any], tmp_path: Path) -> None:
    old = copy.deepcopy(results)
    for key in ("stability", "overoptimisation", "articles"):
        del old[key]
    for arm in old["arms"].values():
        for cost in (arm["cost"], *arm["cost"]["stages"].values()):
            for key in [k for k in cost if k.startswith(("flops", "tokens_")) or k == "per_gain"]:
                del cost[key]
    for stage in old["start"]["stages"].values():
        for key in [k for k in stage if k.startswith("flops")]:
            del stage[key]
    for sample in old["samples"]:
        del sample["greedy"]
    del old["verdict"]["wins"]
    write_report(tmp_path, old)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert "What it cost" in page.text and "Was anything optimised too far" not in page.text
    assert not (tmp_path / "figures" / "flops.svg").exists()


def test_with_many_arms_the_verdict_folds_its_pairs_away() -> None:
    results = made(("dpo", "ppo", "simpo"), seeds=3)
    first, further = first_and_further(results)
    said = sentences(results)
    assert sorted(first + further) == sorted(said) and len(further) == 6
    assert first[0].startswith("Asking about all 3 pairs at once (Holm's correction)")
    assert not any("did not search alike" in sentence for sentence in first)
    page = page_of(results)
    assert all(sentence in page.text for sentence in said)
    power = results["verdict"]["pairs"][2]["power"]
    row = cells(power_grid(results), "PPO − SimPO")
    assert row[1:3] == ["yes", f"{power['detectable']:.2f}"]
    greedy = [w for w in results["verdict"]["wins"] if w["how"] == "greedy"]
    assert len(results["verdict"]["wins"]) == 15 and len(greedy) == 6
    assert sum(a.get("class") == "match" for _, a in page.tags) == 15
    assert "Both read greedily" in page.text and "Both read greedily" not in page_of(made()).text


def test_a_study_without_samples_has_no_section_for_them(tmp_path: Path):
    write_report(tmp_path, {**made(), "samples": []})
    page = (tmp_path / "report.html").read_text()
    assert 'id="samples"' not in page
    assert 'href="#samples"' not in page
    assert 'id="protocol"' in page
