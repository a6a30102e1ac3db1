"""AI judges as the reward of online methods: asked once, kept with the run, and found again on resume."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from chat_server import Answer, completion, error, serve
from tastemaker.methods import GRPO, PPO, RAFT, OnlineDPO
from tastemaker.models import save_model, tiny_model
from tastemaker.runs import Run
from tastemaker.studies.pipeline import run_pipeline
from tastemaker.studies.recipe import load_recipe
from tastemaker.training import train
from tastemaker.types import TastemakerError

PROMPTS = [{"prompt": f"what is {a} and {b} ?"} for a in range(3) for b in range(3)]
SHORT: dict[str, Any] = {
    "num_samples": 0,
    "per_device_train_batch_size": 3,
    "learning_rate": 1e-3,
    "max_steps": 4,
}


@pytest.fixture(scope="module")
def start() -> Any:
    return tiny_model([p["prompt"] for p in PROMPTS], seed=0, vocab_size=270, hidden=16, heads=2)


def shown(body: dict[str, Any]) -> tuple[str, list[str]]:
    """The mark and the responses of a question, in their order."""
    text = body["messages"][-1]["content"]
    tag = re.search(r"begin response(?: A)? ([0-9a-f]{16}) ---", text).group(1)
    return tag, re.findall(rf"begin response(?: [A-Z])? {tag} ---\n(.*?)\n--- end", text, re.S)


def longer(body: dict[str, Any]) -> Answer:
    tag, texts = shown(body)
    order = sorted(range(len(texts)), key=lambda k: -len(texts[k]))
    said = " > ".join("ABCDEFG"[k] for k in order)
    if len(texts) == 2:
        said = said[0]
    return completion(f"verdict {tag}: {min(10, 1 + len(texts[0]) // 4) if len(texts) == 1 else said}")


def capricious(rng: random.Random) -> Any:
    """Never the same again."""

    def answer(body: dict[str, Any]) -> Answer:
        tag, texts = shown(body)
        order = rng.sample("ABCDEFG"[: len(texts)], len(texts))
        one = {1: str(rng.randint(1, 10)), 2: order[0]}.get(len(texts))
        return completion(f"verdict {tag}: {one or ' > '.join(order)}")

    return answer


METHODS = {
    "grpo": GRPO(response_length=6, num_generations=3),
    "online_dpo": OnlineDPO(response_length=6),
    "ppo": PPO(response_length=6),
    "raft": RAFT(response_length=6, num_generations=4),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_was_cut_off_repeats_its_judge_and_asks_nobody_twice(tmp_path: Path, start: Any, name: str):
    seen: list[dict[int, float]] = []

    def run(**options: Any) -> Run:
        return train(
            METHODS[name], model=start, data=PROMPTS, reward=reward, out=tmp_path / "run", save_steps=2,
            **SHORT, **options,
        )  # fmt: skip

    def listen(stop: int | None) -> Any:
        found: dict[int, float] = {}
        seen.append(found)

        def report(step: int, total: int, metrics: Any) -> None:
            found[step] = metrics["reward"]
            if step == stop:
                raise KeyboardInterrupt

        return report

    with serve(capricious(random.Random(1))) as server:
        reward = f"judge:{server.url}#m"
        with pytest.raises(KeyboardInterrupt):
            run(progress=listen(3))
        run(progress=listen(None))
        assert list(seen[0]) == [1, 2, 3]
        assert list(seen[1]) == [3, 4]
        assert seen[1][3] == seen[0][3]
        questions = [json.dumps(body["messages"]) for body in server.requests]
        kept = [json.loads(line) for line in (tmp_path / "run/judge_answers.jsonl").read_text().splitlines()]
    assert len(questions) == len(set(questions)) == len(kept) > 0
    assert {line["judge"] for line in kept} == {f"m at {server.url}"}
    parents = {p.path for p in Run.open(tmp_path / "run").record.parents if p.role == "reward"}
    assert parents == {reward}


def test_the_judge_moves_the_policy(tmp_path: Path, start: Any):
    """A judge that likes letters gets more of them by GRPO, from its rankings."""

    def likes(body: dict[str, Any]) -> Answer:
        tag, texts = shown(body)
        order = sorted(range(len(texts)), key=lambda k: -sum(c.isalpha() for c in texts[k]))
        said = " > ".join("ABCDEFG"[k] for k in order)
        return completion(f"verdict {tag}: {said}")

    def letters(completions: list[str]) -> list[float]:
        return [float(sum(c.isalpha() for c in text)) for text in completions]

    with serve(likes) as server:
        reward = [f"judge:{server.url}#m", {"reward": letters, "weight": 0.0}]
        options = {**SHORT, "max_steps": 16, "learning_rate": 5e-2}
        method = GRPO(response_length=8, num_generations=6, beta=0.0)
        run = train(method, model=start, data=PROMPTS, reward=reward, out=tmp_path / "run", **options)
    found = [row["rewards/letters/mean"] for row in run.metrics()]
    assert sum(found[-3:]) > 1.5 * sum(found[:3])


def test_another_judge_is_another_run_and_more_patience_is_not(tmp_path: Path, start: Any):
    def run(steps: int, **options: Any) -> Run:
        part = {"reward": f"judge:{server.url}", "judge_model": "m", **options}
        return train(
            METHODS["raft"], model=start, data=PROMPTS, reward=[part], out=tmp_path / "run",
            **{**SHORT, "max_steps": steps},
        )  # fmt: skip

    with serve(longer) as server:
        run(1)
        assert run(1, timeout=5, retries=1, concurrency=2).status == "finished"
        for other in ({"judge_model": "n"}, {"principles": "default"}, {"seed": 3}, {"orders": "random"}):
            with pytest.raises(TastemakerError, match="reward"):
                run(1, **other)


def test_a_judge_that_goes_away_ends_the_run_with_one_message(tmp_path: Path, start: Any):
    def run() -> Run:
        part = {"reward": f"judge:{server.url}#m", "retries": 0, "concurrency": 1}
        return train(METHODS["raft"], model=start, data=PROMPTS, reward=[part], out=tmp_path / "run", **SHORT)

    with serve(longer) as server:

        def breaks(body: dict[str, Any]) -> Answer:
            return longer(body) if len(server.requests) <= 7 else error(503, "too busy")

        server.answer = breaks
        with pytest.raises(TastemakerError, match=r"503: too busy .*7 answers are kept in .*judge_answers"):
            run()
        server.answer = longer
        assert run().status == "finished"
        questions = [json.dumps(body["messages"]) for body in server.requests]
        assert len(questions) == len(set(questions)) + 1  # the one that was refused


def test_judges_in_recipes(tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch):
    save_model(*start, tmp_path / "start")
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))
    stage = {"method": "raft", "model": str(tmp_path / "start"), "data": str(tmp_path / "data.jsonl")}
    common = {**SHORT, "response_length": 6, "num_generations": 2, "max_steps": 1}

    def recipe(**options: Any) -> Any:
        judge = {"reward": f"judge:{server.url}#m", "weight": 2.0, "name": "critic", **options}
        reward = [judge, {"reward": "length:0.1"}]
        return load_recipe({"out": str(tmp_path / "out"), **common, "stages": [{**stage, "reward": reward}]})

    with serve(longer) as server:
        (first,) = run_pipeline(recipe())
        assert "rewards/critic/mean" in next(iter(first.run.metrics()))
        assert run_pipeline(recipe(timeout=9))[0].reused
        assert not run_pipeline(recipe(orders="given"))[0].reused
        for options, said in (
            ({"ordres": "both"}, "did you mean orders?"),
            ({"orders": "some"}, "both|random|given"),
            ({"reward": "judge:"}, "names no judge"),
        ):
            with pytest.raises(TastemakerError) as caught:
                recipe(**options)
            assert said in str(caught.value)
    for who, said in ((f"judge:{server.url}", "which model?"), ("judge:town:proud", "no critic 'proud'")):
        with pytest.raises(TastemakerError, match=re.escape(said)):
            train(METHODS["raft"], model=start, data=PROMPTS, reward=who, out=tmp_path / "no", **SHORT)


def test_a_model_in_this_process_judges_by_probabilities(tmp_path: Path, start: Any):
    save_model(*start, tmp_path / "judge")
    reward = [{"reward": f"judge:{tmp_path / 'judge'}", "logps": True, "name": "critic"}]
    options = {**SHORT, "max_steps": 1, "max_length": 64}
    run = train(
        METHODS["online_dpo"], model=start, data=PROMPTS, reward=reward, out=tmp_path / "run", **options
    )
    (row,) = run.metrics()
    assert row["rewards/missing"] == 0
    kept = [json.loads(line) for line in (tmp_path / "run/judge_answers.jsonl").read_text().splitlines()]
    assert all(set(line["logps"]) == {"A", "B"} and line["judge"].startswith("judge ") for line in kept)
    assert len(kept) == 2 * SHORT["per_device_train_batch_size"]  # both orders of each pair


def test_a_judge_whose_verdicts_cannot_be_read_is_told(
    tmp_path: Path, start: Any, caplog: pytest.LogCaptureFixture
):
    def run(name: str) -> Run:
        options = {**SHORT, "max_steps": 2}
        return train(METHODS[name], model=start, data=PROMPTS, reward=reward, out=tmp_path / name, **options)

    with serve(lambda body: completion("I would rather not say.")) as server:
        reward = f"judge:{server.url}#m"
        assert [row["rewards/missing"] for row in run("raft").metrics()] == [1.0, 1.0]
        told = [
            r.getMessage() for r in caplog.records if "no verdict could be read on any of 3" in r.getMessage()
        ]
        assert len(told) == 2  # until there is one
        assert "judge_answers.jsonl" in told[0]
        with pytest.raises(TastemakerError, match="judge gave no reward for 3 responses"):
            run("ppo")
