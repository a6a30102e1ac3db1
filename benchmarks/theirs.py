"""One measured process of TRL, through its own trainers.

`default`: TRL's defaults, which are bf16 autocast and gradient checkpointing. `best`: the fastest of what its
documentation offers on this machine: checkpointing off; for DPO the reference's log-probabilities computed
beforehand (`precompute_ref_log_probs`). Not usable here: `padding_free` needs FlashAttention,
`use_liger_kernel` needs Triton, and packing (SFT) changes what a batch is.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1", WANDB_DISABLED="true")

import torch
import transformers
import trl
from common import SEED, TASKS, Clock, arguments, changes, rows_of
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification, TrainerCallback

transformers.logging.set_verbosity_error()
args = arguments()
task = TASKS[args.task]
torch.set_num_threads(1)
steps = args.steps + task.warmup
batch = task.batch
clock = Clock(task.warmup, args.profile)
tokenizer = AutoTokenizer.from_pretrained(args.prepared / f"model-{args.size}")


class Timed(TrainerCallback):
    def on_step_end(self, *_: Any, **__: Any) -> None:
        clock.tick(batch)


def causal(name: str = "model") -> Any:
    path = str(args.prepared / f"{name}-{args.size}")
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def classifier(seed: int = SEED) -> Any:
    torch.manual_seed(seed)
    config = causal().config
    config.num_labels = 1
    return LlamaForSequenceClassification(config)


def dataset(name: str) -> Dataset:
    return Dataset.from_list(rows_of(args.prepared, name, steps * batch, ordered=True))


common: dict[str, Any] = {
    "output_dir": str(args.work),
    "use_cpu": args.device == "cpu",
    "report_to": [],
    "save_strategy": "no",
    "seed": SEED,
    "per_device_train_batch_size": batch,
}
order: dict[str, Any] = {"max_steps": steps, "disable_tqdm": True, "train_sampling_strategy": "sequential"}
best: dict[str, Any] = {"gradient_checkpointing": False, "bf16": True} if args.variant == "best" else {}
more = changes(args.set)


def offline(config: Any, trainer: Any, model: Any, rows: str, **settings: Any) -> Any:
    settings = {**common, **order, "max_length": 512, **best, **settings, **more}
    return trainer(
        model=model,
        args=config(**settings),
        train_dataset=dataset(rows),
        processing_class=tokenizer,
        callbacks=[Timed()],
    )


def ppo() -> Any:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer.padding_side = "left"
    ids = [{"input_ids": tokenizer(row["prompt"]).input_ids} for row in dataset("prompts")]
    settings = {**common, **best, "per_device_train_batch_size": task.micro}
    config = PPOConfig(
        gradient_accumulation_steps=batch // task.micro,
        num_mini_batches=1,
        total_episodes=steps * batch,
        num_ppo_epochs=4,
        response_length=task.new_tokens,
        temperature=1.0,
        stop_token="eos",
        num_sample_generations=0,
        local_rollout_forward_batch_size=batch,
        **{**settings, **more},
    )
    return PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=causal("policy"),
        ref_model=causal("policy"),
        reward_model=classifier(1),
        value_model=classifier(1),
        train_dataset=Dataset.from_list(ids),
        eval_dataset=Dataset.from_list(ids[:4]),
        callbacks=[Timed()],
    )


match args.task:
    case "dpo":
        early = {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 16} if best else {}
        trainer = offline(trl.DPOConfig, trl.DPOTrainer, causal(), "pairs", **early)
    case "reward":
        trainer = offline(trl.RewardConfig, trl.RewardTrainer, classifier(), "pairs")
    case "sft":
        trainer = offline(trl.SFTConfig, trl.SFTTrainer, causal(), "demonstrations")
    case "ppo":
        trainer = ppo()
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
clock.report(args.steps, loss=losses[:4], version=trl.__version__, settings={**best, **more})
