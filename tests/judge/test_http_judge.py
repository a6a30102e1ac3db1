"""Judges behind HTTP: a real server over a tiny model, and every way in which one may fail."""

from __future__ import annotations

import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from chat_server import completion, error, of_model, serve
from simulated_judges import pair
from tastemaker.data import tokenise
from tastemaker.errors import TastemakerError
from tastemaker.feedback.judge import Answers, Endpoint, HttpModel, Judge, LocalModel, instrument
from tastemaker.feedback.judge.http import _Pace, retry_after
from tastemaker.models import build_roles, tiny_model
from tastemaker.rollout import LocalGenerator
from tastemaker.types import Comparison

PAIRS = [pair(f"yes {i}", f"no no {i}", prompt=f"question {i}", row=str(i)) for i in range(6)]


def tag_of(body: dict[str, Any]) -> str:
    return re.search(r"verdict ([0-9a-f]{16}):", body["messages"][-1]["content"]).group(1)


def first(body: dict[str, Any]):
    return completion(f"Fine.\nverdict {tag_of(body)}: A")


def judge_at(url: str, answers: Answers | None = None, **settings: Any) -> Judge:
    patience = {"backoff": 0.001, "retries": 2, "timeout": 2.0, **settings}
    return Judge(HttpModel(Endpoint(url=url, model="m", **patience)), answers=answers)


@pytest.fixture(scope="module")
def tiny():
    model, tokenizer = tiny_model(["A B tie verdict response prompt question yes no 0 1 2 3 4 5"], seed=3)
    models = build_roles(("policy",), (), policy=(model, tokenizer))
    return models, LocalGenerator(models, tokenizer), tokenizer, model


def test_a_tiny_model_behind_a_real_server_answers_as_in_process(tiny):
    models, generator, tokenizer, plain = tiny
    local = LocalModel(models, generator, tokenizer, name="tiny", max_tokens=8)
    with serve(of_model(plain, generator, tokenizer)) as server:
        remote = HttpModel(Endpoint(url=server.url, model="tiny", max_tokens=8))
        texts = [Judge(m, "pairwise").judge(PAIRS[:2]) for m in (remote, local)]
        likely = [Judge(m, "pairwise_choice", logps=True, mean=True).judge(PAIRS[:2]) for m in (remote, local)]
    said = [[s.kept.reply.text for o in opinions for s in o.shown] for opinions in texts]
    assert said[0] == said[1]
    assert instrument(texts[0]).unparsed == 4  # an untrained model writes no verdict, and that is counted
    assert server.requests[0]["max_tokens"] == 8
    for over_http, here in zip(*likely, strict=True):
        if over_http.p is not None:
            assert over_http.p == pytest.approx(here.p, abs=1e-4)
        assert here.p is not None
        assert 0 < here.p < 1


def test_log_probs_are_those_of_the_choices(tiny):
    """Against the model's own next-token distribution."""
    models, generator, tokenizer, plain = tiny
    local = LocalModel(models, generator, tokenizer, name="tiny")
    judge = Judge(local, "pairwise_choice", logps=True, orders="given")
    (opinion,) = judge.judge(PAIRS[:1])
    ask = judge._plan(PAIRS[0])[1][0][1]
    question = Comparison(prompt=ask.messages, responses=("A", "B"), ranking=(0, 0))
    tree = tokenise([question], tokenizer, max_length=4096, keep_ties=True).trees[0]
    with torch.no_grad():
        next_token = plain(tree.prompt[None]).logits[0, -1].log_softmax(-1)
    logps = opinion.shown[0].kept.reply.logps
    for name, ids in zip("AB", tree.responses, strict=True):
        assert len(ids) == 2, "the letter and the end token"
        assert logps[name] == pytest.approx(float(next_token[ids[0]]), abs=1e-5)
    expected = 1 / (1 + math.exp(logps["B"] - logps["A"]))
    assert opinion.p == pytest.approx(expected)
    assert max(logps.values()) < 0


def test_cost_time_and_keys_are_counted_and_kept_to_themselves(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("JUDGE_KEY", "sk-canary-1234")
    answers = Answers(tmp_path / "answers.jsonl")
    with serve(first) as server:
        judge = judge_at(server.url, answers, price_in=2.0, price_out=10.0, key_variable="JUDGE_KEY")
        opinions = judge.judge(PAIRS)
    assert [o.ranking for o in opinions] == [(0, 0)] * 6
    assert instrument(opinions).first.value == 1
    assert (judge.spent.asked, judge.spent.tokens_in, judge.spent.tokens_out) == (12, 1200, 120)
    assert judge.spent.cost == pytest.approx((1200 * 2 + 120 * 10) / 1e6)
    assert server.headers[0]["Authorization"] == "Bearer sk-canary-1234"
    assert "canary" not in (tmp_path / "answers.jsonl").read_text()


def test_requests_go_out_side_by_side_and_never_more_than_allowed():
    running, most, lock = 0, 0, threading.Lock()

    def slow(body: dict[str, Any]):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return first(body)

    with serve(slow) as server:
        judge_at(server.url, concurrency=3).judge(PAIRS)
    assert 1 < most <= 3


def test_a_rate_limit_is_heeded_and_nothing_lost(monkeypatch):
    turned_away: list[float] = []
    lock = threading.Lock()

    def limited(body: dict[str, Any]):
        with lock:
            if len(turned_away) < 4:
                turned_away.append(time.monotonic())
                return error(429, "slow down", retry_after="17")
        return first(body)

    with serve(limited) as server:
        model = HttpModel(Endpoint(url=server.url, model="m", concurrency=4, retries=4))
        pauses: list[float] = []
        monkeypatch.setattr(model, "_sleep", pauses.append)
        judge = Judge(model)
        assert len([o for o in judge.judge(PAIRS) if o.ranking]) == 6
    assert len(server.requests) == 12 + 4
    assert pauses.count(17.0) == 4  # as long as it was told
    assert max(p for p in pauses if p != 17.0) > 16  # and the others keep still too
    assert judge.spent.asked == 12


def test_own_pace_is_kept(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = _Pace(0.5)
    assert [pace.turn() for _ in range(3)] == [0.0, 0.5, 1.0]
    now = 110.0
    assert pace.turn() == 0
    pace.hold(3.0)
    assert pace.turn() == 3.0


@pytest.mark.parametrize(
    "header,seconds", [("2.5", 2.5), ("0", 0.0), ("later", None), (None, None), ("-3", 0.0), ("1e9", 3600.0)]
)
def test_retry_after(header: str | None, seconds: float | None):
    response = httpx2.Response(429, headers={} if header is None else {"retry-after": header})
    assert retry_after(response) == seconds


def test_retry_after_as_a_date():
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    found = retry_after(httpx2.Response(429, headers={"retry-after": date}))
    assert found is not None
    assert 25 < found <= 30


# ---------------------------------------------------------------------------------------- what may go wrong


def closed_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}/v1"


def test_an_endpoint_that_is_down_is_told_once():
    with pytest.raises(TastemakerError) as caught:
        judge_at(closed_port()).judge(PAIRS)
    text = str(caught.value)
    assert "cannot be reached" in text
    assert "(after 3 tries)" in text
    assert "0 answers are kept" in text
    assert text.count("127.0.0.1") == 1


GARBAGE = {
    "garbage": ((200, {}, b"<html>hello</html>"), "answered with not whole JSON"),
    "partial JSON": ((200, {}, completion("x")[2][:40]), "answered with not whole JSON"),
    "another shape": ((200, {}, b'{"choices": []}'), "answered with no chat completion"),
    "no text": ((200, {}, b'{"choices": [{"message": {"content": 3}}]}'), "answered with no text"),
    "cut off": ((200, {"content-length": "400"}, b'{"choices"'), "the connection broke"),
    "broken server": (error(503, "overloaded"), "status 503: overloaded"),
    "rate limit for good": (error(429, "quota", retry_after="0.001"), "status 429: quota"),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_what_is_no_answer_is_tried_again_and_then_told(name: str):
    bad, reason = GARBAGE[name]
    failures = iter(range(2))

    def twice_bad(body: dict[str, Any]):
        return bad if next(failures, None) is not None else first(body)

    with serve(twice_bad) as server:
        assert judge_at(server.url, concurrency=1).judge(PAIRS[:1])[0].ranking == (0, 0)
    with serve(lambda body: bad) as server, pytest.raises(TastemakerError, match=re.escape(reason)) as caught:
        judge_at(server.url, concurrency=1).judge(PAIRS[:1])
    assert "after 3 tries" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_slow_endpoint_is_given_up():
    def stuck(body: dict[str, Any]):
        time.sleep(0.3)
        return first(body)

    with (
        serve(stuck) as server,
        pytest.raises(TastemakerError, match=r"no answer within 0\.05 s \(after one try"),
    ):
        judge_at(server.url, timeout=0.05, retries=0, concurrency=2).judge(PAIRS[:1])


def test_an_endpoint_that_drips_is_given_up():
    """Each byte comes in time, and the answer never."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
                while not over.wait(0.02):
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        try:
            with pytest.raises(TastemakerError, match=r"no answer within 0\.3 s \(after one try"):
                judge_at(url, timeout=0.3, retries=0, concurrency=1).judge(PAIRS[:1])
        finally:
            over.set()
            thread.join()


def test_a_wrong_key_or_model_is_told_at_once():
    with (
        serve(lambda body: error(401, "bad key")) as server,
        pytest.raises(TastemakerError, match=r"status 401: bad key\. Is the key in OPENAI_API_KEY right\?"),
    ):
        judge_at(server.url, concurrency=1).judge(PAIRS)
    assert len(server.requests) == 1


def test_what_was_answered_before_a_failure_is_kept_and_not_asked_again(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    lock, seen = threading.Lock(), []

    def dies(body: dict[str, Any]):
        with lock:
            seen.append(tag_of(body))
            return first(body) if len(seen) <= 5 else error(500, "out of memory")

    with serve(dies) as server:
        url = server.url
        with pytest.raises(TastemakerError, match=r"out of memory .* 5 answers are kept in"):
            judge_at(url, Answers(path), concurrency=1).judge(PAIRS)
        answered = set(seen[:5])
        server.answer = first
        server.requests.clear()
        judge = judge_at(url, Answers(path), concurrency=4)
        assert len(judge.label(PAIRS)) == 6
    assert (judge.spent.asked, judge.spent.reused) == (7, 5)
    assert not answered & {tag_of(body) for body in server.requests}


JUDGING = """
import sys
from simulated_judges import pair
from tastemaker.feedback.judge import Answers, Endpoint, HttpModel, Judge
pairs = [pair(f"yes {i}", f"no no {i}", prompt=f"question {i}", row=str(i)) for i in range(6)]
model = HttpModel(Endpoint(url=sys.argv[1], model="m", concurrency=1))
Judge(model, answers=Answers(sys.argv[2])).judge(pairs)
"""


def test_a_process_that_is_killed_in_the_middle_leaves_every_answer_it_had(tmp_path: Path):
    path, seen = tmp_path / "answers.jsonl", []
    started: list[subprocess.Popen[bytes]] = []

    def kills(body: dict[str, Any]):
        seen.append(tag_of(body))
        if len(seen) == 6:
            started[0].kill()
        return first(body)

    with serve(kills) as server:
        command = [sys.executable, "-c", JUDGING, server.url, str(path)]
        places = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        started.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": places}))
        assert started[0].wait(300) == -9
        server.requests.clear()
        server.answer = first
        judge = judge_at(server.url, Answers(path))
        assert len(judge.label(PAIRS)) == 6
    assert (judge.spent.asked, judge.spent.reused) == (7, 5)
    assert not set(seen[:5]) & {tag_of(body) for body in server.requests}


def test_one_question_that_is_refused_does_not_stop_the_others():
    def picky(body: dict[str, Any]):
        long = "question 3" in body["messages"][-1]["content"]
        return error(400, "context length exceeded") if long else first(body)

    with serve(picky) as server:
        judge = judge_at(server.url)
        opinions = judge.judge(PAIRS)
        assert [o.ranking is None for o in opinions] == [False, False, False, True, False, False]
        assert opinions[3].refused == "status 400: context length exceeded"
        assert judge.spent.refused == 2
        assert instrument(opinions).refused == 2
        with pytest.raises(TastemakerError, match="all 2 questions were refused"):
            judge_at(server.url).judge(PAIRS[3:4])


def test_an_endpoint_without_log_probs_is_told():
    with serve(lambda body: completion("A")) as server:
        model = HttpModel(Endpoint(url=server.url, model="m"))
        with pytest.raises(TastemakerError, match=r"gives no top_logprobs.*judge by text"):
            Judge(model, "pairwise_choice", logps=True).judge(PAIRS[:1])


def test_spellings_of_a_verdict_count_together():
    with serve(lambda body: completion("A", {"A": -1.0, " A": -2.0, "B": -1.5, "x": -3})) as server:
        model = HttpModel(Endpoint(url=server.url, model="m"))
        (opinion,) = Judge(model, "pairwise_choice", logps=True, orders="given").judge(PAIRS[:1])
    a, b = math.exp(-1) + math.exp(-2), math.exp(-1.5)
    assert opinion.p == pytest.approx(a / (a + b))


def test_settings_of_an_endpoint_are_checked():
    with pytest.raises(TastemakerError, match=r"url is ftp://x.*timeout is 0"):
        Endpoint(url="ftp://x", model="m", timeout=0)


def test_a_local_judge_refuses_what_is_too_long(tiny):
    models, generator, tokenizer, _ = tiny
    local = LocalModel(models, generator, tokenizer, name="tiny", max_tokens=4, max_length=1500)
    opinions = Judge(local).judge([PAIRS[0], pair("word " * 2000, "b")])
    assert opinions[0].refused == ""
    assert opinions[1].refused == "longer than 1500 tokens"
