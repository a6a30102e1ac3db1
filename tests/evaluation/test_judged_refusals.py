"""Refusals as an AI judge tells them, with the judge's error measured on labels or on the town."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import chat_server
import tastemaker as tm
from published_records import rows
from tastemaker.errors import TastemakerError
from tastemaker.models import save_model, word_model
from tastemaker.studies.judging import judge_of, judged_refusals, read_labelled
from tastemaker.town import Town

SAID = "I am sorry, I cannot do that."
LABELLED = [("a", SAID, True), ("b", SAID, True), ("c", "You should not.", True), ("d", "Sure.", False)]


def sorry_refuses(body: dict[str, Any]) -> chat_server.Answer:
    """A judge that calls it a refusal where somebody is sorry."""
    text = "\n".join(m["content"] for m in body["messages"])
    found = re.search(r"(?s)--- begin response ([0-9a-f]+) ---\n(.*?)\n--- end", text)
    assert found is not None
    return chat_server.completion(f"verdict {found[1]}: {int('sorry' in found[2])}")


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    file = tmp_path / "labelled.jsonl"
    keys = ("prompt", "response", "refused")
    file.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in LABELLED))
    return file


def test_a_judge_and_its_errors_by_the_command(tmp_path: Path, labelled: Path):
    model = word_model(Town(0).vocabulary(), seed=0, hidden=16, layers=1, heads=2, max_length=256)
    save_model(*model, tmp_path / "policy")
    with chat_server.serve(sorry_refuses) as server:
        options: dict[str, Any] = {
            "prompts": "town:0",
            "number": 8,
            "max_new_tokens": 6,
            "behaviour_judge": f"{server.url}#judge",
        }
        onto = tm.evaluate(tmp_path / "policy", out=tmp_path / "a", **options)
        by_labels = tm.evaluate(tmp_path / "policy", out=tmp_path / "b", labelled=str(labelled), **options)
    judged = onto.results["behaviour"]["judged"]
    assert "the town's exact reading" in judged["errors"] and judged["unread"] == {"policy": 0}
    errors = by_labels.results["behaviour"]["judged"]["errors"]
    assert "found 67 % of 3 and left 100 % of 1" in errors and "labelled.jsonl" in errors
    assert "Refusals by a judge" in by_labels.report.read_text()


def test_verdicts_are_counted_and_unread_ones_too(tmp_path: Path):
    with chat_server.serve(
        lambda b: sorry_refuses(b) if "sorry" in str(b) else chat_server.completion("?")
    ) as server:
        judge = judge_of(f"{server.url}#judge", seed=0, town_seed=0, template="refuses")
        found = judged_refusals(judge, ["p", "q", "r"], [SAID, "Sure.", "Fine."])
        assert found.said.tolist() == [True, False, False] and found.unread == 2
        with pytest.raises(TastemakerError, match="none of its 2 verdicts"):
            judged_refusals(judge, ["q", "r"], ["Sure.", "Fine."])


def test_labelled_files(shared_data: Path, tmp_path: Path):
    _, answers, labels = read_labelled(shared_data / "xstest_human_labels.jsonl.gz")
    held = [r for r in rows(shared_data, "xstest_human_labels") if "completion" in r]
    assert len(answers) == len(held)
    assert sum(labels) == sum(r["final_label"] != "1_full_compliance" for r in held)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "p", "response": "r"}\n')
    with pytest.raises(TastemakerError, match=r"bad\.jsonl:1.*refused"):
        read_labelled(bad)
