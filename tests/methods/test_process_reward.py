"""Process reward models: the loss by step, training on a task that can be solved, and what they say at use."""

from __future__ import annotations

import gzip
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from methods.cases import batch_for
from references import steps as reference
from tastemaker.data import read_records, tokenise
from tastemaker.methods import PPO, ProcessReward, RewardModel
from tastemaker.models import build_roles, tiny_model
from tastemaker.rewards import ProcessReward as Steps
from tastemaker.runs import Run
from tastemaker.training import train
from tastemaker.types import Bundles, Scores, StepLabels, TastemakerError, Tree


def test_the_loss_counts_every_step_once():
    method = ProcessReward()
    batch = batch_for(method)
    scores = torch.randn(len(batch.targets), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = method.loss(Scores(values=scores), batch)
    total, unit = loss.terms["process_reward"]
    ends = batch.token_columns["step_end"].tolist()
    labels = batch.token_columns["step_label"].tolist()
    steps = [(s, y > 0.5) for s, e, y in zip(scores.tolist(), ends, labels, strict=True) if e]
    assert unit == "tokens"
    assert method.units(batch)["tokens"] == len(steps) > len(batch)
    assert float(total) == pytest.approx(sum(reference.loss(s, y) for s, y in steps), rel=1e-12)
    found = loss.metrics["accuracy"]
    assert float(found.total) == sum((s > 0) == y for s, y in steps)
    wrong = loss.metrics["accuracy/wrong"]
    assert (float(wrong.total), wrong.count) == (
        sum(s <= 0 for s, y in steps if not y),
        sum(not y for _, y in steps),
    )


def test_the_last_step_alone_makes_an_outcome_model():
    method = ProcessReward(train_on_last_step_only=True)
    batch = batch_for(method)
    ends = batch.token_columns["step_end"]
    closing = {int(batch.response[i]): i for i in ends.nonzero().flatten().tolist()}  # the later wins
    last = list(closing.values())
    assert method.units(batch)["tokens"] == len(last) < int(ends.sum())
    scores = torch.arange(len(ends), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(
        method.loss(Scores(values=-scores), batch).terms["process_reward"][0], scores
    )
    assert set(gradient.nonzero().flatten().tolist()) <= set(last)


# ------------------------------------------------------------------------------- a task that can be solved

GOOD, BAD = ("cat", "dog", "owl"), ("rock", "iron", "sand")
"""A step is right where it names an animal."""


def rows(pairs: list[tuple[str, ...]]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": "name animals",
            "completions": [f"the {w} ." for w in words],
            "labels": [w in GOOD for w in words],
        }
        for words in pairs
    ]


COMBINATIONS = list(product(GOOD + BAD, repeat=3))
HELD_OUT = COMBINATIONS[::7]
LEARNED = [c for c in COMBINATIONS if c not in HELD_OUT]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    texts = ["name animals", *(f"the {w} .\n" for w in GOOD + BAD)]
    start = tiny_model(texts, seed=0, vocab_size=300, hidden=32, layers=1, heads=2)
    return train(
        ProcessReward(),
        model=start,
        data=rows(LEARNED),
        eval_data=rows(HELD_OUT),
        out=tmp_path_factory.mktemp("prm") / "run",
        max_steps=40,
        per_device_train_batch_size=32,
        learning_rate=1e-2,
        max_length=64,
    )


def test_it_learns_which_steps_are_right(trained: Run):
    first, last = trained.metrics()[0], trained.metrics()[-1]
    assert first["loss"] == pytest.approx(0.6931, abs=0.2)  # scores start near zero
    assert last["eval_accuracy"] > 0.97  # pyright: ignore[reportOperatorIssue]
    assert last["eval_accuracy/responses"] > 0.95  # pyright: ignore[reportOperatorIssue]


@pytest.mark.parametrize("aggregation", ["min", "product", "last"])
def test_at_use_steps_become_one_reward(trained: Run, aggregation: Any):
    models = build_roles(("reward",), (), policy=None, reward=trained.model_dir, dtype="float32")
    tokenizer = models.tokenizer
    data = tokenise(read_records(rows(HELD_OUT), StepLabels), tokenizer, max_length=64)
    batch = data.batch(range(len(data)))

    def decode(ids: torch.Tensor) -> str:
        return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True))

    said = Steps(models, decode, aggregation=aggregation)(batch, data.records)
    labels = [r.labels for r in data.records if isinstance(r, StepLabels)]
    truth = torch.tensor([y[-1] if aggregation == "last" else all(y) for y in labels])
    assert ((said.total > 0.5) == truth).float().mean() > 0.95
    assert said.parts["steps"].tolist() == [3.0] * len(data)
    assert torch.equal(said.total, said.parts[aggregation])
    scores = models.score("reward", batch).values
    assert scores is not None
    own = scores[batch.token_columns["step_end"]].reshape(-1, 3).double().tolist()
    expected = [reference.aggregate(s, aggregation) for s in own]
    assert torch.allclose(said.total.double(), torch.tensor(expected).double(), atol=1e-5)


def test_ppo_takes_it_as_its_reward(trained: Run, tmp_path: Path):
    start = trained.record.parents[0].path
    assert start == "in memory"
    texts = ["name animals", *(f"the {w} .\n" for w in GOOD + BAD)]
    policy = tiny_model(texts, seed=0, vocab_size=300, hidden=32, layers=1, heads=2)
    run = train(
        PPO(response_length=6, num_ppo_epochs=1, num_mini_batches=1),
        model=policy,
        data=[{"prompt": "name animals"}] * 8,
        reward=trained,
        out=tmp_path / "ppo",
        max_steps=1,
        num_samples=0,
    )
    assert 0 < run.metrics()[0]["objective/scores"] < 1  # pyright: ignore[reportOperatorIssue]


def test_steps_end_where_the_separator_is_complete():
    pieces = ["<s>", "a", " b", "\n", "\n", "c\n", "d", "</s>"]
    tree = Tree(
        prompt=torch.tensor([0]),
        responses=(torch.tensor([1, 2, 3, 4, 5, 6, 7]), torch.tensor([3, 3]), torch.tensor([5, 3, 7])),
        ended=(True, False, True),
    )
    from tastemaker.rewards.process import step_ends

    ends = step_ends(Bundles(trees=(tree,)), lambda ids: "".join(pieces[i] for i in ids.tolist()), "\n")
    assert ends.tolist() == [
        *[False, False, True, False, True, True, False],  # a b|, c|, d|
        *[False, True],  # nothing but separators: one step
        *[True, False, False],
    ]


def test_what_cannot_score_steps_is_refused(tmp_path: Path):
    with pytest.raises(TastemakerError, match="min, product, last"):
        Steps(None, str, aggregation="mean")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TastemakerError, match="separator"):
        Steps(None, str, separator="")  # pyright: ignore[reportArgumentType]

    class Whole:
        device = torch.device("cpu")

        def score(self, role: str, batch: Bundles, **_: object) -> Scores:
            return Scores(rewards=torch.zeros(len(batch.lengths)))

    batch = batch_for(RewardModel())
    with pytest.raises(TastemakerError, match="process_reward"):
        Steps(Whole(), str)(batch, [])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TastemakerError, match="StepLabels is wanted") as caught:
        train(
            ProcessReward(), model="none", data=[{"prompt": "p", "chosen": "a", "rejected": "b"}], out=tmp_path
        )
    assert "stepwise" in str(caught.value)


# ------------------------------------------------------------------------------- records of people


def test_mistakes_marked_by_people_are_read_and_a_lost_label_is_named(shared_data: Path, tmp_path: Path):
    """Steps up to the first mistake are right, that one is wrong; what follows it nobody judged."""
    made: list[dict[str, Any]] = []
    with gzip.open(shared_data / "bigbench_mistake_steps.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            at = row["mistake_index"]
            steps = row["steps"] if at is None else row["steps"][: at + 1]
            labels = [i != at for i in range(len(steps))]
            made.append({"prompt": row["input"], "completions": steps, "labels": labels})
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in made))
    found = read_records(path, StepLabels)
    assert len(found.records) + len(found.dropped) == len(made) == 900
    wrong = sum(not all(r.labels) for r in found.records if isinstance(r, StepLabels))
    assert 500 < wrong < len(found.records)
    made[41]["labels"] = made[41]["labels"][:-1]
    path.write_text("".join(json.dumps(r) + "\n" for r in made))
    with pytest.raises(TastemakerError, match=r"steps\.jsonl:42.*labels.*entries for"):
        read_records(path, StepLabels)
