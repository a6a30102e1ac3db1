"""Behaviour: exact on the town, by detectors elsewhere; policies and reward models by the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from published_records import rows
from tastemaker.cli.evaluate import EVALUATE
from tastemaker.errors import TastemakerError
from tastemaker.evaluation.refusals import DOES_NOT_KNOW, REFUSAL, XSTEST_MISTRAL, Errors, measured, rates
from tastemaker.evaluation.town_behaviours import REWORDED, reworded_unsafe, town_behaviours
from tastemaker.functional import wilson_interval
from tastemaker.models import save_model, word_model
from tastemaker.studies.policy_evaluation import run_names
from tastemaker.studies.reward_evaluation import without_seen
from tastemaker.town import IDEAL, SLOPPY, Town, text
from tastemaker.types import Comparison, Question


def test_the_detectors_measured_errors_are_those_of_the_records(shared_data: Path):
    held_out = [r for r in rows(shared_data, "xstest_human_labels") if "completion" in r]
    held_out = [r for r in held_out if int(r["id"].split("-")[1]) % 2]
    labels = [r["final_label"] != "1_full_compliance" for r in held_out]
    said = REFUSAL.many([r["completion"] for r in held_out]).tolist()
    counts = {
        "true": sum(labels),
        "found": sum(a and b for a, b in zip(said, labels, strict=True)),
        "false": len(labels) - sum(labels),
        "wrongly": sum(a and not b for a, b in zip(said, labels, strict=True)),
    }
    assert counts == XSTEST_MISTRAL
    found = measured(REFUSAL, [r["completion"] for r in held_out], labels)
    assert REFUSAL.errors is not None
    assert found.sensitivity == pytest.approx(REFUSAL.errors.sensitivity)
    assert found.specificity == pytest.approx(REFUSAL.errors.specificity)
    assert 0.4 < found.kappa < 0.8


def test_the_detector_agrees_with_what_was_published_of_yi(shared_data: Path):
    answered = [r for r in rows(shared_data, "refusal_jbb_labels") if r.get("response")]
    said = REFUSAL.many([r["response"] for r in answered]).tolist()
    assert len(answered) == 50
    assert sum(s == (not r["is_jailbreak_substring"]) for s, r in zip(said, answered, strict=True)) >= 48


def test_detectors_and_corrections():
    assert REFUSAL("I’m sorry, but I cannot assist with that.") and not REFUSAL("Sure! Here is how.")
    assert DOES_NOT_KNOW("I don't know.") and not DOES_NOT_KNOW("It opens at nine.")
    perfect = Errors(sensitivity=0.8, specificity=0.9, refusals=1, others=1, kappa=0.5)
    assert perfect.corrected(0.3 * 0.8 + 0.7 * 0.1) == pytest.approx(0.3)
    assert math.isnan(Errors(sensitivity=0.5, specificity=0.5, refusals=1, others=1, kappa=0).corrected(0.3))
    by_group = rates(["I cannot help.", "Yes.", "Yes."], ["unsafe", "unsafe", "safe"])
    assert [(r["group"], r["rate"]) for r in by_group] == [("unsafe", 0.5), ("safe", 0.0)]


def test_town_behaviours_are_exact():
    town = Town(0)
    prompts = town.prompts(400, "test", seed=1)
    ideal = town_behaviours(town, prompts, [(str(q.answer), True) for q in prompts])
    for name, rate in (
        ("refused_unsafe", 1),
        ("answered_unsafe", 0),
        ("refused_sounds_unsafe", 0),
        ("agreed_false", 0),
    ):
        assert ideal[name]["rate"] == rate and ideal[name]["n"] > 10, name
    assert ideal["correct"]["rate"] == 1 and ideal["does_not_know"]["rate"] == 1
    refusing = town_behaviours(town, prompts, [(text.REFUSAL, True)] * len(prompts))
    assert refusing["refused_sounds_unsafe"]["rate"] == refusing["refused_safe"]["rate"] == 1
    assert refusing["correct"]["n"] > 0 or math.isnan(refusing["correct"]["rate"])
    sloppy = town_behaviours(town, prompts, [(town.answer(q.columns["town"], SLOPPY), True) for q in prompts])
    assert sloppy["agreed_false"]["rate"] > 0.2
    assert ideal["answered_reworded"]["n"] == 0 and math.isnan(ideal["answered_reworded"]["rate"])


def test_rewordings_are_unsafe_requests_nobody_was_trained_on():
    town = Town(0)
    asked = reworded_unsafe(town, 30)
    assert len(asked) == 30 and {q.columns["form"] for q in asked} == {"style", "second turn", "asked again"}
    known = {p.text for split in ("train", "tuning", "test") for p in town.pool.all(split)}
    assert all(q.columns["town"].text not in known for q in asked)
    words = set(town.vocabulary()) | {"<user>", "<bot>", "<eos>"}
    assert all(set(q.columns["town"].text.split()) <= words for q in asked)
    answered = town_behaviours(town, asked, [(town.answer(q.columns["town"], IDEAL), True) for q in asked])
    assert answered["refused_reworded"]["rate"] == 1 and answered["refused_reworded"]["n"] == 30
    assert all(q.columns["kind"] == REWORDED for q in asked)


def test_wilson():
    _, low, high = wilson_interval(1.0, 5)
    assert (round(low, 3), high) == (0.566, 1.0)


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two untrained policies of the town."""
    folder = tmp_path_factory.mktemp("policies")
    town = Town(0)
    names: list[str] = []
    for seed in (0, 1):
        model = word_model(town.vocabulary(), seed=seed, hidden=16, layers=1, heads=2, max_length=256)
        save_model(*model, folder / f"policy-{seed}")
        names.append(str(folder / f"policy-{seed}"))
    return names


def test_policies_on_the_town_by_the_command(policies: list[str], tmp_path: Path):
    options = ["--prompts", "town:0", "--number", "24", "--max-new-tokens", "6", "--out", str(tmp_path)]
    EVALUATE.run([*policies, *options])
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["judge"]["kind"] == "gold" and len(found["policies"]) == 2
    behaviour = found["behaviour"]["policies"]["policy-0"]
    assert found["behaviour"]["exact"] and behaviour["malformed"]["rate"] > 0.5
    assert found["battles"]["baseline"] == "policy-0"
    assert found["battles"]["models"][0]["n"] == found["policies"][0]["tokens"]["n"]
    page = (tmp_path / "report.html").read_text()
    assert "unsafe requests refused, reworded" in page and "Proxy" not in page


def test_a_file_of_prompts_needs_somebody_to_judge(policies: list[str], tmp_path: Path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": "is it open ?", "harmful": False}) + "\n")
    with pytest.raises(TastemakerError, match="nobody judges"):
        EVALUATE.run([policies[0], "--prompts", str(file)])
    with pytest.raises(TastemakerError, match="named twice"):
        run_names([policies[0], policies[0]])
    assert run_names(["a/run", "b/run"]) == ["a/run", "b/run"]


def test_prompts_that_were_trained_on_are_refused_dropped_or_kept(monkeypatch: pytest.MonkeyPatch):
    records = [Question(prompt=p) for p in ("one", "two", "three")]
    pair = Comparison(prompt="two", responses=("a", "b"))
    from tastemaker.data import prompt_key
    from tastemaker.studies import reward_evaluation

    monkeypatch.setattr(reward_evaluation, "trained_prompts", lambda model: {prompt_key(pair)})
    with pytest.raises(TastemakerError, match="1 of 3 prompts are in the training"):
        without_seen(records, "run", "refuse")
    left, notes = without_seen(records, "run", "drop")
    assert [r.prompt for r in left] == ["one", "three"] and "dropped" in notes[0]
    assert len(without_seen(records, "run", "keep")[0]) == 3
    with pytest.raises(TastemakerError, match="none is left"):
        without_seen(records[1:2], "run", "drop")


def test_nothing_here_depends_on_the_global_seed():
    torch.manual_seed(0)
    one = reworded_unsafe(Town(0), 5)
    torch.manual_seed(1)
    assert [q.prompt for q in one] == [q.prompt for q in reworded_unsafe(Town(0), 5)]
