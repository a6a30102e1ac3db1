"""Recorded verdicts: the command on the published files, and what it says of bad ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from published_records import published
from tastemaker.cli.evaluate import EVALUATE
from tastemaker.errors import TastemakerError
from tastemaker.evaluation.comparing import Comparing, compared
from tastemaker.evaluation.leaderboard import leaderboard
from tastemaker.evaluation.looks import Stopping, looked_at
from tastemaker.evaluation.recorded import read_recorded
from tastemaker.evaluation.verdicts import Battle


def evaluate(out: Path, file: Path, *more: str) -> dict:
    EVALUATE.run(["--judgements", str(file), "--out", str(out), *more])
    page = (out / "report.html").read_text()
    assert "<h1>" in page and "nan" not in page.split("</style>")[1].casefold().replace("finance", "")
    return json.loads((out / "results.json").read_text())


def test_alpaca_eval_by_the_command(shared_data: Path, tmp_path: Path):
    inputs = shared_data / "alpaca_eval_lc_inputs.jsonl.gz"
    file = shared_data / "alpaca_eval2_pairs_numeric.jsonl.gz"
    found = evaluate(tmp_path, file, "--length-inputs", str(inputs))["battles"]
    assert found["baseline"] == "gpt4_1106_preview"
    for row in found["models"]:
        expected = published(shared_data)["alpaca_eval2"][row["model"]]
        assert 100 * row["win_rate"] == pytest.approx(expected["win_rate"], abs=1e-6)
        assert 100 * row["se"] == pytest.approx(expected["standard_error"], abs=1e-6)
        assert 100 * row["length_controlled"] == pytest.approx(expected["length_controlled_winrate"], abs=0.12)
        assert (row["wins"], row["ties"]) == (expected["n_wins"], expected["n_draws"])
    assert found["ratings"]["connected"]
    table = (tmp_path / "results.csv").read_text().splitlines()
    assert len(table) == 13 and table[1].startswith("FuseChat-Gemma")


def test_baseball_by_the_command(shared_data: Path, tmp_path: Path):
    found = evaluate(tmp_path, shared_data / "bt_baseball1987.jsonl.gz")["battles"]["ratings"]
    expected = published(shared_data)["bt_baseball"]["published"]
    assert round(found["effects"][0]["effect"], 3) == expected["at_home_3dp"]
    worth = [math.exp(m["strength"]) for m in found["models"]]
    printed = sorted(round(w / sum(worth), 3) for w in worth)
    assert printed == pytest.approx(expected["home_model_normalised_worth_3dp_sorted"], abs=1e-9)


def test_agreement_by_the_command(shared_data: Path, tmp_path: Path):
    expected = published(shared_data)
    dices = evaluate(tmp_path / "a", shared_data / "dices_350_crowdsourced.jsonl.gz")["ratings"][0]
    alpha = expected["dices"]["krippendorff_nominal_published_in_JUDGE-BENCH_results"]
    assert dices["alpha"] == pytest.approx(alpha, abs=1e-9)
    assert dices["alpha_interval"][0] < alpha < dices["alpha_interval"][1]
    for row in evaluate(tmp_path / "b", shared_data / "xstest_human_labels.jsonl.gz")["ratings"]:
        assert round(100 * row["raw"], 1) == expected["xstest"][row["name"]]["agreement_pct_published"]
        assert round(row["fleiss"], 2) == expected["xstest"][row["name"]]["fleiss_kappa_published"]
    pandalm = evaluate(tmp_path / "c", shared_data / "pandalm_human3.jsonl.gz")["ratings"][0]
    assert {k: round(v, 2) for k, v in pandalm["cohen"].items()} == expected["pandalm"]["cohen_kappa_published"]


def test_llmbar_judges_by_the_command(shared_data: Path, tmp_path: Path):
    found = evaluate(tmp_path, shared_data / "llmbar_judge_decisions.jsonl.gz")["two_orders"]
    assert len(found) == 195
    for row in found:
        expected = published(shared_data)["llmbar"]["|".join(row["name"].split(" "))]
        assert 100 * row["accuracy"] == pytest.approx(expected["acc_pct"], abs=1e-9)
        assert 100 * row["swap_agreement"] == pytest.approx(expected["positional_agreement_pct"], abs=1e-9)
        assert row["kappa"] == pytest.approx(expected["kappa_agreement"], abs=1e-9)


# ------------------------------------------------------------------------------------------ bad input


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def row(a: str, b: str, winner: object, prompt: int = 0, **more: object) -> dict:
    return {"prompt": prompt, "model_a": a, "model_b": b, "winner": winner, **more}


def battle(a: str, b: str, score: float, prompt: int = 0, **more: object) -> Battle:
    return Battle(prompt=str(prompt), a=a, b=b, score=score, row=f"row {prompt}", **cast(Any, more))


@pytest.mark.parametrize(
    "bad, said",
    [
        ({"model_a": "x", "winner": "a"}, "no two models"),
        ({"model_a": "x", "model_b": "x", "winner": "a"}, "compared with itself"),
        ({"model_a": "x", "model_b": "y"}, "no outcome"),
        ({"model_a": "x", "model_b": "y", "score": 1.5}, "out of range"),
        ({"model_a": "x", "model_b": "y", "preference": 3}, "out of range"),
        ({"model_a": "x", "model_b": "y", "score": [1]}, "no finite number"),
    ],
)
def test_wrong_rows_are_refused_with_their_place(tmp_path: Path, bad: dict, said: str):
    file = write(tmp_path / "v.jsonl", row("x", "y", "a"), bad)
    with pytest.raises(TastemakerError, match=said) as error:
        read_recorded(file)
    assert "v.jsonl:2" in str(error.value)


def test_nan_is_refused_and_null_is_unparsed(tmp_path: Path):
    file = tmp_path / "v.csv"
    file.write_text("prompt,model_a,model_b,score\n1,x,y,nan\n")
    with pytest.raises(TastemakerError, match="no finite number"):
        read_recorded(file)
    verdicts = [
        row("x", "y", "a"),
        row("x", "y", None, 1),
        row("x", "y", "no idea", 2),
        row("x", "y", "tie", 3),
    ]
    found = compared(read_recorded(write(tmp_path / "v.jsonl", *verdicts)).battles)
    assert found["unparsed"] == 2 and found["models"][0]["unparsed"] == 2
    assert found["models"][0]["win_rate"] == 0.75


def test_unknown_models_are_refused():
    with pytest.raises(TastemakerError, match=r"row 1.*'z'"):
        compared([battle("x", "y", 1), battle("z", "y", 0, 1)], Comparing(models=("x", "y")))
    with pytest.raises(TastemakerError, match="in no verdict"):
        compared([battle("x", "y", 1)], Comparing(baseline="q"))


def test_disconnected_comparisons_are_refused_or_regularised():
    apart = [battle("a", "b", 1), battle("b", "a", 1, 1), battle("c", "d", 1, 2), battle("d", "c", 1, 3)]
    refused = compared(apart)
    assert refused["ratings"] is None
    assert any("falls into 2 groups" in note for note in refused["notes"])
    fitted = compared(apart, Comparing(disconnected="regularise"))
    assert fitted["ratings"]["regularised"]
    assert any("regularised" in note for note in fitted["notes"])
    one_sided = [battle("a", "b", 1, i) for i in range(3)] + [battle("b", "c", 0.5, 3)]
    with pytest.raises(TastemakerError, match="never took anything"):
        leaderboard(one_sided)


def test_one_side_wins_all_and_all_ties_are_said():
    found = compared([battle("x", "y", 1, i, length_a=9.0 + i, length_b=5.0) for i in range(5)])
    assert any("won every verdict" in n for n in found["notes"])
    assert any("no finite fit" in n for n in found["notes"])
    assert found["models"][0]["length_controlled"] is None
    tied = compared([battle("x", "y", 0.5, i) for i in range(5)])
    assert tied["models"][0]["win_rate"] == 0.5
    assert any("every verdict is a tie" in n for n in tied["notes"])


def test_one_class_only_is_undefined_not_one(tmp_path: Path):
    file = write(tmp_path / "r.jsonl", *({"annotator1": "yes", "annotator2": "yes"} for _ in range(4)))
    found = evaluate(tmp_path / "out", file)["ratings"][0]
    assert found["alpha"] is None and found["fleiss"] is None and found["cohen"]["1-2"] is None
    assert "undefined" in found["note"]


# ------------------------------------------------------------------------------------------ the rest


def verdicts(rate: float, n: int, seed: int) -> list[Battle]:
    wins = torch.bernoulli(torch.full((n,), rate), generator=torch.Generator().manual_seed(seed))
    return [battle("x", "y", float(w), i, length_a=1.0, length_b=2.0) for i, w in enumerate(wins)]


def test_sides_do_not_matter():
    one = [battle("x", "y", 1), battle("x", "y", 0, 1), battle("x", "y", 1, 2)]
    other = [one[0], one[1].turned(), one[2]]
    assert compared(one)["models"] == compared(other)["models"]
    assert one[0].turned().turned() == one[0] or math.isnan(one[0].human)


def test_paired_differences_use_the_shared_prompts():
    rows = [battle("x", "base", float(i % 3 > 0), i) for i in range(60)]
    rows += [battle("z", "base", float(i % 3 > 1), i) for i in range(40)]
    gap = compared(rows)["differences"][0]
    assert gap["prompts"] == 40 and gap["better"] == "x"
    assert gap["difference"] == pytest.approx(sum(i % 3 == 1 for i in range(40)) / 40)


def test_people_correct_the_judge():
    rows = verdicts(0.8, 300, 0)
    rows = [
        battle("x", "y", b.score, i, human=b.score if i % 4 else 1 - b.score) if i < 80 else b
        for i, b in enumerate(rows)
    ]
    found = compared(rows)["models"][0]["corrected"]
    assert found["labels"] == 80
    assert found["low"] < found["rate"] < found["high"] < 0.8


def test_the_stopping_rule_is_stored_with_its_result():
    found = looked_at([b.score for b in verdicts(0.7, 300, 1)], Stopping(planned=300))
    assert found["stopped_at"] is not None and "rejected at verdict" in found["reason"]
    assert found["rule"]["rule"] == "msprt" and found["rule"]["alpha"] == 0.05
    assert found["interval"][0] <= found["fixed"][0]
    equal = looked_at([0.0, 1.0] * 100, Stopping(rule="betting", planned=200))
    assert equal["stopped_at"] is None and equal["needed"] is None
    with pytest.raises(TastemakerError, match="should be one of"):
        Stopping(rule=cast(Any, "often"))


def test_length_controlled_errors_cover_the_truth():
    generator = torch.Generator().manual_seed(5)
    hits = 0
    for _ in range(300):
        a, b = (torch.randint(50, 400, (250,), generator=generator).double() for _ in range(2))
        d = (a - b) / float((a - b).std())
        wins = torch.bernoulli((0.5 + 1.2 * d.tanh()).sigmoid(), generator=generator)
        rows = [
            battle("x", "y", float(w), i, length_a=float(p), length_b=float(q))
            for i, (w, p, q) in enumerate(zip(wins, a, b, strict=True))
        ]
        found = compared_row(rows)
        hits += abs(found[0] - 0.6225) <= 1.96 * found[1]
    assert 0.92 <= hits / 300 <= 0.98


def compared_row(rows: list[Battle]) -> tuple[float, float]:
    from tastemaker.evaluation.verdicts import lengths_of, scores_of
    from tastemaker.functional import length_controlled_win_rate

    lengths = lengths_of(rows)
    assert lengths is not None
    fit = length_controlled_win_rate(scores_of(rows), *lengths)
    return fit.rate, fit.fit_error
