"""TRL loads what we export. TRL is no dependency: `make test-oracle` installs it; else this is skipped."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tastemaker.methods import DPO, SFT, RewardModel
from tastemaker.models import tiny_model
from tastemaker.training import train

pytest.importorskip("trl", reason="TRL is not installed (make test-oracle installs it)")

PAIRS = [
    {"prompt": f"what is {a} ?", "chosen": f"it is {a} .", "rejected": "no ."}
    for a in ("rain", "sun", "hay", "ice")
]
COMMON = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "max_length": 64,
    "num_samples": 0,
}


@pytest.mark.filterwarnings("default")
def test_trl_trains_on_from_our_runs(tmp_path: Path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    start = tiny_model([" ".join(p.values()) for p in PAIRS], seed=0, vocab_size=300, hidden=16, heads=2)
    sft = train(SFT(), model=start, data=PAIRS, out=tmp_path / "sft", **COMMON)
    dpo = train(DPO(), model=sft, data=PAIRS, out=tmp_path / "dpo", **COMMON)
    rm = train(RewardModel(), model=sft, data=PAIRS, out=tmp_path / "rm", **COMMON)
    data = Dataset.from_list(PAIRS)
    shared = {"max_steps": 1, "report_to": [], "bf16": False, "use_cpu": True, "logging_steps": 1}
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(dpo.model_dir),
        args=DPOConfig(output_dir=str(tmp_path / "trl-dpo"), **shared),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(dpo.model_dir),
    )
    trainer.train()
    first = next(line["loss"] for line in trainer.state.log_history if "loss" in line)
    assert first == pytest.approx(math.log(2), abs=1e-4)
    reward = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(rm.model_dir),
        args=RewardConfig(output_dir=str(tmp_path / "trl-rm"), **shared),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(rm.model_dir),
    )
    reward.train()
    assert any("loss" in line for line in reward.state.log_history)
