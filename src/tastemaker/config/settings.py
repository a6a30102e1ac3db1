"""The settings of a training run and of a comparison: names, defaults and meanings.

A name that TRL or transformers has keeps its name and its meaning. The line under each field is what
`--help` and the documentation show. Building one checks types and ranges, so that a wrong value never
reaches the loop; `settings_from` (build.py) does the same for flags and files with better addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from tastemaker.config.check import coerce_fields, complain

# pydantic's own words for these bounds, without loading pydantic: help is asked for more often than training
PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0.0), Le(1.0)]
Momentum = Annotated[float, Ge(0.0), Lt(1.0)]

MODEL_FIELDS = frozenset(
    {
        "dtype",
        "frozen_dtype",
        "offload_frozen",
        "load_in_4bit",
        "device",
        "use_peft",
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "lora_target_modules",
        "ref_model",
        "precompute_ref_log_probs",
        "gradient_checkpointing",
        "attention",
        "trust_remote_code",
    }
)
"""Fields of `TrainSettings` shown under 'model' in help; those in neither set are under 'training'."""

DATA_FIELDS = frozenset(
    {
        "max_length",
        "max_prompt_length",
        "truncation_mode",
        "chat_template",
        "max_bad",
        "max_dropped",
        "max_truncated",
        "max_lost_eos",
        "max_duplicates",
        "max_contradictory",
        "max_leaked",
    }
)
"""Fields of `TrainSettings` shown under 'data' in help."""

SAMPLE_FIELDS = frozenset(
    {
        "seed",
        "per_device_train_batch_size",
        "max_length",
        "max_prompt_length",
        "truncation_mode",
        "chat_template",
        "max_bad",
        "max_dropped",
        "max_truncated",
        "resume",
        "force",
        "log_level",
        "dtype",
        "device",
        "attention",
        "tokens_per_microbatch",
        "trust_remote_code",
    }
)
"""Fields of `TrainSettings` that mean something where nothing is trained: in a run that samples."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a run trains, whatever its method.

    One optimiser step takes per_device_train_batch_size x gradient_accumulation_steps x processes
    examples. How they are cut into microbatches is a budget of tokens (`tokens_per_microbatch`): it decides
    memory and speed and changes no result.

    Raises `TastemakerError` naming every field that is wrong.
    """

    seed: NonNegativeInt = 42
    """Seed of everything random in the run: order of the data, dropout, sampling."""
    max_steps: Annotated[int, Ge(-1)] = -1
    """Steps to take, each one batch (of rollouts, for online methods); -1: as num_train_epochs needs."""
    num_train_epochs: PositiveFloat = 3.0
    """Passes over the data; a fraction is allowed. Overruled by max_steps."""
    per_device_train_batch_size: PositiveInt = 8
    """Examples per process in one accumulation step (pairs for dpo and reward, prompts for ppo)."""
    gradient_accumulation_steps: PositiveInt = 1
    """Accumulation steps in one optimiser step; multiplies the batch."""
    learning_rate: NonNegativeFloat | None = None
    """Peak learning rate; none: the method's own default."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """Course of the learning rate after the warm-up."""
    warmup_steps: NonNegativeInt | NonNegativeFloat = 0
    """Optimiser steps over which the learning rate rises from 0; below 1: a share of all steps."""
    optim: Literal[
        "adamw_torch_fused", "adamw_torch", "adamw_bf16", "adamw_8bit", "paged_adamw_8bit", "sgd"
    ] = "adamw_torch_fused"
    """Optimiser; adamw_bf16 halves its state, adamw_8bit and paged_adamw_8bit need bitsandbytes."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay of AdamW (of sgd: coupled)."""
    adam_beta1: Momentum = 0.9
    """Decay of AdamW's first moment."""
    adam_beta2: Momentum = 0.999
    """Decay of AdamW's second moment."""
    adam_epsilon: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients are scaled down to this norm; 0: never."""

    max_length: PositiveInt | None = 1024
    """Tokens in prompt and response together; none: no limit."""
    max_prompt_length: PositiveInt | None = None
    """Tokens in a prompt; none: only max_length counts."""
    truncation_mode: Literal["keep_start", "keep_end"] = "keep_start"
    """Which end of a text that is too long is kept."""
    chat_template: str | None = None
    """Jinja chat template, or a file with one, used instead of the tokenizer's."""
    max_bad: Share = 0.0
    """Share of the rows that may break their format and be skipped; 0: any such row is an error."""
    max_dropped: Share = 1.0
    """Share of the records that may be dropped (too long, empty, ...) before the run is refused."""
    max_truncated: Share = 1.0
    """Share of the records that may lose tokens to the length limits before the run is refused."""
    max_lost_eos: Share = 1.0
    """Share of the responses that may end without an end token before the run is refused."""
    max_duplicates: Share = 1.0
    """Share of the records that may repeat an earlier one before the run is refused."""
    max_contradictory: Share = 1.0
    """Share of the records that may say the opposite of an earlier one before the run is refused."""
    max_leaked: Share = 1.0
    """Share of eval_data's records whose prompt may be among the training data before the run is refused."""

    logging_steps: PositiveInt = 1
    """Steps between lines of metrics.jsonl."""
    save_steps: PositiveInt = 500
    """Steps between checkpoints."""
    save_total_limit: PositiveInt | None = 2
    """Checkpoints kept, newest first; none: all."""
    snapshot_steps: PositiveInt | PositiveFloat | None = None
    """Steps between copies of the model kept under snapshots/; below 1: a share of all; none: no copies."""
    stop_at_gold_peak: bool = False
    """Read a gold on held-out prompts while the policy trains, and keep the policy of its highest reading."""
    gold: str | None = None
    """Who reads, never the reward itself: a second reward model, labels (of eval_data's pairs), judge:MODEL,
    http://host/v1#MODEL, town:SEED, or any other reward."""
    gold_steps: PositiveInt | PositiveFloat = 0.1
    """Steps between readings of the gold; below 1: a share of all."""
    gold_prompts: PositiveInt = 128
    """Prompts of eval_data that each reading answers, at most."""
    gold_patience: NonNegativeInt = 3
    """Readings without a new peak after which the run ends; 0: it takes all its steps."""
    num_samples: NonNegativeInt = 4
    """Responses sampled from the trained policy and written to samples.jsonl."""
    log_completions_steps: NonNegativeInt = 0
    """Online methods: steps between writing a step's prompts, completions and rewards to samples.jsonl; 0:
    never."""
    resume: bool = True
    """Continue from the newest sound checkpoint in the run folder, where there is one."""
    force: bool = False
    """Continue a run although its settings, data or versions have changed; the run's record says so."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is said while training."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights; auto: float32 on CPU, bfloat16 where the device computes in it."""
    frozen_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of a reference or reward model with weights of its own; auto: as dtype."""
    offload_frozen: bool = False
    """Hold such a model elsewhere between its passes: with CUDA in the host's memory, on a CPU in a file."""
    load_in_4bit: bool = False
    """QLoRA: keep the weights under the adapter in 4 bits (NF4); needs use_peft and bitsandbytes."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: CUDA where there is some."""
    use_peft: bool = False
    """Train a LoRA adapter instead of all weights."""
    lora_r: PositiveInt = 16
    """Rank of the adapter."""
    lora_alpha: PositiveFloat = 32.0
    """The adapter's output is scaled by lora_alpha / lora_r."""
    lora_dropout: Momentum = 0.0
    """Dropout before the adapter."""
    lora_target_modules: tuple[str, ...] | None = None
    """Modules that get an adapter; none: the model family's usual ones; all-linear: every linear layer."""
    ref_model: str | None = None
    """Reference policy (name, folder or run); none: a copy of the weights given as model."""
    precompute_ref_log_probs: bool = False
    """Compute the reference's log-probabilities once, before step 1, and free the reference."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    tokens_per_microbatch: PositiveInt = 16384
    """Tokens in one forward pass; changes memory and speed, no result."""
    attention: Literal["auto", "stream", "rows"] = "auto"
    """stream: one flat stream without padding; rows: padded rows; auto: a check at load decides."""
    trust_remote_code: bool = False
    """Run the Python code that comes with a model. Only for models whose code you have read."""

    def __post_init__(self) -> None:
        problems = coerce_fields(self)
        if not problems:
            problems = list(self._contradictions())
        complain("TrainSettings", problems)
        if isinstance(self.warmup_steps, float) and self.warmup_steps >= 1:
            object.__setattr__(self, "warmup_steps", int(self.warmup_steps))
        if isinstance(self.snapshot_steps, float) and self.snapshot_steps >= 1:
            object.__setattr__(self, "snapshot_steps", int(self.snapshot_steps))

    def _contradictions(self) -> list[str]:
        """What is wrong although every field is fine by itself."""
        problems: list[str] = []
        if self.stop_at_gold_peak != (self.gold is not None):
            problems.append(
                "stop_at_gold_peak and gold go together: --stop-at-gold-peak --gold runs/other-reward"
            )
        if self.gold_steps >= 1 and self.gold_steps != int(self.gold_steps):
            problems.append(f"gold_steps = {self.gold_steps}: whole steps, or a share below 1")
        if self.max_steps == 0:
            problems.append("max_steps = 0: give -1 (by num_train_epochs) or at least 1")
        if self.warmup_steps >= 1 and self.warmup_steps != int(self.warmup_steps):
            problems.append(f"warmup_steps = {self.warmup_steps}: whole steps, or a share of all steps below 1")
        if self.snapshot_steps and self.snapshot_steps >= 1 and self.snapshot_steps != int(self.snapshot_steps):
            problems.append(f"snapshot_steps = {self.snapshot_steps}: whole steps, or a share below 1")
        if self.max_length and self.max_prompt_length and self.max_prompt_length >= self.max_length:
            problems.append(
                f"max_prompt_length = {self.max_prompt_length}: leaves no room for a response within "
                f"max_length = {self.max_length}"
            )
        return problems


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What `tastemaker compare` puts side by side.

    `stages` holds overrides for single stages, e.g. `{"sft": {"max_steps": 50}, "dpo": {"beta": 0.1}}`.
    What stands under "all" is for every stage that does not say otherwise; building the settings spreads it
    over them. Raises `TastemakerError` naming every field that is wrong.
    """

    model: str | None = None
    """Where every arm starts: name, folder, run, or 'tiny'; none: the town's own small model."""
    data: str | None = None
    """Preference data: file, folder or hub name; none: the town."""
    methods: tuple[str, ...] | None = None
    """Methods to compare, variants (dpo:ipo), groups (all-offline, all-online), recipe files; none: dpo
    and ppo, or only the runs given."""
    runs: tuple[str, ...] | None = None
    """Finished runs of one start to compare, several seeds of each if there are."""
    seeds: PositiveInt = 2
    """Seeds per arm; the arms are paired by seed."""
    seed: NonNegativeInt = 0
    """First seed; the others follow it."""
    out: str = "compare"
    """Folder for report.html, results.json, figures and the runs."""
    preset: Literal["demo", "quick", "small", "full"] = "demo"
    """How much is spent: quick (a smoke test), small (many arms briefly), demo (minutes on 2 cores) or full."""
    workers: PositiveInt | None = None
    """Processes at work at the same time; none: one per core."""
    prompts: PositiveInt | None = None
    """Test prompts every arm answers; none: the preset's number."""
    response_length: PositiveInt | None = None
    """Most tokens in a sampled response; none: the preset's number."""
    samples: NonNegativeInt = 48
    """Prompts whose responses the report shows; 0: none, where prompts are not to be passed on."""
    readings: NonNegativeInt | None = None
    """Times each arm is read while it trains, proxy and judge against KL; none: the preset's number."""
    judge: str | None = None
    """Reward model that judges the arms on own data; none: one trained on a disjoint half of the pairs."""
    stages: Mapping[str, Mapping[str, object]] = field(default_factory=dict[str, Mapping[str, object]])
    """Overrides by stage: sft, reward, a method's name, or all."""

    @property
    def trained_arms(self) -> tuple[str, ...]:
        """The methods and recipes that the comparison trains."""
        if self.methods is None:
            return () if self.runs else ("dpo", "ppo")
        return self.methods

    def __post_init__(self) -> None:
        problems = coerce_fields(self)
        if not problems:
            for name, given in (("methods", self.methods), ("runs", self.runs)):
                if given is not None and not given:
                    problems.append(f"{name} = (): name at least one, or leave it out")
                if given is not None and len(set(given)) != len(given):
                    problems.append(f"{name} = {','.join(given)}: the same one twice")
        complain("CompareSettings", problems)
        for_all = self.stages.get("all", {})
        if for_all:
            names = dict.fromkeys(("sft", "reward", *self.trained_arms, *self.stages))
            del names["all"]
            spread = {name: {**for_all, **self.stages.get(name, {})} for name in names}
            object.__setattr__(self, "stages", spread)
