"""Run by torchrun: every method once, each process with half of the batch."""

from __future__ import annotations

import sys

import torch

from tastemaker.methods import METHODS
from tastemaker.training import precompute, train
from tastemaker.types import StepLabels

OWN = {
    "grpo": {
        "response_length": 5,
        "num_generations": 3,
        "num_iterations": 2,
        "num_mini_batches": 2,
        "beta": 0.1,
        "top_entropy_quantile": 0.5,
    },
    "rloo": {"response_length": 5, "num_iterations": 2},
    "reinforce": {"response_length": 5},
    "reinforce_pp": {"response_length": 5, "num_generations": 2, "num_mini_batches": 2},
    "dpo": {"loss_type": "sigmoid,aot_unpaired"},
    "online_dpo": {"response_length": 5, "num_generations": 3, "choose": "bradley_terry"},
    "raft": {"response_length": 5, "num_epochs_per_batch": 2},
    "ppo": {"response_length": 5, "num_ppo_epochs": 2, "num_mini_batches": 2},
}


def main(root: str, out: str, batch: str) -> None:
    torch.set_num_threads(1)
    for name, method in METHODS.items():
        train(
            method(**OWN.get(name, {})),
            model=f"{root}/base",
            data=f"{root}/{'steps' if method.consumes is StepLabels else 'pairs'}.jsonl",
            reward=f"{root}/rm" if method.online else None,
            out=f"{out}/{name}",
            max_steps=5,
            save_steps=2,
            per_device_train_batch_size=int(batch),
            learning_rate=1e-3,
            num_samples=0,
            max_length=64,
        )
    precompute.CHUNK = 2
    train(
        METHODS["dpo"](),
        model=f"{root}/base",
        data=f"{root}/pairs.jsonl",
        out=f"{out}/precomputed",
        precompute_ref_log_probs=True,
        max_steps=1,
        per_device_train_batch_size=int(batch),
        num_samples=0,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
