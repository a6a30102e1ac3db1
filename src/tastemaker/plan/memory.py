"""The memory a run needs at its peak, part by part, from shapes.

What stays all the time (weights of every role, gradients, the optimiser's state) is counted exactly; what comes
and goes (activations, logits, keys and values of rollouts) by what the fused layers keep. Models that go
through their own layers keep more: the estimate is of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tastemaker.config import TrainSettings
from tastemaker.models.sizes import ModelSize
from tastemaker.types import Method, Role

STATE: dict[str, float] = {
    "adamw_torch_fused": 8.0,
    "adamw_torch": 8.0,
    "adamw_bf16": 4.0,
    "adamw_8bit": 2.03,
    "paged_adamw_8bit": 0.0,
    "sgd": 0.0,
}
"""Bytes of optimiser state for each trained number; paged state may leave the device."""
FROZEN = {"float32": 4.0, "bfloat16": 2.0}
FOUR_BITS = 0.5 + 4 / 64
"""Bytes of a number in 4 bits with a float32 scale for each block of 64 (NF4 as bitsandbytes keeps it)."""
PROGRAM = {"cpu": 0.42e9, "cuda": 0.6e9}
"""Bytes of the program itself: on a CPU Python with torch and transformers imported (measured), on CUDA a usual
context with its kernels (not measured here)."""
CHUNK = {"cpu": 2**24, "cuda": 2**26}
"""Logits of one chunk of the head; see `functional.chunked_logps`."""
KEPT = 64 * 2**20
"""Bytes of logits below which they are kept for the backward pass."""


@dataclass(frozen=True)
class Part:
    """One use of memory."""

    name: str
    bytes: float
    lasting: bool
    """Whether it is there all the time; of the others the largest phase counts."""
    phase: str = ""


@dataclass(frozen=True)
class Load:
    """What passes through the models at once."""

    tokens: int
    """Stream tokens of the largest microbatch."""
    predicted: int
    """Response tokens among them."""
    rows: int = 0
    """Responses sampled at the same time."""
    row_tokens: int = 0
    """Tokens of one of them, its prompt included."""


def memory_parts(
    method: Method, settings: TrainSettings, size: ModelSize, load: Load, *, kind: str, bits: int
) -> list[Part]:
    """All uses of memory of one process. `bits`: of the numbers it computes with, 32 or 16."""
    parts = [Part("program", PROGRAM[kind], True), *weights(method, settings, size, bits)]
    width = bits / 8
    kept = 1 if settings.gradient_checkpointing else size.layers
    per_layer = layer_bytes(size, width)
    # the residual stream has the numbers of the embedding: float32 where that is trained
    stream = width if settings.use_peft else 4.0
    inputs = stream * size.hidden * (1 if settings.gradient_checkpointing else 2)
    full = per_layer + inputs
    activations = load.tokens * (kept * per_layer + size.layers * inputs)
    # the backward pass holds one layer's gradients beside what the forward kept
    parts.append(Part("activations", activations + load.tokens * full, False, "update"))
    if "policy" in method.trains:
        parts.append(Part("logits and hidden states", head_bytes(size, load, width, kind), False, "update"))
    scoring = load.tokens * (per_layer + 8.0 * size.hidden)
    parts.append(Part("scoring", scoring, False, "scoring"))
    if load.rows:
        cache = 2.0 * size.key_width * size.layers * width * load.rows * load.row_tokens
        parts.append(Part("keys and values of rollouts", cache, False, "rollouts"))
    return parts


def weights(method: Method, settings: TrainSettings, size: ModelSize, bits: int) -> list[Part]:
    """Weights, gradients and optimiser state: with LoRA one base for all roles, else one copy each."""
    state = STATE[settings.optim]
    frozen = bits / 8 if settings.frozen_dtype == "auto" else FROZEN[settings.frozen_dtype]
    roles = [r for r in method.roles if not (r == "reference" and settings.precompute_ref_log_probs)]
    trained = [r for r in roles if r in method.trains]
    if settings.use_peft:
        adapter = float(size.adapter(settings.lora_r))
        numbers = adapter * len(trained)
        still = [r for r in roles if r not in trained and r != "reference"]
        return [
            Part("base model, shared", base_bytes(size, settings, bits / 8), True),
            Part("adapters", 4.0 * numbers + bits / 8 * adapter * len(still), True),
            Part("gradients", 4.0 * numbers, True),
            Part("optimiser", state * numbers, True),
        ]
    if getattr(method, "value_model", "own") == "head":  # the value is read off the policy's own pass
        trained, roles = [r for r in trained if r != "value"], [r for r in roles if r != "value"]
    numbers = float(size.parameters) * len(trained)
    parts = [Part(f"{role}, trained", 4.0 * size.parameters, True) for role in trained]
    still = [role for role in roles if role not in trained]
    if settings.offload_frozen and still:  # one at a time, while it scores
        parts.append(Part("a frozen model, while it is read", frozen * size.parameters, False, "scoring"))
        still = []
    parts += [Part(f"{role}, frozen", frozen * size.parameters, True) for role in still]
    return [*parts, Part("gradients", 4.0 * numbers, True), Part("optimiser", state * numbers, True)]


def base_bytes(size: ModelSize, settings: TrainSettings, frozen: float) -> float:
    """Of the frozen base that adapters share. With 4 bits its linear layers take half a byte a number and a
    scale for every 64; embeddings and head stay as they are.
    """
    if not settings.load_in_4bit:
        return frozen * size.parameters
    linear = float(sum(rows * columns for rows, columns in size.linear))
    return FOUR_BITS * linear + frozen * (size.parameters - linear)


def layer_bytes(size: ModelSize, width: float) -> float:
    """What a layer keeps for its backward pass, a token: queries, keys, values, what heads give (twice), both
    halves of the gate (their product is made again). Its two inputs in the residual stream are counted apart,
    since they stay when layers are recomputed.
    """
    return width * (3 * size.query_width + 2 * size.key_width + 2 * size.intermediate)


def head_bytes(size: ModelSize, load: Load, width: float, kind: str) -> float:
    logits = float(load.predicted) * size.vocabulary * width
    if logits > KEPT:
        logits = 0.0
    rows = min(load.predicted, max(1, CHUNK[kind] // size.vocabulary))
    return logits + 2 * 4.0 * rows * size.vocabulary + 4 * 4.0 * load.predicted * size.hidden


def peak(parts: Sequence[Part]) -> float:
    """Bytes at the highest moment: what lasts, and the largest of the phases."""
    phases: dict[str, float] = {}
    for part in parts:
        if not part.lasting:
            phases[part.phase] = phases.get(part.phase, 0.0) + part.bytes
    return sum(p.bytes for p in parts if p.lasting) + max(phases.values(), default=0.0)


def predicting(role: Role) -> bool:
    """Whether the role's passes end in log-probs, and so in the output head."""
    return role in ("policy", "reference")
