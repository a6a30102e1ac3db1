"""The commands with nothing replaced: a rehearsal of the whole road on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tastemaker.runs import Run

RECIPE = """
out: runs
model: tiny
data: pairs.jsonl
max_steps: 1
per_device_train_batch_size: 4
num_samples: 1
stages:
  - {method: sft, max_steps: 2}
  - {method: reward, model: sft}
  - {method: ppo, model: sft, reward: reward, response_length: 4, num_ppo_epochs: 1}
  - {method: dpo, model: sft}
"""


@pytest.fixture
def folder(command: Any) -> Path:
    rows = [{"prompt": f"count {i}: ", "chosen": f"{i} {i + 1}", "rejected": f"no {i}"} for i in range(16)]
    Path("pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    Path("road.yaml").write_text(RECIPE)
    return Path.cwd()


def test_the_whole_road(command: Any, folder: Path):
    done = command("run", "road.yaml")
    assert done.code == 0, done.err
    runs = {name: Run.open(folder / "runs" / name) for name in ("sft", "reward", "ppo", "dpo")}
    assert {run.status for run in runs.values()} == {"finished"}
    assert runs["dpo"].metrics()[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    parents = {p.role: p.weights_hash for p in runs["ppo"].record.parents}
    assert parents["policy"] == parents["reference"] == runs["sft"].weights_hash
    assert parents["reward"] == runs["reward"].weights_hash

    again = command("run", "road.yaml", "--dpo.beta", "0.2")
    assert again.out.count("(reused: its inputs are unchanged)") == 3
    assert "dpo-2: dpo, finished" in again.out

    # the same pipeline, a stage at a time
    assert (
        command("dpo", "--model", "runs/sft", "--data", "pairs.jsonl", "--out", "one", "--max-steps", "1").code
        == 0
    )
    assert "sft [sft, finished]" in command("runs", "tree", "one").out
    assert command("export", "one", "--out", "plain").code == 0
    assert AutoModelForCausalLM.from_pretrained("plain").config.model_type == "llama"

    changed = command("dpo", "--model", "runs/sft", "--data", "pairs.jsonl", "--out", "one", "--beta", "0.3")
    assert changed.code == 1
    assert "beta: 0.1 -> 0.3" in changed.err
