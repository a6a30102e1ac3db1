"""One forward of an unchanged causal language model over a laid-out batch: hidden states, and its head's word.

What enters the output embedding is caught where it enters: several families change the last hidden state on the
way there. What the family does to the logits behind it (a scale, a soft cap) is measured, not looked up.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tastemaker.errors import TastemakerError
from tastemaker.functional.logps import chunked_logps
from tastemaker.models.attention import IMPLEMENTATION
from tastemaker.models.layout import Stream

MODULE_CHUNK = 512
"""Rows of logits at once through a head that is more than a plain linear layer."""


@dataclass(frozen=True, slots=True)
class HeadRule:
    """From what enters the output embedding to log-probabilities.

    `chunked`: logits = softcap tanh(scale z / softcap), or scale z, of the head's own output z, made a chunk of
    rows at a time. `whole`: the family does something else to its logits, so they are taken from the model
    itself at the positions needed (N x V in memory).
    """

    mode: Literal["chunked", "whole"]
    scale: float = 1.0
    softcap: float | None = None

    def transform(self, z: Tensor) -> Tensor:
        """[..., V] outputs of the head -> logits."""
        if self.softcap is None:
            return z if self.scale == 1.0 else z * self.scale
        return torch.tanh(z * (self.scale / self.softcap)) * self.softcap


def base_of(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a peft wrapper (LoRA lives in its layers), or the model itself.

    Raises:
        TastemakerError: an adapter that adds tokens to the input (prompt tuning and its kin).
    """
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise TastemakerError(
            "prompt-learning adapters put virtual tokens before every row, for which a stream of trees has no "
            "place: use LoRA instead"
        )
    inner = getattr(model, "get_base_model", None)
    return cast(PreTrainedModel, inner() if inner is not None else model)


def run(model: PreTrainedModel, laid: Stream, **more: Any) -> Any:
    """The model's own forward over `laid`, without cache and without mask."""
    known = inspect.signature(model.forward).parameters
    if "use_cache" in known:
        more["use_cache"] = False
    if laid.tree is not None:
        more["tree"] = laid.tree
        more["position_ids"] = laid.positions
    return model(input_ids=laid.ids, **more)


def hidden_states(model: PreTrainedModel, laid: Stream) -> Tensor:
    """[b * t, d]: what enters the output embedding, for every token of `laid`.

    The embedding itself is given one row and no more, so no logits are made.

    Raises:
        RuntimeError: a model whose forward does not call its output embedding once on every token.
    """
    head = cast("nn.Module | None", model.get_output_embeddings())
    if head is None:
        raise RuntimeError(f"{type(model).__name__} names no output embedding")
    caught: list[Tensor] = []

    def catch(_head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        caught.append(args[0])
        return args[0][..., :1, :], *args[1:]

    handle = head.register_forward_pre_hook(catch, prepend=True)
    try:
        run(model, laid)
    finally:
        handle.remove()
    if len(caught) != 1 or caught[0].shape[:-1].numel() != laid.ids.numel():
        shapes = [tuple(x.shape) for x in caught]
        raise RuntimeError(
            f"{type(model).__name__} gave its output embedding {shapes} for ids {tuple(laid.ids.shape)}"
        )
    return caught[0].reshape(-1, caught[0].shape[-1])


def last_layer(model: PreTrainedModel, laid: Stream) -> Tensor:
    """[b * t, d]: the last hidden state a model reports, where its output embedding cannot be watched."""
    states = run(model, laid, output_hidden_states=True).hidden_states
    return cast(Tensor, states[-1]).flatten(0, -2)


def whole_logits(model: PreTrainedModel, laid: Stream) -> Tensor:
    """[N, V] logits of the states that predict each response token, from the model's own forward."""
    width = laid.ids.shape[1]
    column = laid.source % width
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return cast(Tensor, run(model, laid).logits).flatten(0, 1)[laid.source]
    needed, place = column.unique(return_inverse=True)
    logits = cast(Tensor, run(model, laid, logits_to_keep=needed).logits)
    return logits[laid.source // width, place]


def head_logps(
    model: PreTrainedModel,
    rule: HeadRule,
    hidden: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """(log-probs [N], entropy [N] | None without gradient) from what enters the head [N, d].

    The weight is used as it is only where the head is a plain linear layer and nothing else: an adapter on the
    head keeps the base's weight under the same name, and would be passed over in silence.
    """
    head = cast(nn.Module, model.get_output_embeddings())
    if type(head) is nn.Linear:
        return chunked_logps(
            hidden,
            head.weight,
            head.bias,
            targets,
            scale=rule.scale,
            softcap=rule.softcap,
            temperature=temperature,
            entropy=entropy,
        )

    def piece(rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        return dense_logps(rule.transform(head(rows)), ids, temperature=temperature, entropy=entropy)

    pieces: list[tuple[Tensor, Tensor | None]] = []
    for chunk in zip(hidden.split(MODULE_CHUNK), targets.split(MODULE_CHUNK), strict=True):
        # recomputed in the backward, so that the logits of one chunk are held and never N x V
        made: Any = checkpoint(piece, *chunk, use_reentrant=False, preserve_rng_state=False)
        pieces.append(made)
    logps = torch.cat([logp for logp, _ in pieces])
    return logps, torch.cat([cast(Tensor, e) for _, e in pieces]) if entropy else None


def dense_logps(
    logits: Tensor, targets: Tensor, *, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """As `head_logps`, from logits [N, V]; in float32 or wider."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    table = wide.log_softmax(-1)
    logps = table.gather(1, targets[:, None]).squeeze(1)
    if not entropy:
        return logps, None
    with torch.no_grad():
        return logps, -(table.exp() * table.clamp(min=-1e4)).sum(-1)


def measure_head(model: PreTrainedModel) -> HeadRule:
    """Finds T with logits = T(head output): the head is made to return constants and the logits are read.

    a = T(z)/z for a tiny z, c = T(1e6) unless it keeps growing; T(z) = c tanh(a z / c) or a z, checked on a
    grid and over the vocabulary. `whole` where no such T fits, or the head cannot be watched.
    """
    head = cast("nn.Module | None", model.get_output_embeddings())
    if head is None:
        return HeadRule("whole")
    device = next(head.parameters()).device
    tiny = 2.0**-20
    grid = torch.tensor([tiny, 1e6, 0.5, -0.5, 3.0, -7.0, 20.0, -60.0], dtype=torch.float64, device=device)

    def replace(_head: nn.Module, _args: object, output: Tensor) -> Tensor:
        return grid[:, None].expand(output.shape).clone()

    ids = torch.zeros(1, len(grid), dtype=torch.int64, device=device)
    handle = head.register_forward_hook(replace)
    try:
        with torch.no_grad(), attention_of(model):
            known = inspect.signature(model.forward).parameters
            logits = model(input_ids=ids, **({"use_cache": False} if "use_cache" in known else {})).logits
    finally:
        handle.remove()
    table = cast(Tensor, logits)[0].double()
    seen = table[:, 0]
    scale = float(seen[0]) / tiny
    softcap = None if abs(float(seen[1])) > 0.99e6 * abs(scale) else abs(float(seen[1]))
    rule = HeadRule("chunked", scale, softcap)
    fits = torch.allclose(rule.transform(grid), seen, rtol=1e-4, atol=1e-6)
    return rule if fits and bool((table == seen[:, None]).all()) else HeadRule("whole")


@contextmanager
def attention_of(model: PreTrainedModel, name: str | None = None) -> Generator[None]:
    """Inside, `model` attends by implementation `name` (None: its own, never ours); afterwards as before.

    Raises:
        ValueError: `name` does not take, because the family has its own attention code.
    """
    before = model.config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    if name is None:
        name = model.get_correct_attn_implementation(None) if before == IMPLEMENTATION else before
    try:
        if name != before:
            use_attention(model, name or "eager")
        yield
    finally:
        if name != before:
            model.set_attn_implementation(before or "eager")


def use_attention(model: PreTrainedModel, name: str) -> None:
    """Sets the attention implementation for good; raises ValueError where it does not take."""
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name:  # pyright: ignore[reportPrivateUsage]
        raise ValueError(f"{type(model).__name__} has its own attention code")


def forget_rope(model: PreTrainedModel) -> None:
    """Takes dynamic NTK rotary embeddings back to their original length.

    They stretch to the longest row met so far and stay stretched, so that without this a row's numbers would
    depend on the rows scored before it.
    """
    for module in model.modules():
        original = cast("int | None", getattr(module, "original_max_seq_len", None))
        if original is None:
            continue
        for name, buffer in list(module.named_buffers(recurse=False)):
            prefix = name.removesuffix("inv_freq")
            first = cast("Tensor | None", getattr(module, f"{prefix}original_inv_freq", None))
            if name.endswith("inv_freq") and first is not None and "original" not in name:
                module.register_buffer(name, first.to(buffer.device, copy=True), persistent=False)
                setattr(module, f"{prefix}max_seq_len_cached", original)
