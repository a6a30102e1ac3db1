"""Input that says nothing, too little or the wrong thing: refused or undefined, and said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tastemaker.errors import TastemakerError
from tastemaker.evaluation.comparing import Comparing, compared
from tastemaker.evaluation.looks import Stopping, looked_at
from tastemaker.evaluation.recorded import read_recorded
from tastemaker.evaluation.refusals import REFUSAL, measured
from tastemaker.evaluation.reward_report import ScoredPairs, best_of_n_curve, reward_report
from tastemaker.evaluation.verdicts import Battle
from tastemaker.functional import (
    calibration_error,
    cohen_kappa,
    fit_temperature,
    fleiss_kappa,
    krippendorff_alpha,
)
from tastemaker.runs import Parent, Run, Source
from tastemaker.studies.reward_evaluation import finite_scores, trained_prompts, without_seen
from tastemaker.types import Question


def battle(a: str, b: str, score: float, prompt: int = 0) -> Battle:
    return Battle(prompt=str(prompt), a=a, b=b, score=score, row=f"row {prompt}")


def test_models_that_nobody_asked_for_are_named():
    with pytest.raises(TastemakerError, match=r"row 3.*'typo'.*none of x, y"):
        compared([battle("x", "y", 1), battle("typo", "y", 1, 3)], Comparing(models=("x", "y")))


def test_a_model_that_only_wins_has_no_rating_but_by_a_prior():
    one_sided = [battle("a", "b", 1, i) for i in range(4)] + [battle("b", "c", i % 2, 9 + i) for i in range(4)]
    refused = compared(one_sided)
    assert refused["ratings"] is None and any("never" in n for n in refused["notes"])
    fitted = compared(one_sided, Comparing(disconnected="regularise"))["ratings"]
    assert fitted["regularised"] and all(math.isfinite(m["strength"]) for m in fitted["models"])


def test_ties_alone_tell_nothing_apart():
    found = compared([battle("x", "y", 0.5, i) for i in range(30)])
    assert found["models"][0]["win_rate"] == 0.5
    assert any("every verdict is a tie" in n for n in found["notes"])
    look = looked_at([0.5] * 30, Stopping())
    assert look["stopped_at"] is None and math.isnan(look["power"]) and look["needed"] is None


@pytest.mark.parametrize("counts", [torch.tensor([[3.0, 0.0], [3.0, 0.0]]), torch.tensor([[2.0], [2.0]])])
def test_one_class_alone_is_undefined_and_never_one(counts: torch.Tensor):
    assert math.isnan(krippendorff_alpha(counts)) and math.isnan(fleiss_kappa(counts))
    assert math.isnan(cohen_kappa(torch.tensor([[5.0, 0.0], [0.0, 0.0]])))


def test_one_class_alone_has_no_calibration_and_no_temperature():
    right = torch.ones(6, dtype=torch.float64)
    assert math.isnan(calibration_error(0.9 * right, right))
    assert math.isnan(fit_temperature(right))
    alike = measured(REFUSAL, ["I cannot help."], [True])
    assert math.isnan(alike.specificity) and math.isnan(alike.kappa)
    one = torch.tensor([1.0])
    report = reward_report(
        ScoredPairs(chosen=one, rejected=-one, chosen_lengths=one, rejected_lengths=one, tied=one < 0)
    )
    assert math.isnan(report["calibration"]["ece"]) and math.isnan(report["calibration"]["temperature"])
    assert any("undefined" in f for f in report["findings"])


def test_scores_that_are_no_numbers_are_refused_where_they_stand(tmp_path: Path):
    with pytest.raises(TastemakerError, match="rm: it scores an answer to 'two' with nan"):
        finite_scores([1.0, math.nan], "rm", ["one", "two"])
    assert finite_scores([1.0, None], "rm", ["one", "two"]).isnan().tolist() == [False, True]
    with pytest.raises(TastemakerError, match="finite"):
        best_of_n_curve(torch.tensor([[1.0, math.inf]]), torch.ones(1, 2))
    with pytest.raises(TastemakerError, match="between 0 and 1"):
        looked_at([0.5, math.nan])
    file = tmp_path / "v.jsonl"
    file.write_text('{"prompt": 1, "model_a": "x", "model_b": "y", "score": NaN}\n')
    with pytest.raises(TastemakerError, match=r"v\.jsonl"):
        read_recorded(file)


def test_prompts_that_chose_a_checkpoint_are_no_test_set(tmp_path: Path):
    """A tuning set that comes again as a test set is found through the run's record, as training data are."""
    for name in ("train", "tuning"):
        rows = "".join(json.dumps({"prompt": f"{name} {i}"}) + "\n" for i in range(3))
        (tmp_path / f"{name}.jsonl").write_text(rows)
    run = Run.create(
        tmp_path / "run",
        method="ppo",
        settings={},
        seed=0,
        parents=[Parent(role="gold_prompts", path=str(tmp_path / "tuning.jsonl"), weights_hash="x")],
        data=[Source(source=str(tmp_path / "train.jsonl"), sha256="y", rows=3)],
    )
    assert len(trained_prompts(run.folder)) == 6
    test = [Question(prompt=p) for p in ("tuning 1", "train 2", "something new")]
    with pytest.raises(TastemakerError, match="2 of 3 prompts are in the training"):
        without_seen(test, run.folder, "refuse")
    assert [r.prompt for r in without_seen(test, run.folder, "drop")[0]] == ["something new"]
    with pytest.raises(TastemakerError, match="should be refuse, drop or keep"):
        without_seen(test, run.folder, "maybe")
