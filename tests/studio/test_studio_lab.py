"""Compare, vote, export, train and browse: the circle, through the API, on a tiny model."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from studio.shop import Shop
from tastemaker.errors import TastemakerError
from tastemaker.feedback.projects import ProjectSettings
from tastemaker.methods import SFT
from tastemaker.models import tiny_model
from tastemaker.runs import Run
from tastemaker.studio.jobs import command_line
from tastemaker.training import train
from tastemaker.types import Demonstration


def two_models(root: Path) -> None:
    for seed in (0, 1):
        data = [Demonstration(prompt="say yes", response="yes it is", row=str(i)) for i in range(4)]
        model = tiny_model(["say yes it is no"], seed=seed)
        train(SFT(), model=model, data=data, out=root / f"sft-{seed}", max_steps=2, seed=seed)


def answers(client, **changes) -> list[dict]:
    body = {
        "prompt": [{"role": "user", "content": "say yes"}],
        "plain": True,
        "models": ["sft-0", "sft-1"],
        "max_new_tokens": 20,
        "seed": 3,
    }
    told = client.post("/api/compare/answers", json={**body, **changes})
    assert told.status_code == 200, told.text
    return [json.loads(line) for line in told.text.splitlines()]


def finished(client, name: str) -> None:
    until = time.monotonic() + 240
    while (now := client.get(f"/api/curves/{name}").json())["status"] not in ("finished", "failed"):
        assert time.monotonic() < until, now
        time.sleep(0.5)
    assert now["status"] == "finished", now["job"]["log"]
    while client.get(f"/api/curves/{name}").json()["job"]["running"]:
        time.sleep(0.1)  # it has written its result and is on its way out


def test_rlhf_from_the_form(shop: Shop, tmp_path: Path) -> None:
    two_models(tmp_path / "runs")
    client = shop.client("admin")
    row = b'{"prompt": "say yes", "chosen": "yes it is", "rejected": "no"}\n'
    assert (
        client.post("/api/uploads", files={"file": ("a.jsonl", row)}, data={"name": "a.jsonl"}).status_code
        == 200
    )
    form = {"model": "sft-0", "data": "a.jsonl", "values": {"max_steps": 1}}
    assert client.post("/api/training", json={**form, "method": "reward", "name": "rm"}).status_code == 200
    finished(client, "rm")
    offered = client.get("/api/training").json()
    assert offered["rewards"] == ["rm"] and "rm" not in offered["models"]
    assert {m["name"] for m in offered["methods"] if m["rewarded"]} >= {"ppo", "grpo", "online_dpo"}
    form |= {"method": "ppo", "reward": "rm", "values": {"max_steps": 1, "response_length": 4, "kl_coef": 0.1}}
    told = client.post("/api/training/estimate", json=form).json()
    assert told["peak_bytes"] > 0 and told["steps"] == 1
    assert client.post("/api/training", json={**form, "name": "rlhf"}).status_code == 200
    finished(client, "rlhf")
    run = client.get("/api/run/rlhf").json()
    assert run["settings"]["kl_coef"] == 0.1
    assert {p["name"] for p in run["lineage"]["parents"]} >= {"sft-0", "rm"}


def test_the_circle_from_comparing_to_training_and_back(shop: Shop, tmp_path: Path) -> None:
    two_models(tmp_path / "runs")
    client = shop.client("admin")
    offered = client.get("/api/training").json()
    assert {"sft-0", "sft-1"} <= set(offered["models"])
    lines = answers(client)
    text = json.dumps(lines)
    assert "sft-" not in text, "blind"
    assert {line["side"] for line in lines if "text" in line} == {0, 1}
    again = answers(client, models=["sft-0"], blind=False)
    assert [x for x in again if "text" in x] == [
        x for x in answers(client, models=["sft-0"], blind=False) if "text" in x
    ]
    (assignment,) = [line["vote"] for line in lines if "vote" in line]
    vote = {"assignment": assignment, "key": "vote-0000", "ranking": [1, 0]}
    told = client.post("/api/compare/votes", json=vote).json()
    assert sorted(told["names"]) == ["sft-0", "sft-1"]
    assert client.post("/api/compare/votes", json=vote).json()["judgement"] == told["judgement"]
    made = client.post("/api/projects/comparisons/export", json={"file": "votes.jsonl"}).json()
    assert made["labels"] == 1
    row = json.loads((tmp_path / "data" / "votes.jsonl").read_text())
    finals = {line["side"]: line["text"] for line in lines if "text" in line}
    assert (row["chosen"], row["rejected"]) == (finals[1], finals[0])
    form = {"method": "dpo", "model": "sft-0", "data": "votes.jsonl", "values": {"max_steps": 1, "beta": "0.3"}}
    told_before = client.post("/api/training/estimate", json={**form, "price": 2.0}).json()
    assert told_before["peak_bytes"] > 0 and told_before["cost"] > 0 and told_before["steps"] == 1
    assert client.post("/api/training", json={**form, "name": "voted"}).status_code == 200
    finished(client, "voted")
    run = client.get("/api/run/voted").json()
    assert run["settings"]["beta"] == 0.3
    assert run["lineage"]["data"][0]["labels"]["labels"] == 1, "down to the labels"
    assert {p["name"] for p in run["lineage"]["parents"]} == {"sft-0"}
    shaped = client.get(f"/api/labels/{told['judgement']}").json()
    assert [r["name"] for r in shaped["runs"]] == ["voted"], "and back"
    assert client.get("/runs/voted").status_code == 200


def test_what_the_form_may_set_is_listed(shop: Shop, tmp_path: Path) -> None:
    client = shop.client("admin")
    upload = {"file": ("a.jsonl", b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n')}
    assert client.post("/api/uploads", files=upload, data={"name": "a.jsonl"}).json()["records"] == 1
    assert client.get("/api/data/a.jsonl/prompts").json() == {"prompts": ["p"]}, "whatever it teaches, it asks"
    form = {"method": "dpo", "model": "tiny", "data": "a.jsonl", "name": "x"}
    for values, said in (
        ({"out": "/etc"}, "cannot be set"),
        ({"--trust-remote-code": True}, "cannot be set"),
        ({"beta": "much"}, "beta"),
    ):
        answer = client.post("/api/training", json={**form, "values": values})
        assert answer.status_code == 400 and said in answer.json()["error"]
    assert client.post("/api/training", json={**form, "method": "export"}).status_code == 400
    told = client.post("/api/training", json={**form, "method": "ppo"})
    assert told.status_code == 400 and "choose a reward model" in told.json()["error"]
    told = client.post("/api/training", json={**form, "method": "ppo", "reward": "nowhere"})
    assert told.status_code == 404
    with pytest.raises(TastemakerError, match="dpo: has no use for a reward model"):
        command_line("dpo", "tiny", "a.jsonl", tmp_path, {}, "runs/rm")
    command = command_line("dpo", "tiny; rm -rf /", "--data", tmp_path, {"beta": 0.1})
    assert command[4] == "--model=tiny; rm -rf /" and command[5] == "--data=--data"


def test_files_that_hold_no_records_are_not_kept(shop: Shop, tmp_path: Path) -> None:
    client = shop.client("admin")
    for name, content in (
        ("a.jsonl", b"not json"),
        ("b.jsonl", b""),
        ("../c.jsonl", b"{}"),
        (".hidden", b"{}"),
    ):
        answer = client.post("/api/uploads", files={"file": ("x", content)}, data={"name": name})
        assert answer.status_code == 400, (name, answer.text)
    assert list((tmp_path / "data").glob("*")) == []


def test_disputes_are_decided_by_reviewers(shop: Shop) -> None:
    shop.project("taste", ProjectSettings(overlap=2), n=1)
    for name, preferred in (("annotator", 0), ("reviewer", 1)):
        given = shop.client(name).post("/api/projects/taste/next").json()
        said = {"key": f"{name}-key", "answer": {"tie": "equal"} if preferred else {"preferred": 0}}
        assert (
            shop.client(name).post(f"/api/assignments/{given['assignment']}/judgements", json=said).status_code
            == 200
        )
    client = shop.client("admin")
    (dispute,) = client.get("/api/projects/taste/quality").json()["disputed"]
    given = client.post(f"/api/projects/taste/adjudicate/{dispute['item']}").json()
    side = given["responses"].index("secret-good")
    said = {"key": "admin-key", "answer": {"preferred": side}}
    assert client.post(f"/api/assignments/{given['assignment']}/judgements", json=said).status_code == 200
    assert client.get("/api/projects/taste/quality").json()["disputed"] == []
    assert client.post("/api/projects/taste/export", json={"file": "t.jsonl"}).json()["labels"] == 1
    row = json.loads(client.get("/api/data/t.jsonl").text)
    assert row["chosen"] == "secret-good"


def test_reports_are_served_in_a_sandbox(shop: Shop, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "study"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<script>1</script>")
    answer = shop.client("reviewer").get("/reports/study")
    policies = answer.headers.get_list("content-security-policy")
    assert (
        len(policies) == 1
        and policies[0].startswith("sandbox allow-scripts")
        and "same-origin" not in policies[0]
    )
    assert shop.client("annotator").get("/reports/study").status_code == 403


def test_reports_lead_to_their_runs_and_runs_to_their_reports(shop: Shop, tmp_path: Path) -> None:
    for name in ("study/arms/dpo", "study/arms/ppo", "alone"):
        Run.create(tmp_path / "runs" / name, method="dpo", settings={}, seed=0)
    (tmp_path / "runs" / "study" / "report.html").write_text("<p>no winner</p>")
    client = shop.client("reviewer")
    (told,) = client.get("/api/runs").json()["reports"]
    assert told["name"] == "study" and sorted(told["runs"]) == ["study/arms/dpo", "study/arms/ppo"]
    assert client.get("/api/run/study/arms/dpo").json()["reports"] == ["study"]
    assert client.get("/api/run/alone").json()["reports"] == []
