"""Keys and values while decoding: every prompt's once, and of each row what it wrote itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tastemaker.models.attention import AttentionRule
from tastemaker.models.decode_attention import causal, minus_infinity, scores_of, sinks_of, weights_of


@dataclass
class _Layer:
    """Keys and values that one attention call of the forward has seen so far."""

    keys: Tensor
    """[R, Hkv, capacity, D]: what each row owns, by slot."""
    values: Tensor
    prompt_keys: Tensor
    """[U, Hkv, P, D], zeros behind shorter prompts; U = 0 where rows share nothing."""
    prompt_values: Tensor

    def write(self, key: Tensor, value: Tensor, at: int, most: int) -> None:
        """Stores [R, Hkv, 1, D] in slot `at` of at most `most`."""
        if at == self.keys.shape[2]:  # all at once: what is not touched takes no memory
            self.keys, self.values = _longer(self.keys, most), _longer(self.values, most)
        self.keys[:, :, at : at + 1] = key
        self.values[:, :, at : at + 1] = value

    def keep(self, rows: Tensor, prompts: Tensor | None, longest: int, slots: slice) -> None:
        """Keeps these rows, prompts (None: all) up to `longest` tokens, and what was written in slots."""
        self.keys, self.values = (_kept(x, rows, slots) for x in (self.keys, self.values))
        if prompts is not None:
            self.prompt_keys = self.prompt_keys[:, :, :longest].index_select(0, prompts)
            self.prompt_values = self.prompt_values[:, :, :longest].index_select(0, prompts)

    def grow(self, rows: int, before: int, slots: int, prompts: int, longest: int) -> None:
        """Makes place for more rows and prompts behind those there are, and `before` slots before theirs."""
        # zeros: slots from before a row came are hidden by their weight, and 0 * NaN would show
        self.keys, self.values = (
            _grown(x, rows, before, max(x.shape[2] + before, slots)) for x in (self.keys, self.values)
        )
        self.prompt_keys, self.prompt_values = (
            _grown(x, prompts, 0, longest) for x in (self.prompt_keys, self.prompt_values)
        )


@dataclass(frozen=True)
class Segment:
    """Prompts first..first+count that go through the model together."""

    first: int
    count: int
    longest: int
    index: Tensor
    """[T] int64: where each token of the flat stream lies among count x longest padded places."""
    lengths: Tensor
    """[count] int64."""


class DecodeState:
    """What travels as `tree=` while decoding: keys and values, and whose turn it is.

    Rows write into slots, all into the same one at a step; a row that came later has nothing in the slots
    before its first. Where `shared`, prompts are held once each beside the rows that continue them. Otherwise
    every row has a prompt of its own, which lies in its slots like what it writes.

    Attention calls are told apart by their order in the forward, not by the module's layer number: some
    families call twice in a layer.
    """

    def __init__(self, device: torch.device, *, shared: bool = True):
        self.device = device
        self.step = 0
        """The slot that is written next."""
        self._shared = shared
        self._most = 0
        """Slots that will be needed."""
        self._lengths = torch.empty(0, dtype=torch.int64)
        """[U] tokens of each prompt that is held once; none where nothing is shared."""
        self._owners = torch.empty(0, dtype=torch.int64)
        self._came = torch.empty(0, dtype=torch.int64)
        """[R] the first slot of each row."""
        self._layers: list[_Layer] = []
        self._call = 0
        self._segment: Segment | None = None
        self._bias: dict[tuple[int | None, int, torch.dtype], tuple[Tensor | None, Tensor | None]] = {}
        self._places: dict[int, tuple[Tensor, Tensor]] = {}
        """By heads of keys: see `_grid`."""

    def add(self, lengths: Sequence[int], owners: Sequence[int], room: int) -> int:
        """Makes place for prompts of these lengths and for rows that continue prompts `owners` (ascending,
        every prompt named; where nothing is shared, once) by up to `room` tokens, behind those there are. Gives
        the number of the first new prompt; the prompts are to be read by segments.
        """
        first, before = len(self._lengths) if self._shared else len(self._owners), 0
        new = torch.tensor(lengths)
        if self._shared:
            self._lengths = torch.cat([self._lengths, new])
            came = torch.full((len(owners),), self.step)
        else:
            before = max(0, max(lengths) - self.step)
            self.step += before
            came = self.step - new
        self._came = torch.cat([self._came + before, came])
        self._most = max(self._most + before, self.step + room)
        self._place(torch.cat([self._owners, torch.tensor(owners) + first]))
        for layer in self._layers:
            layer.grow(len(self._owners), before, self.step, len(self._lengths), self._longest)
        return first

    def _place(self, owners: Tensor) -> None:
        """Lays rows out by prompt: a grid of U x `_members`, not all of whose places are taken."""
        self._owners = owners
        self._longest = int(self._lengths.max()) if self._shared else 0
        self._prompts = self._lengths.shape[0]
        self._latest = int(self._came.max())
        self._began = self._came.to(self.device)
        """[R] the slot at which each row's position would be 0 if its slots held its prompt."""
        self._bias.clear()
        if not self._shared:
            return
        counts = torch.bincount(owners, minlength=len(self._lengths))
        self._members = int(counts.max())
        self._rank = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]
        self._places.clear()
        self._began = self._began - self._lengths[owners].to(self.device)
        self._even = bool((self._lengths == self._longest).all())

    def begin(self, segment: Segment | None = None) -> None:
        """Before each forward: of a segment of prompts, or of the next token of every row (None)."""
        self._call = 0
        self._segment = segment
        for kind in [kind for kind in self._bias if kind[0] is not None]:
            del self._bias[kind]  # what a window hides changes with every step

    def positions(self) -> Tensor:
        """[R] int64: where the next token of each row stands."""
        return self.step - self._began

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but `rows` (ascending), prompts that have none left, slots from before them all."""
        kept = rows.cpu()
        used, owners = torch.unique_consecutive(self._owners[kept], return_inverse=True)
        prompts = None
        if self._shared:
            prompts = None if len(used) == len(self._lengths) else used.to(self.device)
            self._lengths = self._lengths[used]
        unused = int(self._came[kept].min())
        self._came = self._came[kept] - unused
        self._place(owners)
        for layer in self._layers:
            layer.keep(rows, prompts, self._longest, slice(unused, self.step))
        self.step -= unused
        self._most -= unused

    def attend(
        self, module: nn.Module | None, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, None]:
        """One layer of the forward announced by `begin`: `query` [1, H, T, D] of a segment's flat stream, or
        [R, H, 1, D] of the rows' next tokens.
        """
        return self.apply(query, key, value, AttentionRule.of(query, options)), None

    def apply(
        self, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule, *, last: bool = False
    ) -> Tensor:
        """`attend`, by a rule. `last`: `query` is [U, H, 1, D] of the last token of each prompt of the segment,
        and so is the output.
        """
        call = self._call
        self._call += 1
        if self._segment is not None:
            return self._read(call, self._segment, query, key, value, rule, last)
        return self._continue(self._layers[call], query, key, value, rule)

    def _read(
        self,
        call: int,
        part: Segment,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rule: AttentionRule,
        last: bool,
    ) -> Tensor:
        if call == len(self._layers):
            self._layers.append(self._layer(key, value))
        layer, here = self._layers[call], slice(part.first, part.first + part.count)
        if not self._shared:
            # where the stream's tokens lie: row, and slot from the row's first on
            row = part.first + torch.div(part.index, part.longest, rounding_mode="floor")
            slot = self._began[row] + part.index % part.longest
            layer.keys.transpose(1, 2)[row, slot] = key[0].transpose(0, 1).to(layer.keys.dtype)
            layer.values.transpose(1, 2)[row, slot] = value[0].transpose(0, 1).to(layer.values.dtype)
        key, value = _pad(key, part), _pad(value, part)
        if self._shared:
            layer.prompt_keys[here, :, : part.longest] = key
            layer.prompt_values[here, :, : part.longest] = value
        if last:
            return self._look(query, key, value, rule, part)
        output = causal(_pad(query, part), key, value, rule).transpose(1, 2)
        return output.reshape(part.count * part.longest, *output.shape[2:])[part.index].unsqueeze(0)

    def _look(self, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule, part: Segment) -> Tensor:
        """[count, 1, H, Dv]: what the last tokens of prompts, `query` [count, H, 1, D], see of them."""
        count, heads, _, width = query.shape
        groups = key.shape[1]
        place = torch.arange(part.longest, device=self.device)
        unseen = place >= part.lengths[:, None]
        if rule.window is not None:
            unseen |= part.lengths[:, None] - 1 - place >= rule.window
        hidden = minus_infinity(unseen, query.dtype).repeat_interleave(groups, dim=0).unsqueeze(1)
        query = query.reshape(count * groups, heads // groups, width)
        weights = weights_of(
            scores_of(query, key.flatten(0, 1), hidden, rule), sinks_of(rule, groups, count), value.dtype
        )
        return torch.bmm(weights, value.flatten(0, 1)).view(count, 1, heads, -1)

    def _layer(self, key: Tensor, value: Tensor) -> _Layer:
        rows, groups, slots = len(self._owners), key.shape[1], 0 if self._shared else self.step
        own = [x.new_zeros(rows, groups, slots, x.shape[3], dtype=self._own_dtype(x)) for x in (key, value)]
        prompts = [x.new_zeros(len(self._lengths), groups, self._longest, x.shape[3]) for x in (key, value)]
        return _Layer(own[0], own[1], prompts[0], prompts[1])

    def _own_dtype(self, x: Tensor) -> torch.dtype:
        """Of what rows own: the CPU's products of single rows are 3 to 5 times slower in bfloat16."""
        return torch.float32 if self.device.type == "cpu" and x.dtype.itemsize < 4 else x.dtype

    def _continue(
        self, layer: _Layer, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule
    ) -> Tensor:
        rows, heads, _, width = query.shape
        groups, step, window = key.shape[1], self.step, rule.window
        layer.write(key, value, step, max(self._most, step + 1))
        first = 0 if window is None else max(0, step + 1 - window)
        # [rows * groups, heads of the group, width]: one matrix product a group serves all its heads
        query = query.reshape(rows * groups, heads // groups, width)
        keys = layer.keys.flatten(0, 1)[:, first : step + 1]
        values = layer.values.flatten(0, 1)[:, first : step + 1]
        shares = self._shared and (window is None or step - self._latest + 1 < window)
        hidden, beyond = self._hidden(window, first, shares, keys, layer.prompt_keys)
        scores = scores_of(query.to(keys.dtype), keys, hidden, rule)
        sinks = sinks_of(rule, groups, rows)
        if not shares:
            weights = weights_of(scores, sinks, values.dtype)
            return torch.bmm(weights, values).to(value.dtype).view(rows, 1, heads, -1)
        prompt_keys, prompt_values = layer.prompt_keys.flatten(0, 1), layer.prompt_values.flatten(0, 1)
        shared = scores_of(self._gather(query, groups), prompt_keys, beyond, rule)
        seen = shared.shape[2]
        scores = torch.cat([self._spread(shared, groups), scores], dim=2)
        weights = weights_of(scores, sinks, values.dtype)
        output = torch.bmm(weights[..., seen:], values)
        shared = torch.bmm(self._gather(weights[..., :seen].to(prompt_values.dtype), groups), prompt_values)
        output += self._spread(shared, groups)
        return output.to(value.dtype).view(rows, 1, heads, -1)

    def _gather(self, x: Tensor, groups: int) -> Tensor:
        """[R * Hkv, r, n] by row -> [U * Hkv, members * r, n] by prompt; some row in places not taken."""
        if self._members == 1:
            return x
        folded, width = x.shape[1:]
        x = x.reshape(-1, folded * width).index_select(0, self._grid(groups)[0])
        return x.view(self._prompts * groups, self._members * folded, width)

    def _spread(self, x: Tensor, groups: int) -> Tensor:
        """The inverse of `_gather`."""
        if self._members == 1:
            return x
        folded, width = x.shape[1] // self._members, x.shape[2]
        return x.view(-1, folded * width).index_select(0, self._grid(groups)[1]).view(-1, folded, width)

    def _grid(self, groups: int) -> tuple[Tensor, Tensor]:
        """Where each place [U * Hkv * members] is among the rows [R * Hkv], and each row among the places."""
        if groups not in self._places:
            rows, each = len(self._owners), torch.arange(groups)
            places = (((self._owners[:, None] * groups + each) * self._members) + self._rank[:, None]).flatten()
            found = torch.zeros(self._prompts * groups * self._members, dtype=torch.int64)
            found[places] = torch.arange(rows * groups)
            self._places[groups] = found.to(self.device), places.to(self.device)
        return self._places[groups]

    def _hidden(
        self, window: int | None, first: int, shares: bool, keys: Tensor, prompt_keys: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """What no row may see, as -inf among zeros, None where it sees all: slots from `first` [R * Hkv, 1, n],
        and places of prompts [U * Hkv, members, P] (by row, since a window moves with it).
        """
        count, groups = keys.shape[1], prompt_keys.shape[1]
        kind = (window, groups, prompt_keys.dtype)
        known = self._bias.get(kind)
        slots = known[0] if known is not None else None
        if known is None or (slots is not None and slots.shape[2] < count):
            slots = places = None
            if self._latest > first:
                slot = torch.arange(first, first + 2 * count, device=self.device)
                slots = minus_infinity(slot < self._came.to(self.device)[:, None], keys.dtype)
                slots = slots.repeat_interleave(groups, dim=0).unsqueeze(1)
            if shares and not (self._even and window is None):
                places = self._hidden_places(window, groups, prompt_keys.dtype)
            known = self._bias[kind] = (slots, places)
        return None if slots is None else slots[..., :count], known[1]

    def _hidden_places(self, window: int | None, groups: int, dtype: torch.dtype) -> Tensor:
        place = torch.arange(self._longest, device=self.device)
        hidden = place >= self._lengths.to(self.device)[:, None]
        if window is None:
            return minus_infinity(hidden, dtype).repeat_interleave(groups, dim=0).unsqueeze(1)
        by_row = hidden[self._owners.to(self.device)] | (self.step - self._began[:, None] - place >= window)
        return self._gather(minus_infinity(by_row, dtype).repeat_interleave(groups, dim=0).unsqueeze(1), groups)


def _longer(x: Tensor, capacity: int) -> Tensor:
    """[R, Hkv, n, D] -> [R, Hkv, capacity, D]."""
    longer = x.new_empty(*x.shape[:2], capacity, x.shape[3])
    longer[:, :, : x.shape[2]] = x
    return longer


def _kept(x: Tensor, rows: Tensor, slots: slice) -> Tensor:
    """[R', Hkv, capacity, D] of these rows, with what stands in `slots` at its beginning."""
    before = x.shape[2]
    x = x[:, :, slots]
    kept = x.new_empty(len(rows), x.shape[1], before - slots.start, x.shape[3])
    torch.index_select(x, 0, rows, out=kept[:, :, : x.shape[2]])
    return kept


def _grown(x: Tensor, count: int, before: int, length: int) -> Tensor:
    """[n, Hkv, m, D] -> [count, Hkv, length, D] with zeros behind, and `before` of them before."""
    grown = x.new_zeros(count, x.shape[1], length, x.shape[3])
    grown[: x.shape[0], :, before : before + x.shape[2]] = x
    return grown


def _pad(x: Tensor, part: Segment) -> Tensor:
    """[1, H, T, D] of a flat stream -> [count, H, longest, D] with zeros behind."""
    _, heads, _, width = x.shape
    padded = x.new_zeros(part.count * part.longest, heads, width)
    padded.index_copy_(0, part.index, x[0].transpose(0, 1))
    return padded.view(part.count, part.longest, heads, width).transpose(1, 2)
