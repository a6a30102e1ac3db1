"""A label's weight, from the file to the loss: 0 is removal, 2 is two of it, between scales."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tastemaker.data import read_records, write_records
from tastemaker.methods import DPO, KTO, METHODS, RewardModel
from tastemaker.models import tiny_model
from tastemaker.training import train
from tastemaker.types import Bundles, Comparison, Scores, TastemakerError, Tree


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(n: int, **more) -> list[dict]:
    return [{"prompt": f"say {i}", "chosen": f"yes {i}", "rejected": f"no no {i}", **more} for i in range(n)]


def batch(weights: list[float] | None, n: int) -> Bundles:
    """n pairs of two tokens a side."""
    trees = tuple(
        Tree(
            prompt=torch.tensor([1]), responses=(torch.tensor([2, 3]), torch.tensor([4, 5])), ended=(True, True)
        )
        for _ in range(n)
    )
    made = Bundles(
        trees=trees,
        response_columns={"rank": torch.tensor([0, 1] * n), "desirable": torch.tensor([True, False] * n)},
    )
    return made if weights is None else made.with_trees(weight=torch.tensor(weights))


@pytest.mark.parametrize(
    "method",
    [
        DPO(),
        DPO(loss_type="ipo"),
        DPO(loss_type="robust", label_smoothing=0.2),
        RewardModel(),
        RewardModel(loss_type="davidson"),
        KTO(),
        KTO(loss_type="apo_zero_unpaired"),
    ],
    ids=str,
)
def test_weight_scales_each_labels_own_loss(method) -> None:
    drawn = torch.Generator().manual_seed(0)
    logps, before = torch.randn(12, generator=drawn).double(), torch.randn(12, generator=drawn).double()
    rewards = torch.randn(6, generator=drawn).double()

    def total(weights: list[float] | None, at: slice = slice(0, 3)) -> float:
        n = len(range(3)[at])
        part = batch(weights, n).with_tokens(reference_logps=before[4 * at.start : 4 * at.stop])
        part = part.with_trees(kl=torch.full((n,), 0.3, dtype=torch.float64))
        said = Scores(logps=logps[4 * at.start : 4 * at.stop], rewards=rewards[2 * at.start : 2 * at.stop])
        return float(next(iter(method.loss(said, part).terms.values()))[0])

    each = [total(None, slice(i, i + 1)) for i in range(3)]
    assert total([1.0, 1.0, 1.0]) == pytest.approx(total(None))
    assert total([0.0, 2.0, 0.5]) == pytest.approx(2 * each[1] + 0.5 * each[2])


def test_weight_is_read_kept_and_written(tmp_path: Path) -> None:
    data = read_records(write(tmp_path / "a.jsonl", [*rows(1, weight=0.25), *rows(2)[1:]]))
    assert [r.weight for r in data.records if isinstance(r, Comparison)] == [0.25, 1.0]
    write_records(tmp_path / "b.jsonl", data.records)
    assert read_records(tmp_path / "b.jsonl").records == data.records
    assert "weight" not in json.loads((tmp_path / "b.jsonl").read_text().splitlines()[1])
    with pytest.raises(TastemakerError, match="weight"):
        read_records([{**rows(1)[0], "weight": -1}])


@pytest.mark.parametrize(
    "method",
    [DPO, lambda: DPO(loss_type="robust", label_smoothing=0.1), RewardModel, KTO],
    ids=["DPO", "robust DPO", "RewardModel", "KTO"],
)
def test_weight_0_trains_the_very_same_weights_as_removal(method, tmp_path: Path) -> None:
    kept = rows(6)
    if method is KTO:
        kept = [
            {"prompt": r["prompt"], "completion": r["chosen"], "label": i % 2 == 0} for i, r in enumerate(kept)
        ]
    cast_out = [*kept[:3], {**kept[0], "prompt": "wrong", "weight": 0}, *kept[3:]]
    model = tiny_model(["say yes no wrong 0 1 2 3 4 5"], seed=0)
    hashes = []
    for name, data in (("with", cast_out), ("without", kept)):
        path = write(tmp_path / f"{name}.jsonl", data)
        run = train(
            method(),
            model=model,
            data=str(path),
            out=tmp_path / name,
            max_steps=3,
            per_device_train_batch_size=2,
        )
        hashes.append(run.weights_hash)
        model = tiny_model(["say yes no wrong 0 1 2 3 4 5"], seed=0)
    assert hashes[0] == hashes[1]


def test_methods_without_a_place_for_weights_refuse_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(4, weight=0.5))
    model = tiny_model(["say yes no 0 1 2 3"], seed=0)
    with pytest.raises(TastemakerError, match="weights"):
        train(METHODS["simpo"](), model=model, data=str(path), out=tmp_path / "simpo", max_steps=1)
    assert not DPO(loss_type="aot").knows_weights and DPO().knows_weights
