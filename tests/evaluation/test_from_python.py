"""`tm.evaluate`, and best-of-n by a reward model: what they ask for, refuse and find."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import tastemaker as tm
from tastemaker.errors import TastemakerError
from tastemaker.models import save_model, word_model
from tastemaker.studies import best_of_n
from tastemaker.studies.best_of_n import within
from tastemaker.town import Town


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies") / "policy"
    save_model(*word_model(Town(0).vocabulary(), seed=0, hidden=16, layers=1, heads=2, max_length=256), folder)
    return folder


def test_a_policy_and_verdicts_from_python(policy: Path, tmp_path: Path):
    found = tm.evaluate(policy, prompts="town:0", number=6, max_new_tokens=3, out=tmp_path / "a")
    assert found.report.is_file() and found.results["behaviour"]["exact"]
    file = tmp_path / "v.jsonl"
    file.write_text(json.dumps({"prompt": 1, "model_a": "x", "model_b": "y", "winner": "a"}) + "\n")
    verdicts = tm.evaluate(judgements=file, out=tmp_path / "b")
    assert verdicts.results["battles"]["models"][0]["wins"] == 1


@pytest.mark.parametrize(
    "asked, said",
    [
        ({}, "need prompts"),
        ({"models": ["a", "b"], "data": "pairs.jsonl"}, "takes one model, and 2 are given"),
        ({"models": "a", "judgements": "v.jsonl"}, "leave the models out"),
        ({"models": "rm", "best_of_n": 4, "prompts": "p.jsonl"}, "policy: takes one model, and 0"),
        ({"models": "rm", "best_of_n": 1, "policy": "p", "prompts": "town:0"}, "at least 2 answers"),
        ({"models": "rm", "best_of_n": 4, "policy": "p", "prompts": "p.jsonl"}, "Give --gold RM"),
        (
            {"models": "rm", "best_of_n": 4, "policy": "p", "prompts": "p.jsonl", "gold": "./rm"},
            "its own word is no gold",
        ),
        (
            {"models": "rm", "best_of_n": 4, "policy": "p", "prompts": "town:0", "temperature": 0.0},
            "would be the same one",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(asked: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises(TastemakerError, match=said):
        tm.evaluate(asked.pop("models", None), out=tmp_path, **asked)


def test_best_of_n_by_a_noisy_reward_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The reward model sees gold and as much noise: at n it gains sqrt(1/2) of what the gold itself would."""
    g = torch.Generator().manual_seed(0)
    gold = torch.randn(600, 16, generator=g, dtype=torch.float64)
    proxy = gold + torch.randn(600, 16, generator=g, dtype=torch.float64)
    proxy[0, 3] = math.nan  # an answer that was too long for it
    answers = [["a"] * 16 for _ in range(600)], [[True] * 16 for _ in range(600)]
    monkeypatch.setattr(best_of_n, "prompts_of", lambda asked, town: ([None] * 600, []))
    monkeypatch.setattr(best_of_n, "drawn", lambda asked, records: answers)
    monkeypatch.setattr(best_of_n, "scored", lambda reward, *rest: proxy if reward == "rm" else gold)
    found = tm.evaluate("rm", best_of_n=16, policy="p", prompts="p.jsonl", gold="other", out=tmp_path).results
    assert found["prompts"] == 599 and "1 of 600" in found["notes"][0]
    last = found["curve"][-1]
    assert last["value"] - found["curve"][0]["value"] == pytest.approx(found["gain"])
    assert found["gain"] == pytest.approx(
        math.sqrt(0.5) * 1.766, abs=4 * found["gain_se"]
    )  # E max of 16 normals
    assert last["proxy"] > last["value"] and found["correlation"] == pytest.approx(math.sqrt(0.5), abs=0.03)
    page = (tmp_path / "report.html").read_text()
    assert "a proxy too" in page and "Best of 16 by rm" in page


def test_correlation_within_prompts_leaves_prompts_out():
    level = torch.tensor([[10.0], [0.0]], dtype=torch.float64)
    a = torch.tensor([[1.0, -1.0], [1.0, -1.0]], dtype=torch.float64)
    assert within(level + a, level - a) == pytest.approx(-1)
    assert math.isnan(within(level.expand(2, 2), level + a))
