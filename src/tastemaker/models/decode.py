"""Next-token logits for many rows at once: what a generator steps through, one token a row.

Two ways to the same numbers, chosen by how the model was loaded (`decode_ways.Ways`):

`StreamDecoder`, for models that attend through `models.attention`. Prompts go through the model once each as a
flat stream, and the rows that continue one prompt share its keys and values; each row owns only what it wrote.
The forward is the model's own, or for structures that are known a leaner one over the same weights
(`decode_lean`).
`CacheDecoder`, for the rest (state-space layers, alibi, own attention code). It uses the model's own cache, and
no padding at all, because padding is where such models go wrong: every row is at the same position at every
step, and a row whose prompt is longer than the shortest one is fed its prompt until it has caught up.

Decoding changes neither weights nor modes and keeps nothing between passes, so the weights used are those the
model holds at that moment (no prefix cache to go stale).
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tastemaker.models.decode_lean import LeanForward
from tastemaker.models.decode_state import DecodeState, Segment

PREFILL_TOKENS = 8192
"""Prompt tokens that go through the model in one forward."""


class Decoder(Protocol):
    """Rows of tokens that grow in step."""

    delay: Tensor | None
    """[R] int64: how many steps pass before a row's logits are about its own first token (rows with longer
    prompts, where prompts are not read ahead). None means 0 for every row, and that rows may be added later."""

    pure: bool
    """Whether it runs no code of the model's own, which may keep tensors: then it may run in inference mode."""

    def add(self, prompts: Sequence[Tensor], owners: Sequence[int], room: int) -> Tensor:
        """Reads U prompts (int64 vectors of at least one token) and puts R rows behind those there are: row i
        continues `prompts[owners[i]]` by up to `room` tokens; `owners` ascends and names every prompt. Gives
        logits [R, V] of what comes next in them.
        """
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Appends `tokens` [R] int64 (ignored for rows still reading) and gives the next logits [R, V]."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but those at the ascending indices `rows` [R'] int64."""
        ...


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """No gradient and no dropout inside; every module's mode is as it was afterwards.

    `no_grad`, not `inference_mode`: buffers that a model makes on first use (rotary tables) would be inference
    tensors, which the next training step could not use.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def position_limit(model: nn.Module) -> int | None:
    """Tokens that a row may have: up to the model's last position, or to the length up to which its rotary
    factors do not depend on the longest row of the batch (longrope, dynamic NTK: beyond it neither a cache nor
    any batching gives the numbers that scoring gives). None where nothing is known to end.
    """
    config: Any = config_of(model)
    limits = [int(getattr(config, "max_position_embeddings", None) or 0)]
    rope: Any = getattr(config, "rope_parameters", None) or {}
    for part in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if part.get("rope_type") in ("longrope", "dynamic"):
            own = getattr(config, "original_max_position_embeddings", None)
            limits.append(int(part.get("original_max_position_embeddings") or own or 0))
    return min((limit for limit in limits if limit > 0), default=None)


def cache_bytes_per_token(model: nn.Module) -> int:
    """About how much memory one cached token takes over all layers, read from the config."""
    config = config_of(model)
    layers = int(getattr(config, "num_hidden_layers", 0) or 1)
    heads = int(getattr(config, "num_attention_heads", 0) or 1)
    groups = int(getattr(config, "num_key_value_heads", 0) or heads)
    width = int(getattr(config, "head_dim", 0) or int(getattr(config, "hidden_size", 0) or 1) // heads)
    latent = int(getattr(config, "kv_lora_rank", 0) or 0)  # such layers cache every head, expanded
    itemsize = dtype_of(model).itemsize
    if device_of(model).type == "cpu":
        itemsize = max(itemsize, 4)  # see `DecodeState`
    return 2 * layers * (heads if latent else groups) * width * itemsize


def config_of(model: nn.Module) -> object:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def dtype_of(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


class StreamDecoder:
    """Decodes a model whose attention is `models.attention`, with every prompt computed once."""

    delay: Tensor | None = None

    def __init__(self, model: nn.Module, state: DecodeState, lean: LeanForward | None = None):
        """`state`: an empty one. `lean`: the forward in place of the model's own."""
        self._model = model
        self._lean = lean
        self.pure = lean is not None
        self._device = device_of(model)
        self._limit = position_limit(model) or 2**62
        self._reach = 0
        """Positions in use."""
        self._state = state

    def add(self, prompts: Sequence[Tensor], owners: Sequence[int], room: int) -> Tensor:
        read = [prompt.cpu() for prompt in prompts]
        lengths = [len(prompt) for prompt in read]
        self._reach = max(self._reach, min(max(lengths) + room, self._limit))
        if self._lean is not None:
            self._lean.reach(self._reach)
        first = self._state.add(lengths, owners, room)
        logits = torch.cat([self._read(read[low:high], first + low) for low, high in _segments(lengths)])
        return logits.index_select(0, torch.tensor(owners, device=self._device))

    def step(self, tokens: Tensor) -> Tensor:
        self._state.begin()
        # rows that have ended stay at the last position until they are dropped
        logits = self._forward(tokens, self._state.positions().clamp_(max=self._reach - 1))
        self._state.step += 1
        return logits

    def keep(self, rows: Tensor) -> None:
        self._state.keep(rows)

    def _read(self, prompts: Sequence[Tensor], first: int) -> Tensor:
        """Logits [n, V] behind each of these prompts, whose keys and values are then stored from `first` on."""
        longest = max(len(prompt) for prompt in prompts)
        places = torch.cat([torch.arange(len(p)) for p in prompts])
        index = torch.cat([torch.arange(len(p)) + i * longest for i, p in enumerate(prompts)])
        lengths = torch.tensor([len(p) for p in prompts], device=self._device)
        last = lengths.cumsum(0) - 1
        self._state.begin(Segment(first, len(prompts), longest, index.to(self._device), lengths))
        ids = torch.cat(list(prompts)).to(self._device)
        return self._forward(ids, places.to(self._device), last)

    def _forward(self, ids: Tensor, positions: Tensor, last: Tensor | None = None) -> Tensor:
        """Logits of a stream of prompts at the indices `last`, or of one token of each row."""
        if self._lean is not None:
            with torch.autocast(self._device.type, enabled=False):
                return self._lean(ids, positions, self._state, flat=last is not None, last=last)
        axis = 1 if last is None else 0
        output = self._model(
            input_ids=ids.unsqueeze(axis),
            position_ids=positions.unsqueeze(axis),
            tree=self._state,
            use_cache=False,
            logits_to_keep=0 if last is None else last,
        )
        return output.logits.squeeze(axis)


class CacheDecoder:
    """Decodes any causal model by its own forward and, where `cached`, its own cache; else whole rows are read
    again at every step.
    """

    def __init__(self, model: nn.Module, *, cached: bool = True):
        device = device_of(model)
        self.pure = False
        self._model = model
        self._cached = cached
        self._read = 0
        """Tokens of each row that the model has been given."""
        self._ids = torch.zeros(0, 0, dtype=torch.int64, device=device)
        self._lengths = torch.zeros(0, dtype=torch.int64, device=device)
        self.delay: Tensor | None = None
        self._cache: dict[str, Any] = {}
        self._options = {"logits_to_keep": 1} if _accepts(model, "logits_to_keep") else {}

    def add(self, prompts: Sequence[Tensor], owners: Sequence[int], room: int) -> Tensor:
        """Once, to begin with: rows that stand at different positions have no place in such a cache.

        Raises:
            RuntimeError: where there are rows already.
        """
        if len(self._ids):
            raise RuntimeError("rows cannot join others that a model's own cache holds")
        lengths = torch.tensor([len(prompts[owner]) for owner in owners])
        self._read = int(lengths.min())
        self._ids = self._ids.new_zeros(len(owners), int(lengths.max()))
        for i, owner in enumerate(owners):
            self._ids[i, : lengths[i]] = prompts[owner].to(self._ids.device)
        self._lengths = lengths.to(self._ids.device)
        self.delay = self._lengths - self._read
        return self._forward()

    def step(self, tokens: Tensor) -> Tensor:
        if self._read == self._ids.shape[1]:
            self._ids = torch.cat([self._ids, tokens.unsqueeze(1)], dim=1)
        else:
            reading = self._lengths > self._read
            self._ids[:, self._read] = torch.where(reading, self._ids[:, self._read], tokens)
        self._read += 1
        return self._forward()

    def keep(self, rows: Tensor) -> None:
        self._ids, self._lengths = self._ids[rows], self._lengths[rows]
        if self.delay is not None:
            self.delay = self.delay[rows]
        for cache in self._cache.values():
            cache.reorder_cache(rows)

    @property
    def has_cache(self) -> bool:
        return bool(self._cache)

    def _forward(self) -> Tensor:
        new = self._read - 1 if self._cache else 0
        ids = self._ids[:, new : self._read]
        output = self._model(input_ids=ids, use_cache=self._cached, **self._cache, **self._options)
        for name in ("past_key_values", "cache_params"):
            cache: Any = getattr(output, name, None)
            if self._cached and hasattr(cache, "reorder_cache"):
                self._cache = {name: cache}
        return output.logits[:, -1]


def _accepts(model: nn.Module, name: str) -> bool:
    base: Any = getattr(model, "get_base_model", lambda: model)()
    return name in inspect.signature(base.forward).parameters


def _segments(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, end) of prompts that are read in one forward."""
    first, size = 0, 0
    for i, length in enumerate(lengths):
        if i > first and size + length > PREFILL_TOKENS:
            yield first, i
            first, size = i, 0
        size += length
    yield first, len(lengths)
