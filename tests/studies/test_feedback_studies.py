"""What the studies of feedback make of their readings."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tastemaker.studies import chains, chains_report, critic, critic_report
from tastemaker.studies.claims.readings import critic_saves
from tastemaker.studies.pages.written_out import markdown
from tastemaker.town import Town


def curve(golds: list[float]) -> dict[str, dict[str, float]]:
    return {f"people {n}": {"gold": g} for n, g in zip(critic.PEOPLE, golds, strict=True)}


def test_a_gold_is_worth_so_many_labels_of_people():
    read = curve([0.0, 1.0, 2.0, 3.0, 4.0])  # one for every doubling, as 75 * 2^k
    for k in (0.5, 1.0, 2.25, 3.9):
        labels, cut = critic.equal_people(read, k)
        assert labels == pytest.approx(75 * 2**k)
        assert not cut
    assert critic.equal_people(read, -1.0) == (75, True)
    assert critic.equal_people(read, 9.0) == (1200, True)
    dented = curve([0.0, 2.0, 1.0, 3.0, 4.0])  # made monotone: 150 and 300 labels are both worth 1.5
    labels, _ = critic.equal_people(dented, 1.4999)
    assert 140 < labels <= 150
    assert critic.equal_people(dented, 1.5)[0] == pytest.approx(300)


def test_intervals_over_seeds_are_students():
    found = critic.interval([1.0, 2.0, 4.0])
    half = 4.30265 * math.sqrt(7 / 3) / math.sqrt(3)
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["high"] - found["mean"] == pytest.approx(half, rel=1e-4)
    assert math.isnan(critic.interval([1.0])["low"])


def test_the_critic_study_reports_shares_saved_and_where_taste_enters(tmp_path: Path):
    def seed(shift: float) -> dict:
        arms = {"sft": 0.0, **{f"people {n}": math.log(n / 75, 2) + shift for n in critic.PEOPLE}}
        arms |= dict.fromkeys(critic.CRITICS, 1.0 + shift)
        for arm in critic.arms():
            if arm.critic and arm.people:
                arms[arm.name] = math.log(2 * arm.people / 75, 2) + shift - 1e-9
        figures = dict.fromkeys(critic.FIGURES, 0.0)
        read = {name: {**figures, "gold": gold, "words": 10.0} for name, gold in arms.items()}
        read["long"]["words"] = 14.0 + shift
        judges = {c: dict.fromkeys(("gold", "people", "swap", "first", "longer"), 0.8) for c in critic.CRITICS}
        return {"arms": read, "judges": {"people": {"gold": 0.8}, **judges}}

    results = critic.summarise({1: seed(0.0), 2: seed(0.1), 3: seed(-0.1)})
    for name, found in results["saved"].items():
        assert found["mean"] == pytest.approx(0.5, abs=1e-3), name  # worth twice its people
    assert results["taste"]["long"]["words"]["mean"] == pytest.approx(4.0)
    assert results["taste"]["fair"]["words"]["mean"] == 0
    assert results["worth"]["fair"]["mean"] == pytest.approx(150)
    page = markdown(critic_report.critic_page(results))
    assert "| long | −3.00 [−3.00, −3.00] | +4.00 [+3.75, +4.25] |" in page
    assert "| fair + people 300 | 50 [50, 50]% | 0 of 3 |" in page
    assert "**Beside 300 labels of people a fair critic saved 50 [50, 50]% of people's labels.**" in page
    told = (
        "The long critic (likes every word): against the model taught by people: gold −3.00 [−3.00, −3.00] and"
    )
    assert f"{told} words an answer +4.00 [+3.75, +4.25]." in page
    again = json.loads(critic_report.report(tmp_path, results).with_name("results.json").read_text())
    assert markdown(critic_report.critic_page(again)) == page == (tmp_path / "results.md").read_text()
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert rows[0].startswith("labels,gold_mean,gold_low,gold_high")
    assert len(rows) == 2 + len(critic.arms())
    html = (tmp_path / "report.html").read_text()
    assert all(
        f'aria-label="{words}' in html for words in ("Share of people", "Gold, critic", "Gold by labels")
    )
    critic_saves(again, (1, 2, 3))  # a claim reads these numbers
    single = critic.summarise({1: seed(0.0)})
    assert "people is open: 50 [–, –]%" in markdown(critic_report.critic_page(single))


def test_domains_are_weighted_by_their_prompts():
    town = Town(1)
    counts: dict[str, int] = {}
    for question in town.prompts(chains.TEST_PROMPTS, "test"):
        kind = str(question.columns["kind"])
        counts[kind] = counts.get(kind, 0) + 1
    read = {"gold": 7.0, "words": 9.0, **{f"gold/{k}": float(i) for i, k in enumerate(counts)}}
    found = chains.by_domain(read, town)
    a, b = counts["unsafe"], counts["sounds-unsafe"]
    expected = (a * read["gold/unsafe"] + b * read["gold/sounds-unsafe"]) / (a + b)
    assert found["safety"] == pytest.approx(expected)
    assert {k for kinds in (*chains.DOMAINS.values(), chains.GENERAL) for k in kinds} == set(counts)
    by = sum(found[d] * sum(counts[k] for k in kinds) for d, kinds in chains.DOMAINS.items())
    by += found["general"] * sum(counts[k] for k in chains.GENERAL)
    assert by == pytest.approx(sum(counts[k] * read[f"gold/{k}"] for k in counts))


def test_the_chains_study_tells_gain_and_cost(tmp_path: Path):
    def seed(shift: float) -> dict:
        figures = {"gold": 0.0, "style": 0.0, "safety": 0.0, "honesty": 0.0, "general": 0.0, "words": 9.0}
        read = {p.stage: dict(figures) for p in chains.POLICIES}
        read["rlhf"] |= {"gold": 1.0 + shift, "style": 1.0}
        read["style_adapter"] |= {"gold": 1.2 + shift, "style": 3.0, "general": -0.5}
        return read

    results = chains.summarise({1: seed(0.0), 2: seed(0.2), 3: seed(0.1)})
    found = results["change"]["style_adapter"]
    assert [found[c]["mean"] for c in ("gold", "style", "general")] == pytest.approx([0.2, 2.0, -0.5])
    assert "sft" not in results["change"]
    page = markdown(chains_report.chains_page(results))
    assert "| style_adapter | rlhf | +0.20 [+0.20, +0.20] | +2.00 [+2.00, +2.00] |" in page
    told = "from rlhf: gold +0.20 [+0.20, +0.20]; gained in style +2.00 [+2.00, +2.00]; forgot in general −0.50"
    assert told in page
    assert sorted(p.stage for p in chains.POLICIES if p.start != p.stage) == sorted(
        stage for _, _, stages in chains_report.PARTS for stage in stages
    )
    again = json.loads(chains_report.report(tmp_path, results).with_name("results.json").read_text())
    assert markdown(chains_report.chains_page(again)) == page == (tmp_path / "results.md").read_text()
