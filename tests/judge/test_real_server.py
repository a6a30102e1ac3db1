"""A tiny random model as a judge over HTTP: behind the tests' own server, and behind transformers' own `serve`.

A random model says no verdict that can be read; that is what is held here: every way of asking comes back, all
unread verdicts are counted, nothing is asked twice and nothing breaks.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from chat_server import error, of_model, serve
from simulated_judges import pair
from tastemaker.cli import main
from tastemaker.data import write_records
from tastemaker.errors import TastemakerError
from tastemaker.feedback.judge import Answers, Endpoint, HttpModel, Judge, instrument
from tastemaker.models import build_roles, save_model, tiny_model
from tastemaker.rollout import LocalGenerator
from tastemaker.types import Comparison

PAIRS = [pair(f"a good answer {i}", f"bad {i}", f"question {i}", row=str(i)) for i in range(3)]
THREE = [Comparison(prompt="question", responses=("a", "ccc", "bb"), ranking=(0, 0, 0))]
PINNED = "Server is pinned to"
"""How serve of transformers 5 begins to refuse a model that it was not started with."""
PATIENCE = 180
"""Seconds until a server must be up; some 15 where the machine is idle."""


@dataclass(frozen=True)
class Served:
    url: str
    model: str
    logprobs: bool


@pytest.fixture(scope="module", params=["own", "transformers serve"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    texts = [str(p.prompt) for p in PAIRS]
    model, tokenizer = tiny_model(texts, seed=0, vocab_size=300, hidden=16, heads=2, max_length=4096)
    if request.param == "own":
        models = build_roles(("policy",), (), policy=(model, tokenizer))
        answer = of_model(model, LocalGenerator(models, tokenizer), tokenizer)
        with serve(lambda body: answer(body) if body["model"] == "tiny" else error(400, PINNED)) as own:
            yield Served(own.url, "tiny", logprobs=True)
    else:
        folder = tmp_path_factory.mktemp("judge") / "model"
        save_model(model, tokenizer, folder)
        yield from _transformers(folder)


def _transformers(folder: Path) -> Iterator[Served]:
    """`transformers serve` as a process of its own, on a free port of this machine, with no way to the hub."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    command += [
        str(folder),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with open(folder.parent / "serve.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **quiet})
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, folder.parent / "serve.log")
            yield Served(f"http://127.0.0.1:{port}/v1", str(folder), logprobs=False)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, f"transformers serve ended: {log.read_text()[-2000:]}"
        try:
            if httpx2.get(url, timeout=2).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"transformers serve did not come up: {log.read_text()[-2000:]}")


def model_at(server: Served, **settings: Any) -> HttpModel:
    usual = {"max_tokens": 12, "concurrency": 2, "timeout": 60.0, "retries": 1, "backoff": 0.05}
    return HttpModel(Endpoint(**{"url": server.url, "model": server.model, **usual, **settings}))


@pytest.mark.parametrize(
    ("template", "records", "answers"), [("pairwise", PAIRS, 6), ("pointwise", PAIRS, 6), ("kwise", THREE, 2)]
)
def test_every_way_of_asking(server: Served, tmp_path: Path, template: str, records: Any, answers: int):
    path = tmp_path / "answers.jsonl"
    judge = Judge(model_at(server), template, answers=Answers(path))
    opinions = judge.judge(records)
    assert [o.ranking for o in opinions] == [None] * len(records)  # a random model copies no mark
    found = instrument(opinions)
    assert (found.answers, found.unparsed, found.refused) == (answers, answers, 0)
    assert judge.spent.unparsed == answers
    assert judge.label(records) == []
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(kept) == judge.spent.asked == answers
    assert all(line["tokens_in"] > 50 and 0 < line["tokens_out"] <= 12 and line["seconds"] > 0 for line in kept)
    again = Judge(model_at(server), template, answers=Answers(path))
    again.judge(records)
    assert (again.spent.asked, again.spent.reused) == (0, answers)


def test_probabilities_where_the_server_offers_them(server: Served):
    judge = Judge(model_at(server), "pairwise_choice", logps=True)
    if not server.logprobs:  # serve of transformers 5 knows none, and leaves the wish for them unsaid
        with pytest.raises(TastemakerError, match=r"the endpoint gives no top_logprobs.*leave --logps out"):
            judge.judge(PAIRS)
    else:
        assert all(o.p is None or 0 <= o.p <= 1 for o in judge.judge(PAIRS))


def test_another_model_than_the_one_that_is_served(server: Served):
    with pytest.raises(TastemakerError, match=r"all 6 questions were refused: status 400: " + PINNED):
        Judge(model_at(server, model="another")).judge(PAIRS)


def test_the_command_line_says_that_nothing_could_be_read(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    write_records("pairs.jsonl", PAIRS)
    where = ["--judge", f"{server.url}#{server.model}", "--max-tokens", "12", "--concurrency", "2"]
    assert main(["judge", "pairs.jsonl", *where]) == 1
    out, err = capsys.readouterr()
    assert "6 on 3 pairs; 6 unparsed, 0 refused" in out
    assert err.count("error:") == 1
    assert "no verdict could be read on any of 3 records; see pairs.judged.jsonl.answers.jsonl" in err
    assert len(Path("pairs.judged.jsonl.answers.jsonl").read_text().splitlines()) == 6
