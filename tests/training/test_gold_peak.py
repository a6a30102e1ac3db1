"""A gold read while a policy trains: the policy of its peak is kept, exactly, under kill and resume too."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import chat_server
from tastemaker.errors import TastemakerError
from tastemaker.methods import METHODS
from tastemaker.models import load_causal, tiny_model
from tastemaker.runs import Run, lineage
from tastemaker.training import train
from tastemaker.training.gold_peak import kept_step, read_gold

PAIRS = [
    {"prompt": f"what is {a} ?", "chosen": f"it is {a} .", "rejected": f"no {b} {b} idea ."}
    for a in ("a cat", "a dog", "the sky", "rain", "bread")
    for b in ("good", "bad", "old", "new")
]
HELD_OUT = [
    {"prompt": f"what is {a} ?", "chosen": f"it is {a} .", "rejected": f"no {b} {b} idea ."}
    for a, b in zip(
        ("snow", "a good dog", "old bread", "the cat", "new rain"), ("old", "bad", "good") * 2, strict=False
    )
]
REWARDS = """
def proxy(prompts, completions, **columns):
    return [float(len(text)) for text in completions]

def gold(prompts, completions, **columns):
    return [-abs(len(text) - 10.0) for text in completions]
"""
COMMON = {
    "max_steps": 8,
    "save_steps": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 3e-3,
    "num_samples": 0,
    "max_length": 64,
    "stop_at_gold_peak": True,
    "gold_steps": 2,
    "gold_patience": 0,
}
OWN: dict[str, dict[str, Any]] = {
    "grpo": {"response_length": 6, "num_generations": 3},
    "ppo": {"response_length": 6, "num_ppo_epochs": 2},
    "dpo": {},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    for name, rows in (("pairs", PAIRS), ("held_out", HELD_OUT)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(p) + "\n" for p in rows))
    (root / "rewards.py").write_text(REWARDS)
    texts = [f"{p['prompt']} {p['chosen']} {p['rejected']}" for p in PAIRS]
    model, tokenizer = tiny_model(texts, seed=0, vocab_size=300, hidden=16, heads=2)
    model.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    return root


def run(name: str, root: Path, out: Path, **options: object) -> Run:
    method = METHODS[name](**OWN.get(name, {}))
    given: dict[str, Any] = {"gold": f"{root / 'rewards.py'}:gold", **COMMON, **options}
    reward = f"{root / 'rewards.py'}:proxy" if method.online else None
    data, held_out = str(root / "pairs.jsonl"), given.pop("eval_data", str(root / "held_out.jsonl"))
    return train(
        method, model=str(root / "base"), data=data, reward=reward, out=out, eval_data=held_out, **given
    )


class Stop(Exception):
    pass


def stop_after(number: int):
    def progress(step: int, total: int, metrics: object) -> None:
        if step == number:
            raise Stop

    return progress


@pytest.mark.parametrize("name", ["ppo", "grpo", "dpo"])
def test_the_peaks_policy_is_the_runs_model_and_a_kill_changes_nothing(name: str, world: Path, tmp_path: Path):
    whole = run(name, world, tmp_path / "whole", snapshot_steps=2)
    found = read_gold(whole)
    assert [r["step"] for r in found["readings"]] == [0, 2, 4, 6, 8]
    golds = {r["step"]: r["gold"] for r in found["readings"]}
    peak = max(golds, key=lambda s: (golds[s], -s))
    assert found["peak"] == kept_step(whole) == peak
    policies = {0: load_causal(world / "base").weights_hash}
    policies |= {step: load_causal(folder).weights_hash for step, folder in whole.snapshots().items()}
    assert load_causal(whole.folder).weights_hash == policies[peak]
    assert f"step {peak}" in str(whole.record.reason) or (peak == 0 and "the start" in str(whole.record.reason))
    for number in (1, 5, 7):  # before a checkpoint, between reading and checkpoint, near the end
        with pytest.raises(Stop):
            run(name, world, tmp_path / "cut", snapshot_steps=2, progress=stop_after(number))
    resumed = run(name, world, tmp_path / "cut", snapshot_steps=2)
    assert resumed.weights_hash == whole.weights_hash
    assert (resumed.folder / "gold.json").read_bytes() == (whole.folder / "gold.json").read_bytes()
    assert not list((resumed.folder / "gold").glob("kept/*"))


def test_reading_does_not_touch_the_training(world: Path, tmp_path: Path):
    """Dropout on, so that a number drawn between two steps would show."""
    options = {"use_peft": True, "lora_dropout": 0.3, "snapshot_steps": 8}
    watched = run("dpo", world, tmp_path / "a", **options)
    alone = run("dpo", world, tmp_path / "b", **options, stop_at_gold_peak=False, gold=None)
    losses = [[m["loss"] for m in r.metrics() if "loss" in m] for r in (watched, alone)]
    assert losses[0] == losses[1]
    assert not (alone.folder / "gold.json").exists()


def test_patience_ends_the_run_and_the_record_says_why(world: Path, tmp_path: Path):
    options = {"gold_patience": 2, "learning_rate": 0.0}
    ended = run("ppo", world, tmp_path / "a", **options)  # nothing changes: the first reading stays the highest
    assert [r["step"] for r in read_gold(ended)["readings"]] == [0, 2, 4]
    assert ended.status == "stopped" and kept_step(ended) == 0
    assert "2 readings of the gold" in str(ended.record.reason)
    assert "too high on average" in str(ended.record.reason)
    again = run("ppo", world, tmp_path / "a", **options)
    assert again.status == "stopped" and again.weights_hash == ended.weights_hash


def test_gold_goes_by_its_own_arithmetic(world: Path, tmp_path: Path):
    found = run("ppo", world, tmp_path / "a", max_steps=2)
    first = read_gold(found)["readings"][0]
    values = first["values"]
    n, mean = len(values), sum(values) / len(values)
    assert n == 5 and first["gold"] == pytest.approx(mean)
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    assert first["gold_se"] == pytest.approx(error)
    assert first["kl"] == pytest.approx(0, abs=1e-6) and first["proxy"] > 0
    logged = [m for m in found.metrics() if "gold/score" in m]
    assert [m["step"] for m in logged] == [2]
    roles = {p.role for p in lineage(found).parents}
    assert {"gold", "gold_prompts"} <= roles


def test_peoples_labels_are_a_gold_and_the_start_knows_nothing_of_them(world: Path, tmp_path: Path):
    found = run("dpo", world, tmp_path / "a", gold="labels", learning_rate=1e-2)
    readings = read_gold(found)["readings"]
    assert readings[0]["gold"] == 0.5 and set(readings[0]["values"]) == {0.5}
    assert max(r["gold"] for r in readings) == 1.0  # the held-out pairs follow the same rule
    assert "kl" not in readings[0]


def test_a_judge_compares_with_the_starting_policy(world: Path, tmp_path: Path):
    with chat_server.serve(longer_wins) as server:
        found = run("ppo", world, tmp_path / "a", gold=f"{server.url}#judge")
        readings = read_gold(found)["readings"]
        assert readings[0]["gold"] == 0.5
        assert {v for r in readings for v in r["values"]} <= {0.0, 0.5, 1.0}
        assert len({r["gold"] for r in readings}) > 1
        asked = len(server.requests)
        # taken up again, what was answered is not asked again
        for line in (found.folder / "gold" / "judge_answers.jsonl").read_text().splitlines():
            assert json.loads(line)
        assert asked == len((found.folder / "gold" / "judge_answers.jsonl").read_text().splitlines())


def longer_wins(body: dict[str, Any]) -> chat_server.Answer:
    """A judge that prefers the longer answer, wherever it is shown."""
    text = "\n".join(m["content"] for m in body["messages"])
    shown = re.findall(r"(?s)--- begin (?:\w+ )?([AB]) ([0-9a-f]+) ---\n(.*?)\n--- end", text)
    (_, tag, first), (_, _, second) = shown
    winner = "tie" if len(first) == len(second) else "AB"[len(second) > len(first)]
    return chat_server.completion(f"verdict {tag}: {winner}")


def test_what_cannot_be_a_gold_is_refused(world: Path, tmp_path: Path):
    with pytest.raises(TastemakerError, match="the reward that the run maximises"):
        run("ppo", world, tmp_path / "a", gold=f"{world / 'rewards.py'}:proxy")
    with pytest.raises(TastemakerError, match="20 of 20 prompts are among the training data"):
        run("ppo", world, tmp_path / "b", eval_data=str(world / "pairs.jsonl"))
    with pytest.raises(TastemakerError, match="give them as eval_data"):
        run("ppo", world, tmp_path / "c", eval_data=None)
    with pytest.raises(TastemakerError, match="trains no policy"):
        run("reward", world, tmp_path / "d")
    with pytest.raises(TastemakerError, match="go together"):
        run("dpo", world, tmp_path / "e", gold=None)
    with pytest.raises(TastemakerError, match="town's seed is a number"):
        run("dpo", world, tmp_path / "f", gold="town:x")


def test_of_equal_readings_the_earliest_is_the_peak():
    from tastemaker.training.gold_peak import GoldWatch

    watch = GoldWatch(*(cast(Any, None),) * 6)
    watch.readings = [{"step": s, "gold": g} for s, g in ((0, 0.1), (2, 0.4), (4, 0.4), (6, 0.2))]
    assert watch.peak["step"] == 2
    torch.testing.assert_close(watch.peak["gold"], 0.4)


def test_a_recipes_gold_may_be_an_earlier_stage(world: Path, tmp_path: Path):
    from tastemaker.studies.pipeline import run_pipeline
    from tastemaker.studies.recipe import load_recipe

    small = {"max_steps": 2, "per_device_train_batch_size": 4, "num_samples": 0, "max_length": 64}
    stages = [
        {"method": "reward", "name": "rm2", **small},
        {
            "method": "dpo",
            "eval_data": str(world / "held_out.jsonl"),
            "stop_at_gold_peak": True,
            "gold": "rm2",
            **small,
        },
    ]
    shared = {"model": str(world / "base"), "data": str(world / "pairs.jsonl"), "out": str(tmp_path)}
    recipe = load_recipe({**shared, "stages": stages})
    assert recipe.stages[1].parents == {"gold": "rm2"}
    first, second = run_pipeline(recipe)
    assert str(first.run.folder) in str(read_gold(second.run)["gold"])
    golds = [p for p in second.run.record.parents if p.role == "gold"]
    assert golds[0].weights_hash == first.run.weights_hash
    assert [r.reused for r in run_pipeline(recipe)] == [True, True]
