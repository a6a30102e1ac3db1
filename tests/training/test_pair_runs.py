"""Whole runs of what the pair methods add: a reference that moves, ties in the data, margins and weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tastemaker.methods import DPO
from tastemaker.models import tiny_model
from tastemaker.runs import Run
from tastemaker.training import train
from tastemaker.types import TastemakerError

PAIRS = [
    {"prompt": f"what is {a} ?", "chosen": f"it is {a} " * n + ".", "rejected": f"no {a} idea .", "margin": n}
    for n, a in enumerate(("a cat", "a dog", "the sky", "rain", "bread", "wood", "a hat", "sand"), start=1)
]
COMMON: dict[str, Any] = {
    "max_steps": 6,
    "save_steps": 1,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "num_samples": 0,
    "max_length": 64,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    texts = [f"{p['prompt']} {p['chosen']} {p['rejected']}" for p in PAIRS]
    model, tokenizer = tiny_model(texts, seed=0, vocab_size=300, hidden=16, heads=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def run(method: DPO, base: str, out: Path, data: list[dict[str, Any]] = PAIRS, **options: Any) -> Run:
    return train(method, model=base, data=data, out=out, **{**COMMON, **options})


def losses(run: Run) -> list[float]:
    return [float(m["loss"]) for m in run.metrics()]  # pyright: ignore[reportArgumentType]


class Stop(Exception):
    pass


def stop_after(number: int) -> Any:
    def progress(step: int, total: int, metrics: object) -> None:
        if step == number:
            raise Stop

    return progress


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_copied_reference_starts_anew_at_every_copy(lora: bool, base: str, tmp_path: Path):
    method = DPO(beta=0.5, sync_ref_model=True, ref_model_mixup_alpha=1.0, ref_model_sync_steps=2)
    found = losses(run(method, base, tmp_path / "run", use_peft=lora))
    for step, loss in enumerate(found, start=1):
        fresh = step % 2 == 1  # the reference was copied before steps 3 and 5, and is the start at step 1
        assert (abs(loss - math.log(2)) < 1e-6) == fresh, (step, loss)


@pytest.mark.parametrize("lora, share", [(False, 0.6), (False, 1.0), (True, 1.0)])
def test_E4_a_moved_reference_survives_an_interruption(lora: bool, share: float, base: str, tmp_path: Path):
    def tr_dpo(out: str, **options: Any) -> Run:
        method = DPO(beta=0.5, sync_ref_model=True, ref_model_mixup_alpha=share, ref_model_sync_steps=2)
        return run(method, base, tmp_path / out, use_peft=lora, **options)

    whole = tr_dpo("whole")
    for number in (2, 3, 5):  # after the step that makes a move due, and after the move
        with pytest.raises(Stop):
            tr_dpo("cut", progress=stop_after(number))
    resumed = tr_dpo("cut")
    assert resumed.weights_hash == whole.weights_hash
    assert losses(resumed) == losses(whole)
    still = run(DPO(beta=0.5), base, tmp_path / "still", use_peft=lora)
    assert losses(still)[:2] == losses(whole)[:2]
    assert losses(still)[2] != losses(whole)[2]


def test_what_a_moving_reference_excludes(base: str, tmp_path: Path):
    method = DPO(sync_ref_model=True)
    with pytest.raises(TastemakerError, match="precompute_ref_log_probs"):
        run(method, base, tmp_path / "a", precompute_ref_log_probs=True)
    with pytest.raises(TastemakerError, match="ref_model_mixup_alpha=1"):
        run(method, base, tmp_path / "b", use_peft=True)
    copies = DPO(sync_ref_model=True, ref_model_mixup_alpha=1.0)
    with pytest.raises(TastemakerError, match="of the policy's own kind"):
        run(copies, base, tmp_path / "c", use_peft=True, ref_model=base)


def test_tied_rows_are_used_by_losses_that_know_ties_alone(base: str, tmp_path: Path):
    data = [{**p, "tie": n % 4 == 0} for n, p in enumerate(PAIRS)]
    known = run(DPO(loss_type="davidson"), base, tmp_path / "known", data)
    assert known.receipt()["used"] == 8
    assert all(math.isfinite(loss) for loss in losses(known))
    assert run(DPO(), base, tmp_path / "unknown", data).receipt()["used"] == 6


def test_margins_of_the_data_reach_the_loss(base: str, tmp_path: Path):
    """Where pi == ref the first loss is the mean of -log sigmoid(-offset), and weights scale ln 2."""
    settings = {"max_steps": 1, "per_device_train_batch_size": 8}
    offset = losses(run(DPO(margin_offset=0.1), base, tmp_path / "offset", **settings))[0]
    assert offset == pytest.approx(sum(math.log1p(math.exp(0.1 * n)) for n in range(1, 9)) / 8, abs=1e-5)
    weighed = losses(run(DPO(strength_weights=True), base, tmp_path / "weighed", **settings))[0]
    assert weighed == pytest.approx(math.log(2) * 4.5, abs=1e-5)


def test_moving_keeps_the_reference_frozen_and_apart(base: str):
    from tastemaker.models import LoraSettings, build_roles

    for lora in (None, LoraSettings(r=2, alpha=4)):
        models = build_roles(
            ("policy", "reference"), ("policy",), policy=base, lora=lora, moving_reference=1.0, dtype="float32"
        )
        assert models.trainable("reference") == {}
        policy = {n: p.detach().clone() for n, p in models.trainable("policy").items()}
        with torch.no_grad():
            for parameter in models.trainable("policy").values():
                parameter += 0.1
        models.mix("reference", "policy", 1.0)
        state = models.state()
        for name, before in policy.items():
            now = state[name.replace("policy.", "reference.", 1)]
            torch.testing.assert_close(now, before + 0.1)
