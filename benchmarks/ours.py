"""One measured process of tastemaker: the public `train`, all default metrics on, timed by its progress."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common import (
    MAX_LENGTH,
    SEED,
    SIZES,
    TASKS,
    Clock,
    arguments,
    changes,
    long_rows,
    near_twenty_words,
    prompts_name,
    reward_name,
    rows_of,
)
from machine import Work, lengths, matrix_rate
from prepare import records
from transformers import AutoTokenizer

import tastemaker as tm
from tastemaker.methods import METHODS
from tastemaker.types import Record

args = arguments()
task = TASKS[args.task]
batch = args.batch or task.batch
if args.device == "cpu":
    torch.set_num_threads(1)
work: Path = args.work
first = os.environ.get("RANK", "0") == "0"
world = int(os.environ.get("WORLD_SIZE", "1"))
"""Processes that share a step, each with `batch` units of it."""
if first:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
warmup = task.warmup
steps = args.steps + warmup
more: dict[str, Any] = changes(args.set)
clock = Clock(warmup, args.profile, args.device, args.steps)


def progress(step: int, total: int, metrics: Mapping[str, float]) -> None:
    clock.tick(batch)


def data(name: str, each: int) -> list[Record]:
    """Rows of all steps, `each` to a step of a process."""
    if args.context is None:
        return records(name, rows_of(args.prepared, name, steps * each * world, ordered=False))
    vocabulary = AutoTokenizer.from_pretrained(args.prepared / f"model-{args.size}").get_vocab()
    return records(name, long_rows(vocabulary, name, args.context, steps * each * world))


def offline(method: Any, model: str, rows: str, **settings: Any) -> None:
    run = tm.train(
        method,
        model=str(args.prepared / model),
        data=data(rows, batch // task.group),
        out=work / "run",
        progress=progress,
        seed=SEED,
        num_train_epochs=1.0,
        per_device_train_batch_size=batch // task.group,
        max_length=args.context or MAX_LENGTH,
        # in memory adapters train on frozen bfloat16 weights, full training on float32 ones, as the peer's
        dtype=args.dtype,
        use_peft=args.adapter == "lora",
        device=args.device,
        num_samples=0,
        log_level="warning",
        **{**settings, **more},
    )
    if not first:
        return
    metrics = run.metrics()[:steps]
    before = metrics[warmup - 1] if warmup else {}
    rate: dict[str, float] = {}
    if not task.online and args.context is None and world == 1:
        # beside the run: a shared machine is not as fast at every hour (lengths that are sampled are not known)
        trees = lengths(args.prepared, args.size, args.task, args.steps, batch)[:batch]
        needed = Work.of(trees, head=args.task != "reward")
        rate["matrix_rate"] = matrix_rate(needed, SIZES[args.size], getattr(torch, args.dtype), args.device)
    spent = {name: metrics[-1][name] - before.get(name, 0) for name in ("total_flos", "num_tokens")}
    clock.report(
        args.steps,
        loss=[m["loss"] for m in metrics][:4],
        flops_per_unit=spent["total_flos"] / (args.steps * batch * world),
        tokens_per_unit=spent["num_tokens"] / (args.steps * batch * world),
        response_tokens=[m["completions/mean_length"] for m in metrics if "completions/mean_length" in m],
        **rate,
    )


match args.task:
    case "dpo":
        offline(tm.DPO(), f"model-{args.size}", "pairs", precompute_ref_log_probs=True)
    case "reward":
        offline(tm.RewardModel(), f"model-{args.size}", "pairs", learning_rate=1e-4)
    case "sft":
        offline(tm.SFT(), f"model-{args.size}", "demonstrations")
    case "grpo":
        method = METHODS["grpo"](num_generations=task.group, response_length=task.new_tokens)
        policy = f"policy-{args.size}"
        policy = policy if (args.prepared / policy).exists() else f"model-{args.size}"
        offline(method, policy, prompts_name(args.task), reward=near_twenty_words)
    case _:
        method = tm.PPO(response_length=task.new_tokens, num_ppo_epochs=task.epochs)
        policy = f"policy-{args.size}" if args.adapter == "full" else f"model-{args.size}"
        policy = policy if (args.prepared / policy).exists() else f"model-{args.size}"
        reward = str(args.prepared / reward_name(args.size, args.adapter))
        short = {"tokens_per_microbatch": 512} if args.task == "ppo-lora" else {}
        offline(method, policy, prompts_name(args.task), reward=reward, **short)
