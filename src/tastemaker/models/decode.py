"""Next-token logits for many rows at once: what a generator steps through, one token a row.

Two ways to the same numbers, chosen by how the model was loaded (`open_decoder`):

`StreamDecoder`, for models that attend through `models.attention`. Prompts go through the model once each as a
flat stream, and the rows that continue one prompt share its keys and values; each row owns only what it wrote.
`CacheDecoder`, for the rest (state-space layers, alibi, own attention code). It uses the model's own cache, and
no padding at all, because padding is where such models go wrong: every row is at the same position at every
step, and a row whose prompt is longer than the shortest one is fed its prompt until it has caught up.

Decoding changes neither weights nor modes and keeps nothing between passes, so the weights used are those the
model holds at that moment (no prefix cache to go stale).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from tastemaker.models.attention import IMPLEMENTATION
from tastemaker.models.decode_state import DecodeState, Segment

log = logging.getLogger(__name__)

PREFILL_TOKENS = 8192
"""Prompt tokens that go through the model in one forward."""


class Decoder(Protocol):
    """Rows of tokens that grow in step."""

    delay: Tensor | None
    """[R] int64: how many steps pass before a row's logits are about its own first token (rows with longer
    prompts, where prompts are not read ahead). None means 0 for every row."""

    def start(self) -> Tensor:
        """Reads the prompts; logits [R, V] of what comes next."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Appends `tokens` [R] int64 (ignored for rows still reading) and gives the next logits [R, V]."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but those at the ascending indices `rows` [R'] int64."""
        ...


def open_decoder(
    model: nn.Module, prompts: Sequence[Tensor], owners: Sequence[int], max_new_tokens: int
) -> Decoder:
    """A decoder of R rows; row i continues `prompts[owners[i]]`.

    `prompts` are U int64 vectors of at least one token; `owners` ascends and names every prompt. Call it, and
    the decoder, within `evaluating(model)`; no row may pass `position_limit(model)`.
    """
    if getattr(_config(model), "_attn_implementation", None) == IMPLEMENTATION:
        return StreamDecoder(model, prompts, owners, max_new_tokens)
    return CacheDecoder(model, prompts, owners, cached=cache_is_sound(model))


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
    config: Any = _config(model)
    limits = [int(getattr(config, "max_position_embeddings", None) or 0)]
    rope: Any = getattr(config, "rope_parameters", None) or {}
    for part in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if part.get("rope_type") in ("longrope", "dynamic"):
            own = getattr(config, "original_max_position_embeddings", None)
            limits.append(int(part.get("original_max_position_embeddings") or own or 0))
    return min((limit for limit in limits if limit > 0), default=None)


def cache_bytes_per_token(model: nn.Module) -> int:
    """About how much memory one cached token takes over all layers, read from the config."""
    config = _config(model)
    layers = int(getattr(config, "num_hidden_layers", 0) or 1)
    heads = int(getattr(config, "num_attention_heads", 0) or 1)
    groups = int(getattr(config, "num_key_value_heads", 0) or heads)
    width = int(getattr(config, "head_dim", 0) or int(getattr(config, "hidden_size", 0) or 1) // heads)
    latent = int(getattr(config, "kv_lora_rank", 0) or 0)  # such layers cache every head, expanded
    return 2 * layers * (heads if latent else groups) * width * _dtype(model).itemsize


def _config(model: nn.Module) -> object:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


class StreamDecoder:
    """Decodes a model whose attention is `models.attention`, with every prompt computed once."""

    def __init__(self, model: nn.Module, prompts: Sequence[Tensor], owners: Sequence[int], max_new_tokens: int):
        self.delay: Tensor | None = None
        self._model = model
        self._prompts = [prompt.cpu() for prompt in prompts]
        self._device = _device(model)
        self._state = DecodeState([len(p) for p in prompts], owners, max_new_tokens, self._device)
        self._first = torch.tensor(owners, device=self._device)

    def start(self) -> Tensor:
        logits = torch.cat([self._read(first, end) for first, end in self._segments()])
        return logits.index_select(0, self._first)

    def step(self, tokens: Tensor) -> Tensor:
        self._state.begin()
        logits = self._forward(tokens.unsqueeze(1), self._state.positions(), 0)
        self._state.step += 1
        return logits.squeeze(1)

    def keep(self, rows: Tensor) -> None:
        self._state.keep(rows)

    def _segments(self) -> Iterator[tuple[int, int]]:
        first, size = 0, 0
        for i, prompt in enumerate(self._prompts):
            if i > first and size + len(prompt) > PREFILL_TOKENS:
                yield first, i
                first, size = i, 0
            size += len(prompt)
        yield first, len(self._prompts)

    def _read(self, first: int, end: int) -> Tensor:
        """Logits [end - first, V] behind each of these prompts, whose keys and values are now stored."""
        prompts = self._prompts[first:end]
        longest = max(len(prompt) for prompt in prompts)
        places = torch.cat([torch.arange(len(p)) for p in prompts])
        index = torch.cat([torch.arange(len(p)) + i * longest for i, p in enumerate(prompts)])
        last = torch.tensor([len(p) for p in prompts]).cumsum(0) - 1
        self._state.begin(Segment(first, end - first, longest, index.to(self._device)))
        ids = torch.cat(prompts).unsqueeze(0).to(self._device)
        return self._forward(ids, places.unsqueeze(0).to(self._device), last.to(self._device))[0]

    def _forward(self, ids: Tensor, positions: Tensor, keep: int | Tensor) -> Tensor:
        output = self._model(
            input_ids=ids, position_ids=positions, tree=self._state, use_cache=False, logits_to_keep=keep
        )
        return output.logits


class CacheDecoder:
    """Decodes any causal model by its own forward and, where `cached`, its own cache; else whole rows are read
    again at every step.
    """

    def __init__(
        self, model: nn.Module, prompts: Sequence[Tensor], owners: Sequence[int], *, cached: bool = True
    ):
        lengths = torch.tensor([len(prompts[owner]) for owner in owners])
        device = _device(model)
        self._model = model
        self._cached = cached
        self._read = int(lengths.min())
        """Tokens of each row that the model has been given."""
        self._ids = torch.zeros(len(owners), int(lengths.max()), dtype=torch.int64, device=device)
        for i, owner in enumerate(owners):
            self._ids[i, : lengths[i]] = prompts[owner].to(device)
        self._lengths = lengths.to(device)
        self.delay: Tensor | None = self._lengths - self._read
        self._cache: dict[str, Any] = {}
        self._options = {"logits_to_keep": 1} if _accepts(model, "logits_to_keep") else {}

    def start(self) -> Tensor:
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


def cache_is_sound(model: nn.Module) -> bool:
    """Whether the model has a cache whose rows can be dropped, and stepping through it, dropping one on the
    way, gives the logits that reading whole rows gives. (Some keep state elsewhere; some caches cannot drop
    rows; RWKV mixes up the rows of a batch in transformers 5.23.) Three rows of a few tokens; to within
    rounding of the model's dtype.
    """
    whole, _ = _trial(model, cached=False)
    try:
        stepped, has_cache = _trial(model, cached=True)
    except Exception as error:
        # whatever the family's own cache code raises, that way is not open; whole rows still are
        log.info("%s: its cache failed a trial (%s), so it is not used", type(model).__name__, error)
        return False
    tolerance = 0.05 if _dtype(model).itemsize < 4 else 1e-3
    return has_cache and bool((whole - stepped).abs().max() <= tolerance * whole.abs().max())


def _trial(model: nn.Module, *, cached: bool) -> tuple[Tensor, bool]:
    """Logits of a few steps, and whether a cache took part."""
    device = _device(model)
    vocabulary = int(cast("int", getattr(_config(model), "vocab_size", 2)))
    rows = [torch.tensor([(7 * i + 5 * j + 1) % vocabulary for j in range(3 + i)]) for i in range(3)]
    decoder = CacheDecoder(model, rows, range(3), cached=cached)
    logits = [decoder.start(), decoder.step(torch.ones(3, dtype=torch.int64, device=device))]
    decoder.keep(torch.tensor([0, 2], device=device))
    logits += [decoder.step(torch.zeros(2, dtype=torch.int64, device=device)) for _ in range(2)]
    return torch.cat(logits).double(), decoder.has_cache


def _accepts(model: nn.Module, name: str) -> bool:
    base: Any = getattr(model, "get_base_model", lambda: model)()
    return name in inspect.signature(base.forward).parameters
