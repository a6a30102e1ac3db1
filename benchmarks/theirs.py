"""One measured process of TRL, through its own trainers.

`default`: TRL's defaults, which are bf16 autocast and gradient checkpointing. `best`: the fastest of what its
documentation offers on this machine: checkpointing off; for DPO the reference's log-probabilities computed
beforehand (`precompute_ref_log_probs`); and large pages, PyTorch's own setting, which ours has by itself. Not
usable here: `padding_free` needs FlashAttention, `use_liger_kernel` needs Triton; packing (SFT) changes what
a batch is.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any, cast

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1", WANDB_DISABLED="true")

import torch
import transformers
import trl
from common import (
    LARGE_PAGES,
    MAX_LENGTH,
    SEED,
    TASKS,
    Clock,
    arguments,
    changes,
    long_rows,
    near_twenty_words,
    prompts_name,
    rows_of,
)
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

transformers.logging.set_verbosity_error()
args = arguments()
task = TASKS[args.task]
on_cpu = args.device == "cpu"
if on_cpu:
    torch.set_num_threads(1)
warmup = task.warmup
steps = args.steps + warmup
batch = args.batch or task.batch
lora = args.adapter == "lora"
tokenizer = AutoTokenizer.from_pretrained(args.prepared / f"model-{args.size}")
clock = Clock(warmup, args.profile, args.device, args.steps)
wrote: list[float] = []
"""Mean tokens of each step's responses, end token included."""


class Timed(TrainerCallback):
    def on_step_end(self, *_: Any, **__: Any) -> None:
        clock.tick(batch)


def causal(name: str = "model", dtype: torch.dtype = torch.float32) -> Any:
    path = args.prepared / f"{name}-{args.size}"
    path = path if path.exists() else args.prepared / f"model-{args.size}"
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)


def frozen() -> torch.dtype:
    """Format of weights that are not trained: with adapters the fastest setting keeps them in bfloat16."""
    return torch.bfloat16 if lora and args.variant == "best" else torch.float32


def classifier(seed: int = SEED, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(args.prepared / f"model-{args.size}")
    config.num_labels = 1
    with torch.device(args.device):
        return AutoModelForSequenceClassification.from_config(config, dtype=dtype)


def dataset(name: str) -> Dataset:
    count = steps * batch // task.group
    if args.context is None:
        return Dataset.from_list(rows_of(args.prepared, name, count, ordered=True))
    return Dataset.from_list(long_rows(tokenizer.get_vocab(), name, args.context, count))


def adapter(kind: str) -> Any:
    """The adapter that tastemaker's defaults make, for the peer."""
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type=kind)


common: dict[str, Any] = {
    "output_dir": str(args.work),
    "use_cpu": on_cpu,
    "report_to": [],
    "save_strategy": "no",
    "seed": SEED,
    "per_device_train_batch_size": batch,
}
order: dict[str, Any] = {"max_steps": steps, "disable_tqdm": True, "train_sampling_strategy": "sequential"}
best: dict[str, Any] = {"gradient_checkpointing": False, "bf16": True} if args.variant == "best" else {}
if best and not on_cpu and find_spec("liger_kernel"):
    best["use_liger_kernel"] = True
more = changes(args.set)


def offline(config: Any, trainer: Any, model: Any, rows: str, **settings: Any) -> Any:
    settings = {**common, **order, "max_length": args.context or MAX_LENGTH, **best, **settings, **more}
    kind = "SEQ_CLS" if args.task == "reward" else "CAUSAL_LM"
    return trainer(
        model=model,
        args=config(**settings),
        train_dataset=dataset(rows),
        processing_class=tokenizer,
        callbacks=[Timed()],
        peft_config=adapter(kind) if lora else None,
    )


def ppo() -> Any:
    """PPO of TRL 1.12. It makes an Accelerator of its own, which under this transformers does not hear of
    `bf16=True`: the precision is named in the environment, as `accelerate launch --mixed_precision` does.
    """
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if args.dtype == "bfloat16" else "no"
    import trl.experimental.ppo.ppo_trainer as module
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer.padding_side = "left"
    ids = [{"input_ids": tokenizer(row["prompt"]).input_ids} for row in dataset(prompts_name(args.task))]
    micro = min(task.micro, batch)
    config = PPOConfig(
        gradient_accumulation_steps=batch // micro,
        num_mini_batches=1,
        total_episodes=steps * batch,
        num_ppo_epochs=task.epochs,
        response_length=task.new_tokens,
        temperature=1.0,
        stop_token="eos",
        num_sample_generations=0,
        local_rollout_forward_batch_size=batch,
        **{**common, **best, "per_device_train_batch_size": micro, **more},
    )
    start = "model" if lora else "policy"
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=causal(start, frozen()),
        ref_model=None if lora else causal(start),
        reward_model=classifier(1, frozen()),
        value_model=classifier(1),
        train_dataset=Dataset.from_list(ids),
        eval_dataset=Dataset.from_list(ids[:4]),
        callbacks=[Timed()],
        peft_config=adapter("CAUSAL_LM") if lora else None,
    )
    # its loader shuffles; everyone gets the same prompts step by step
    loader = DataLoader(
        cast(Any, trainer.train_dataset), batch, collate_fn=trainer.data_collator, drop_last=True
    )
    trainer.dataloader = trainer.accelerator.prepare(loader)
    expected = "bf16" if args.dtype == "bfloat16" else "no"
    if trainer.accelerator.mixed_precision != expected:
        raise SystemExit(f"the peer computes in {trainer.accelerator.mixed_precision}, not in {expected}")
    count_responses(module)
    return trainer


def grpo() -> Any:
    """Groups of the same prompts, step by step; its loader would shuffle them."""
    sampled = {"max_completion_length": task.new_tokens, "num_generations": task.group, "temperature": 1.0}
    steady = {**order, "shuffle_dataset": False}
    del steady["train_sampling_strategy"]
    tokenizer.padding_side = "left"
    return trl.GRPOTrainer(
        model=causal("policy", frozen()),
        reward_funcs=near_twenty_words,
        args=trl.GRPOConfig(**{**common, **steady, **sampled, **best, **more}),
        train_dataset=dataset(prompts_name(args.task)),
        processing_class=tokenizer,
        callbacks=[Timed()],
        peft_config=adapter("CAUSAL_LM") if lora else None,
    )


def count_responses(module: Any) -> None:
    """Notes how long the peer's responses are: the same work has to be as long."""
    generate = module.batch_generation

    def counted(model: Any, queries: Any, *others: Any) -> Any:
        found = generate(model, queries, *others)
        ended = found[0][:, queries.shape[1] :] == tokenizer.eos_token_id
        lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, ended.shape[1])
        wrote.append(float(lengths.double().mean()))
        return found

    module.batch_generation = counted


match args.task:
    case "dpo":
        early = {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 16} if best else {}
        trainer = offline(trl.DPOConfig, trl.DPOTrainer, causal(dtype=frozen()), "pairs", **early)
    case "reward":
        trainer = offline(trl.RewardConfig, trl.RewardTrainer, classifier(dtype=frozen()), "pairs")
    case "sft":
        trainer = offline(trl.SFTConfig, trl.SFTTrainer, causal(dtype=frozen()), "demonstrations")
    case "grpo":
        trainer = grpo()
    case _:
        trainer = ppo()
trainer.train()
wrote += [e["completions/mean_length"] for e in trainer.state.log_history if "completions/mean_length" in e]
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
clock.report(
    args.steps,
    loss=losses[:4],
    response_tokens=wrote,
    version=trl.__version__,
    settings={**best, **more, **(LARGE_PAGES if args.variant == "best" else {})},
)
