"""The optimiser and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from tastemaker.config import TrainSettings


def adamw(
    parameters: Mapping[str, nn.Parameter], settings: TrainSettings, learning_rate: float
) -> torch.optim.AdamW:
    """AdamW; weight decay spares vectors (norms, biases) as is usual."""
    matrices = [p for p in parameters.values() if p.dim() >= 2]
    vectors = [p for p in parameters.values() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=True,
    )


def learning_rate_factor(settings: TrainSettings, step: int, total: int) -> float:
    """What the learning rate is multiplied by at optimiser step `step` of `total`, counted from 0.

    Warmup rises linearly from 1/warmup to 1; then `linear` falls to 0, `cosine` follows half a cosine
    to 0, `constant` stays.
    """
    warmup = settings.warmup_steps
    warmup = math.ceil(warmup * total) if 0 < warmup < 1 else int(warmup)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    match settings.lr_scheduler_type:
        case "linear":
            return max(0.0, 1 - progress)
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        case _:
            return 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
