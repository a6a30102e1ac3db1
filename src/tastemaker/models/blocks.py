"""Attention over trees as a few dense matrix products: which rows meet which keys, and the products themselves.

A tree's rows are cut into blocks; a block of a later response takes the prompt and its own response as keys and
never touches its siblings. Blocks of similar shape, from whichever trees, are gathered into one batch, so that
many tiny trees cost a handful of operations and long ones stay inside the cache.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from tastemaker.models.attention import AttentionRule

ROWS = 64
"""Rows of a block that sees few keys. Its keys end where it ends, so that of a long square nearly half is
skipped. Blocks have few lengths: for every new shape of a product oneDNN writes code anew, which costs as much
as ten products."""
LONG = 256
"""Keys from which on a block has twice ROWS, and from twice as many on four times: each gathers its keys."""
KEY_STEP = 64
"""Keys of a batch are a multiple of this, for the same reason."""
GROUP_COST = 40_000
"""What starting another batch of blocks costs, in scores (one head's row x key) that padding may waste."""
CACHED = 2**18
"""Scores that a CPU keeps in its cache: a batch has no more unless a single block does."""
WIDENED = 2**13
"""Rows of gradients that are widened and added up at once: few enough to stay in the cache."""
RUN_ROWS = 2**16
"""Keys (times heads) gathered at once; more only where a single batch of blocks needs them."""
KEEP_RATIO = 4
"""Weights are kept for the backward while they number at most this many times the queries, else recomputed."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a tree lies in the stream: prompt at [start, start + prompt), then its responses."""

    start: int
    prompt: int
    responses: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Rows [row, row + rows) and their keys: two runs of the stream, [first, first + firsts) and
    [second, second + seconds). The first `open` keys are seen by every row.
    """

    row: int
    rows: int
    first: int
    firsts: int
    second: int
    seconds: int
    open: int

    @property
    def keys(self) -> int:
        return self.firsts + self.seconds


def cut_rows(extent: Extent) -> Iterator[tuple[int, int, int, bool]]:
    """Blocks of a tree's rows as (begin, end, own, single), all counted from the tree's start.

    `own` is where the response of row `begin` starts (or the prompt's end), `single` whether all rows belong
    to that one response.
    """
    starts = list(accumulate(extent.responses, initial=extent.prompt))
    begin = 0
    while begin < starts[-1]:
        own = max(0, bisect_right(starts, begin) - 1)
        seen = begin if begin < extent.prompt else extent.prompt + begin - starts[own]
        end = min(begin + (ROWS << min(2, (seen // LONG).bit_length())), starts[-1])
        yield begin, end, starts[own], end <= starts[own + 1]
        begin = end


def cut_tree(extent: Extent, window: int | None) -> Iterator[Block]:
    """The blocks of one tree; `window` as in `AttentionRule`."""
    start, prompt = extent.start, extent.prompt
    for begin, end, own, single in cut_rows(extent):
        if begin < prompt:  # the prompt's rows, and perhaps the first responses': everything up to the end
            first = 0 if window is None else max(0, begin - window + 1)
            full = begin if window is None else 0
            yield Block(start + begin, end - begin, start + first, end - first, start, 0, full)
            continue
        lowest = prompt + begin - own if single else prompt  # the lowest position among the rows
        first = 0 if window is None else min(prompt, max(0, lowest - window + 1))
        second = own
        if window is not None and single:
            second = own + max(0, lowest - window + 1 - prompt)
        full = 0 if window is not None else prompt + (begin - own if single else 0)
        yield Block(
            start + begin, end - begin, start + first, prompt - first, start + second, end - second, full
        )


@dataclass(frozen=True, eq=False)
class Group:
    """b blocks padded to Lq = ROWS rows and Lk keys, for H heads over Hkv key heads.

    Indices count rows of the token-major [T * H, D] (keys: [T * Hkv, D]) view, heads before tokens, so that one
    gather gives contiguous [b, heads, tokens, D].
    """

    blocks: int
    rows: int
    keys: int
    open: int
    query_rows: Tensor
    """[b * H * Lq] int64"""
    key_rows: Tensor
    """[b * Hkv * Lk] int64"""
    bias: Tensor
    """[b, 1, Lq, Lk - open] float32: 0 where row sees key, else -inf. The first `open` keys need none."""
    real: Tensor
    """[b * H * Lq] bool: False on rows that only pad."""


@dataclass(frozen=True, eq=False)
class Run:
    """Groups whose rows are gathered together: one gather costs less than many."""

    groups: tuple[Group, ...]
    query_rows: Tensor
    key_rows: Tensor
    real: Tensor
    """[slots, 1] float32: 0 on rows that only pad."""

    sizes: tuple[list[int], list[int]]
    """Of each group: gathered queries, gathered keys."""

    @staticmethod
    def of(groups: list[Group]) -> Run:
        real = torch.cat([g.real for g in groups])
        queries, keys = (torch.cat([getattr(g, n) for g in groups]) for n in ("query_rows", "key_rows"))
        sizes = [len(g.query_rows) for g in groups], [len(g.key_rows) for g in groups]
        return Run(tuple(groups), queries, keys, real.float()[:, None], sizes)

    def cut(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Iterator[tuple[Group, list[Tensor]]]:
        """Each group with its part of what was gathered for `queries` [slots, D] and for `keys`, as
        [b * Hkv, G * Lq, D] and [b * Hkv, Lk, D].
        """
        of_rows, of_keys = self.sizes
        parts = [x.split(of_rows) for x in queries] + [x.split(of_keys) for x in keys]
        for group, *pieces in zip(self.groups, *parts, strict=True):
            spread = len(group.key_rows) // group.keys
            yield group, [x.view(spread, -1, x.shape[1]) for x in pieces]


@dataclass(frozen=True, eq=False)
class Plan:
    """All groups of a layout for one window and head count."""

    runs: tuple[Run, ...]
    heads: int
    key_heads: int
    slots: int
    """Rows of all groups together, padding included."""
    home: Tensor
    """[T * H] int64: in which slot the output of each token and head lies."""
    scores: int
    """Weights in all groups: what keeping them would take."""


def make_plan(
    extents: Sequence[Extent], branch: Tensor, position: Tensor, heads: int, key_heads: int, window: int | None
) -> Plan:
    """Plans a layout on the host; `branch` and `position` [T] int64 as in `TreeLayout`, on its device."""
    blocks = [block for extent in extents for block in cut_tree(extent, window)]
    cap = CACHED if branch.device.type == "cpu" else 2**26
    groups = [
        _make_group(members, branch, position, heads, key_heads, window)
        for members in _similar(blocks, heads, cap)
    ]
    runs: list[list[Group]] = []
    gathered = 0
    for group in groups:
        if not runs or gathered + len(group.key_rows) > RUN_ROWS:
            runs.append([])
            gathered = 0
        runs[-1].append(group)
        gathered += len(group.key_rows)
    made = tuple(Run.of(run) for run in runs)
    real = torch.cat([run.real[:, 0] for run in made]).bool()
    home = torch.empty(len(branch) * heads, dtype=torch.int64, device=branch.device)
    rows = torch.cat([run.query_rows for run in made])
    home[rows[real]] = real.nonzero()[:, 0]
    scores = sum(g.blocks * heads * g.rows * g.keys for g in groups)
    return Plan(made, heads, key_heads, len(rows), home, scores)


def _similar(blocks: list[Block], heads: int, cap: int) -> Iterator[list[Block]]:
    """Batches of blocks of as many rows and near enough in keys that padding costs less than another batch
    would, each of at most `cap` scores (what stays in cache).
    """
    members: list[Block] = []
    rows = keys = filled = 0
    for block in sorted(blocks, key=_shape, reverse=True):
        own = _shape(block)
        area = (len(members) + 1) * rows * keys
        waste = area - filled - own[0] * own[1]
        if members and (own[0] != rows or heads * area > cap or waste > max(GROUP_COST // heads, area // 8)):
            yield members
            members, filled = [], 0
        if not members:
            rows, keys = own
        members.append(block)
        filled += own[0] * own[1]
    if members:
        yield members


def _shape(block: Block) -> tuple[int, int]:
    """Rows and keys, rounded up."""
    return -(-block.rows // ROWS) * ROWS, -(-block.keys // KEY_STEP) * KEY_STEP


def _make_group(
    members: list[Block], branch: Tensor, position: Tensor, heads: int, key_heads: int, window: int | None
) -> Group:
    device = branch.device
    rows, keys = _shape(members[0])
    row, n_rows, first, firsts, second, seconds = (
        torch.tensor([(b.row, b.rows, b.first, b.firsts, b.second, b.seconds) for b in members])
        .to(device)
        .T[:, :, None]
    )
    column = torch.arange(rows, device=device)
    at_row = row + torch.minimum(column, n_rows - 1)  # padding repeats the last row: never a row without keys
    real = (column < n_rows)[:, None].expand(-1, heads, -1).reshape(-1)
    column = torch.arange(keys, device=device)
    at_key = torch.where(column < firsts, first + column, second + column - firsts)
    exists = column < firsts + seconds
    at_key = torch.where(exists, at_key, row)
    opened = min(b.open for b in members)
    # what remains to be masked: the triangle, siblings inside a block, the window's far end, and padding
    key, query = at_key[:, None, opened:], at_row[:, :, None]
    apart = position[query] - position[key]
    seen = (apart >= 0) & ((branch[key] == 0) | (branch[key] == branch[query])) & exists[:, None, opened:]
    if window is not None:
        seen &= apart < window
    bias = torch.zeros(seen.shape, device=device).masked_fill_(~seen, float("-inf"))
    return Group(
        blocks=len(members),
        rows=rows,
        keys=keys,
        open=opened,
        query_rows=_by_head(at_row, heads),
        key_rows=_by_head(at_key, key_heads),
        bias=bias[:, None],
        real=real,
    )


def _by_head(tokens: Tensor, heads: int) -> Tensor:
    """Token indices [b, L] -> rows of the [T * heads, D] view, flattened from [b, heads, L]."""
    head = torch.arange(heads, device=tokens.device)[:, None]
    return (tokens[:, None] * heads + head).reshape(-1)


def block_attention(query: Tensor, key: Tensor, value: Tensor, plan: Plan, rule: AttentionRule) -> Tensor:
    """Attention of a stream: `query` [T, H, D], `key` [T, Hkv, D], `value` [T, Hkv, Dv] -> [T, H, Dv].

    Products run in the dtype of `value` (under autocast: in its dtype), the softmax in float32 or wider.
    """
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    with torch.autocast(device, enabled=False):
        return _BlockAttention.apply(query.to(dtype), key.to(dtype), value.to(dtype), rule.sinks, plan, rule)


class _BlockAttention(torch.autograd.Function):
    """Written by hand because the gather's general backward (an index_add of every operand) is not needed where
    each query lies in exactly one block, and because the weights can be recomputed instead of kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        plan: Plan,
        rule: AttentionRule,
    ) -> Tensor:
        q, k, v = _flat(query), _flat(key), _flat(value)
        out = v.new_empty(plan.slots, v.shape[1])
        plain = rule.softcap is None and rule.sinks is None
        keep = any(ctx.needs_input_grad) and plain and plan.scores <= KEEP_RATIO * q.numel()
        kept: list[Tensor] = []
        at = 0
        for run in plan.runs:
            queries, keys, values = _gather(run, q, k, v)
            slots = out[at : at + len(queries)]
            at += len(queries)
            for group, (q3, out3, k3, v3) in run.cut((queries, slots), (keys, values)):
                weights = _weigh(q3, k3, group, plan, rule)[0].to(v.dtype)
                torch.bmm(weights, v3, out=out3)
                if keep:
                    kept.append(weights)
        ctx.save_for_backward(q, k, v, sinks, *kept)
        ctx.plan, ctx.rule = plan, replace(rule, sinks=None)
        return out.index_select(0, plan.home).view(query.shape[0], plan.heads, v.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, sinks, *kept = ctx.saved_tensors
        plan: Plan = ctx.plan
        rule: AttentionRule = replace(ctx.rule, sinks=sinks)  # as saved: a sharded one may have moved
        wide = torch.promote_types(v.dtype, torch.float32)
        g = _flat(grads[0]).to(v.dtype)
        dk, dv = torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)
        dsinks = None if sinks is None else torch.zeros_like(sinks, dtype=wide)
        dqueries: list[Tensor] = []
        weighed = iter(kept)
        for run in plan.runs:
            queries, keys, values = _gather(run, q, k, v)
            grad = g.index_select(0, run.query_rows).mul_(run.real)
            dquery, dkey, dvalue = torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)
            parts = run.cut((queries, grad, dquery), (keys, values, dkey, dvalue))
            for group, (q3, g3, dq3, k3, v3, dk3, dv3) in parts:
                weights, slope, spare = (
                    (next(weighed), None, None) if kept else _weigh(q3, k3, group, plan, rule)
                )
                dweights = torch.bmm(g3, v3.mT).to(weights.dtype)
                if dsinks is not None and spare is not None:
                    # softmax's backward for a key without value: its weight times minus the mean gradient
                    drop = (weights.to(wide) * dweights).sum(-1) * spare
                    dsinks -= drop.view(group.blocks, plan.heads, group.rows).sum((0, 2))
                dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)  # pyright: ignore[reportPrivateUsage]
                # behind the softmax, which has just read the weights: they are in the cache
                torch.bmm(weights.mT.to(v.dtype), g3, out=dv3)
                dscores = (dscores if slope is None else dscores.mul_(slope)).to(q.dtype)
                torch.baddbmm(dq3, dscores, k3, beta=0, alpha=rule.scale, out=dq3)
                torch.bmm(dscores.mT, q3, out=dk3)
            for to, found in ((dk, dkey), (dv, dvalue)):
                for rows, part in zip(run.key_rows.split(WIDENED), found.split(WIDENED), strict=True):
                    to.index_add_(0, rows, part.to(wide))
            dqueries.append(dquery)
        dq = dqueries[0] if len(dqueries) == 1 else torch.cat(dqueries)
        tokens = len(plan.home) // plan.heads
        return (
            dq.index_select(0, plan.home).view(tokens, plan.heads, -1),
            dk.mul_(rule.scale).to(k.dtype).view(tokens, plan.key_heads, -1),
            dv.to(v.dtype).view(tokens, plan.key_heads, -1),
            dsinks,
            None,
            None,
        )


def _gather(run: Run, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The run's queries, keys and values, [slots, D] each."""
    return q.index_select(0, run.query_rows), k.index_select(0, run.key_rows), v.index_select(0, run.key_rows)


def _flat(x: Tensor) -> Tensor:
    """[T, heads, D] -> [T * heads, D]"""
    return x.reshape(-1, x.shape[-1])


def _weigh(
    queries: Tensor, keys: Tensor, group: Group, plan: Plan, rule: AttentionRule
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Weights [b * Hkv, G * Lq, Lk] of a group, the soft cap's derivative at the scores, and the sinks' share
    of each row's weight, from the group's queries [b * Hkv, G * Lq, D] and keys [b * Hkv, Lk, D].
    """
    scores = queries.new_empty(*queries.shape[:2], group.keys)
    torch.baddbmm(scores, queries, keys.mT, beta=0, alpha=rule.scale, out=scores)
    scores = scores.to(torch.promote_types(queries.dtype, torch.float32))
    slope = None
    if rule.softcap is not None:
        bent = torch.tanh(scores / rule.softcap)
        slope = 1 - bent * bent
        scores = bent * rule.softcap
    by_block = scores.view(group.blocks, plan.heads, group.rows, group.keys)
    by_block[..., group.open :].add_(group.bias)
    weights = torch.softmax(scores, -1)
    if rule.sinks is None:
        return weights, slope, None
    total = torch.logsumexp(by_block, -1)
    spare = torch.sigmoid(rule.sinks.to(total.dtype)[None, :, None] - total).view(len(scores), -1)
    return weights * (1 - spare)[..., None], slope, spare
