"""Which way a model is decoded: tried once, on the model itself, and remembered by who asks.

A model that attends through `models.attention` is decoded as a stream, by the lean forward where its structure
is known and a trial gives the numbers of the model's own; every other model by its own cache, where a trial
shows that it can be trusted, or without one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tastemaker.models.attention import IMPLEMENTATION, AttentionRule
from tastemaker.models.decode import (
    CacheDecoder,
    Decoder,
    StreamDecoder,
    config_of,
    device_of,
    dtype_of,
)
from tastemaker.models.decode_lean import LeanForward, Unknown, recognise
from tastemaker.models.decode_state import DecodeState

log = logging.getLogger(__name__)

Rules = tuple[AttentionRule, ...]


class Ways:
    """Opens decoders, and remembers of each model what its trial said (never anything about its weights)."""

    def __init__(self, *, lean: bool = True):
        """`lean`: whether the lean forward may be used."""
        self._may = lean
        self._sound: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
        self._rules: WeakKeyDictionary[nn.Module, dict[object, Rules | None]] = WeakKeyDictionary()

    def of(self, model: nn.Module, steps: int) -> Callable[[bool], Decoder]:
        """What opens decoders of `model`, empty of rows, with the weights of this moment, for `steps` steps.

        Of the argument: whether rows will share prompts. Call this, and them, within `evaluating(model)` and
        whatever scope the model computes in; no row may be asked for a token beyond `position_limit(model)`.
        """
        if getattr(config_of(model), "_attn_implementation", None) == IMPLEMENTATION:
            lean = self._lean(model, steps) if self._may else None
            device = device_of(model)
            return lambda shared: StreamDecoder(model, DecodeState(device, shared=shared), lean)
        if model not in self._sound:
            self._sound[model] = cache_is_sound(model)
        cached = self._sound[model]
        return lambda _: CacheDecoder(model, cached=cached)

    def _lean(self, model: nn.Module, steps: int) -> LeanForward | None:
        try:
            lean = recognise(model, steps)
        except Unknown as why:
            log.debug("%s is decoded by its own code: %s", type(model).__name__, why)
            return None
        tried = self._rules.setdefault(model, {})
        if lean.kind not in tried:
            tried[lean.kind] = lean_rules(model, lean)
        rules = tried[lean.kind]
        lean.rules = rules or ()
        return None if rules is None else lean


class _Witness(DecodeState):
    """Notes the rule of each attention call of a forward."""

    def __init__(self, device: torch.device):
        super().__init__(device)
        self.rules: list[AttentionRule] = []

    def apply(
        self, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule, *, last: bool = False
    ) -> Tensor:
        if self._segment is not None:
            self.rules.append(rule)
        return super().apply(query, key, value, rule, last=last)


def lean_rules(model: nn.Module, lean: LeanForward) -> Rules | None:
    """The attention rules of `model`, layer by layer, if by them `lean` gives the model's logits (to within
    rounding of the dtype it computes in) over prompts of two lengths and a few steps, a row dropped on the way.
    None, and a word, if not.
    """
    device = device_of(model)
    prompts = _prompts(model)[:2]

    def walk(forward: LeanForward | None) -> tuple[Tensor, Rules]:
        witness = _Witness(device)
        decoder = StreamDecoder(model, witness, forward)
        logits = _walk(decoder, prompts, (0, 0, 1), device)
        return logits, tuple(witness.rules)

    try:
        expected, rules = walk(None)
        lean.rules = rules
        found, _ = walk(lean)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        log.warning("%s is decoded by its own code: the lean forward failed (%s)", type(model).__name__, error)
        return None
    tolerance = 0.05 if lean.compute.itemsize < 4 else 1e-4
    off = float((found - expected).abs().max() / expected.abs().max())
    if off <= tolerance:
        return rules
    log.warning("%s is decoded by its own code: the lean forward is off by %.2g", type(model).__name__, off)
    return None


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
    tolerance = 0.05 if dtype_of(model).itemsize < 4 else 1e-3
    return has_cache and bool((whole - stepped).abs().max() <= tolerance * whole.abs().max())


def _trial(model: nn.Module, *, cached: bool) -> tuple[Tensor, bool]:
    """Logits of a few steps, and whether a cache took part."""
    decoder = CacheDecoder(model, cached=cached)
    return _walk(decoder, _prompts(model), range(3), device_of(model)), decoder.has_cache


def _prompts(model: nn.Module) -> list[Tensor]:
    """Of 3, 4 and 5 tokens."""
    vocabulary = int(cast("int", getattr(config_of(model), "vocab_size", 2)))
    return [torch.tensor([(7 * i + 5 * j + 1) % vocabulary for j in range(3 + i)]) for i in range(3)]


def _walk(decoder: Decoder, prompts: Sequence[Tensor], owners: Sequence[int], device: torch.device) -> Tensor:
    """Logits of three rows over a few steps, the second of them dropped on the way."""
    logits = [decoder.add(prompts, owners, 3), decoder.step(torch.ones(3, dtype=torch.int64, device=device))]
    decoder.keep(torch.tensor([0, 2], device=device))
    logits += [decoder.step(torch.zeros(2, dtype=torch.int64, device=device)) for _ in range(2)]
    return torch.cat(logits).double()
