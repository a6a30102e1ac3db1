"""Keys and values while decoding: every prompt's once, and of each row what it wrote itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tastemaker.models.attention import AttentionRule

FIRST_CAPACITY = 32
"""Generated tokens a row has room for at first; the room doubles when it is full."""
SCORES_IN_A_BLOCK = 2**24
"""Attention scores held at once while prompts are read by layers that no fused kernel serves."""


@dataclass
class _Layer:
    """Keys and values that one attention call of the forward has seen so far."""

    prompt_keys: Tensor
    """[U, Hkv, P, D], zeros behind shorter prompts."""
    prompt_values: Tensor
    keys: Tensor | None = None
    """[R, Hkv, capacity, D]: what each row wrote itself."""
    values: Tensor | None = None

    def write(self, key: Tensor, value: Tensor, at: int, most: int) -> tuple[Tensor, Tensor]:
        """Stores [R, Hkv, 1, D] as generated token `at`."""
        if self.keys is None or self.values is None:
            room = min(most, FIRST_CAPACITY)
            self.keys = key.new_empty(*key.shape[:2], room, key.shape[3])
            self.values = value.new_empty(*value.shape[:2], room, value.shape[3])
        elif at == self.keys.shape[2]:
            more = min(most, 2 * at) - at
            self.keys = torch.cat([self.keys, key.expand(-1, -1, more, -1)], dim=2)
            self.values = torch.cat([self.values, value.expand(-1, -1, more, -1)], dim=2)
        self.keys.select(2, at).copy_(key.squeeze(2))
        self.values.select(2, at).copy_(value.squeeze(2))
        return self.keys, self.values


@dataclass(frozen=True)
class Segment:
    """Prompts first..first+count that go through the model together."""

    first: int
    count: int
    longest: int
    index: Tensor
    """[T] int64: where each token of the flat stream lies among count x longest padded places."""


class DecodeState:
    """What travels as `tree=` while decoding: keys and values, prompts once each, and whose turn it is.

    Attention calls are told apart by their order in the forward, not by the module's layer number: some
    families call twice in a layer.
    """

    def __init__(
        self, lengths: Sequence[int], owners: Sequence[int], max_new_tokens: int, device: torch.device
    ):
        self.device = device
        self.step = 0
        """Generated tokens each row has stored."""
        self._most = max_new_tokens
        self._lengths = torch.tensor(lengths)
        self._longest = max(lengths)
        self._layers: list[_Layer] = []
        self._call = 0
        self._segment: Segment | None = None
        self._bias: dict[int | None, Tensor | None] = {}
        self._place(torch.tensor(owners))

    def _place(self, owners: Tensor) -> None:
        """Lays rows out by prompt: a grid of U x `_members` where only places `_slots` are taken."""
        counts = torch.bincount(owners, minlength=len(self._lengths))
        self._owners = owners
        self._members = int(counts.max())
        rank = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]
        full = len(owners) == len(counts) * self._members
        self._slots = None if full else (owners * self._members + rank).to(self.device)
        self._row_lengths = self._lengths[owners].to(self.device)
        self._even = bool((self._lengths == self._longest).all())
        self._bias.clear()

    def begin(self, segment: Segment | None = None) -> None:
        """Before each forward: of a segment of prompts, or of the next token of every row (None)."""
        self._call = 0
        self._segment = segment
        stale = [window for window in self._bias if window is not None]
        for window in stale:
            del self._bias[window]

    def positions(self) -> Tensor:
        """[R, 1] int64: where the next token of each row stands."""
        return (self._row_lengths + self.step).unsqueeze(1)

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but `rows` (ascending), and prompts that have none left."""
        owners = self._owners[rows.cpu()]
        used, owners = torch.unique_consecutive(owners, return_inverse=True)
        self._lengths = self._lengths[used]
        longest = int(self._lengths.max())
        prompts = None if len(used) == len(self._layers[0].prompt_keys) else used.to(self.device)
        for layer in self._layers:
            if prompts is not None:
                layer.prompt_keys = layer.prompt_keys[:, :, :longest].index_select(0, prompts)
                layer.prompt_values = layer.prompt_values[:, :, :longest].index_select(0, prompts)
            if layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = layer.keys.index_select(0, rows), layer.values.index_select(0, rows)
        if prompts is not None:
            self._longest = longest
        self._place(owners)

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, None]:
        """One layer of the forward announced by `begin`: `query` [1, H, T, D] of a segment's flat stream, or
        [R, H, 1, D] of the rows' next tokens.
        """
        rule = AttentionRule.of(query, options)
        call = self._call
        self._call += 1
        if self._segment is not None:
            return self._read(call, self._segment, query, key, value, rule), None
        layer = self._layers[call]
        return self._continue(layer, query, key, value, rule), None

    def _read(
        self, call: int, part: Segment, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule
    ) -> Tensor:
        query, key, value = (_pad(x, part) for x in (query, key, value))
        if call == len(self._layers):
            shape = (len(self._lengths), key.shape[1], self._longest)
            self._layers.append(
                _Layer(key.new_zeros(*shape, key.shape[3]), value.new_zeros(*shape, value.shape[3]))
            )
        here = slice(part.first, part.first + part.count)
        self._layers[call].prompt_keys[here, :, : part.longest] = key
        self._layers[call].prompt_values[here, :, : part.longest] = value
        output = _causal(query, key, value, rule).transpose(1, 2)
        return output.reshape(part.count * part.longest, *output.shape[2:])[part.index].unsqueeze(0)

    def _continue(
        self, layer: _Layer, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule
    ) -> Tensor:
        rows, heads, _, width = query.shape
        groups, step, window = key.shape[1], self.step, rule.window
        keys, values = layer.write(key, value, step, self._most)
        first = 0 if window is None else max(0, step + 1 - window)
        wrote = slice(first, step + 1)
        # [rows * groups, heads of the group, width]: one matrix product a group serves all its heads
        query = (query * rule.scale).reshape(rows * groups, heads // groups, width)
        scores = torch.bmm(query, keys[:, :, wrote].view(rows * groups, -1, width).transpose(1, 2))
        seen = 0
        if window is None or step + 1 < window:  # else every prompt lies behind the window
            seen = layer.prompt_keys.shape[2]
            shared = torch.bmm(self._gather(query, groups), layer.prompt_keys.flatten(0, 1).transpose(1, 2))
            scores = torch.cat([self._spread(shared, groups), scores], dim=2)
        bias = self._prompt_bias(window, seen, scores) if seen else None
        weights = _weights(scores.view(rows, groups, heads // groups, 1, -1), rule, bias, value.dtype)
        weights = weights.view(rows * groups, heads // groups, -1)
        output = torch.bmm(weights[..., seen:], values[:, :, wrote].view(rows * groups, -1, values.shape[3]))
        if seen:
            shared = torch.bmm(self._gather(weights[..., :seen], groups), layer.prompt_values.flatten(0, 1))
            output += self._spread(shared, groups)
        return output.view(rows, 1, heads, -1)

    def _gather(self, x: Tensor, groups: int) -> Tensor:
        """[R * Hkv, r, n] by row -> [U * Hkv, members * r, n] by prompt."""
        folded, width = x.shape[1:]
        prompts = len(self._lengths)
        if self._members == 1:
            return x
        if self._slots is not None:
            grid = x.new_zeros(prompts * self._members, groups, folded, width)
            x = grid.index_copy_(0, self._slots, x.reshape(-1, groups, folded, width))
        x = x.reshape(prompts, self._members, groups, folded, width).transpose(1, 2)
        return x.reshape(prompts * groups, self._members * folded, width)

    def _spread(self, x: Tensor, groups: int) -> Tensor:
        """The inverse of `_gather`."""
        if self._members == 1:
            return x
        prompts, width = len(self._lengths), x.shape[2]
        folded = x.shape[1] // self._members
        x = x.view(prompts, groups, self._members, folded, width).transpose(1, 2)
        x = x.reshape(prompts * self._members, groups, folded, width)
        if self._slots is not None:
            x = x.index_select(0, self._slots)
        return x.reshape(-1, folded, width)

    def _prompt_bias(self, window: int | None, seen: int, scores: Tensor) -> Tensor | None:
        """[R, 1, 1, 1, seen + wrote]: -inf at prompt places a row may not see, 0 elsewhere. None: sees all."""
        if self._even and window is None:
            return None
        bias = self._bias.get(window)
        if bias is None or bias.dtype != scores.dtype:
            place = torch.arange(seen, device=self.device)
            end = self._row_lengths.unsqueeze(1)
            hidden = place >= end
            if window is not None:
                hidden |= end + self.step - place >= window
            bias = torch.zeros(len(hidden), seen + self._most, dtype=scores.dtype, device=self.device)
            bias[:, :seen].masked_fill_(hidden, float("-inf"))
            self._bias[window] = bias
        return bias[:, None, None, None, : scores.shape[2]]


def _pad(x: Tensor, part: Segment) -> Tensor:
    """[1, H, T, D] of a flat stream -> [count, H, longest, D] with zeros behind."""
    _, heads, _, width = x.shape
    padded = x.new_zeros(part.count * part.longest, heads, width)
    padded.index_copy_(0, part.index, x[0].transpose(0, 1))
    return padded.view(part.count, part.longest, heads, width).transpose(1, 2)


def _causal(query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
    """Causal attention of right-padded prompts: [U, H, P, D] -> [U, H, P, Dv]. What stands in the padding is
    never seen from before it.
    """
    prompts, heads, longest, width = query.shape
    groups = key.shape[1]
    window = rule.window if rule.window is not None and rule.window < longest else None
    if window is None and rule.softcap is None and rule.sinks is None:
        return scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=rule.scale, enable_gqa=groups != heads
        )
    query = (query * rule.scale).reshape(prompts, groups, heads // groups, longest, width)
    output = query.new_empty(prompts, groups, heads // groups, longest, value.shape[3])
    block = max(1, SCORES_IN_A_BLOCK // (prompts * heads * longest))
    for start in range(0, longest, block):
        end = min(start + block, longest)
        low = 0 if window is None else max(0, start + 1 - window)
        scores = torch.einsum("ughqd,ugkd->ughqk", query[:, :, :, start:end], key[:, :, low:end])
        apart = torch.arange(start, end, device=key.device)[:, None] - torch.arange(low, end, device=key.device)
        hidden = (apart < 0) if window is None else (apart < 0) | (apart >= window)
        bias = torch.zeros(hidden.shape, dtype=scores.dtype, device=key.device)
        bias.masked_fill_(hidden, float("-inf"))
        weights = _weights(scores, rule, bias, value.dtype)
        output[:, :, :, start:end] = torch.einsum("ughqk,ugkd->ughqd", weights, value[:, :, low:end])
    return output.view(prompts, heads, longest, -1)


def _weights(scores: Tensor, rule: AttentionRule, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Softmax over the last axis of [x, Hkv, r, q, k], in float32 or wider. Overwrites `scores`."""
    if rule.softcap is not None:
        scores = scores.div_(rule.softcap).tanh_().mul_(rule.softcap)
    if bias is not None:
        scores = scores.add_(bias)
    wide = torch.promote_types(scores.dtype, torch.float32)
    if rule.sinks is None:
        return torch.softmax(scores, dim=-1, dtype=wide).to(dtype)
    sinks = rule.sinks.to(wide).view(1, *scores.shape[1:3], 1, 1).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat([scores.to(wide), sinks], dim=-1), dim=-1)[..., :-1].to(dtype)
