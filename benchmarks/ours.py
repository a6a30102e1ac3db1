"""One measured process of tastemaker: the public `train`, all default metrics on, timed by its progress."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common import SEED, TASKS, Clock, arguments, changes, rows_of
from prepare import records

import tastemaker as tm
from tastemaker.types import Record

args = arguments()
task = TASKS[args.task]
torch.set_num_threads(1)
work: Path = args.work
shutil.rmtree(work, ignore_errors=True)
work.mkdir(parents=True)
clock = Clock(task.warmup, args.profile)
steps = args.steps + task.warmup
more: dict[str, Any] = changes(args.set)


def progress(step: int, total: int, metrics: Mapping[str, float]) -> None:
    clock.tick(task.batch)


def data(name: str) -> list[Record]:
    return records(name, rows_of(args.prepared, name, steps * task.batch, ordered=False))


def offline(method: Any, model: str, rows: str, **settings: Any) -> None:
    run = tm.train(
        method,
        model=str(args.prepared / model),
        data=data(rows),
        out=work / "run",
        progress=progress,
        seed=SEED,
        num_train_epochs=1.0,
        per_device_train_batch_size=task.batch,
        max_length=512,
        dtype=args.dtype,
        device=args.device,
        num_samples=0,
        log_level="warning",
        **{**settings, **more},
    )
    metrics = run.metrics()
    clock.report(args.steps, loss=[m["loss"] for m in metrics][:4], stream=metrics[-1].get("num_tokens"))


match args.task:
    case "dpo":
        offline(tm.DPO(), f"model-{args.size}", "pairs", precompute_ref_log_probs=True)
    case "reward":
        offline(tm.RewardModel(), f"model-{args.size}", "pairs", learning_rate=1e-4)
    case "sft":
        offline(tm.SFT(), f"model-{args.size}", "demonstrations")
    case "ppo":
        method = tm.PPO(response_length=task.new_tokens, num_ppo_epochs=4)
        offline(method, f"policy-{args.size}", "prompts", reward=str(args.prepared / f"reward-{args.size}"))
