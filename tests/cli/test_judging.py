"""`tastemaker judge`, `constitution` and chains on the command line."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from chat_server import completion, error, serve
from tastemaker.cli.catalogue import declared_options
from tastemaker.config.check import field_types
from tastemaker.data import read_records, write_records
from tastemaker.town import Town
from tastemaker.training.judging import JudgeSettings
from tastemaker.types import Comparison

PAIRS = [{"prompt": f"question {i}", "chosen": f"a good answer {i}", "rejected": f"bad {i}"} for i in range(5)]


@pytest.fixture(autouse=True)
def pairs(command: Any) -> None:
    Path("pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PAIRS))


def longer(body: dict[str, Any]):
    """A judge that takes the longer one."""
    text = body["messages"][-1]["content"]
    tag = re.search(r"--- begin response A ([0-9a-f]{16}) ---", text).group(1)
    a, b = (re.search(rf"begin response {x} {tag} ---\n(.*?)\n--- end", text, re.S).group(1) for x in "AB")
    return completion(f"verdict {tag}: {'A' if len(a) > len(b) else 'B'}")


def test_options_are_those_of_the_settings():
    options = declared_options(("training", "judging.py"), "JudgeSettings", "judge")
    assert [o.name for o in options] == list(field_types(JudgeSettings))
    assert all(o.text for o in options)
    for option in options:
        assert option.default in ("none", "null", "false", "town", "both") or getattr(
            JudgeSettings(), option.name
        ) == type(getattr(JudgeSettings(), option.name))(option.default)


def test_settings_of_all_makers_may_be_given_by_stage():
    from tastemaker.cli.training import MAKERS
    from tastemaker.studies import making

    assert sorted(MAKERS) == sorted(cls.__name__ for cls in making.MAKERS.values())


def test_pairs_become_labelled_pairs(command: Any):
    with serve(longer) as server:
        where = ("--judge", server.url, "--judge-model", "m", "--price-in", "1")
        result = command("judge", "pairs.jsonl", *where)
        assert result.code == 0, result.err
        first = len(server.requests)
        again = command("judge", "pairs.jsonl", *where)
        assert len(server.requests) == first == 10
    assert "10 on 5 pairs" in result.out
    assert re.search(r"agrees with itself under swap +1\.000 +\(5 of 5\)", result.out)
    assert re.search(r"first shown wins +0\.500", result.out)
    assert re.search(r"longer wins +1\.000", result.out)
    assert re.search(r"data's own labels +1\.000", result.out)
    assert "asked 10, 0 known before" in result.out
    assert "cost 0.001" in result.out
    assert "asked 0, 10 known before" in again.out
    labels = read_records("pairs.judged.jsonl", Comparison).records
    assert [c.responses for c in labels] == [(p["chosen"], p["rejected"]) for p in PAIRS]
    assert all(c.annotator == f"m at {server.url}" and c.when for c in labels)


def test_a_project_gets_suggestions_and_is_told_how_far_they_agree(command: Any):
    pytest.importorskip("sqlalchemy", reason="the extra tastemaker[studio] is not installed")
    assert command("labels", "import", "pairs.jsonl", "--project", "taste").code == 0
    with serve(longer) as server:
        where = ("--project", "taste", "--judge", server.url, "--judge-model", "m")
        result = command("judge", *where)
        assert result.code == 0, result.err
        assert "suggestions  5 of 5 items" in result.out and "agrees with most people  1.000" in result.out
        asked = len(server.requests)
        again = command("judge", *where)
        assert "0 of 0 items, 5 given before" in again.out and len(server.requests) == asked
        wrong = command("judge", "pairs.jsonl", *where)
        assert wrong.code != 0 and "pairs.jsonl: --project judges items of the store" in wrong.err
        nowhere = command("judge", "--project", "other", *where[2:])
        assert nowhere.code != 0 and "other: no such project; there are: taste" in nowhere.err


def test_a_broken_endpoint_is_one_message_and_loses_nothing(command: Any):
    count = 0

    def breaks(body: dict[str, Any]):
        nonlocal count
        count += 1
        return longer(body) if count <= 4 else error(500, "no more")

    with serve(breaks) as server:
        where = ("--judge", server.url, "--judge-model", "m", "--concurrency", "1", "--retries", "0")
        result = command("judge", "pairs.jsonl", *where)
        assert result.code == 1
        assert result.err.count("error:") == 1
        assert "status 500: no more" in result.err
        assert "4 answers are kept in pairs.judged.jsonl.answers.jsonl; the same command goes on" in result.err
        assert not Path("pairs.judged.jsonl").exists()
        server.answer = longer
        assert "asked 6, 4 known before" in command("judge", "pairs.jsonl", *where).out


def test_mistakes_are_told(command: Any):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{s.getsockname()[1]}/v1"
    for argv, code, said in (
        (("judge",), 2, "missing: the data"),
        (("judge", "pairs.jsonl", "--orders", "some"), 2, "orders = 'some'"),
        (("judge", "pairs.jsonl", "--judge", "http://x/v1"), 1, "which model?"),
        (("judge", "pairs.jsonl", "--judge", "town"), 1, "is no prompt of town 0"),
        (("judge", "pairs.jsonl", "--judge", "town:proud"), 1, "no critic 'proud'"),
        (
            (
                "judge",
                "lost.jsonl",
            ),
            1,
            "no such file",
        ),
        (("judge", "pairs.jsonl", "--template", "pear"), 1, "there is none of that name"),
        (("judge", "pairs.jsonl", "--judge", closed, "--judge-model", "m", "--retries", "0"), 1, "reached"),
        (("constitution", "pairs.jsonl"), 2, "missing: --model"),
        (("constitution", "--principles", "nobody"), 1, "there are default, town"),
        (("study", "cri"), 2, "there are critic, chains"),
    ):
        result = command(*argv)
        assert result.code == code, (argv, result.err)
        assert said in result.err, (argv, result.err)


def test_canaries(command: Any):
    def gullible(body: dict[str, Any]):
        text = body["messages"][-1]["content"]
        tag = re.search(r"verdict ([0-9a-f]{16}):", text).group(1)
        return longer(body) if tag else error(500, "")

    with serve(gullible) as server:
        result = command("judge", "--canaries", "--judge", server.url, "--judge-model", "m")
    assert result.code == 0, result.err
    assert "do not trust this judge: injected text sways it" in result.out
    assert "ChatML control tokens" in result.out


def test_labellers_may_be_mixed(command: Any):
    town = Town(0)
    records = [
        Comparison(prompt=p.prompt, responses=(p.answer, "perhaps ."), ranking=(0, 0))
        for p in town.prompts(30)
        if p.answer
    ]
    write_records("town.jsonl", records)
    result = command("judge", "town.jsonl", "--labellers", "panel:clean=1,town:fair=1", "--out", "mixed.jsonl")
    assert result.code == 0, result.err
    labels = read_records("mixed.jsonl", Comparison).records
    assert {c.annotator for c in labels} == {"expert", "town 0 critic fair"}
    Path("checks.py").write_text(
        "def short(completions, **_): return [-float(len(c[0]['content'])) for c in completions]\n"
    )
    three = "panel:clean=1,checks.py:short=2,town:fair=1"
    assert command("judge", "town.jsonl", "--labellers", three, "--out", "three.jsonl").code == 0
    by: dict[str, list[Any]] = {}
    for label in read_records("three.jsonl", Comparison).records:
        by.setdefault(label.annotator.split(" ")[0], []).append(label)
    assert set(by) == {"expert", "checks.py:short", "town"}
    assert all(len(c.responses[0]) <= len(c.responses[1]) and c.when for c in by["checks.py:short"])
    Path("checks.py").write_text("def short(completions): return [1 / 0]\n")
    failed = command("judge", "town.jsonl", "--labellers", "checks.py:short", "--out", "four.jsonl")
    assert failed.code == 1
    assert "labeller checks.py:short: raised TypeError" in failed.err


def test_principles_are_shown_and_checked(command: Any):
    result = command("constitution")
    assert result.code == 0
    assert "not-prudish" in result.out
    Path("own.yaml").write_text("principles:\n  - id: a\n    txt: b\n")
    broken = command("constitution", "--principles", "own.yaml")
    assert broken.code == 1
    assert "own.yaml:3: principles[0].txt: no such field" in broken.err


def test_a_chain_is_run_by_its_recipe(command: Any):
    stages = """
out: runs/c
seed: 2
stages:
  - {method: town, documents: 8, demonstrations: 8, prompts: 8}
  - {method: sft, model: town/base, data: town/demonstrations.jsonl, max_steps: 1, num_samples: 0}
"""
    Path("c.yaml").write_text(stages)
    result = command("run", "c.yaml", "--sft.learning-rate", "1e-4")
    assert result.code == 0, result.err
    assert "town: town, made" in result.out
    again = command("run", "c.yaml", "--sft.learning-rate", "1e-4")
    assert again.out.count("(reused: its inputs are unchanged)") == 2
    changed = command("run", "c.yaml", "--town.prompts", "9", "--sft.learning-rate", "1e-4")
    assert changed.code == 0, changed.err
    assert "town-2: town, made" in changed.out
    assert (
        changed.out.count("(reused: its inputs are unchanged)") == 1
    )  # the texts of the other stage are the same
    odd = command("run", "c.yaml", "--town.prompts", "many")
    assert odd.code == 2
    assert "prompts = 'many'" in odd.err
    wrong = command("run", "c.yaml", "--sft.model", "town/bose")
    assert wrong.code == 2
    assert "town gives no 'bose'" in wrong.err
