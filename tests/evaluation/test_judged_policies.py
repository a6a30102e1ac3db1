"""`tastemaker evaluate --judge` from end to end: a critic of the town, an endpoint, a model in a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import chat_server
from tastemaker.cli.evaluate import EVALUATE
from tastemaker.errors import TastemakerError
from tastemaker.models import build_roles, save_model, tiny_model, word_model
from tastemaker.rollout import LocalGenerator
from tastemaker.town import Town


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two untrained policies of the town."""
    folder = tmp_path_factory.mktemp("policies")
    names: list[str] = []
    for seed in (0, 1):
        model = word_model(Town(0).vocabulary(), seed=seed, hidden=16, layers=1, heads=2, max_length=256)
        save_model(*model, folder / f"policy-{seed}")
        names.append(str(folder / f"policy-{seed}"))
    return names


def evaluate(policies: list[str], out: Path, judge: str, *more: str) -> dict[str, Any]:
    options = ["--number", "8", "--max-new-tokens", "5", "--out", str(out), "--judge", judge, *more]
    EVALUATE.run([*policies, "--prompts", "town:0", *options])
    return json.loads((out / "results.json").read_text())


def test_a_critic_of_the_town_compares(policies: list[str], tmp_path: Path):
    found = evaluate(policies, tmp_path, "town:fair")
    assert found["judge"] == {"kind": "judge", "name": "town:fair"}
    assert "score" not in found["policies"][0] and found["behaviour"]["exact"]
    row = found["battles"]["models"][0]
    assert row["n"] == found["policies"][0]["tokens"]["n"] and 0 <= row["win_rate"] <= 1
    assert any("both orders" in note for note in found["notes"])
    page = (tmp_path / "report.html").read_text()
    assert "Judged by town:fair: a proxy" in page


def longer_wins(body: dict[str, Any]) -> chat_server.Answer:
    text = "\n".join(m["content"] for m in body["messages"])
    shown = re.findall(r"(?s)--- begin response ([AB]) ([0-9a-f]+) ---\n(.*?)\n--- end", text)
    (_, tag, first), (_, _, second) = shown
    winner = "tie" if len(first) == len(second) else "AB"[len(second) > len(first)]
    return chat_server.completion(f"verdict {tag}: {winner}")


def test_an_endpoint_is_asked_once_and_its_verdicts_are_those_counted(policies: list[str], tmp_path: Path):
    with chat_server.serve(longer_wins) as server:
        found = evaluate(policies, tmp_path, f"{server.url}#judge")
        asked = len(server.requests)
        again = evaluate(policies, tmp_path, f"{server.url}#judge")
        assert len(server.requests) == asked > 0
    assert found["battles"]["models"] == again["battles"]["models"]
    row = found["battles"]["models"][0]
    assert row["wins"] + row["losses"] + row["ties"] == row["n"] and row["unparsed"] == 0
    assert row["wins"] and row["losses"]  # a judge of place alone would have given ties only


def test_a_judge_that_names_the_first_is_a_judge_of_place_and_ties_all(policies: list[str], tmp_path: Path):
    def first(body: dict[str, Any]) -> chat_server.Answer:
        tag = re.search(r"verdict ([0-9a-f]{16}):", body["messages"][-1]["content"])
        return chat_server.completion(f"verdict {tag[1] if tag else ''}: A")

    with chat_server.serve(first) as server:
        row = evaluate(policies, tmp_path, f"{server.url}#judge")["battles"]["models"][0]
    assert row["win_rate"] == 0.5 and row["ties"] == row["n"]


def test_verdicts_that_cannot_be_read_are_counted_and_in_no_rate(policies: list[str], tmp_path: Path):
    with chat_server.serve(lambda body: chat_server.completion("who knows ?")) as server:
        found = evaluate(policies, tmp_path, f"{server.url}#judge")["battles"]
    assert found["unparsed"] > 0 and found["models"][0]["win_rate"] is None
    assert any("could not be read" in note for note in found["notes"])


def test_a_tiny_model_behind_an_endpoint_and_in_a_folder(policies: list[str], tmp_path: Path):
    """Neither says anything that can be read; both are asked, counted and survived."""
    model, tokenizer = tiny_model(["verdict A B tie the of and is"], seed=0, vocab_size=300, hidden=16, heads=2)
    save_model(model, tokenizer, tmp_path / "judge")
    models = build_roles(("policy",), (), policy=str(tmp_path / "judge"))
    answering = chat_server.of_model(model, LocalGenerator(models, tokenizer, allow_truncation=True), tokenizer)
    with chat_server.serve(answering) as server:
        found = evaluate(policies, tmp_path / "a", f"{server.url}#tiny", "--number", "1")
        assert server.requests
    assert found["battles"]["models"][0]["unparsed"] + found["battles"]["models"][0]["n"] >= 1
    found = evaluate(policies, tmp_path / "b", str(tmp_path / "judge"), "--number", "1")
    assert found["battles"]["verdicts"] >= 1


def test_what_no_judge_can_do_is_refused(policies: list[str], tmp_path: Path):
    with pytest.raises(TastemakerError, match="name a second run"):
        evaluate(policies[:1], tmp_path, "town:fair")
    with pytest.raises(TastemakerError, match="which model"):
        evaluate(policies, tmp_path, "http://127.0.0.1:1/v1")
    with pytest.raises(TastemakerError, match="no critic 'grumpy'"):
        evaluate(policies, tmp_path, "town:grumpy")
    with pytest.raises(TastemakerError, match="two judges"):
        evaluate(policies, tmp_path, "town:fair", "--reward", policies[0])
