"""Claims: what their readings make of studies, and what their trainings learn from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tastemaker.errors import TastemakerError
from tastemaker.studies.claims import CLAIMS, EVIDENCE, try_claims, write_claims
from tastemaker.studies.claims.claim import Claim, both, signed, turned
from tastemaker.studies.claims.labelled import KINDS, Cell, cell_tasks, chosen_pairs
from tastemaker.studies.claims.run import markdown, tried
from tastemaker.town import Town
from tastemaker.town.critic import Critic
from tastemaker.types import Comparison, Question

BY_NAME: Mapping[str, Claim] = {claim.name: claim for claim in CLAIMS}


def span(mean: float, half: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def test_an_interval_decides_only_where_it_lies_on_one_side() -> None:
    assert signed(span(1.0, 0.5)) == "holds here"
    assert signed(span(-1.0, 0.5)) == "does not hold here"
    assert signed(span(0.1, 0.5)) == "undecided"
    assert signed(span(-0.1, 0.05), least=-0.2) == "holds here"
    assert signed({"mean": 3.0, "low": None, "high": None}) == "undecided"
    assert signed({"mean": 3.0, "low": float("nan"), "high": float("nan")}) == "undecided"
    assert turned({"mean": 1.0, "low": 0.5, "high": None}) == {"mean": -1.0, "low": None, "high": -0.5}


def test_of_several_parts_one_that_fails_decides() -> None:
    assert both("holds here", "holds here") == "holds here"
    assert both("holds here", "undecided") == "undecided"
    assert both("undecided", "does not hold here") == "does not hold here"


def comparison(difference: float, *, a: str = "dpo", b: str = "ppo", flops: float = 0.5) -> dict[str, Any]:
    cost = {a: {"flops": flops, "model_copies": 1}, b: {"flops": 1.0, "model_copies": 2}}
    return {
        "arms": {
            name: {"cost": cost[name], "chosen": "kl_coef=0.3", "difference": {"sft_sampled": span(1.0, 0.2)}}
            for name in (a, b)
        },
        "verdict": {
            "pairs": [
                {
                    "a": a,
                    "b": b,
                    "difference": span(difference, 0.1),
                    "matched_kl": {"comparable": True, "difference": span(difference, 0.3)},
                }
            ]
        },
        "stability": {
            "seeds": 5,
            "pairs": [{"a": a, "b": b, "score": {"ratio": 0.1, "low": 0.05, "high": 0.4}}],
        },
        "overoptimisation": {"stress": None},
        "frontier": [
            {
                "arm": "ppo",
                "label": label,
                "seed": seed,
                "score": score + 0.01 * seed,
                "proxy": proxy + 0.02 * seed,
            }
            for label, score, proxy in (("kl_coef=0.03", -1.0, 2.0), ("kl_coef=0.3", 1.0, 1.0))
            for seed in range(3)
        ],
    }


def outcome(name: str, study: Mapping[str, Any]) -> str:
    return BY_NAME[name].read(study, range(3)).outcome


def test_dpo_against_ppo_is_read_from_their_comparison() -> None:
    assert outcome("less-compute", comparison(0.0)) == "holds here"
    assert outcome("less-compute", comparison(0.0, flops=1.5)) == "does not hold here"
    assert outcome("less-compute", comparison(-0.5)) == "does not hold here"
    assert outcome("frontier", comparison(0.5)) == "holds here"
    assert outcome("frontier", comparison(0.1)) == "undecided"
    # the same comparison with its arms named the other way round
    assert outcome("frontier", comparison(-0.5, a="ppo", b="dpo")) == "holds here"
    assert outcome("varies-less", comparison(0.0)) == "holds here"
    assert outcome("varies-less", comparison(0.0, a="ppo", b="dpo")) == "does not hold here"


def test_a_small_coefficient_collapses_where_gold_falls_and_the_proxy_rises() -> None:
    study = comparison(0.0)
    study["frontier"] = [
        {
            **row,
            "score": row["score"] + 0.05 * (row["seed"] % 2),
            "proxy": row["proxy"] - 0.03 * (row["seed"] % 2),
        }
        if row["label"] == "kl_coef=0.03"
        else row
        for row in study["frontier"]
    ]
    finding = BY_NAME["small-kl-coefficient"].read(study, range(3))
    assert finding.outcome == "holds here"
    assert finding.figures["gold"]["mean"] == pytest.approx(-2.0 + 0.05 / 3)
    swapped = {**study, "frontier": [{**row, "score": -row["score"]} for row in study["frontier"]]}
    assert outcome("small-kl-coefficient", swapped) == "does not hold here"


def test_gaos_law_needs_every_seed_and_a_good_fit() -> None:
    def stress(alarms: int, r_squared: float) -> dict[str, Any]:
        seeds = [{"reading": {"fits": {"score": {"r_squared": r_squared}}}} for _ in range(4)]
        summary = {"seeds": 4, "alarms": alarms}
        return {"overoptimisation": {"stress": {"summary": summary, "seeds": seeds, "pairs": 800}}}

    assert outcome("over-optimisation", stress(4, 0.9)) == "holds here"
    assert outcome("over-optimisation", stress(3, 0.9)) == "undecided"
    assert outcome("over-optimisation", stress(4, 0.4)) == "does not hold here"


def test_labels_studies_are_read() -> None:
    noise = {
        "levels": [0.0, 0.3],
        "falls": {
            "dpo": {"gold": span(-1.0, 0.2), "beside_first": None},
            "dpo:robust": {"gold": span(-0.5, 0.2), "beside_first": span(0.5, 0.2)},
        },
    }
    assert outcome("robust-dpo", noise) == "holds here"
    noise["falls"]["dpo:robust"]["beside_first"] = span(-0.5, 0.2)
    assert outcome("robust-dpo", noise) == "does not hold here"

    def grown(by: float) -> dict[str, Any]:
        return {
            "0": {"length": {"by_seed": [10.0, 11.0, 12.0]}},
            "0.4": {"length": {"by_seed": [10.0 + by, 11.2 + by, 11.9 + by]}},
        }

    study = {"levels": [0.0, 0.4], "arms": {"dpo": grown(6.0), "dpo:sigmoid_norm": grown(1.0)}}
    study["arms"]["dpo:sigmoid_norm"]["0.4"]["length"]["by_seed"][0] += 0.3
    assert outcome("length-normalisation", study) == "holds here"
    mixes = {n: {**span(0.4, width), "cut": 1} for n, width in ((150, 0.1), (1000, 0.1), (300, 0.1))}
    saved = {
        "saved": {**{f"fair + people {n}": m for n, m in mixes.items()}, "biased + people 300": span(-0.2, 0.1)}
    }
    assert outcome("ai-feedback", saved) == "holds here"
    mixes[300].update(span(0.4, 0.5))  # the mix in the middle decides, not the best
    assert outcome("ai-feedback", saved) == "undecided"


@pytest.mark.parametrize(
    "name, up, down",
    [("narrow-annotators", "narrow", "parts/sycophancy"), ("safety-heavy", "safety", "parts/over_refusal")],
)
def test_trainings_are_compared_prompt_by_prompt(name: str, up: str, down: str) -> None:
    def told(rate: float) -> dict[str, Any]:
        column = [None if i % 4 == 0 else float(i % 10 < rate * 10) for i in range(200)]
        names = ("parts/sycophancy", "parts/flattery", "parts/over_refusal", "parts/harm")
        return {"columns": dict.fromkeys(names, column)}

    study = {
        f"{cell}-{seed}": told(0.3 + 0.4 * (cell == up)) for cell in ("everything", up) for seed in range(3)
    }
    finding = BY_NAME[name].read(study, range(3))
    assert finding.outcome == "holds here"
    assert finding.figures[down.removeprefix("parts/")]["mean"] == pytest.approx(0.4, abs=0.03)


def test_certain_labels_and_lost_abstention() -> None:
    def policy(gold: float, kl: float, known: float) -> dict[str, Any]:
        noise = [0.1 * ((i * 7) % 5 - 2) for i in range(100)]
        known_column = [None if i % 5 else float((i / 5) % 10 < known * 10) for i in range(100)]
        return {
            "columns": {
                "score": [gold + x for x in noise],
                "kl": [kl - x for x in noise],
                "does_not_know": known_column,
            }
        }

    cells = {"certain-dpo": policy(1.0, 8.0, 0), "certain-ipo": policy(1.2, 2.0, 0)}
    cells |= {"everything": policy(1.0, 1.0, 0.8), "help": policy(1.0, 1.0, 0.2)}
    study = {f"{name}-{seed}": found for name, found in cells.items() for seed in range(3)}
    assert outcome("ipo-certain-labels", study) == "holds here"
    assert outcome("help-heavy", study) == "holds here"


# ------------------------------------------------------------------------------------- the labels


@pytest.fixture(scope="module")
def world() -> tuple[Town, list[Comparison]]:
    """Pairs of a right and another answer to every kind of prompt, in turns the other way round."""
    town = Town(0)
    questions = [q for q in town.prompts(800, "train", seed=1) if isinstance(q, Question)]
    pairs: list[Comparison] = []
    for i, question in enumerate(questions):
        answers = (str(question.answer), "yes .")
        if answers[0].strip() == answers[1]:
            continue
        shown = answers if i % 2 else answers[::-1]
        pairs.append(Comparison(prompt=question.prompt, responses=shown, ranking=(0, 1), row=str(i)))
    return town, pairs


def test_labels_that_are_certain_follow_the_gold_reward(world: tuple[Town, list[Comparison]]) -> None:
    town, pairs = world
    critic = Critic(town)
    found = chosen_pairs(pairs, town, Cell(name="c", labels="certain", pairs=200))
    for pair in found:
        better, worse = (pair.responses[pair.ranking.index(rank)] for rank in (0, 1))
        prompt = critic.find(pair.prompt)
        assert town.gold(prompt, str(better), True).total > town.gold(prompt, str(worse), True).total
    assert {pair.ranking for pair in found} == {(0, 1), (1, 0)}


@pytest.mark.parametrize("about", KINDS)
def test_only_pairs_about_what_is_wanted_are_kept(world: tuple[Town, list[Comparison]], about: Any) -> None:
    town, pairs = world
    critic = Critic(town)
    found = chosen_pairs(pairs, town, Cell(name="c", about=about, pairs=50))
    assert {critic.find(pair.prompt).kind for pair in found} <= set(KINDS[about]) and len(found) == 50
    with pytest.raises(TastemakerError, match="there are"):
        chosen_pairs(pairs, town, Cell(name="c", about=about, pairs=5000))


def test_a_narrow_panel_sees_other_winners(world: tuple[Town, list[Comparison]]) -> None:
    town, pairs = world
    plain = chosen_pairs(pairs, town, Cell(name="c", pairs=300))
    narrow = chosen_pairs(pairs, town, Cell(name="c", labels="narrow", pairs=300))
    assert [p.responses for p in narrow] == [p.responses for p in plain] == [p.responses for p in pairs[:300]]
    assert [p.ranking for p in narrow] != [p.ranking for p in plain]
    assert narrow == chosen_pairs(pairs, town, Cell(name="c", labels="narrow", pairs=300))


def test_cells_of_all_claims_are_trained_once(tmp_path: Path) -> None:
    cells = {cell.name: cell for claim in CLAIMS for cell in claim.cells}
    tasks = cell_tasks(list(cells.values()), [0, 1], tmp_path)
    names = [task.name for task in tasks]
    assert len(names) == len(set(names)) == 2 * (len(cells) + 1)


# ------------------------------------------------------------------------------------- the page


def test_a_claim_without_its_study_says_what_makes_it(tmp_path: Path) -> None:
    missing = tried(BY_NAME["kto-near-dpo"], tmp_path, {}, [0])
    assert missing.outcome == "not tried" and "make results-offline" in missing.said
    path = tmp_path / EVIDENCE["offline"].path
    path.parent.mkdir()
    path.write_text(json.dumps({**comparison(0.0), "arms": {"dpo": {}}}))
    assert "has no kto" in tried(BY_NAME["kto-near-dpo"], tmp_path, {}, [0]).said
    path.write_text("{")
    with pytest.raises(TastemakerError, match="line 1"):
        tried(BY_NAME["kto-near-dpo"], tmp_path, {}, [0])


def test_pages_hold_every_claim_as_found(tmp_path: Path) -> None:
    path = tmp_path / "results" / EVIDENCE["town"].path
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(comparison(0.5)))
    names = ["less-compute", "frontier", "kto-near-dpo"]
    found = try_claims(names, results=tmp_path / "results", seeds=[0], out=tmp_path / "runs")
    assert [t.outcome for t in found] == ["holds here", "holds here", "not tried"]
    report = write_claims(tmp_path / "out", found, [0], tmp_path / "claims.md")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["claims"]) == names and results["claims"]["frontier"]["outcome"] == "holds here"
    html, text = report.read_text(), (tmp_path / "claims.md").read_text()
    for t in found:
        assert t.claim.statement in html and t.said.split(";")[0] in html.replace("&#39;", "'")
        assert f"**{t.outcome}** | {t.said}" in text
    assert "2 hold here and 1 was not tried" in markdown(found, [0])
    with pytest.raises(TastemakerError, match="did you mean frontier"):
        try_claims(["frontir"], results=tmp_path, seeds=[0], out=tmp_path)
