"""What a run would need before anything is run: memory, arithmetic, hours and money."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from tastemaker.config import TrainSettings
from tastemaker.models.flops import Counted
from tastemaker.models.sizes import ModelSize
from tastemaker.plan.hardware import Hardware
from tastemaker.plan.memory import Load, Part, memory_parts, peak, predicting
from tastemaker.types import Bundles, Method, Role, TastemakerError, Tree

SHARE = 0.4
"""Of the rate of matrix products, what training passes reach: 37 to 46% was measured on a CPU
(docs/benchmarks.md); on a GPU nothing has been, so there it is an assumption."""
HEADROOM = 0.92
"""Of a device's memory, what a run can fill before fragments and other programs are in the way."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """What the data look like, in tokens. `responses`: of one prompt."""

    rows: int
    prompt: float = 200.0
    response: float = 200.0
    responses: int = 2
    longest: int | None = None
    """Tokens of the longest tree; none: twice the mean one."""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.prompt < 1 or self.response < 1 or self.responses < 1:
            raise TastemakerError(
                f"rows {self.rows}, prompt {self.prompt}, response {self.response}, responses "
                f"{self.responses}: each must be at least 1"
            )

    @property
    def tree(self) -> float:
        return self.prompt + self.responses * self.response


@dataclass(frozen=True)
class Estimate:
    """What was found. Times are of `devices` devices working side by side."""

    method: str
    model: ModelSize
    hardware: Hardware
    devices: int
    steps: int
    parts: Sequence[Part]
    flops: dict[str, float]
    """By stage: rollouts, scoring, updates; of the whole run."""
    seconds: dict[str, float]
    cost: float | None
    """In the currency of the price given; None without one."""
    remedies: Sequence[str]
    """What would make it fit, by how much, best first; empty where it does."""

    @property
    def peak(self) -> float:
        """Bytes on one device."""
        return peak(self.parts)

    @property
    def fits(self) -> bool:
        return self.peak <= HEADROOM * self.hardware.memory

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "model": self.model.name,
            "parameters": self.model.parameters,
            "hardware": {
                "name": self.hardware.name,
                "memory_bytes": self.hardware.memory,
                "devices": self.devices,
            },
            "steps": self.steps,
            "memory": [{"part": p.name, "bytes": p.bytes, "lasting": p.lasting} for p in self.parts],
            "peak_bytes": self.peak,
            "fits": self.fits,
            "flops": self.flops,
            "seconds": self.seconds,
            "cost": self.cost,
            "remedies": list(self.remedies),
        }


def estimate(
    method: Method,
    settings: TrainSettings,
    size: ModelSize,
    lengths: Lengths,
    hardware: Hardware,
    *,
    devices: int = 1,
    price: float | None = None,
    share: float = SHARE,
) -> Estimate:
    """Memory, arithmetic, time and cost of a run.

    `price` of one device for an hour; `share` of the matrix rate that passes reach. Processes are replicas:
    more devices take a larger share of each batch, and each holds everything.

    Raises:
        TastemakerError: a share or a number of devices that cannot be.
    """
    if not 0 < share <= 1 or devices < 1:
        raise TastemakerError(f"share {share} must be above 0 and at most 1, devices {devices} at least 1")
    lengths = sampled(method, lengths)
    batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    steps = settings.max_steps
    if steps < 0:
        steps = math.ceil(lengths.rows / (batch * devices)) * math.ceil(settings.num_train_epochs)
    bits = 32 if numbers(settings, hardware) == torch.float32 else 16
    parts = memory_parts(
        method, settings, size, load_of(method, settings, lengths), kind=hardware.kind, bits=bits
    )
    flops = {k: v * steps * batch * devices for k, v in work(method, settings, size, lengths).items()}
    seconds = times(flops, method, size, hardware, steps, devices, share, bits, lengths)
    hours = sum(seconds.values()) / 3600
    found = Estimate(
        method.name,
        size,
        hardware,
        devices,
        steps,
        tuple(parts),
        flops,
        seconds,
        None if price is None else price * devices * hours,
        (),
    )
    if found.fits:
        return found
    return replace(found, remedies=tuple(remedies(method, settings, size, lengths, found, bits)))


def sampled(method: Method, lengths: Lengths) -> Lengths:
    """Lengths of what the method itself makes: responses it samples, or as many as one demonstration has."""
    if method.online:
        options = cast(Any, method)
        number = int(getattr(options, "responses_per_prompt", 1))
        return replace(
            lengths, responses=number, response=min(lengths.response, float(options.response_length))
        )
    return replace(lengths, responses=1) if method.name in ("sft", "kto", "bco", "process_reward") else lengths


def numbers(settings: TrainSettings, hardware: Hardware) -> torch.dtype:
    """What is computed in."""
    if settings.dtype != "auto":
        return torch.float32 if settings.dtype == "float32" else torch.bfloat16
    return torch.float32 if hardware.kind == "cpu" else torch.bfloat16


def load_of(method: Method, settings: TrainSettings, lengths: Lengths) -> Load:
    """The largest microbatch: the budget of tokens, or the batch where that is smaller."""
    batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    longest = lengths.longest or round(2 * lengths.tree)
    tokens = max(longest, min(settings.tokens_per_microbatch, round(batch * lengths.tree)))
    predicted = round(tokens * lengths.responses * lengths.response / lengths.tree)
    if not method.online:
        return Load(tokens, predicted)
    return Load(tokens, predicted, batch * lengths.responses, round(lengths.prompt + lengths.response))


def work(method: Method, settings: TrainSettings, size: ModelSize, lengths: Lengths) -> dict[str, float]:
    """Operations for one prompt of one step, by stage: sampling, passes without gradient, passes with it."""
    tree = Tree(
        prompt=torch.zeros(round(lengths.prompt), dtype=torch.int64),
        responses=(torch.zeros(round(lengths.response), dtype=torch.int64),) * lengths.responses,
        ended=(True,) * lengths.responses,
    )
    batch = Bundles(trees=(tree,))
    counted = adapted(size, settings)
    flops = {"rollouts": 0.0, "scoring": 0.0, "updates": 0.0}
    if method.online:
        flops["rollouts"] = counted.forward(batch, predicts=True)
    for role in method.roles:
        once = role not in method.trains or method.online
        if role == "reward" and role in method.trains:
            once = False
        if once:
            flops["scoring"] += passes_scored(role, method, settings) * counted.forward(
                batch, predicts=predicting(role)
            )
    for role in method.trains:
        both = counted.forward(batch, predicts=predicting(role)) + counted.backward(
            batch, predicts=predicting(role)
        )
        flops["updates"] += both * method.inner_epochs
    return flops


def passes_scored(role: Role, method: Method, settings: TrainSettings) -> float:
    """How often a role scores each example without gradient: a precomputed reference once in all epochs."""
    if role == "reference" and settings.precompute_ref_log_probs and not method.online:
        return 1.0 / math.ceil(settings.num_train_epochs) if settings.max_steps < 0 else 1.0
    return 1.0


def adapted(size: ModelSize, settings: TrainSettings) -> Counted:
    if not settings.use_peft:
        return size.counted
    extra = float(size.adapter(settings.lora_r))
    counted = size.counted
    return replace(counted, weights=counted.weights + extra, trained=extra, head_trained=0.0)


def times(
    flops: dict[str, float],
    method: Method,
    size: ModelSize,
    hardware: Hardware,
    steps: int,
    devices: int,
    share: float,
    bits: int,
    lengths: Lengths,
) -> dict[str, float]:
    """Seconds by stage. Passes are bound by arithmetic; sampling reads all weights for every token it writes,
    so it takes the longer of the two.
    """
    rate = hardware.flops_float32 if bits == 32 and hardware.flops_float32 else hardware.flops
    found = {stage: count / (devices * share * rate) for stage, count in flops.items()}
    if method.online:
        reads = steps * lengths.response * size.parameters * bits / 8 / hardware.bandwidth
        found["rollouts"] = max(found["rollouts"], reads)
    return found


def remedies(
    method: Method, settings: TrainSettings, size: ModelSize, lengths: Lengths, found: Estimate, bits: int
) -> list[str]:
    """Single changes, the ones that would do first, then by what they save; and what all of them leave."""
    changes: list[tuple[str, dict[str, Any]]] = [
        ("--use-peft (LoRA)", {"use_peft": True}),
        ("--use-peft --load-in-4bit (QLoRA)", {"load_in_4bit": True, "use_peft": True}),
        ("--optim adamw_8bit", {"optim": "adamw_8bit"}),
        ("--optim adamw_bf16", {"optim": "adamw_bf16"}),
        ("--precompute-ref-log-probs", {"precompute_ref_log_probs": True}),
        ("--offload-frozen", {"offload_frozen": True}),
        ("--gradient-checkpointing", {"gradient_checkpointing": True}),
        ("--tokens-per-microbatch 2048", {"tokens_per_microbatch": 2048}),
    ]
    room = HEADROOM * found.hardware.memory

    def needs(change: dict[str, Any]) -> float:
        other = replace(settings, **change)
        load = load_of(method, other, lengths)
        return peak(memory_parts(method, other, size, load, kind=found.hardware.kind, bits=bits))

    tried: list[tuple[float, str]] = []
    for words, change in changes:
        name = next(iter(change))
        useless = method.online or "reference" not in method.roles
        if getattr(settings, name) == change[name] or (name == "precompute_ref_log_probs" and useless):
            continue
        after = needs(change)
        if after < 0.99 * found.peak:
            tried.append((after, words))
    lines = [
        f"{words}: {gigabytes(after)}{', fits' if after <= room else ''}" for after, words in sorted(tried)
    ]
    everything: dict[str, Any] = {
        "use_peft": True,
        "load_in_4bit": True,
        "gradient_checkpointing": True,
        "tokens_per_microbatch": min(2048, settings.tokens_per_microbatch),
    }
    least = needs(everything)
    together = "QLoRA, checkpointing and small microbatches together"
    if least <= room:
        lines.append(f"{together}: {gigabytes(least)}, fits")
    else:
        lines.append(f"{together}: {gigabytes(least)}, still too much: take a larger device or a smaller model")
    return lines


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
